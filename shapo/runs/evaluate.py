"""Evaluation: episodes of a trained policy, on its own task or on another environment with the same observations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import torch

from shapo.checks import flag, whole
from shapo.runs.identity import RunConfig
from shapo.runs.switches import plain_torch

LONGEST = 100_000  # steps after which an episode of a plain environment is cut off


class Plain:
    """One environment of gymnasium as a batch of one, for a policy that was trained on `config`.

    Episode k begins with the seed `seed + k`. `config` scales actions to the environment's bounds and tells the cost.
    """

    def __init__(self, env: Any, config: RunConfig, seed: int):
        self.env, self.config, self.seed = env, config, seed
        self.num_envs, self.bounds = 1, env.action_space

    def reset(self) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(seed=self.seed)
        self.seed, self.steps = self.seed + 1, 0
        return np.ravel(observation)[None], info

    def step(self, action: np.ndarray) -> tuple:
        its = np.stack([self.config.bounded(row, self.bounds) for row in action])
        observation, reward, *own, terminated, truncated, infos = self.advance(its)
        told = zip(infos, terminated, *own, strict=True)
        cost = [self.config.cost_of(info, bool(end), *its_own) for info, end, *its_own in told]
        return observation, reward, cost, terminated, truncated, {}

    def advance(self, action: np.ndarray) -> tuple:
        """Steps; returns what a step of gymnasium or Safety-Gymnasium does, with one row or info per environment."""
        observation, *told, truncated, info = self.env.step(action[0])
        self.steps += 1
        truncated = truncated or self.steps >= LONGEST
        observation = self.reset()[0] if told[-1] or truncated else np.ravel(observation)[None]
        return observation, *([value] for value in told), [truncated], [info]


class Several(Plain):
    """A vector of gymnasium's or Safety-Gymnasium's environments likewise; environment i is seeded with `seed + i`."""

    def __init__(self, env: gymnasium.vector.VectorEnv, config: RunConfig, seed: int):
        super().__init__(env, config, seed)
        self.num_envs, self.bounds = env.unwrapped.num_envs, env.unwrapped.single_action_space

    def reset(self) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(seed=self.seed)
        return np.reshape(observation, (self.num_envs, -1)), info

    def advance(self, action: np.ndarray) -> tuple:
        observation, *told, info = self.env.step(action)
        infos = [self.info_of(info, i) for i in range(self.num_envs)]
        return np.reshape(observation, (self.num_envs, -1)), *told, infos

    @staticmethod
    def info_of(info: dict, index: int) -> dict:
        """Returns the info of one environment's step. `info`: as gymnasium.vector 0.29 has it, where `_key` flags the
        environments that told `key`. Where an episode ended, the step's info is in `final_info`, and the others are of
        the next episode's reset.
        """
        its = {key: told[index] for key, told in info.items() if f"_{key}" in info and info[f"_{key}"][index]}
        return its.get("final_info", its)


@plain_torch()
def evaluate(
    config: RunConfig, policy: Callable, episodes: int = 20, deterministic: bool = True, seed: int = 0, env: Any = None
) -> pd.DataFrame:  # fmt: skip
    """Evaluates a policy; returns a row per episode: env, return, cost, length, failed. See `Run.evaluate`."""
    episodes, seed, own = whole(1)("episodes", episodes), whole(0)("seed", seed), env is None
    deterministic, rng = flag("deterministic", deterministic), np.random.default_rng([seed, 1])
    if not own and not hasattr(env, "reset"):
        raise TypeError(f"env must be None or an environment, such as gymnasium.make(id); got {env!r}")
    if own:
        env = config.make_env(min(episodes, config.num_envs), seed, **config.undifferentiated)
    elif isinstance(bare := getattr(env, "unwrapped", env), gymnasium.vector.VectorEnv):
        env = Several(env, config, seed)
    elif not hasattr(bare, "num_envs"):
        env = Plain(env, config, seed)
    seeded, n = {"seed": seed} if "seed" in inspect.signature(env.reset).parameters else {}, env.num_envs
    running, rows = np.zeros((3, n)), [[] for _ in range(n)]  # return, cost, length of unfinished episodes
    # Fixed in advance, so that an environment with short episodes does not contribute more of them.
    wanted = [len(range(i, episodes, n)) for i in range(n)]
    with closing(env) if own else nullcontext():
        observation = env.reset(**seeded)
        observation = observation[0] if isinstance(observation, tuple) else observation
        while any(len(found) < few for found, few in zip(rows, wanted, strict=True)):
            with torch.no_grad():
                action = policy(observation, rng, deterministic)
            observation, reward, *own_cost, terminated, truncated, info = env.step(action)
            cost = own_cost[0] if own_cost else info.get("cost", 0.0)
            running += np.stack(np.broadcast_arrays(reward, cost, np.ones(n)))
            for i in np.flatnonzero(np.asarray(terminated) | np.asarray(truncated)):
                rows[i].append((i, *running[:2, i], int(running[2, i]), bool(terminated[i])))
                running[:, i] = 0
    told = [row for found, few in zip(rows, wanted, strict=True) for row in found[:few]]
    return pd.DataFrame(told, columns=["env", "return", "cost", "length", "failed"])
