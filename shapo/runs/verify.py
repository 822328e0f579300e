"""Verification: shipped runs are trained again from scratch and compared with what ships, to the last bit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pandas as pd

from shapo.runs.identity import RunConfig, config_from, from_outside
from shapo.runs.run import Run, provenance
from shapo.runs.shipped import (
    TABLES,
    CorruptPackError,
    Pack,
    as_shipped,
    data_folder,
    digest,
    digest_of_networks,
    packs,
)
from shapo.runs.study import Study, StudyError

OUTCOMES = {
    "identical": "to the last bit",
    "differs": "on the machine and with the versions that were recorded, where it should not",
    "differs elsewhere": "another machine or other versions than recorded: a last bit may differ, and grow in training",
    "edited": "the pack's numbers are not those that its digest was taken of",
    "failed": "the training stopped with an error",
}


@dataclass(frozen=True)
class Verdict:
    """How a retrained run compares with the shipped one."""

    run: str  # study/task/folder of the run
    outcome: str  # one of OUTCOMES
    detail: str = ""  # what differs first and how far, and under which conditions


def verify(
    number: int | None, seed: int | None = None, study: str | None = None, executor: Executor | None = None
) -> list[Verdict]:
    """Retrains shipped runs from scratch, in a run store that is thrown away, and compares them with what ships.

    number: how many runs, drawn at random; None for all. seed: seed of the draw. study: the only pack to draw from.
    executor: as in `Study.run`, on this machine. Raises ValueError if fewer runs are shipped, and CorruptPackError.
    """
    pool = _pool(study)
    if number is None:
        number = len(pool)
    if not 1 <= number <= len(pool):
        raise ValueError(
            f"N must be from 1 to {len(pool)}, the shipped runs that can be retrained; got {number}"
        )
    drawn = np.sort(np.random.default_rng(seed).choice(len(pool), number, replace=False))
    chosen = [pool[index] for index in drawn]
    configs = [_config(pack, run_id) for pack, run_id in chosen]
    with TemporaryDirectory(prefix="shapo-verify-") as folder:
        with patch.dict(os.environ, SHAPO_DATA=folder):  # without packs, so the study trains what is shipped
            try:
                Study("verify", configs, runs=folder).run(executor)
            except StudyError as error:
                print(error, file=sys.stderr)
            runs = [Run(config, folder) for config in configs]
            return [_compare(pack, run_id, run) for (pack, run_id), run in zip(chosen, runs, strict=True)]


def _pool(study: str | None) -> list[tuple[Pack, str]]:
    """Returns the shipped runs that this version can retrain, and prints how many it cannot."""
    found = [pack for pack in packs() if study in (None, pack.name)]
    if not found:
        names = ", ".join(pack.name for pack in packs())
        raise ValueError(
            f"{data_folder()} holds no packed study {study}; there are: {names or 'none'}" if study
            else f"nothing is shipped: {data_folder()} holds no packed study"
        )  # fmt: skip
    shipped = [(pack, run_id) for pack in found for run_id in pack.runs.index]
    pool = [(pack, run_id) for pack, run_id in shipped if _can_be_retrained(pack.runs.loc[run_id])]
    if left_out := len(shipped) - len(pool):
        print(
            f"{left_out} shipped runs are of another method version, or of classes that a notebook defines: left out"
        )
    return pool


def _can_be_retrained(row: pd.Series) -> bool:
    methods = {kind.__name__: kind.method for kind in RunConfig.__subclasses__() if not from_outside(kind)}
    return row.method == methods.get(json.loads(row.config)["class"]) and '"code": ' not in row.config


def _config(pack: Pack, run_id: str) -> RunConfig:
    try:
        config = config_from(json.loads(pack.rows[run_id]["config"]))
    except ValueError as error:
        raise CorruptPackError(f"the config of {run_id} in {pack.folder} was edited: {error}") from error
    if config.run_id != run_id:
        raise CorruptPackError(
            f"the config of {run_id} in {pack.folder} was edited: it is that of {config.run_id}"
        )
    return config


def _compare(pack: Pack, run_id: str, run: Run) -> Verdict:
    label = f"{pack.name}/{run.path.parent.name}/{run.path.name}"
    if not run.finished:
        return Verdict(label, "failed", f"it stopped after {run.epoch} of {run.config.epochs} epochs")
    differences, edited = [], False
    for name in TABLES:
        ours, theirs = as_shipped(name, getattr(run, name)), pack.table(name, run_id)
        same_digest = digest(getattr(run, name)) == pack.rows[run_id][f"{name}_sha256"]
        if not (same_digest and ours.equals(theirs)):
            differences.append(f"{name}: {difference(ours, theirs)}")
            edited |= same_digest
    if recorded := pack.networks_digest(run_id):
        ours, theirs = map(digest_of_networks, (run.shipped_networks, pack.networks(run_id)))
        if not ours == theirs == recorded:
            differences.append("networks: their parameters")
            edited |= ours == recorded
    if not differences:
        return Verdict(label, "identical")
    conditions = _conditions(pack.provenance(run_id))
    if conditions and not edited:
        return Verdict(label, "differs elsewhere", "; ".join([*differences, f"recorded under {conditions}"]))
    return Verdict(label, "edited" if edited else "differs", "; ".join(differences))


def exit_status(verdicts: Sequence[Verdict]) -> int:
    """Returns 0 if all are identical, 3 if some differ but only on another machine or with other versions, else 1."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if outcomes == {"identical"}:
        return 0
    return 3 if outcomes <= {"identical", "differs elsewhere"} else 1


def difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Tells where two tables first differ, row by row (epochs, or episodes), and how far apart they are at most."""
    if list(ours) != list(theirs):
        return f"columns {', '.join(ours)} here; {', '.join(theirs)} shipped"
    rows = min(len(ours), len(theirs))
    a, b = (table.head(rows).to_numpy(dtype=float) for table in (ours, theirs))
    unequal = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    words = [] if len(ours) == len(theirs) else [f"{len(ours)} rows here, {len(theirs)} shipped"]
    if unequal.any():
        row = int(unequal.any(axis=1).argmax())
        column = int(unequal[row].argmax())
        apart = np.where(unequal, np.abs(a - b), 0)  # NaN where one of the two is
        worst = np.unravel_index(np.nanargmax(apart), apart.shape)
        words += [
            f"first in {ours.columns[column]}, row {row + 1}: "
            f"{a[row, column]:.17g} here, {b[row, column]:.17g} shipped",
            f"at most by {apart[worst]:.3g}, in {ours.columns[worst[1]]}, row {worst[0] + 1}",
        ]
    return ", ".join(words) or "the same in all digits that ship, but not to the last bit"


def _conditions(history: list[dict]) -> str:
    """Returns the machines and versions of a run's provenance that differ from those here; empty if none do."""
    here = provenance()
    found = set()
    for past in history:
        if not here["machine"].startswith(past["machine"]):  # old records end before the instruction set
            found.add(f"{past['machine']} (here {here['machine']})")
        for name, version in past["versions"].items():
            if version != here["versions"].get(name):
                found.add(f"{name} {version} (here {here['versions'].get(name)})")
    return ", ".join(sorted(found))
