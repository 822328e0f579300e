"""Packing: the results of a study as a few small files that ship with the repository; `shipped` reads them."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from shapo.runs.run import Run
from shapo.runs.shipped import (
    COLUMNS,
    TABLES,
    Pack,
    as_shipped,
    data_folder,
    digest,
    digest_of_networks,
    packs,
)
from shapo.runs.store import lock_of, write_atomically
from shapo.runs.study import Study


def pack(
    study: Study, folder: str | Path | None = None, *, partial: bool = False, replace: bool = False
) -> list[Run]:
    """Packs what the runs of `study` gave into folder/<study name>/, whole or not at all; returns the runs packed.

    A run that is only shipped stays in its pack; one that another pack of the folder holds is not packed twice.

    folder: `data_folder()` by default. partial: pack what there is of an unfinished study. replace: let go of runs that
    the old pack of this name holds and the new one would not. Raises ValueError where that was not asked for, or where
    there is nothing to pack; CorruptPackError where a pack of the folder is damaged.
    """
    folder = Path(folder if folder is not None else data_folder())
    if not study.name or Path(study.name).name != study.name or study.name.startswith("."):
        raise ValueError(
            f"the study's name becomes a folder's, so it must be a plain name; got {study.name!r}"
        )
    with lock_of(folder):  # one packer at a time
        return _pack_study(study, folder, partial, replace)


def _pack_study(study: Study, folder: Path, partial: bool, replace: bool) -> list[Run]:
    _restore(folder / study.name)
    runs = [run for run in study.runs if run.available]
    if len(runs) < len(study.runs) and not partial:
        missing = "\n".join(f"  {run!r}" for run in study.runs if not run.available)
        raise ValueError(
            f"study {study.name} is not finished: study.run() trains what is missing, partial=True packs what is "
            f"there. Missing:\n{missing}"
        )
    packed = {other.name: other.runs.index for other in packs(folder)}
    before = packed.pop(study.name, pd.Index([]))
    elsewhere = {run_id for index in packed.values() for run_id in index}
    runs = [run for run in runs if run.config.run_id not in elsewhere]
    lost = before.difference([run.config.run_id for run in runs])
    if len(lost) and not replace:
        raise ValueError(
            f"{folder / study.name} holds {len(lost)} runs that study {study.name} does not have: {', '.join(lost)}; "
            "replace=True lets them go"
        )
    if not runs:
        others = f"; these hold its runs: {', '.join(packed)}" if elsewhere else ""
        raise ValueError(f"study {study.name} has nothing to pack{others}")
    _put(folder / study.name, runs)
    return runs


def _rows(runs: Sequence[Run]) -> pa.Table:
    """runs.parquet."""
    rows = [_row(run) for run in runs]
    columns = (*COLUMNS, "networks_sha256") if any(row["networks_sha256"] for row in rows) else COLUMNS
    return pa.table({column: [row[column] for row in rows] for column in columns})


def _row(run: Run) -> dict[str, Any]:
    config = run.config
    if run.pack:  # its digests are of tables that are not here
        shipped = run.pack.runs.loc[config.run_id].to_dict()
        return shipped | {"run_id": config.run_id, "networks_sha256": run.pack.networks_digest(config.run_id)}
    networks = run.shipped_networks
    row = dict.fromkeys(("rollout", "actor", "critics"), np.nan) | {  # not every trainer times the parts of an epoch
        "run_id": config.run_id, "name": run.path.name, "task": config.task,
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
    """networks.parquet, if anything of these runs belongs there."""
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
    """One table of all runs, with the column run_id first. What only some runs have is null in the others."""
    tables = [as_shipped(name, getattr(run, name)) for run in runs]
    whole = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    position = np.repeat(np.arange(len(runs), dtype=np.int32), [len(table) for table in tables])
    run_id = pa.DictionaryArray.from_arrays(position, [run.config.run_id for run in runs])
    return pa.table({"run_id": run_id} | {column: _narrow(whole[column].to_numpy()) for column in whole})


def _narrow(values: np.ndarray) -> np.ndarray:
    """The same numbers in the narrowest type that gives every one of them back, bit for bit."""
    if values.dtype.kind not in "iuf":
        return values
    for kind in (np.uint8, np.uint16, np.uint32, np.int64, np.float32):
        with np.errstate(invalid="ignore", over="ignore"):  # what is out of range does not come back
            narrow = values.astype(kind)
        if narrow.astype(values.dtype).tobytes() == values.tobytes():
            return narrow
    return values


def _parquet(table: pa.Table) -> bytes:
    """The same bytes for the same table; each column in the encoding that compresses it best."""
    encoding = {}
    for field in table.schema:
        if pa.types.is_floating(field.type):
            encoding[field.name] = "BYTE_STREAM_SPLIT"
        elif field.type in (pa.uint32(), pa.int64()):
            encoding[field.name] = "DELTA_BINARY_PACKED"
    buffer = io.BytesIO()
    pq.write_table(
        table, buffer, compression="zstd", compression_level=15, write_statistics=False,
        use_dictionary=[name for name in table.column_names if name not in encoding], column_encoding=encoding,
    )  # fmt: skip
    return buffer.getvalue()


def _put(target: Path, runs: Sequence[Run]) -> None:
    """Writes a pack into a folder beside `target`, reads it back, and lets it take the place of the old one."""
    temporary, aside = target.with_name(f".{target.name}.tmp"), target.with_name(f".{target.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)  # of a packer that was killed: `pack` holds the lock
    temporary.mkdir(parents=True)
    try:
        tables = {name: _tidy(runs, name) for name in TABLES}
        tables |= {"runs": _rows(runs), "networks": _networks(runs)}
        for name, table in tables.items():
            if table is not None:
                write_atomically(temporary / f"{name}.parquet", _parquet(table))
        new = Pack(temporary)
        for run in runs:
            for name in TABLES:
                if not new.table(name, run.config.run_id).equals(as_shipped(name, getattr(run, name))):
                    raise RuntimeError(f"{name} of {run!r} would not come back the same; nothing was packed")
            back, packed = (
                digest_of_networks(n) for n in (new.networks(run.config.run_id), run.shipped_networks)
            )
            if back != packed:
                raise RuntimeError(f"networks of {run!r} would not come back the same; nothing was packed")
        if target.exists():
            os.rename(target, aside)
        os.rename(temporary, target)
    finally:
        _restore(target)
        shutil.rmtree(temporary, ignore_errors=True)


def _restore(target: Path) -> None:
    """Where a packer was stopped between its two renames, brings the old pack back."""
    aside = target.with_name(f".{target.name}.old")
    if aside.exists() and not target.exists():
        os.rename(aside, target)
    shutil.rmtree(aside, ignore_errors=True)
