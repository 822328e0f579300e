"""Packing: writes the results of a study into a few small files that ship; `shapo.runs.shipped` reads them."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shapo.runs.run import Run
from shapo.runs.shipped import (
    COLUMNS,
    SUMS,
    TABLES,
    Pack,
    as_shipped,
    data_folder,
    digest,
    digest_of_networks,
    fresh_path,
    listing,
    packs,
)
from shapo.runs.store import ROOT, lock_of, remove_leftovers, write_atomically
from shapo.runs.study import Study

SMALLEST = 100_000  # fewest environment steps of a run that ships; every profile but smoke has more


def pack(
    study: Study, folder: str | Path | None = None, *, partial: bool = False, replace: bool = False
) -> list[Run]:
    """Packs the results of a study's runs into folder/<study name>/, whole or not at all; returns the packed runs.

    A run that is only shipped stays in its pack. A run that another pack of the folder holds is not packed twice.

    folder: `data_folder()` by default. partial: whether to pack the available runs of an unfinished study. replace:
    whether to drop runs that the old pack of this name holds and the new one would not. Raises ValueError where either
    is needed but False, for a name that is no folder's, for nothing to pack, and for runs that are too short to ship
    with the package; CorruptPackError if a pack of the folder is damaged; TimeoutError while another process packs.
    """
    folder = Path(folder if folder is not None else data_folder())
    if not study.name or Path(study.name).name != study.name or study.name.startswith("."):
        raise ValueError(
            f"the study's name becomes a folder's, so it must be a plain name; got {study.name!r}"
        )
    short = [run for run in study.runs if run.config.epochs * run.config.steps_per_epoch < SMALLEST]
    if short and folder.resolve() == ROOT / "figures" / "data":
        raise ValueError(
            f"runs of fewer than {SMALLEST} steps (all under the smoke profile) are no results, so they do not go into "
            f"{folder}; pack(study, folder) or SHAPO_DATA names another folder. Too short: {short[0]!r}"
        )
    runs = [run for run in study.runs if run.available]
    if len(runs) < len(study.runs) and not partial:
        missing = "\n".join(f"  {run!r}" for run in study.runs if not run.available)
        raise ValueError(
            f"study {study.name} is not finished: study.run() trains what is missing, partial=True packs what is "
            f"there. Missing:\n{missing}"
        )
    with lock_of(folder / "packs"):  # one packer at a time
        return _pack_runs(study.name, runs, folder, replace)


def _pack_runs(name: str, runs: Sequence[Run], folder: Path, replace: bool) -> list[Run]:
    packed = {other.name: other.runs.index for other in packs(folder)}
    before = packed.pop(name, pd.Index([]))
    elsewhere = {run_id for index in packed.values() for run_id in index}
    runs = [run for run in runs if run.config.run_id not in elsewhere]
    lost = before.difference([run.config.run_id for run in runs])
    if len(lost) and not replace:
        raise ValueError(
            f"{folder / name} holds {len(lost)} runs that study {name} does not have: {', '.join(lost)}; "
            "replace=True lets them go"
        )
    if not runs:
        others = f"; these hold its runs: {', '.join(packed)}" if elsewhere else ""
        raise ValueError(f"study {name} has nothing to pack{others}")
    tables = {table: _tidy(runs, table) for table in TABLES}
    tables |= {"runs": _rows(runs), "networks": _networks(runs)}
    contents = {table: _parquet(whole) for table, whole in tables.items() if whole is not None}
    with TemporaryDirectory(prefix="shapo-pack-") as scratch:
        _put(Path(scratch), contents)
        _check(Pack(Path(scratch)), runs)
    _put(folder / name, contents)
    return runs


def _put(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Makes `folder` a pack of these files. Wherever this stops, the folder is the old pack before SHA256SUMS is
    replaced, and the new pack afterwards.
    """
    fresh = {n: fresh_path(folder, n, hashlib.sha256(content).hexdigest()) for n, content in contents.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(fresh[name], content)
    write_atomically(folder / SUMS, listing(contents).encode())
    for name, path in fresh.items():
        os.replace(path, folder / f"{name}.parquet")
    for path in set(folder.glob("*.parquet")) - {folder / f"{name}.parquet" for name in contents}:
        path.unlink()  # left by the old pack or by a killed packer, since nobody else packs now
    remove_leftovers(folder)


def _check(new: Pack, runs: Sequence[Run]) -> None:
    for run in runs:
        run_id = run.config.run_id
        for name in TABLES:
            if not new.table(name, run_id).equals(as_shipped(name, getattr(run, name))):
                raise RuntimeError(f"{name} of {run!r} would not come back the same; nothing was packed")
        if digest_of_networks(new.networks(run_id)) != digest_of_networks(run.shipped_networks):
            raise RuntimeError(f"networks of {run!r} would not come back the same; nothing was packed")


def _rows(runs: Sequence[Run]) -> pa.Table:
    """Returns the table that becomes runs.parquet."""
    rows = [_row(run) for run in runs]
    columns = (*COLUMNS, "networks_sha256") if any(row["networks_sha256"] for row in rows) else COLUMNS
    return pa.table({column: [row[column] for row in rows] for column in columns})


def _row(run: Run) -> dict[str, Any]:
    config = run.config
    if shipped := run.pack:  # its row is kept: the tables of its digests are not here
        networks = {"networks_sha256": shipped.networks_digest(config.run_id)}
        return shipped.rows[config.run_id] | {"run_id": config.run_id} | networks
    networks = run.shipped_networks
    row = dict.fromkeys(("rollout", "actor", "critics"), np.nan) | {  # not every trainer times the parts of an epoch
        "run_id": config.run_id, "name": run.path.name, "task": str(config.task),
        "algorithm": type(config.algorithm).__name__, "seed": config.seed, "method": config.method,
        "config": json.dumps(config.identity["config"]), "provenance": json.dumps(run.provenance),
        "networks_sha256": digest_of_networks(networks) if networks else None,
    } | run.timing.median().to_dict()  # fmt: skip
    for name in TABLES:
        table = getattr(run, name)
        row[f"{name}_columns"] = json.dumps({column: str(kind) for column, kind in table.dtypes.items()})
        row[f"{name}_sha256"] = digest(table)
    return row


def _networks(runs: Sequence[Run]) -> pa.Table | None:
    """Returns the table that becomes networks.parquet, or None if these runs have no networks that ship."""
    rows = [
        {
            "run_id": run.config.run_id, "name": name, "dtype": str(array.dtype), "shape": json.dumps(array.shape),
            "bytes": array.tobytes(),
        }
        for run in runs
        for name, array in run.shipped_networks.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows) if rows else None


def _tidy(runs: Sequence[Run], name: str) -> pa.Table:
    """Returns one table of all runs, with run_id first. A column that only some runs have is null in the others."""
    tables = [as_shipped(name, getattr(run, name)) for run in runs]
    whole = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    if name == "episodes":
        whole = whole.astype(dict.fromkeys(whole.select_dtypes("float64"), np.float32))  # already rounded
    run_id = np.repeat([run.config.run_id for run in runs], [len(table) for table in tables])
    return pa.table({"run_id": run_id.astype(str)} | {column: whole[column].to_numpy() for column in whole})


def _parquet(table: pa.Table) -> bytes:
    """Returns the same Parquet bytes for the same table. Numbers are split into first bytes, second bytes and so on, so
    zstd compresses a third better: 50 kB of episodes and 3 kB of progress for a run of 1 M steps of Walker2d-v4.
    """
    is_number = (pa.types.is_integer, pa.types.is_floating)
    numbers = [field.name for field in table.schema if any(kind(field.type) for kind in is_number)]
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression="zstd", compression_level=15, write_statistics=False,
        use_dictionary=[name for name in table.column_names if name not in numbers],
        column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),
    )  # fmt: skip
    return buffer.getvalue()
