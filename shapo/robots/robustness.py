"""The robustness protocols of SHAC-ASAM (its Section 6): trained policies under action noise and on other ground.

    a' = (1 − λ) clip(a, −1, 1) + λ n,  n ~ U(−1, 1)                   (12)

A condition is a dict with any of noise (λ), stiffness (k_e, N/m), damping (k_d, N·s/m²), friction (μ). What it does not
name is as in training. Rollouts are kept in a file, `rollouts.parquet` in `figures/data/`, so that none is made twice.
Those that are missing there go to a file of that name in the run store, unless the figures that ship are drawn again.
It has a row per rollout: run_id, the digest of the policy, the condition in full, count, seed, rollout, the outcome and
the provenance (versions, commit and machine).
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from shapo.checks import AT_LEAST_0, POSITIVE, UNIT, whole
from shapo.robots.env import DifferentiableEnv
from shapo.robots.policy import RobotPolicy
from shapo.robots.simulator import ROBOTS
from shapo.runs.run import Run, provenance
from shapo.runs.shipped import data_folder, read_sealed, sealed
from shapo.runs.store import lock_of, runs_folder, write_atomically
from shapo.runs.train import alone

Condition = Mapping[str, float]
RULES = {"noise": UNIT, "stiffness": POSITIVE, "damping": AT_LEAST_0, "friction": AT_LEAST_0}
NOISE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # λ, Figures 2 and 4
FRICTION = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # μ, Figure 3
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times k_e and k_d of training, Figure 1
KEY = ["run_id", "policy", "noise", "stiffness", "damping", "friction", "count", "seed"]


@alone()  # threads share an environment
@torch.no_grad()
def rollouts(
    policy: RobotPolicy, task: str, count: int = 100, condition: Condition | None = None, seed: int = 0
) -> pd.DataFrame:
    """Runs `count` episodes at once, one per robot; returns a table of return, length (steps), failed, diverged.

    failed: the robot fell or its simulation diverged. The policy acts by its mode. A seed gives every policy and
    condition the same starts and noise. Raises ValueError for an unknown task, or a condition unknown or out of range.
    """
    env, condition = _env(task, whole(1)("count", count)), in_full(task, condition or {})
    noise, draws = condition.pop("noise"), np.random.default_rng([seed, 1])
    env.simulator.set_contact(**condition)
    env.rng = np.random.default_rng([seed, 0])
    observation = env.reset()
    kinds = {"return": torch.float64, "length": torch.int64, "failed": torch.bool, "diverged": torch.bool}
    table = {name: torch.zeros(count, dtype=kind) for name, kind in kinds.items()}
    running = torch.ones(count, dtype=torch.bool)
    while running.any():
        action = policy(observation).clamp(-1, 1)
        uniform = torch.from_numpy(draws.uniform(-1, 1, action.shape)).float()
        observation, reward, terminated, truncated, info = env.step((1 - noise) * action + noise * uniform)
        table["return"] += torch.where(running, reward, 0.0)
        table["length"] += running
        table["failed"] |= running & terminated
        table["diverged"] |= running & info["diverged"]
        running &= ~(terminated | truncated)
    return pd.DataFrame({name: values.numpy() for name, values in table.items()})


def in_full(task: str, condition: Condition) -> dict[str, float]:
    """The condition with the numbers of training where it names none. Raises ValueError if unknown or out of range."""
    unknown = condition.keys() - RULES.keys()
    if unknown:
        raise ValueError(f"a condition may name {', '.join(RULES)}; got {', '.join(sorted(unknown))}")
    trained = {name: getattr(ROBOTS[task], name, 0.0) for name in RULES}  # without noise
    return trained | {name: RULES[name](name, value) for name, value in condition.items()}


@functools.lru_cache(maxsize=2)  # making one takes longer than setting its contacts
def _env(task: str, count: int) -> DifferentiableEnv:
    return DifferentiableEnv(task, count, gradients=False)


def action_noise() -> list[Condition]:
    """The conditions of Figures 2 and 4."""
    return [{"noise": value} for value in NOISE]


def friction() -> list[Condition]:
    """The conditions of Figure 3."""
    return [{"friction": value} for value in FRICTION]


def ground(task: str) -> list[Condition]:
    """The conditions of Figure 1: every stiffness with every damping."""
    stiffness, damping = ROBOTS[task].stiffness, ROBOTS[task].damping
    return [{"stiffness": a * stiffness, "damping": b * damping} for a in FACTORS for b in FACTORS]


def cached_sweep(
    runs: Mapping[str, Sequence[Run]], conditions: Sequence[Condition], count: int = 100, seed: int = 0,
    store: Path | None = None, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Runs `rollouts` of every trained policy under every condition, on all cores; returns them in one table.

    runs: by algorithm; runs that are not available are left out. store: a `sealed` file from which known rollouts are
    read, and to which new ones are added; one in `data_folder()` gets them only from the batch of notebooks, which sets
    SHAPO_FIGURES, and otherwise its namesake in the run store. None keeps nothing. Returns a row per rollout:
    algorithm, the columns of KEY, rollout, return, length, failed, diverged, provenance. Raises ValueError as
    `rollouts` does, and CorruptPackError for a damaged file.
    """
    files = [] if store is None else [store]
    if files and store.parent == data_folder() and not os.environ.get("SHAPO_FIGURES"):
        files.append(store := runs_folder() / store.name)
    read = [read_sealed(file) for file in files if file.exists()]
    kept = pd.concat(read).drop_duplicates([*KEY, "rollout"]) if read else pd.DataFrame(columns=KEY)
    have = set(kept[KEY].drop_duplicates().itertuples(index=False, name=None))
    wanted = [(algorithm, run) for algorithm, several in runs.items() for run in several if run.available]
    keys = {run: _keys(run, conditions, count, seed) for _, run in wanted}
    total, shown = sum(map(len, keys.values())), {"unit": "condition", "disable": not progress}
    bar = tqdm(total=total, desc="robustness", file=sys.stdout, **shown)
    tables = []
    with bar:
        for algorithm, run in wanted:
            missing = [key for key in keys[run] if key not in have]
            bar.set_postfix_str(f"{algorithm}, seed {run.config.seed}")
            bar.update(len(keys[run]) - len(missing))
            if missing:
                kept = _added(kept, pd.concat(_rolled_out(run, missing, bar), ignore_index=True), store)
                have |= set(missing)
            chosen = pd.DataFrame(keys[run], columns=KEY)
            tables.append(chosen.merge(kept, on=KEY, validate="one_to_many").assign(algorithm=algorithm))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["algorithm", *KEY])


