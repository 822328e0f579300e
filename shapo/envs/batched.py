"""The code that all tasks share: the vector interface, automatic resets, seeds, exact saving and restoring.

The conventions are those of `gymnasium.vector` 0.29. A step returns the cost as a sixth value, as in safety_gymnasium.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space

from shapo.envs.physics import Physics

Outcome = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]  # reward, cost, terminated, info
Step = tuple[
    np.ndarray, np.ndarray, np.ndarray, Any, dict[str, np.ndarray]
]  # the same, with truncated before `info`


@dataclass(frozen=True)
class Task:
    """A task that is replayed exactly, and the numbers that belong to its name."""

    name: str  # the paper's name for the task
    reference: str  # the environment it replays, step for step
    cost_limit: float  # β, a limit on the expected undiscounted cost of an episode
    failure_metric: str  # what the paper reports as failure: "cost rate" or "cumulative failures"
    action_dim: int  # components of an action, d
    saute_gamma: float = 0.999  # γ_s, discount of Sauté's safety budget; as in OmniSafe
    unsafe_reward: float = -1.0  # Sauté's reward for a step beyond the budget, on the scale of the task's
    tail_level: float = 0.95  # q of the quantile of the episodic cost that is reported
    max_episode_steps: int = 1000  # control steps after which an episode is truncated

    def __str__(self) -> str:
        return self.name


class VectorEnv(ABC):
    """Environments of one task, stepped together; environment i is seeded with `seed + i`.

    A subclass defines how an episode begins (`_begin`), what a step does and returns (`_advance`), what is observed
    (`observe`) and what is made from a seed (`_seeded`). `_state` names the numpy arrays, with one row per environment,
    that it must keep. Everything else is implemented here.
    """

    resumable: ClassVar[bool] = True  # whether `state_dict` has everything that the next step depends on
    _state: tuple[str, ...] = ()
    _seeded: Callable[[int], Any]

    def __init__(
        self, task: Any, num_envs: int, spaces: tuple[Box, Box], max_episode_steps: int, seed: int
    ) -> None:
        self.task, self.num_envs, self.max_episode_steps = task, num_envs, max_episode_steps
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space, self.action_space = (batch_space(space, num_envs) for space in spaces)
        self._seed = self._checked_seed(seed)
        self._random: list[Any] | None = None  # what `_seeded` made for each environment; None before a reset
        self._steps = np.zeros(num_envs, dtype=np.int64)

    @abstractmethod
    def _begin(self, index: int) -> None:
        """Begins an episode in environment `index`, drawing from `self._random[index]`."""

    @abstractmethod
    def _advance(self, action: np.ndarray) -> Step:
        """Steps every environment; returns reward, cost, terminated, truncated, each (n,), and entries for `info`."""

    @abstractmethod
    def observe(self) -> np.ndarray:
        """Returns the current observations, those of the last reset or step, as a new array (n, obs_dim)."""

    def reset(
        self, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode in every environment; returns observations (n, obs_dim) and an empty info.

        seed: environment i is seeded with `seed + i`. Without a seed, the first reset uses the constructor's seed, and
        later resets continue every environment's generator. options: part of gymnasium's interface; must be empty.
        Raises ValueError or TypeError if `seed` is no integer in [0, 2³² − num_envs] or `options` is not empty.
        """
        if options:
            raise ValueError(f"options must be empty: {self.task.name} has none; got {options!r}")
        if seed is not None:
            self._seed, self._random = self._checked_seed(seed), None
        if self._random is None:
            self._random = [self._seeded(self._seed + i) for i in range(self.num_envs)]
            for name in self._state:
                getattr(self, name).fill(0)
        for i in range(self.num_envs):
            self._begin(i)
        self._steps.fill(0)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple:
        """Advances every environment by one control step; returns observations (n, obs_dim), reward, cost, terminated
        and truncated, each (n,), and info.

        An environment whose episode ends is reset at once, so its row has the first observation of the next episode.
        The last one of the finished episode is in `info["final_observation"]` (an object array, None where no episode
        ended), and `info["_final_observation"]` flags these rows. Both keys are present only if some episode ended.

        action: (n, act_dim); values beyond the action space are clipped, as the reference does.
        Raises ResetNeeded before the first reset, and ValueError for a wrong shape or a value that is not finite.
        """
        action = self._checked_action(action)
        self._steps += 1
        reward, cost, terminated, truncated, info = self._advance(action)
        truncated = truncated | (self._steps >= self.max_episode_steps)
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


class BatchedEnv(VectorEnv):
    """Environments, stepped by `Physics`, that replay a reference exactly; environment i replays seed `seed + i`."""

    _seeded = np.random.RandomState  # as in safety_gymnasium; gymnasium's `reset(seed=…)` uses `default_rng`

    def __init__(self, task: Task, physics: Physics, spaces: tuple[Box, Box], seed: int) -> None:
        super().__init__(task, len(physics.models), spaces, task.max_episode_steps, seed)
        self.physics = physics
        self._low, self._high = physics.models[0].actuator_ctrlrange.T.copy()

    @abstractmethod
    def _outcome(self, action: np.ndarray) -> Outcome:
        """Returns reward, cost and terminated, each (n,), and entries for `info`, after a physics step.

        action: the action that `step` was given, before it was clipped, (n, act_dim).
        """

    def _advance(self, action: np.ndarray) -> Step:
        self.physics.step(np.minimum(np.maximum(action, self._low), self._high))
        reward, cost, terminated, info = self._outcome(action)
        return reward, cost, terminated, False, info

    def close(self) -> None:
        """Releases the engine's threads, if it has any."""
        self.physics.close()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Returns a copy of the complete state, simulators and random generators included, as numeric arrays.

        Raises ResetNeeded before the first reset, when there is no state.
        """
        self._require_reset("state_dict")
        return self._snapshot() | {"random": _text([_its_state(random) for random in self._random])}

    def _snapshot(self) -> dict[str, np.ndarray]:
        kept = {name.lstrip("_"): getattr(self, name).copy() for name in self._state}
        return {"task": _text(self.task.name), "steps": self._steps.copy(), **self.physics.save(), **kept}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continues from `state` bit for bit, as the environment that returned it would have.

        Raises ValueError, and changes nothing, if `state` belongs to another task or number of environments.
        """
        own = self._snapshot() | {"random": state.get("random", ())}
        names = own.keys() | state.keys()
        wrong = {name for name in names if np.shape(own.get(name)) != np.shape(state.get(name))}
        if wrong or not np.array_equal(state["task"], own["task"]):
            told = ", ".join(sorted(wrong)) or "task"
            raise ValueError(
                f"not a state of {self.num_envs} environments of {self.task.name}; what differs: {told}"
            )
        self._random = [_restored(saved) for saved in json.loads(bytes(state["random"]))]
        self.physics.load(state)
        self._steps[:] = state["steps"]
        for name in self._state:
            getattr(self, name)[:] = state[name.lstrip("_")]


def _text(value: Any) -> np.ndarray:
    """Returns the bytes of a value's JSON as an array, which can be saved beside the others without pickle."""
    return np.frombuffer(json.dumps(value, default=np.ndarray.tolist).encode(), dtype=np.uint8).copy()


def _its_state(random: np.random.RandomState | np.random.Generator) -> dict[str, Any]:
    legacy = isinstance(random, np.random.RandomState)
    return random.get_state(legacy=False) if legacy else random.bit_generator.state


def _restored(state: dict[str, Any]) -> np.random.RandomState | np.random.Generator:
    if state["bit_generator"] == "MT19937":
        random = np.random.RandomState()
        random.set_state(state)
        return random
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)
