"""Shipped runs: packed results that stand in for runs which the run store does not have.

    figures/data/pareto/runs.parquet        a row per run: its config, provenance, seconds per epoch, digests
                        progress.parquet    their progress, tidy: the column run_id, then those of Run.progress
                        episodes.parquet    their episodes, likewise
                        networks.parquet    a row per array of their networks, where those ship: robots
                        SHA256SUMS          their digests, as `sha256sum -c` reads them; other files are no part

`shapo.runs.packing` writes packs, and `shapo.Run` reads them by run_id. It reads each version of a file once, if its
digest is the listed one. It does not find runs of another method version.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

TABLES = ("progress", "episodes")  # the tables of a run that are reproduced, and ship
SUMS = "SHA256SUMS"


class CorruptPackError(RuntimeError):
    """A file of a pack is damaged, edited, missing, or not one of ours; it was not used."""


def data_folder() -> Path:
    """Returns the folder of the packs: $SHAPO_DATA, or `figures/data/` beside the package."""
    return Path(os.environ.get("SHAPO_DATA") or ROOT / "figures" / "data")


def packs(folder: str | Path | None = None) -> list[Pack]:
    """Returns the packs in `folder` (`data_folder()` by default), sorted by name. Raises CorruptPackError."""
    files = Path(folder if folder is not None else data_folder()).glob("[!.]*/*")
    folders = {path.parent for path in files if path.name in (SUMS, "runs.parquet")}
    return [_pack(f, version_of(f / SUMS), version_of(f / "runs.parquet")) for f in sorted(folders)]


def pack_of(run_id: str) -> Pack | None:
    """Returns the pack that ships a run, or None. Raises CorruptPackError."""
    return next((pack for pack in packs() if run_id in pack.rows), None)


def digest(table: pd.DataFrame) -> str:
    """Returns the SHA-256 of a run's table, that of its progress.csv or episodes.csv in the run store."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()


