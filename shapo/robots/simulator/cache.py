"""Warp's folder of compiled kernels: what is damaged there is compiled again, and what cannot be written is said.

Warp takes a compiled kernel as it finds it. So its folder gets the digests of its files once it has been compiled, and
a process compares them before Warp reads the first one.
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

SEAL = "sha256.json"  # of a kernel's folder: name of a file -> digest
BEING_WRITTEN = re.compile(r"_p\d+_t\d+$")  # by a process and a thread


@contextmanager
def compiling() -> Iterator[None]:
    """Around all that has Warp compile or load kernels. Raises OSError, naming the folder, where it cannot be used."""
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
        with suppress(OSError):  # it can be read and not written
            _seal(kernel)


@cache
def _start() -> None:
    """Starts Warp, without what it says where there is no CUDA, and removes the kernels that are damaged."""
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
            with suppress(FileNotFoundError):  # another process does the same
                shutil.rmtree(kernel)


def _kernels() -> list[Path]:
    found = Path(wp.config.kernel_cache_dir).glob("wp_*")
    return [folder for folder in found if folder.is_dir() and not BEING_WRITTEN.search(folder.name)]


def _digests(folder: Path, names: set[str]) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _is_whole(folder: Path) -> bool:
    """Whether the files are those that were sealed; not sealed, whether none is empty and the metadata can be read."""
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
    """Keeps the digests of files that have none yet."""
    sealed = json.loads((folder / SEAL).read_bytes()) if (folder / SEAL).exists() else {}
    if new := {path.name for path in folder.iterdir()} - {SEAL} - sealed.keys():
        partial = folder.with_name(f"{folder.name}_p{os.getpid()}_t0")
        partial.write_text(json.dumps(sealed | _digests(folder, new)))
        partial.replace(folder / SEAL)
