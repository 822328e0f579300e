"""Evaluation: episodes of a trained policy, on its own task or on another environment with the same observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from shapo.checks import whole
from shapo.runs.identity import RunConfig

LONGEST = 100_000  # steps after which an episode of a plain environment is cut off


class Plain:
    """One environment of gymnasium as a batch of one, for a policy that was trained on `config`.

    Episode k begins with the seed `seed + k`. `config` scales actions to the environment's bounds and tells the cost.
    """

    num_envs = 1

    def __init__(self, env: Any, config: RunConfig, seed: int):
        self.env, self.config, self.seed = env, config, seed

    def reset(self) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(seed=self.seed)
        self.seed, self.steps = self.seed + 1, 0
        return np.ravel(observation)[None], info

    def step(self, action: np.ndarray) -> tuple:
        its = self.config.bounded(action[0], self.env.action_space)
        observation, reward, *own, terminated, truncated, info = self.env.step(its)
        cost = own[0] if own else self.config.cost_of(info, bool(terminated))
        self.steps += 1
        truncated = truncated or self.steps >= LONGEST
        observation = self.reset()[0] if terminated or truncated else np.ravel(observation)[None]
        return observation, [reward], [cost], np.array([terminated]), np.array([truncated]), info


def evaluate(
    config: RunConfig, policy: Callable, episodes: int = 20, deterministic: bool = True, seed: int = 0, env: Any = None
) -> pd.DataFrame:  # fmt: skip
    """Evaluates a policy; returns a row per episode: env, return, cost, length, failed. See `Run.evaluate`."""
    episodes, seed, own = whole(1)("episodes", episodes), whole(0)("seed", seed), env is None
    rng = np.random.default_rng([seed, 1])
    if own:
        env = config.make_env(min(episodes, config.num_envs), seed, **config.undifferentiated)
    elif not hasattr(getattr(env, "unwrapped", env), "num_envs"):
        env = Plain(env, config, seed)
    observation, n = env.reset(), env.num_envs
    observation = observation[0] if isinstance(observation, tuple) else observation
    running, rows = np.zeros((3, n)), [[] for _ in range(n)]  # return, cost, length of unfinished episodes
    # Fixed in advance, so that an environment with short episodes does not contribute more of them.
    wanted = [len(range(i, episodes, n)) for i in range(n)]
    while any(len(found) < few for found, few in zip(rows, wanted, strict=True)):
        with torch.no_grad():
            action = policy(observation, rng, deterministic)
        observation, reward, *own_cost, terminated, truncated, info = env.step(action)
        cost = own_cost[0] if own_cost else info.get("cost", 0.0)
        running += np.stack(np.broadcast_arrays(reward, cost, np.ones(n)))
        for i in np.flatnonzero(np.asarray(terminated) | np.asarray(truncated)):
            rows[i].append((i, *running[:2, i], int(running[2, i]), bool(terminated[i])))
            running[:, i] = 0
    if own and hasattr(env, "close"):
        env.close()
    told = [row for found, few in zip(rows, wanted, strict=True) for row in found[:few]]
    return pd.DataFrame(told, columns=["env", "return", "cost", "length", "failed"])