def _keys(run: Run, conditions: Sequence[Condition], count: int, seed: int) -> list[tuple]:
    """A key, with values for KEY, of every condition; conditions that are equal in full share one."""
    policy = run.config.run_id, run.actor.digest
    full = (in_full(run.config.task, condition).values() for condition in conditions)
    return list(dict.fromkeys((*policy, *values, count, seed) for values in full))


def _rolled_out(run: Run, keys: Sequence[tuple], bar: tqdm) -> Iterator[pd.DataFrame]:
    """Yields a table per key, with the columns of KEY, rollout, the columns of `rollouts`, and provenance."""
    call, policy, task = joblib.delayed(rollouts), run.actor, run.config.task
    calls = (call(policy, task, key[6], dict(zip(RULES, key[2:6], strict=True)), key[7]) for key in keys)
    made = joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(keys)), return_as="generator")(calls)
    for key, table in zip(keys, made, strict=True):
        table = table.astype({"return": np.float32, "length": np.int32})
        label = dict(zip(KEY, key, strict=True))
        bar.update()
        yield table.assign(**label, rollout=np.arange(len(table)), provenance=json.dumps(provenance()))


def _added(kept: pd.DataFrame, fresh: pd.DataFrame, store: Path | None) -> pd.DataFrame:
    """Adds `fresh` to the store, beside what another process has added meanwhile; returns it with `kept`."""
    if store is not None:
        with lock_of(store):  # which makes the folder
            there = [read_sealed(store)] if store.exists() else []
            both = pd.concat([*there, fresh]).drop_duplicates([*KEY, "rollout"])
            write_atomically(store, sealed(both))
    return pd.concat([kept, fresh], ignore_index=True) if len(kept) else fresh
