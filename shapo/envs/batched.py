"""What all batched tasks share: the vector interface, automatic resets, seeds, exact saving and restoring.

The conventions are those of `gymnasium.vector` 0.29 with safety_gymnasium's sixth value, the cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space

from shapo.envs.generators import MersenneTwister, PermutedCongruential
from shapo.envs.physics import Physics


@dataclass(frozen=True)
class Task:
    """A task of the papers and the numbers that belong to its name."""

    name: str  # the paper's name for it
    reference: str  # the environment it replays, step for step
    cost_limit: float  # β, a limit on the expected undiscounted cost of an episode
    failure_metric: str  # what the paper reports as failure: "cost rate" or "cumulative failures"
    action_dim: int  # components of an action, d
    saute_gamma: float = 0.999  # γ_s, discount of Sauté's safety budget; as in OmniSafe
    unsafe_reward: float = (
        -1.0
    )  # Sauté's reward of a step beyond the budget, on the scale of the task's rewards
    max_episode_steps: int = 1000  # control steps after which an episode is truncated


class BatchedEnv(ABC):
    """Environments of one task, stepped together; number i replays the reference seeded with `seed + i`.

    A task says how an episode begins (`_begin`), what a step was worth (`_outcome`) and what is seen
    (`observe`), names in `_state` the numpy arrays (one row per environment) it must keep for that, and in
    `_generators` the kind of random generator its reference has. The rest stands here, once.
    """

    _state: tuple[str, ...] = ()
    _limits: Mapping[str, int] = MappingProxyType({})  # the largest valid values of some of them
    _generators: type[MersenneTwister] | type[PermutedCongruential] = MersenneTwister

    def __init__(
        self, task: Task, physics: Physics, observation_space: Box, action_space: Box, seed: int
    ) -> None:
        self.task = task
        self.physics = physics
        self.num_envs = len(physics.models)
        self.max_episode_steps = task.max_episode_steps
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self._low, self._high = physics.models[0].actuator_ctrlrange.T.copy()
        self._seed = self._checked_seed(seed)
        self._random: list[Any] | None = None  # of the kind `_generators`; None until the first reset
        self._steps = np.zeros(self.num_envs, dtype=np.int64)

    # What a task defines

    @abstractmethod
    def _begin(self, index: int) -> None:
        """Begin an episode in environment `index`, drawing from `self._random[index]`."""

    @abstractmethod
    def _outcome(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Return reward, cost and terminated, each (n,), and entries for `info`, after a physics step.

        `action` (n, act_dim) is what `step` was given, before it was clipped.
        """

    @abstractmethod
    def observe(self) -> np.ndarray:
        """Return the current observations, a new array (n, obs_dim): what the last reset or step returned."""

    # The vector interface

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode in every environment; return observations (n, obs_dim) and an empty info.

        Args:
            seed: environment i starts from `seed + i`. Without it the first reset uses the constructor's
                seed, and later ones let every environment's generator run on.
            options: part of gymnasium's interface; the tasks here have none.

        Raises:
            ValueError, TypeError: `seed` is no integer in [0, 2³² − num_envs], or `options` holds any.
        """
        if options:
            raise ValueError(f"options must be empty: {self.task.name} has none; got {options!r}")
        if seed is not None:
            self._seed, self._random = self._checked_seed(seed), None
        if self._random is None:
            self._random = [self._generators.seeded(self._seed + i) for i in range(self.num_envs)]
            for name in self._state:
                getattr(self, name).fill(0)
        for i in range(self.num_envs):
            self._begin(i)
        self._steps.fill(0)
        return self.observe(), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance every environment by one control step.

        An environment whose episode ends is reset at once: its row of the observations is the first of the
        next episode; the last of the finished one is in `info["final_observation"]` (an object array, None
        where no episode ended), flagged by `info["_final_observation"]`. Both keys are present only if some
        episode ended.

        Args:
            action: (n, act_dim); values beyond the action space are clipped, as the reference does.

        Returns:
            observations (n, obs_dim), reward (n,), cost (n,), terminated (n,), truncated (n,), info.

        Raises:
            ResetNeeded: before the first reset.
            ValueError: wrong shape, or a value that is not finite.
        """
        action = self._checked_action(action)
        self.physics.step(np.minimum(np.maximum(action, self._low), self._high))
        self._steps += 1
        reward, cost, terminated, info = self._outcome(action)
        truncated = self._steps >= self.max_episode_steps
        observation = self.observe()
        done = terminated | truncated
        if done.any():
            info["final_observation"] = np.full(self.num_envs, None, dtype=object)
            info["_final_observation"] = done
            for i in np.flatnonzero(done):
                info["final_observation"][i] = observation[i].copy()
                self._begin(i)
            self._steps[done] = 0
            observation = self.observe()
        return observation, reward, cost, terminated, truncated, info

    def close(self) -> None:
        """Release the engine's threads, if it has any."""
        self.physics.close()

    # Saving and restoring

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of the complete state, simulators and random generators included, as numeric arrays.

        Raises:
            ResetNeeded: before the first reset there is no state.
        """
        self._require_reset("state_dict")
        return self._snapshot(self._random)

    def _snapshot(self, generators: list[Any]) -> dict[str, np.ndarray]:
        return {
            "task": np.frombuffer(self.task.name.encode(), dtype=np.uint8).copy(),
            "steps": self._steps.copy(),
            **self._generators.save(generators),
            **self.physics.save(),
            **{name.lstrip("_"): getattr(self, name).copy() for name in self._state},
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continue from `state` bit for bit, as the environment that returned it would have.

        Raises:
            ValueError: `state` belongs to another task, number of environments or MuJoCo version, or is
                damaged. The environment is then unchanged.
        """
        self._check_state(state)
        self._random = self._generators.load(state)
        self.physics.load(state)
        self._steps[:] = state["steps"]
        for name in self._state:
            getattr(self, name)[:] = state[name.lstrip("_")]

    # Checks

    def _checked_seed(self, seed: int) -> int:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed must be an integer, got {seed!r}")
        if not 0 <= seed <= 2**32 - self.num_envs:
            raise ValueError(f"seed must lie in [0, 2**32 - {self.num_envs}] (num_envs), got {seed}")
        return int(seed)

    def _checked_action(self, action: np.ndarray) -> np.ndarray:
        self._require_reset("step")
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(f"action must have shape {self.action_space.shape}, got {action.shape}")
        if not np.isfinite(action).all():
            bad = np.flatnonzero(~np.isfinite(action).all(axis=1))
            raise ValueError(f"action must be finite; in environments {bad.tolist()}: {action[bad].tolist()}")
        return action

    def _require_reset(self, call: str) -> None:
        if self._random is None:
            raise ResetNeeded(f"call reset() before {call}()")

    def _check_state(self, state: dict[str, np.ndarray]) -> None:
        """Compare names, shapes, types and the task with what this environment would save itself."""
        own = self._snapshot([self._generators.seeded(0)] * self.num_envs)
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(f"not a state of {self.task.name}: missing {missing}, unknown {unknown}")
        task = bytes(np.asarray(state["task"]).astype(np.uint8)).decode(errors="replace")
        if task != self.task.name:
            raise ValueError(f"this is a state of {task!r}, not of {self.task.name!r}")
        for name, expected in own.items():
            value = np.asarray(state[name])
            if value.shape != expected.shape or value.dtype != expected.dtype:
                raise ValueError(
                    f"state[{name!r}] has shape {value.shape} and type {value.dtype}, expected "
                    f"{expected.shape} and {expected.dtype} (num_envs={self.num_envs})"
                )
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"state[{name!r}] holds values that are not finite")
        limits = {"steps": self.max_episode_steps - 1, **self._generators.limits, **self._limits}
        for name, limit in limits.items():
            if not (0 <= state[name]).all() or not (state[name] <= limit).all():
                raise ValueError(f"state[{name!r}] must lie in [0, {limit}], got {state[name].tolist()}")
