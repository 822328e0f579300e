"""The run store: one folder per run, named by what defines the run, with a checkpoint that is whole or not there.

    runs/PointGoal1-v0/PIDLag-seed0-1f3a9c04b2d7/config.json     what was asked for, to read
                                                  checkpoint      everything else: state, progress, episodes
                                                  error.json      only where it failed: why, and where it stood

A checkpoint is a line with the SHA-256 of what follows, then a NumPy archive of plain arrays (no pickle). It is written
to a temporary file and renamed into place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout


def is_checkout(folder: Path) -> bool:
    """Whether a folder is the top of this project, and not site-packages, say, or another project with a copy in it."""
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == "shapo"
    except (OSError, KeyError, TypeError, ValueError):
        return False


ABOVE = Path(__file__).resolve().parents[2]
ROOT = ABOVE if is_checkout(ABOVE) else Path.cwd()  # the user's folder, if the package is installed elsewhere
MAGIC = b"shapo-checkpoint-1"
TABLES = ("progress", "episodes", "timing")


class CorruptCheckpointError(RuntimeError):
    """A checkpoint is truncated, edited, or not one of ours; it was not loaded and not touched."""


def runs_folder() -> Path:
    """Returns the folder of all runs: $SHAPO_RUNS, or `runs/` in the checkout, or in the current folder without one."""
    return Path(os.environ.get("SHAPO_RUNS") or ROOT / "runs")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes an OSError inside say which file could not be written, that nothing is lost, and what to do."""
    try:
        yield
    except OSError as error:
        what = (
            f"{error.strerror or error}. This could not be written; what was there before is whole. Make room or give "
            "write permission, then run again: it goes on from the last checkpoint"
        )
        raise OSError(error.errno, what, str(path)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Puts `content` at `path` whole or not at all, whenever the process or the machine stops. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with writing(path):
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def lock_of(path: Path, patience: float = 60.0) -> Iterator[None]:
    """Admits one writer of `path` at a time, of whichever user, by a lock on a file beside it that git ignores.

    Raises TimeoutError if another process holds the lock for `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=patience, mode=0o666)
    try:
        lock.acquire()
    except Timeout:
        raise TimeoutError(
            f"another process has been writing {path} for {patience:.0f} s: it holds {lock.lock_file}. Nothing was "
            "written; try again when it is done"
        ) from None
    try:
        yield
    finally:
        lock.release()


def version_of(path: Path) -> tuple[int, ...]:
    """Returns numbers that change when a file is replaced; () if there is no file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files of killed writers; only the process that holds the run's lock may call it."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
    """Writes arrays and JSON-able `meta` to `path`, atomically. Object arrays are refused."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{"meta": np.array(json.dumps(meta)), **arrays})
    body = buffer.getvalue()
    write_atomically(path, MAGIC + b" " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays, meta) as saved, read-only. Raises CorruptCheckpointError, naming the file, if it is damaged."""
    header, newline, body = path.read_bytes().partition(b"\n")
    magic, _, digest = header.partition(b" ")
    if magic != MAGIC or not newline:
        problem = "it does not begin like a checkpoint of this package"
    elif hashlib.sha256(body).hexdigest().encode() != digest:
        problem = "its checksum does not match: it was truncated or edited"
    else:
        try:
            with np.load(io.BytesIO(body), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            meta = dict(json.loads(str(arrays.pop("meta"))))
            for array in arrays.values():
                array.flags.writeable = False
            return arrays, meta
        except Exception as error:  # whatever NumPy and zipfile say of a crafted archive
            problem = f"{type(error).__name__}: {error}"
    raise corrupt(path, problem)


def corrupt(path: Path, problem: object) -> CorruptCheckpointError:
    """Returns the error that names a checkpoint and what is wrong with it."""
    return CorruptCheckpointError(
        f"{path} was not loaded: {problem}. Nothing was changed; move it away to start this run anew."
    )


def rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """Returns the state of a generator as JSON-able values."""
    return rng.bit_generator.state


def restore_rng(state: dict[str, Any]) -> np.random.Generator:
    """Returns the generator that `rng_state` described."""
    rng = np.random.Generator(getattr(np.random, state["bit_generator"])())
    rng.bit_generator.state = state
    return rng


def prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same arrays under the names `prefix/name`; `unprefixed` undoes it."""
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def unprefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays saved under `prefix/`, by their own names."""
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in arrays.items() if name.startswith(start)}


def pack_tables(tables: dict[str, list[dict]]) -> dict[str, np.ndarray]:
    """Returns tables as arrays for a checkpoint, one per column."""
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    return {
        f"{name}:{column}": frame[column].to_numpy() for name, frame in frames.items() for column in frame
    }


def unpack_tables(arrays: dict[str, np.ndarray]) -> dict[str, pd.DataFrame]:
    """Returns the tables that `pack_tables` packed; a table without rows comes back without columns."""
    columns = {name: {} for name in TABLES}
    for key, values in arrays.items():
        table, colon, column = key.partition(":")
        if colon:
            columns[table][column] = values
    return {name: pd.DataFrame(table) for name, table in columns.items()}
