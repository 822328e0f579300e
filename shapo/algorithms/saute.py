"""SautéRL: the safety budget left is part of the state; once it is overspent, `unsafe_reward` is the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space

from shapo.algorithms.advantages import Rollout
from shapo.algorithms.trust_region import TrustRegion
from shapo.checks import ABOVE_0_TO_1, FINITE, filled, setting
from shapo.envs.batched import Task


class BudgetEnv:
    """An environment whose observations have a last column z, the share of the safety budget that is left.

        z₀ = 1,    z_{t+1} = (z_t − c_t / d) / γ_s,    d = β · mean_{t<T} γ_s^t        (Sootla et al. 2022)

    So z ≤ 0 once the discounted cost reaches d. A cost β spread evenly over T = `max_episode_steps` does so at the end.
    Rewards and costs are the environment's own.
    """

    def __init__(self, env, cost_limit: float, gamma_s: float):
        self.env, self.gamma_s = env, gamma_s
        self.budget = cost_limit * float(np.mean(gamma_s ** np.arange(env.max_episode_steps)))
        low, high = env.single_observation_space.low, env.single_observation_space.high
        low, high = np.append(low, -np.inf), np.append(high, np.inf)
        self.single_observation_space = Box(low, high, dtype=np.float64)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def __getattr__(self, name: str):
        return getattr(self.env, name)

    def reset(self, seed: int | None = None, options: dict | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        self.budget_left = np.ones(self.num_envs)
        return np.column_stack([observation, self.budget_left]), info

    def step(self, action: np.ndarray):
        """A finished episode's last observation has its own z; the next episode begins with z = 1."""
        observation, reward, cost, terminated, truncated, info = self.env.step(action)
        self.budget_left = (self.budget_left - cost / self.budget) / self.gamma_s
        for i in np.flatnonzero(terminated | truncated):
            info["final_observation"][i] = np.append(info["final_observation"][i], self.budget_left[i])
            self.budget_left[i] = 1.0
        return np.column_stack([observation, self.budget_left]), reward, cost, terminated, truncated, info

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.env.state_dict() | {"budget_left": self.budget_left.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continues from `state`. Raises ValueError where it does not fit the environments."""
        left = np.array(state.get("budget_left"), dtype=np.float64)
        if left.shape != (self.num_envs,) or not np.isfinite(left).all():
            raise ValueError(f"state['budget_left'] must be {self.num_envs} finite numbers; got {left}")
        self.env.load_state_dict({name: state[name] for name in state.keys() - {"budget_left"}})
        self.budget_left = left


@dataclass(frozen=True)
class SauteRL(TrustRegion):
    """Sauté RL (Sootla et al. 2022) on TRPO: the reward of a step that leaves z ≤ 0 is `unsafe_reward`.

    As in OmniSafe, z is not normalised. The policy depends on z, so it can be rolled out only where costs are known:
    `config.make_env` gives an environment that computes z.
    """

    extra_observations: ClassVar[int] = 1
    saute_gamma: float | None = setting(ABOVE_0_TO_1, None)  # γ_s; None: the task's own
    unsafe_reward: float | None = setting(FINITE, None)  # None: the task's own

    def resolved(self, task: Task, cost_limit: float) -> TrustRegion:
        if cost_limit <= 0:
            raise ValueError(
                f"cost_limit must be positive for SauteRL, which divides costs by it; got {cost_limit!r} on {task.name}"
            )
        own = {"saute_gamma": task.saute_gamma, "unsafe_reward": task.unsafe_reward}
        return filled(super().resolved(task, cost_limit), **own)

    def wrap(self, env, cost_limit: float) -> BudgetEnv:
        return BudgetEnv(env, cost_limit, self.saute_gamma)

    def learned_reward(self, rollout: Rollout) -> np.ndarray:
        left = torch.cat([rollout.observation[1:, :, -1], rollout.next_observation[None, :, -1]]).numpy()
        for (t, i), observation in rollout.final_observation.items():
            left[t, i] = observation[-1]
        return np.where(left > 0, rollout.reward, self.unsafe_reward)
