"""Warp's cache of compiled kernels, damaged and out of reach, as a process finds it."""

import os
import subprocess
import sys

KERNEL = """
import warp as wp
wp.config.log_level = wp.LOG_ERROR
from shapo.robots.simulator.cache import compiling

@wp.kernel
def double(x: wp.array(dtype=float)):
    x[wp.tid()] = 2.0 * x[wp.tid()]

with compiling():
    x = wp.ones(3, dtype=float, device="cpu")
    wp.launch(double, 3, [x], device="cpu")
print(x.numpy().tolist())
"""


def doubled(folder, cache) -> subprocess.CompletedProcess:
    """A process that compiles a kernel, or finds it compiled, and runs it."""
    (folder / "kernel.py").write_text(KERNEL)
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"WARP_CACHE_PATH": str(cache), "PYTHONPATH": path}
    command = [sys.executable, folder / "kernel.py"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_damaged_kernel_is_compiled_again(tmp_path):
    def compiled(kind):
        (path,) = (tmp_path / "cache").rglob(f"wp_*/*.{kind}")
        return path

    first = doubled(tmp_path, tmp_path / "cache")
    assert (first.stdout, first.stderr) == ("[2.0, 2.0, 2.0]\n", ""), "no word of a GPU that nobody asked for"
    kept = {kind: compiled(kind).read_bytes() for kind in ("o", "meta")}
    middle = len(kept["o"]) // 2
    flipped = kept["o"][:middle] + bytes([kept["o"][middle] ^ 1]) + kept["o"][middle + 1 :]
    for kind, damaged in (("o", flipped), ("meta", b"")):
        compiled(kind).write_bytes(damaged)
        again = doubled(tmp_path, tmp_path / "cache")
        assert again.stdout == first.stdout, again.stderr
        assert compiled(kind).read_bytes() == kept[kind]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    done = doubled(tmp_path, tmp_path / "file" / "cache")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"OSError: Warp keeps the kernels it compiles in {tmp_path}/file/cache")
    assert last.endswith("WARP_CACHE_PATH=/a/folder")
