"""How long training takes: learned from the runs of a store, else from shipped runs, else from the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shapo.runs.identity import RunConfig
from shapo.runs.shipped import data_folder, packs
from shapo.runs.store import CorruptCheckpointError, load_checkpoint

LENGTH = ("seed", "total_steps", "iterations")  # what does not change how long a step takes


def seconds_per_step(config: RunConfig, folder: Path, memory: dict | None = None) -> float:
    """Seconds that one core trains for one environment step of `config`; NaN where nothing of its task was ever timed.

    The median over the three runs that are most like `config`, of those in the run store `folder` or, where it has none
    of the task, of those shipped: same baseline first, then perturbed or not alike, then by the settings they share.
    memory: a dict to pass to calls that follow each other, so that each checkpoint is read once.
    """
    memory = {} if memory is None else memory
    wanted = {name: value for name, value in config.identity["config"].items() if name not in LENGTH}
    key = json.dumps(wanted, sort_keys=True)
    task = str(config.task)
    if task not in memory:
        memory[task] = list(_stored(folder / task)) or list(_shipped(task))
    if key not in memory:
        memory[key] = _like(wanted, memory[task], memory)
    return memory[key] if memory[key] else _benchmarked(config)


def _like(wanted: dict, runs: list[tuple[dict, Path | float]], memory: dict) -> float:
    """The median of the three most similar; 0 where there are none."""
    seconds = []
    for description, timed in sorted(runs, key=lambda run: _likeness(wanted, run[0]), reverse=True):
        if timed not in memory:
            memory[timed] = timed if isinstance(timed, float) else _measured(timed)
        seconds += [memory[timed] / _steps_per_epoch(description)] if memory[timed] else []
        if len(seconds) == 3:
            break
    return float(np.median(seconds)) if seconds else 0.0


def _stored(folder: Path) -> Iterator[tuple[dict, Path]]:
    """(description of its config, checkpoint) of each run in the folder that has begun."""
    for path in folder.glob("*/config.json"):
        with suppress(OSError, ValueError, KeyError):  # not ours, or edited: nothing to learn from
            description = json.loads(path.read_bytes())["config"]
            if (checkpoint := path.with_name("checkpoint")).exists():
                yield description, checkpoint


def _shipped(task: str) -> Iterator[tuple[dict, float]]:
    """(description of its config, seconds per epoch) of each shipped run."""
    for pack in packs():
        runs = pack.runs[pack.runs.task == task]
        yield from zip(map(json.loads, runs.config), map(float, runs.total), strict=True)


def _likeness(wanted: dict[str, Any], other: dict[str, Any]) -> tuple[bool, int, int]:
    perturbed = sum((wanted.get(name) is None) == (other.get(name) is None) for name in ("actor", "critic"))
    same_baseline = wanted["algorithm"]["class"] == other.get("algorithm", {}).get("class")
    return same_baseline, perturbed, sum(other.get(name) == value for name, value in wanted.items())


def _steps_per_epoch(description: dict[str, Any]) -> int:
    if "steps_per_epoch" in description:
        return description["steps_per_epoch"]
    return description["num_envs"] * description["algorithm"]["horizon"]  # of a RobotConfig


def _measured(checkpoint: Path) -> float:
    """Seconds per epoch of a run; 0 before its first, or where it cannot be read."""
    try:
        return float(np.median(load_checkpoint(checkpoint)[0]["timing:total"]))
    except (OSError, KeyError, CorruptCheckpointError):
        return 0.0


def _benchmarked(config: RunConfig) -> float:
    path = data_folder() / "benchmarks.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame()
    if "task" not in table:
        return np.nan
    side = (
        "vanilla"
        if config.actor is None
        else "SHAPO Actor"
        if getattr(config, "critic", None) is None
        else "SHAPO"
    )
    wanted = {"benchmark": "epochs", "quantity": "total", "task": str(config.task), "side": side}
    rows = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    steps = rows.note.str.extract(r"steps an epoch: (\d+)")[0].astype(float)
    return float((rows.value / steps).median())


def spoken(seconds: float) -> str:
    """A duration in words: "40 s", "12 min", "3.1 h"."""
    if np.isnan(seconds):
        return "an unknown time (nothing like them was timed here)"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
