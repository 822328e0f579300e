"""Ratios of measurements, with their spread."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from shapo.peers.differentiating import BOTH, FEW, FORWARD, NEWTON
from shapo.peers.learning import VARIANTS
from shapo.peers.measuring import TASK, here
from shapo.peers.stepping import ASYNC, SINGLE, THREADS
from shapo.runs.store import write_atomically


@dataclass(frozen=True)
class Comparison:
    """Two sides of a measurement to compare."""

    title: str
    benchmark: str
    task: str
    quantity: str
    ours: str  # the side that is compared
    theirs: str  # the side it is compared with
    better: str  # "more": the ratio is ours/theirs; "less": theirs/ours; "cost": ours/theirs, less is better;
    #              "own": ours/theirs of two sides that are both ours, more is better


_ENVS, _TWO, _BARE = "environments", "shapo, two cores", "bare MuJoCo"
_BUTTON, _ANT = "PointButton1-v0", "DiffAnt"
# fmt: off
COMPARISONS = tuple(Comparison(*row) for row in (
    ("stepping PointGoal1 on two cores, vs 10 async processes", _ENVS, TASK, "steps", _TWO, ASYNC, "more"),
    ("stepping PointGoal1 on one core, vs 10 async processes", _ENVS, TASK, "steps", "shapo", ASYNC, "more"),
    ("stepping PointGoal1 on one core, vs one environment", _ENVS, TASK, "steps", "shapo", SINGLE, "more"),
    ("stepping PointGoal1 on one core, vs bare MuJoCo", "physics", TASK, "steps", "shapo", _BARE, "more"),
    ("a reset of PointGoal1, vs safety_gymnasium", _ENVS, TASK, "reset", "shapo", SINGLE, "less"),
    ("memory of 20 PointGoal1, vs safety_gymnasium", "memory", TASK, "memory", "shapo", SINGLE, "less"),
    ("stepping PointButton1 on two cores, vs 10 async processes", _ENVS, _BUTTON, "steps", _TWO, ASYNC, "more"),
    ("stepping PointButton1 on one core, vs 10 async processes", _ENVS, _BUTTON, "steps", "shapo", ASYNC, "more"),
    *((f"stepping {name} on {n}, vs EnvPool", "locomotion", f"{name}-v4", "steps",
       f"shapo, {n}", f"EnvPool, {n}", "more") for name in ("Ant", "Walker2d") for n in THREADS),
    ("training on two cores, vs OmniSafe", "training", TASK, "steps", "shapo", "OmniSafe", "more"),
    ("a study on two cores, vs on one", "study", TASK, "study", "two cores", "one core", "more"),
    ("a Fisher solve, vs double backward", "pieces", TASK, "Fisher solve", "shapo", "double backward", "less"),
    ("a critic pass, vs plain autograd", "pieces", TASK, "critic pass", "shapo", "autograd", "less"),
    ("a pass of SAM critics, vs plain ones", "pieces", TASK, "critic pass", "shapo, SAM", "shapo", "cost"),
    ("DiffAnt with gradients, vs without", "gradients", _ANT, "steps", BOTH, FORWARD, "own"),
    ("DiffAnt with gradients, vs Newton's", "gradients", _ANT, "steps", BOTH, NEWTON[BOTH], "more"),
    ("DiffAnt forward, vs Newton's", "gradients", _ANT, "steps", FORWARD, NEWTON[FORWARD], "more"),
    ("an iteration of SHAC-ASAM, vs SHAC", "robots", _ANT, "iteration", "SHAC-ASAM", "SHAC", "cost"),
    ("an iteration with few robots ascending, vs SHAC", "robots", _ANT, "iteration", FEW, "SHAC", "cost"),
    ("an epoch of SHAPO Actor, vs vanilla", "epochs", TASK, "total", "SHAPO Actor", "vanilla", "cost"),
    ("an epoch of full SHAPO, vs vanilla", "epochs", TASK, "total", "SHAPO", "vanilla", "cost"),
))
# fmt: on


def compare(measurements: pd.DataFrame) -> pd.DataFrame:
    """A row per comparison whose two sides were measured, or skipped with a note that says why.

    Columns: comparison; ours, theirs (medians), unit; ratio (median of the paired repeats), low, high (its extremes);
    better; note.
    """
    rows = []
    for comparison in COMPARISONS:
        found = measurements[measurements["side"].isin([comparison.ours, comparison.theirs])]
        for column in ("benchmark", "task", "quantity"):
            found = found[found[column] == getattr(comparison, column)]
        if found["side"].nunique() == 2:
            rows.append(_compared(comparison, found))
    return pd.DataFrame(rows)


def _compared(comparison: Comparison, rows: pd.DataFrame) -> dict:
    values = rows.pivot(index="repeat", columns="side", values="value")
    ours, theirs = values[comparison.ours], values[comparison.theirs]
    ratio = (theirs / ours if comparison.better == "less" else ours / theirs).dropna()
    return {
        "comparison": comparison.title, "ours": ours.median(), "theirs": theirs.median(),
        "unit": rows["unit"].iloc[0], "ratio": ratio.median(), "low": ratio.min(), "high": ratio.max(),
        "better": comparison.better, "note": "; ".join(n for n in rows["note"].unique() if "skipped" in n),
    }  # fmt: skip


def epoch_parts(measurements: pd.DataFrame) -> pd.DataFrame:
    """Median seconds of an epoch's parts: a row per variant, columns rollout, actor, critics."""
    rows = measurements.query("benchmark == 'epochs'")
    parts = rows.pivot_table(index="side", columns="quantity", values="value", aggfunc="median")
    return parts.loc[list(VARIANTS), ["rollout", "actor", "critics"]]


def summary(measurements: pd.DataFrame) -> pd.DataFrame:
    """Median, smallest and largest value of every side, for display."""
    names = ["task", "quantity", "side", "unit", "note"]
    groups = measurements.groupby(names, sort=False, dropna=False)["value"]
    return groups.agg(["median", "min", "max"]).reset_index()


def store(measurements: pd.DataFrame, folder: Path, name: str = "benchmarks") -> Path:
    """Writes name.csv, the measurements with commit, machine and package versions in every row; returns its path."""
    source = here()
    table = measurements.assign(**(source | {"machine": f"{source['machine']}, {os.cpu_count()} cores"}))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    write_atomically(path, table.to_csv(index=False).encode())
    return path


def read(folder: Path, name: str = "benchmarks") -> pd.DataFrame:
    """The measurements that `store` wrote to a folder."""
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values={"value": ""})
