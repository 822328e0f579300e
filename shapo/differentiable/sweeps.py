"""Which conditions the figures of Section 6 show, and their rollouts, kept in a file so that none is made twice.

figures/data/rollouts.parquet    a row per rollout: run_id, the condition in full, count, seed, rollout, outcome
"""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from shapo.differentiable.robots import ROBOTS
from shapo.differentiable.robustness import Condition, checked, sweep
from shapo.run import Run
from shapo.store import write_atomically

NOISE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # λ, Figures 2 and 4
FRICTION = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # μ, Figure 3
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of k_e and k_d in training, Figure 1
KEY = ["run_id", "noise", "stiffness", "damping", "friction", "count", "seed"]


def action_noise() -> list[Condition]:
    """Figures 2 and 4."""
    return [{"noise": value} for value in NOISE]


def friction() -> list[Condition]:
    """Figure 3."""
    return [{"friction": value} for value in FRICTION]


def ground(task: str) -> list[Condition]:
    """Figure 1: every stiffness with every damping."""
    robot = ROBOTS[task]
    return [
        {"stiffness": k_e * robot.stiffness, "damping": k_d * robot.damping}
        for k_e, k_d in itertools.product(FACTORS, FACTORS)
    ]


def kept_sweep(
    runs: Mapping[str, Sequence[Run]], conditions: Sequence[Condition], count: int = 100, seed: int = 0,
    store: Path | None = None, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """`robustness.sweep` of the policies of trained runs; what `store` has is read there, what it has not is added.

    runs: by algorithm; those of which no policy is there are left out. Returns a row per rollout: algorithm, those of
    KEY, return, length, failed, diverged. store: a parquet file; None keeps nothing.
    """
    kept = pd.read_parquet(store) if store is not None and store.exists() else pd.DataFrame(columns=KEY)
    have = set(kept[KEY].drop_duplicates().itertuples(index=False, name=None))
    wanted = [(algorithm, run) for algorithm, several in runs.items() for run in several if run.available]
    bar = tqdm(wanted, desc="robustness", unit="policy", file=sys.stdout, disable=not progress)
    tables = []
    for algorithm, run in bar:
        keys = [_key(run, condition, count, seed) for condition in conditions]
        missing = [condition for key, condition in zip(keys, conditions, strict=True) if key not in have]
        if missing:
            fresh = _fresh(run, missing, count, seed)
            have |= set(keys)
            kept = _added(kept, fresh, store)
        chosen = pd.DataFrame(keys, columns=KEY)
        tables.append(chosen.merge(kept, on=KEY, validate="one_to_many").assign(algorithm=algorithm))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["algorithm", *KEY])


def _key(run: Run, condition: Condition, count: int, seed: int) -> tuple:
    """The condition with what it does not name as in training."""
    robot = ROBOTS[run.config.task]
    full = {"noise": 0.0, "stiffness": robot.stiffness, "damping": robot.damping, "friction": robot.friction}
    return run.config.run_id, *(full | checked(condition)).values(), count, seed


def _fresh(run: Run, conditions: Sequence[Condition], count: int, seed: int) -> pd.DataFrame:
    """Rollouts of one run's policy, under full conditions."""
    full = [
        dict(zip(KEY[1:5], _key(run, condition, count, seed)[1:5], strict=True)) for condition in conditions
    ]
    table = sweep({"": [run.actor]}, run.config.task, full, count, seed, progress=False)
    table = table.drop(columns=["algorithm", "policy"]).assign(
        run_id=run.config.run_id, count=count, seed=seed
    )
    return table.astype({"return": np.float32, "length": np.int32})


def _added(kept: pd.DataFrame, fresh: pd.DataFrame, store: Path | None) -> pd.DataFrame:
    """Both, also in the store, with what another process has put there meanwhile."""
    if store is None:
        return pd.concat([kept, fresh], ignore_index=True) if len(kept) else fresh
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store.with_suffix(".lock")):
        there = pd.read_parquet(store) if store.exists() else fresh[:0]
        both = pd.concat([there, fresh], ignore_index=True).drop_duplicates([*KEY, "rollout"])
        buffer = io.BytesIO()
        both.to_parquet(buffer, index=False, compression="zstd")
        write_atomically(store, buffer.getvalue())
    store.with_suffix(".lock").unlink(missing_ok=True)
    return both
