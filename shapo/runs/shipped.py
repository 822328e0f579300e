"""Shipped runs: packed results that stand in for runs which the run store does not have.

    figures/data/pareto/runs.parquet        a row per run: its config, provenance, seconds per epoch, digests
                        progress.parquet    their progress, tidy: the column run_id, then those of Run.progress
                        episodes.parquet    their episodes, likewise
                        networks.parquet    a row per array of their networks, where those ship: robots

`packing` writes packs; `shapo.Run` reads them, by run_id. A pack of another method version is simply not found.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shapo.runs.store import ROOT, version_of

COLUMNS = (
    "run_id", "name", "task", "algorithm", "seed", "method", "config", "provenance", "rollout", "actor", "critics",
    "total", "progress_columns", "episodes_columns", "progress_sha256", "episodes_sha256",
)  # fmt: skip

TABLES = ("progress", "episodes")  # what of a run is reproduced, and ships


class CorruptPackError(RuntimeError):
    """A file of a pack is damaged, edited, missing, or not one of ours; it was not used."""


def data_folder() -> Path:
    """Where packs live: $SHAPO_DATA, or `figures/data/` beside the package."""
    return Path(os.environ.get("SHAPO_DATA") or ROOT / "figures" / "data")


def packs(folder: str | Path | None = None) -> list[Pack]:
    """The packs in `folder` (`data_folder()` by default), by name; each is read once. Raises CorruptPackError."""
    found = sorted(Path(folder if folder is not None else data_folder()).glob("[!.]*/runs.parquet"))
    return [_pack(path.parent, *version_of(path)) for path in found]


def digest(table: pd.DataFrame) -> str:
    """SHA-256 of a table of a run, as the progress.csv or episodes.csv that the run store keeps of a finished run."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def digest_of_networks(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of arrays with their names, types and shapes."""
    whole = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {array.dtype} {array.shape}\n".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def as_shipped(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A run's table as a pack gives it back: progress exactly, the returns and costs of episodes in single precision.

    An exact return does not compress, and a run of Walker2d-v4 has 15 000 of them; its digest is of the exact table.
    """
    if name != "episodes":
        return table
    floats = table.select_dtypes("float64")
    return table.assign(**floats.astype(np.float32).astype(np.float64))


def pack_of(run_id: str) -> Pack | None:
    """The pack that ships a run, if one does. Raises CorruptPackError."""
    return next((pack for pack in packs() if run_id in pack._by_id), None)


class Pack:
    """One study's packed results. runs: a row per run, indexed by run_id, with the columns COLUMNS."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        rows = self._read("runs", COLUMNS).to_pandas().astype({"run_id": str})
        if not rows.run_id.is_unique:
            raise CorruptPackError(self._says("runs", "a run is listed twice"))
        self.runs = rows.set_index("run_id")
        self._by_id = self.runs.to_dict("index")  # looked up hundreds of times

    def table(self, name: str, run_id: str) -> pd.DataFrame:
        """`progress` or `episodes` of a run, `as_shipped`; its `timing` in one row, the median epoch."""
        run = self._by_id[run_id]
        if name == "timing":
            return pd.DataFrame([{part: run[part] for part in ("rollout", "actor", "critics", "total")}])
        table, extents = self._whole(name)
        if name == "progress" and run_id not in extents:  # a run may have no episodes
            raise CorruptPackError(self._says(name, f"it has no rows of {run['name']}"))
        rows = table.slice(*extents.get(run_id, (0, 0)))
        dtypes = json.loads(run[f"{name}_columns"])  # of this run's columns: another's are null here
        if missing := dtypes.keys() - set(table.column_names):
            raise CorruptPackError(self._says(name, f"it has no column {', '.join(sorted(missing))}"))
        return pd.DataFrame({column: rows[column].to_numpy().astype(kind) for column, kind in dtypes.items()})

    def networks(self, run_id: str) -> dict[str, np.ndarray]:
        """The arrays of a run's networks, by their names in its checkpoint; none where the pack has none."""
        if not self._path("networks").exists():
            return {}
        table, extents = self._whole("networks")
        rows = table.slice(*extents.get(run_id, (0, 0))).drop_columns("run_id").to_pylist()
        try:
            return {
                row["name"]: np.frombuffer(row["bytes"], row["dtype"])
                .reshape(json.loads(row["shape"]))
                .copy()
                for row in rows
            }
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptPackError(self._says("networks", str(error))) from error

    def networks_digest(self, run_id: str) -> str | None:
        """`digest_of_networks` of what was packed of a run, if networks were."""
        recorded = self._by_id[run_id].get("networks_sha256")  # older packs have no such column
        return recorded if isinstance(recorded, str) else None

    def provenance(self, run_id: str) -> list[dict]:
        """As `Run.provenance`."""
        return json.loads(self._by_id[run_id]["provenance"])

    def _whole(self, name: str) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
        """A table of all runs, and run_id -> (first row, number of rows)."""
        return _whole(self, name, *version_of(self._path(name)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def _read(self, name: str, columns: Iterable[str] = ("run_id",)) -> pa.Table:
        """A file of the pack, which must have `columns`."""
        try:
            content = pa.BufferReader(self._path(name).read_bytes())
            table = pq.read_table(content, read_dictionary=["run_id"])
        except (OSError, pa.ArrowException) as error:
            raise CorruptPackError(self._says(name, str(error))) from error
        if missing := set(columns) - set(table.column_names):
            raise CorruptPackError(self._says(name, f"it has no column {', '.join(sorted(missing))}"))
        return table

    def _says(self, name: str, problem: str) -> str:
        return (
            f"{self._path(name)} was not read: {problem}. Nothing was changed; restore the folder {self.name}/, from "
            "git for example, or move it away to do without it."
        )


@functools.lru_cache(maxsize=64)
def _pack(folder: Path, *_version: int) -> Pack:
    return Pack(folder)


@functools.lru_cache(maxsize=64)
def _whole(pack: Pack, name: str, *_version: int) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
    table = pack._read(name)
    ids = table["run_id"].combine_chunks()
    codes, starts, counts = np.unique(ids.indices.to_numpy(), return_index=True, return_counts=True)
    names = ids.dictionary.take(pa.array(codes)).to_pylist()
    return table, dict(zip(names, zip(starts.tolist(), counts.tolist(), strict=True), strict=True))
