"""The robustness protocols of SHAC-ASAM (its Section 6): trained policies under noise and on other ground.

    a' = (1 − λ) clip(a, −1, 1) + λ n,  n ~ U(−1, 1)                   (12)

A condition is a dict with any of noise (λ), stiffness (k_e, N/m), damping (k_d, N·s/m²), friction (μ); what it does not
name is as in training.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from shapo.checks import AT_LEAST_0, POSITIVE, UNIT, whole
from shapo.robots.env import DifferentiableEnv
from shapo.robots.policy import RobotPolicy
from shapo.runs.train import one_thread

Condition = Mapping[str, float]
RULES = {"noise": UNIT, "stiffness": POSITIVE, "damping": AT_LEAST_0, "friction": AT_LEAST_0}


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