def digest_of_networks(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of arrays with their names, types and shapes."""
    whole = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {array.dtype} {array.shape}\n".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def sealed(table: pd.DataFrame) -> bytes:
    """Returns a table of numbers and ASCII text as a parquet file that carries the SHA-256 of its content."""
    table = table.reset_index(drop=True)
    table.attrs["sha256"] = _digest_of_columns(table)
    return table.to_parquet(index=False, compression="zstd")


def read_sealed(path: Path) -> pd.DataFrame:
    """Returns the table of a `sealed` file. Raises CorruptPackError if it is damaged, FileNotFoundError without one."""
    try:
        table = pd.read_parquet(path)
        if table.attrs.pop("sha256", None) != _digest_of_columns(table):
            raise ValueError("its content is not that of its SHA-256")
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever pandas and pyarrow say of a damaged file
        raise CorruptPackError(
            f"{path} was not read: {error}. Nothing was changed; restore it, from git for example, or move it away to "
            "do without it."
        ) from error
    return table


def _digest_of_columns(table: pd.DataFrame) -> str:
    text = {name: "S" for name, dtype in table.dtypes.items() if dtype.kind == "O"}
    return digest_of_networks({name: column.to_numpy(text.get(name)) for name, column in table.items()})


def as_shipped(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Returns a run's table as a pack gives it back: progress is exact, episodes have single-precision return and cost.

    Exact returns do not compress, and a run of Walker2d-v4 has 15 000 of them. The digest is of the exact table.
    """
    if name != "episodes":
        return table
    floats = table.select_dtypes("float64")
    return table.assign(**floats.astype(np.float32).astype(np.float64))


def listing(contents: Mapping[str, bytes]) -> str:
    """Returns the text of SHA256SUMS for files, given as name without .parquet -> bytes."""
    digests = {name: hashlib.sha256(contents[name]).hexdigest() for name in sorted(contents)}
    return "".join(f"{sha256}  {name}.parquet\n" for name, sha256 in digests.items())


def fresh_path(folder: Path, name: str, sha256: str) -> Path:
    """Returns where a new file of a pack lies from before SHA256SUMS lists it until it takes the old file's place."""
    return folder / f"{name}.{sha256[:12]}.parquet"


class Pack:
    """The packed results of one study. runs: table of a row per run, indexed by run_id, with the columns COLUMNS. rows:
    the same, as run_id -> row.
    """

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        with self._blaming(SUMS):
            text = (folder / SUMS).read_text("ascii")
            lines = re.findall(r"([0-9a-f]{64})  (runs|progress|episodes|networks)\.parquet\n", text)
            self._sums = {name: sha256 for sha256, name in lines}
            only = text == "".join(f"{sha256}  {name}.parquet\n" for sha256, name in lines)
            if not (only and {"runs", *TABLES} <= set(self._sums)):
                raise ValueError("it does not list a pack's files, each with its SHA-256")
        with self._blaming("runs.parquet"):
            self.runs = self._read("runs").to_pandas().astype({"run_id": str}).set_index("run_id")
            if missing := set(COLUMNS) - {"run_id", *self.runs}:
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
            # A dictionary, as it is looked up hundreds of times; ValueError where a run is listed twice.
            self.rows = self.runs.to_dict("index")

    def table(self, name: str, run_id: str) -> pd.DataFrame:
        """Returns `progress` or `episodes` of a run, `as_shipped`, or its `timing` as one row, the medians."""
        run = self.rows[run_id]
        if name == "timing":
            return pd.DataFrame([{part: run[part] for part in ("rollout", "actor", "critics", "total")}])
        with self._blaming(f"{name}.parquet"):
            rows = self._rows_of(name, run_id)
            dtypes = json.loads(run[f"{name}_columns"])  # only this run's columns: others are null here
            return pd.DataFrame({name: rows[name].to_numpy().astype(kind) for name, kind in dtypes.items()})

    def networks(self, run_id: str) -> dict[str, np.ndarray]:
        """Returns the arrays of a run's networks, by their names in its checkpoint; empty if the pack has none."""
        if "networks" not in self._sums:
            return {}
        with self._blaming("networks.parquet"):
            rows = self._rows_of("networks", run_id).to_pylist()
            arrays = {row["name"]: np.frombuffer(row["bytes"], row["dtype"]) for row in rows}  # read-only
            return {row["name"]: arrays[row["name"]].reshape(json.loads(row["shape"])) for row in rows}

    def networks_digest(self, run_id: str) -> str | None:
        """Returns `digest_of_networks` of the networks that were packed of a run, or None."""
        recorded = self.rows[run_id].get("networks_sha256")  # packs without networks have no such column
        return recorded if isinstance(recorded, str) else None

    def provenance(self, run_id: str) -> list[dict]:
        """Returns the provenance of a run, as `Run.provenance`."""
        return json.loads(self.rows[run_id]["provenance"])

    def _rows_of(self, name: str, run_id: str) -> pa.Table:
        table, extents = _whole(self, name, version_of(self.folder / f"{name}.parquet"))
        return table.slice(*extents.get(run_id, (0, 0)))  # a run may have no episodes

    def _read(self, name: str) -> pa.Table:
        """Reads a file of the pack whose digest is the listed one. Raises OSError, ValueError (also ArrowInvalid)."""
        places = (self.folder / f"{name}.parquet", fresh_path(self.folder, name, self._sums[name]))
        for path in filter(Path.exists, places):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == self._sums[name]:
                return pq.read_table(pa.BufferReader(content), read_dictionary=["run_id"])
        raise ValueError(
            f"its SHA-256 is not that in {SUMS}" if places[0].exists() else "there is no such file"
        )

    @contextmanager
    def _blaming(self, file: str) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise CorruptPackError(
                f"{self.folder / file} was not read: {error}. Nothing was changed; restore the folder {self.name}/, "
                "from git for example, or move it away to do without it."
            ) from error


@functools.lru_cache(maxsize=64)
def _pack(folder: Path, *_versions: tuple[int, ...]) -> Pack:
    return Pack(folder)


@functools.lru_cache(maxsize=64)
def _whole(pack: Pack, name: str, *_version: tuple[int, ...]) -> tuple[pa.Table, dict[str, tuple[int, int]]]:
    """Returns a table of all runs, and run_id -> (first row, number of rows)."""
    table = pack._read(name)
    ids = table["run_id"].combine_chunks()
    codes, starts, counts = np.unique(ids.indices.to_numpy(), return_index=True, return_counts=True)
    names = ids.dictionary.take(pa.array(codes)).to_pylist()
    return table, dict(zip(names, zip(starts.tolist(), counts.tolist(), strict=True), strict=True))
