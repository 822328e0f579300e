"""Care for Warp's folder of compiled kernels: damaged kernels are compiled again, an unusable folder raises an error.

Warp loads a compiled kernel without checking it. So once a kernel is compiled, the digests of its files are stored in
its folder, and every process compares them before Warp loads its first kernel.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import warp as wp

SEAL = "sha256.json"  # in a kernel's folder: name of a file -> its digest
BEING_WRITTEN = re.compile(r"_p\d+_t\d+$")  # ends the name of what a process and thread are still writing


@contextmanager
def compiling() -> Iterator[None]:
    """Wraps all code that makes Warp compile or load kernels. Raises OSError, naming the folder, if it is unusable."""
    try:
        _start()
        yield
    except OSError as error:
        folder, path = Path(wp.config.kernel_cache_dir), Path(error.filename or "")
        if path != folder and folder not in path.parents and path not in folder.parents:
            raise
        raise OSError(
            f"Warp keeps the kernels it compiles in {folder}, which cannot be used ({error}): "
            "make it writable, or name another folder in the environment, WARP_CACHE_PATH=/a/folder"
        ) from error
    for kernel in _kernels():
        with suppress(OSError):  # the folder may be read-only
            _seal(kernel)


@cache
def _start() -> None:
    """Starts Warp, without its messages on a machine that has no CUDA, and removes damaged kernels."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        wp.init()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    for kernel in _kernels():
        if not _is_whole(kernel):
            with suppress(FileNotFoundError):  # another process may have removed it
                shutil.rmtree(kernel)


def _kernels() -> list[Path]:
    found = Path(wp.config.kernel_cache_dir).glob("wp_*")
    return [folder for folder in found if folder.is_dir() and not BEING_WRITTEN.search(folder.name)]


def _digests(folder: Path, names: set[str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _is_whole(folder: Path) -> bool:
    """Whether the files match their digests or, where none are stored, are not empty and have readable metadata."""
    try:
        if (folder / SEAL).exists():
            sealed = json.loads((folder / SEAL).read_bytes())
            return _digests(folder, sealed.keys()) == sealed
        for path in folder.glob("*.meta"):
            json.loads(path.read_bytes())
        return all(path.stat().st_size for path in folder.iterdir())
    except (OSError, ValueError):
        return False


def _seal(folder: Path) -> None:
    """Stores the digests of files that have none yet."""
    sealed = json.loads((folder / SEAL).read_bytes()) if (folder / SEAL).exists() else {}
    if new := {path.name for path in folder.iterdir()} - {SEAL} - sealed.keys():
        partial = folder.with_name(f"{folder.name}_p{os.getpid()}_t0")
        partial.write_text(json.dumps(sealed | _digests(folder, new)))
        partial.replace(folder / SEAL)
