"""Shipped runs: packed results that stand in for runs which the run store does not have.

    figures/data/pareto/runs.parquet        a row per run: its config, provenance, seconds per epoch, digests
                        progress.parquet    the progress of all of them, tidy, with a column run_id
                        episodes.parquet    their episodes, likewise

`shapo.packing` writes packs; `shapo.Run` reads them, by run_id. A pack of another method version is simply not found.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = (
    "run_id", "name", "task", "algorithm", "seed", "method", "config", "provenance", "rollout", "actor", "critics",
    "total", "progress_columns", "episodes_columns", "progress_sha256", "episodes_sha256",
)  # fmt: skip


class CorruptPackError(RuntimeError):
    """A file of a pack is damaged, edited, missing, or not one of ours; it was not used."""


def data_folder() -> Path:
    """Where packs live: $SHAPO_DATA, or `figures/data/` beside the package."""
    return Path(os.environ.get("SHAPO_DATA") or Path(__file__).resolve().parent.parent / "figures" / "data")


def packs(folder: str | Path | None = None) -> list[Pack]:
    """The packs in `folder` (`data_folder()` by default), by name; each is read once. Raises CorruptPackError."""
    found = sorted(Path(folder if folder is not None else data_folder()).glob("[!.]*/runs.parquet"))
    return [_pack(path.parent, *_version(path)) for path in found]


def pack_of(run_id: str) -> Pack | None:
    """The pack that ships a run, if one does. Raises CorruptPackError."""
    return next((pack for pack in packs() if run_id in pack.runs.index), None)


class Pack:
    """One study's packed results. runs: a row per run, indexed by run_id, with the columns COLUMNS."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        rows = self._read("runs", list(COLUMNS)).to_pandas()
        if not rows.run_id.is_unique:
            raise CorruptPackError(self._says("runs", "a run is listed twice"))
        self.runs = rows.set_index("run_id")

    def table(self, name: str, run_id: str) -> pd.DataFrame:
        """`progress` or `episodes` of a run as the run itself gives them; `timing` as one row, the median epoch."""
        run = self.runs.loc[run_id]
        if name == "timing":
            return pd.DataFrame([run[["rollout", "actor", "critics", "total"]].astype(float)], index=[0])
        table, extents = self._whole(name)
        rows = table.slice(*extents.get(run_id, (0, 0)))
        dtypes = json.loads(run[f"{name}_columns"])  # of this run's columns: another's are null here
        if missing := dtypes.keys() - set(table.column_names):
            raise CorruptPackError(self._says(name, f"it has no column {', '.join(sorted(missing))}"))
        return pd.DataFrame({column: rows[column].to_numpy().astype(kind) for column, kind in dtypes.items()})

    def provenance(self, run_id: str) -> list[dict]:
        """As `Run.provenance`."""
        return json.loads(self.runs.at[run_id, "provenance"])

    def _whole(self, name: str) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
        """A table of all runs, and run_id -> (first row, number of rows)."""
        return _whole(self, name, *_version(self._path(name)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(
                pa.BufferReader(self._path(name).read_bytes()), columns=columns, read_dictionary=["run_id"]
            )
        except (OSError, pa.ArrowException) as error:
            raise CorruptPackError(self._says(name, str(error))) from error

    def _says(self, name: str, problem: str) -> str:
        return (
            f"{self._path(name)} was not read: {problem}. Nothing was changed; restore the folder {self.name}/, from "
            "git for example, or move it away to do without it."
        )


def _version(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@functools.lru_cache(maxsize=64)
def _pack(folder: Path, *_version: int) -> Pack:
    return Pack(folder)


@functools.lru_cache(maxsize=64)
def _whole(pack: Pack, name: str, *_version: int) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
    table = pack._read(name)
    if "run_id" not in table.column_names:
        raise CorruptPackError(pack._says(name, "it has no column run_id"))
    ids = table["run_id"].combine_chunks()
    codes, starts, counts = np.unique(ids.indices.to_numpy(), return_index=True, return_counts=True)
    names = ids.dictionary.take(pa.array(codes)).to_pylist()
    return table, dict(zip(names, zip(starts.tolist(), counts.tolist(), strict=True), strict=True))
