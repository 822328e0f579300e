"""The robustness protocols of SHAC-ASAM (its Section 6): trained policies under noise and on other ground.

    a' = (1 − λ) clip(a, −1, 1) + λ n,  n ~ U(−1, 1)                   (12)

A condition is a dict with any of noise (λ), stiffness (k_e, N/m), damping (k_d, N·s/m²), friction (μ); what it does not
name is as in training. Rollouts are kept in a file, so that none is made twice: `rollouts.parquet` in `figures/data/`
has a row per rollout: run_id, the digest of the policy, the condition in full, count, seed, rollout, how it went, and
the provenance: versions, commit and machine.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
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
from shapo.runs.store import lock_of, write_atomically
from shapo.runs.train import one_thread

Condition = Mapping[str, float]
RULES = {"noise": UNIT, "stiffness": POSITIVE, "damping": AT_LEAST_0, "friction": AT_LEAST_0}
NOISE = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # λ, Figures 2 and 4
FRICTION = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # μ, Figure 3
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of k_e and k_d in training, Figure 1
KEY = ["run_id", "policy", "noise", "stiffness", "damping", "friction", "count", "seed"]


@torch.no_grad()
def rollouts(
    policy: RobotPolicy, task: str, count: int = 100, condition: Condition | None = None, seed: int = 0
) -> pd.DataFrame:
    """A table of `count` episodes, a robot each, all at once: return, length (steps), failed, diverged.

    failed: fell, or diverged. The policy acts by its mode. The same seed gives the same starts and the same noise to
    every policy and condition. Raises ValueError for an unknown task or condition, or one out of range.
    """
    condition, env = checked(condition or {}), _env(task, whole(1)("count", count))
    robot = env.robot
    env.set_contact(
        condition.get("stiffness", robot.stiffness), condition.get("damping", robot.damping),
        condition.get("friction", robot.friction),
    )  # fmt: skip
    noise, draws = condition.get("noise", 0.0), np.random.default_rng([seed, 1])
    env.rng = np.random.default_rng([seed, 0])
    observation = env.reset()
    table = {
        "return": torch.zeros(count, dtype=torch.float64),
        "length": torch.zeros(count, dtype=torch.int64),
    }
    table |= {name: torch.zeros(count, dtype=torch.bool) for name in ("failed", "diverged")}
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


def sweep(
    policies: Mapping[str, Sequence[RobotPolicy]], task: str, conditions: Sequence[Condition], count: int = 100,
    seed: int = 0, progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """`rollouts` of every policy under every condition, on all cores, in one table.

    policies: by algorithm, one per training seed. Columns: algorithm, policy (its index), those of the conditions,
    rollout, and those of `rollouts`. Raises ValueError where there is nothing to roll out, and as `rollouts` does.
    """
    conditions = [checked(condition) for condition in conditions]
    jobs = [
        ({"algorithm": algorithm, "policy": index} | condition, policy, condition)
        for algorithm, trained in policies.items()
        for index, policy in enumerate(trained)
        for condition in conditions
    ]
    if not jobs:
        raise ValueError(f"policies and conditions must not be empty; got {policies!r} and {conditions!r}")
    calls = (
        joblib.delayed(_labelled)(label, policy, task, count, condition, seed)
        for label, policy, condition in jobs
    )
    results = joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(jobs)), return_as="generator")(calls)
    bar = tqdm(
        results,
        total=len(jobs),
        desc=f"{task} robustness",
        unit="sweep",
        file=sys.stdout,
        disable=not progress,
    )
    return pd.concat(bar, ignore_index=True)


def checked(condition: Condition) -> dict[str, float]:
    """The condition as plain numbers. Raises ValueError for names and values that mean nothing."""
    unknown = condition.keys() - RULES.keys()
    if unknown:
        raise ValueError(f"a condition may name {', '.join(RULES)}; got {', '.join(sorted(unknown))}")
    return {name: RULES[name](name, value) for name, value in condition.items()}


def _labelled(
    label: Mapping, policy: RobotPolicy, task: str, count: int, condition: Condition, seed: int
) -> pd.DataFrame:
    with one_thread():
        table = rollouts(policy, task, count, condition, seed)
    return table.assign(**label, rollout=np.arange(len(table)))[[*label, "rollout", *table]]


@functools.lru_cache(maxsize=2)  # to make one takes longer than to set its contacts
def _env(task: str, count: int) -> DifferentiableEnv:
    return DifferentiableEnv(task, count, gradients=False)


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
    """`sweep` of the policies of trained runs; what `store` has is read there, what it has not is added.

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
            fresh = sweep({"": [policy]}, run.config.task, missing, count, seed, progress=False)
            identity |= {"count": count, "seed": seed, "provenance": json.dumps(provenance())}
            fresh = fresh.drop(columns="algorithm").assign(**identity)
            kept = _added(kept, fresh.astype({"return": np.float32, "length": np.int32}), store)
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
