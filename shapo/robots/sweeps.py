"""Which conditions the figures of Section 6 show, and their rollouts, kept in a file so that none is made twice.

`rollouts.parquet` in `figures/data/` has a row per rollout: run_id, the digest of the policy, the condition in full,
count, seed, rollout, how it went, and the provenance: versions, commit and machine.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from shapo.robots.policy import RobotPolicy
from shapo.robots.robustness import Condition, checked, sweep
from shapo.robots.simulator.robots import ROBOTS
from shapo.runs.run import Run, provenance
from shapo.runs.store import lock_of, write_atomically

NOISE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # λ, Figures 2 and 4
FRICTION = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # μ, Figure 3
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of k_e and k_d in training, Figure 1
KEY = ["run_id", "policy", "noise", "stiffness", "damping", "friction", "count", "seed"]


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

    runs: by algorithm; those that are not available are left out. Returns a row per rollout: algorithm, those of
    KEY, return, length, failed, diverged, provenance. store: a parquet file; None keeps nothing.
    """
    kept = pd.read_parquet(store) if store is not None and store.exists() else pd.DataFrame(columns=KEY)
    have = set(kept[KEY].drop_duplicates().itertuples(index=False, name=None))
    wanted = [(algorithm, run) for algorithm, several in runs.items() for run in several if run.available]
    bar = tqdm(wanted, desc="robustness", unit="policy", file=sys.stdout, disable=not progress)
    tables = []
    for algorithm, run in bar:
        policy = run.actor
        identity = {"run_id": run.config.run_id, "policy": policy.digest}
        keys = list(dict.fromkeys(_key(run, policy, condition, count, seed) for condition in conditions))
        if missing := [dict(zip(KEY[2:6], key[2:6], strict=True)) for key in keys if key not in have]:
            rollouts = sweep({"": [policy]}, run.config.task, missing, count, seed, progress=False)
            identity |= {"count": count, "seed": seed, "provenance": json.dumps(provenance())}
            rollouts = rollouts.drop(columns="algorithm").assign(**identity)
            kept = _added(kept, rollouts.astype({"return": np.float32, "length": np.int32}), store)
            have |= set(keys)
        chosen = pd.DataFrame(keys, columns=KEY)
        tables.append(chosen.merge(kept, on=KEY, validate="one_to_many").assign(algorithm=algorithm))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["algorithm", *KEY])


def _key(run: Run, policy: RobotPolicy, condition: Condition, count: int, seed: int) -> tuple:
    """The condition with what it does not name as in training."""
    robot = ROBOTS[run.config.task]
    full = {"noise": 0.0, "stiffness": robot.stiffness, "damping": robot.damping, "friction": robot.friction}
    return run.config.run_id, policy.digest, *(full | checked(condition)).values(), count, seed


def _added(kept: pd.DataFrame, fresh: pd.DataFrame, store: Path | None) -> pd.DataFrame:
    """Both, also in the store, with what another process has put there meanwhile."""
    if store is None:
        return pd.concat([kept, fresh], ignore_index=True) if len(kept) else fresh
    store.parent.mkdir(parents=True, exist_ok=True)
    with lock_of(store):
        there = pd.read_parquet(store) if store.exists() else fresh[:0]
        both = pd.concat([there, fresh], ignore_index=True).drop_duplicates([*KEY, "rollout"])
        buffer = io.BytesIO()
        both.to_parquet(buffer, index=False, compression="zstd")
        write_atomically(store, buffer.getvalue())
    return both
