"""Tasks of the user's own: any environment of Safety-Gymnasium or gymnasium, or one they wrote, with a cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.spaces import Box

from shapo.checks import ABOVE_0_TO_1, AT_LEAST_0, FINITE, Checked, setting, takes, whole
from shapo.envs.batched import Step, Task, VectorEnv
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium, quick_worlds

METRICS = "cost rate", "cumulative failures"
GLOBAL = (  # how to read and to set the states of the process's generators
    (random.getstate, random.setstate), (np.random.get_state, np.random.set_state),
    (torch.get_rng_state, torch.set_rng_state),
)  # fmt: skip


@dataclass(frozen=True)
class OwnTask(Checked):
    """A task of your own, for `Config(task=…)`: an environment, the cost of a step, and the limit on an episode's cost.

        OwnTask("SafetyPointPush1-v0", cost_limit=10)
        OwnTask("Hopper-v4", cost_limit=0, cost="termination", failure_metric="cumulative failures")
        OwnTask(make_mine, cost_limit=25, cost=lambda info: float(info["speed"] > 1), max_episode_steps=500)

    Observations and actions must be Boxes, actions of floating-point numbers. A policy's actions are scaled: −1 and 1
    become the environment's bounds.
    An id that is registered in a notebook is unknown to the processes of a study, so give them the function instead.
    Raises ValueError or TypeError, naming the field.
    """

    tail_level: ClassVar[float] = Task.tail_level
    env: str | Callable[[], gymnasium.Env]  # an id of either package, or a function that makes an environment
    cost_limit: float = setting(AT_LEAST_0)  # β, a limit on the expected undiscounted cost of an episode
    # Cost of a step: a function of its `info`; "termination", which is 1 for the step that ends an episode early; or
    # "own", which is the cost that Safety-Gymnasium's step returns, or else info["cost"].
    cost: str | Callable[[dict], float] = "own"
    failure_metric: str = "cost rate"  # or "cumulative failures", the episodes that ended early
    # Steps after which an episode is truncated; None for the environment's own limit
    max_episode_steps: int | None = setting(whole(1), None)
    label: str | None = None  # name in folders, tables and figures; None for the id, or the function's name
    saute_gamma: float = setting(ABOVE_0_TO_1, 0.999)  # γ_s, discount of Sauté's budget; as in OmniSafe
    unsafe_reward: float = setting(FINITE, -1.0)  # Sauté's reward for a step beyond the budget

    def __post_init__(self):
        if not isinstance(self.env, str | type | FunctionType):  # what `describe` can name
            raise TypeError(
                "env must be an id or a function that makes an environment: a def, a lambda or a class; got "
                f"{self.env!r}"
            )
        if not takes(self.cost, 1) and self.cost not in ("own", "termination"):
            raise ValueError(f'cost must be "own", "termination" or a function of info; got {self.cost!r}')
        if self.failure_metric not in METRICS:
            raise ValueError(
                f"failure_metric must be one of {', '.join(METRICS)}; got {self.failure_metric!r}"
            )
        if self.label is not None and (not isinstance(self.label, str) or not self.label.strip(".")):
            raise ValueError(f"label must be None or a name; got {self.label!r}")
        super().__post_init__()

    @property
    def name(self) -> str:
        own = self.env if isinstance(self.env, str) else getattr(self.env, "__name__", "own task")
        return (self.label or own).replace("/", "-").replace("<lambda>", "own task")

    def __str__(self) -> str:
        return self.name

    @property
    def action_dim(self) -> int:
        """Components of an action, d."""
        return _shape(self)[0]

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return _shape(self)[1]

    def make(self) -> gymnasium.Env:
        """Makes one environment and checks it. Raises ValueError if it cannot be used here, and ImportError."""
        limit = {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}
        with quick_worlds() if is_safety_id(self.env) else nullcontext():
            if callable(self.env):
                env = self.env()
            elif is_safety_id(self.env):
                try:
                    env = import_safety_gymnasium().make(self.env, **limit)
                except ValueError as error:  # MuJoCo's, for a world file of an older version
                    raise ValueError(
                        f"{self.env} of Safety-Gymnasium cannot be built with MuJoCo {mujoco.__version__}"
                    ) from error
            else:
                try:
                    env = gymnasium.make(self.env, **limit)
                except gymnasium.error.Error as error:
                    raise ValueError(
                        f"env must be an id of Safety-Gymnasium or gymnasium; {error}"
                    ) from error
        for what in ("observation", "action"):
            space = getattr(env, f"{what}_space", None)
            if not isinstance(space, Box):
                raise ValueError(
                    f"the {what} space of {self.name} must be a Box of numbers, which gymnasium's wrappers can make of "
                    f"others; got {space}"
                )
        if not np.issubdtype(env.action_space.dtype, np.floating):
            raise ValueError(
                f"the action space of {self.name} must be a Box of floating-point numbers, which an ActionWrapper can "
                f"round; got {env.action_space}"
            )
        return env

    def cost_of(self, info: dict, terminated: bool, own: float | None = None) -> float | None:
        """Returns the cost of a step, or None where the task's cost is "own" and the step tells none.

        own: the cost that a step of Safety-Gymnasium returns; None for gymnasium. Raises TypeError if it is no number.
        """
        if callable(self.cost):
            cost = self.cost(info)
        else:
            cost = terminated if self.cost == "termination" else info.get("cost") if own is None else own
            if cost is None:
                return None
        try:
            return float(cost)
        except (TypeError, ValueError) as error:
            raise TypeError(f"cost of {self.name} must give a number for every step; got {cost!r}") from error


def is_safety_id(env: Any) -> bool:
    """Whether `env` is the id of an environment of Safety-Gymnasium."""
    if not isinstance(env, str) or not env.startswith("Safety"):
        return False
    return env in import_safety_gymnasium().utils.registration.safe_registry


@cache
def _shape(task: OwnTask) -> tuple[int, int]:
    """Returns the number of components of an action, and the steps of the longest episode."""
    env = task.make()
    steps = task.max_episode_steps or getattr(getattr(env, "spec", None), "max_episode_steps", None)
    size = int(np.prod(env.action_space.shape))
    if hasattr(env, "close"):
        env.close()
    if steps is None:
        raise ValueError(f"max_episode_steps must be given: {task.name} has no limit of its own")
    return size, steps


def _seeded_states(seed: int) -> list[Any]:
    states = random.Random(seed).getstate(), np.random.RandomState(seed).get_state()
    return [*states, torch.Generator().manual_seed(seed).get_state()]


class ForeignEnv(VectorEnv):
    """Environments of an `OwnTask`, stepped one after the other in this process.

    Actions (n, act_dim) in [−1, 1] are scaled to the bounds of the environment's action space; components without
    bounds are passed on as they are. Observations and actions of other shapes are flattened. The state of such an
    environment cannot be saved: training that resumes begins with a reset, whose seed must decide all that follows. It
    also decides what they draw from the process's generators (Python's, NumPy's, PyTorch's), which go on for others as
    they were.
    """

    resumable = False
    _seeded = int

    def __init__(self, task: OwnTask, num_envs: int, seed: int) -> None:
        self.num_envs = num_envs  # by which the seed is checked
        self._drawn = _seeded_states(self._checked_seed(seed))
        with self._drawing():
            self._envs = [task.make() for _ in range(num_envs)]
        if len({id(getattr(env, "unwrapped", env)) for env in self._envs}) < num_envs:
            raise ValueError(
                f"env of {task.name} must make a new environment at every call; it returned the same one again"
            )
        self._quick = quick_worlds if is_safety_id(task.env) else nullcontext
        seen, acted = self._envs[0].observation_space, self._envs[0].action_space
        low, high = acted.low.astype(np.float64).ravel(), acted.high.astype(np.float64).ravel()
        bounded = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        bound = np.where(bounded, 1.0, np.inf)
        spaces = tuple(
            Box(*limits, dtype=np.float64)
            for limits in ((seen.low.ravel(), seen.high.ravel()), (-bound, bound))
        )
        super().__init__(task, num_envs, spaces, task.horizon, seed)
        self._acted = acted
        self._observation = np.zeros(self.observation_space.shape)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Lends the environments generators of their own in place of the process's."""
        outside = [get() for get, _ in GLOBAL]
        try:
            for (_, put), state in zip(GLOBAL, self._drawn, strict=True):
                put(state)
            yield
        finally:
            self._drawn = [get() for get, _ in GLOBAL]
            for (_, put), state in zip(GLOBAL, outside, strict=True):
                put(state)

    def _begin(self, index: int) -> None:
        if index == 0 and self._random[0] is not None:
            self._drawn = _seeded_states(self._random[0])
        with self._quick(), self._drawing():
            self._observation[index] = np.ravel(self._envs[index].reset(seed=self._random[index])[0])
        self._random[index] = None  # seeded once; afterwards its own generator continues

    def _advance(self, action: np.ndarray) -> Step:
        bound = self.single_action_space.high
        action = self._middle + self._half * np.clip(action, -bound, bound)
        reward, cost = np.empty(self.num_envs), np.empty(self.num_envs)
        terminated, truncated = np.empty(self.num_envs, dtype=bool), np.empty(self.num_envs, dtype=bool)
        with self._drawing():
            for i, env in enumerate(self._envs):
                its = action[i].astype(self._acted.dtype).reshape(self._acted.shape)
                observation, reward[i], *own, terminated[i], truncated[i], info = env.step(its)
                self._observation[i] = np.ravel(observation)
                its_cost = self.task.cost_of(info, terminated[i], *own)
                if its_cost is None:
                    raise ValueError(
                        f'cost of {self.task.name} must be "termination" or a function of info: its steps tell no cost '
                        f"of their own; info has {', '.join(info) or 'nothing'}"
                    )
                cost[i] = its_cost
        return reward, cost, terminated, truncated, {}

    def observe(self) -> np.ndarray:
        self._require_reset("observe")
        return self._observation.copy()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Returns an empty dictionary, since nothing can be saved."""
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Accepts the empty dictionary that `state_dict` returns. Raises ValueError for any other state."""
        if state:
            raise ValueError(
                f"not a state of {self.task.name}, which keeps none; got {', '.join(sorted(state))}"
            )

    def close(self) -> None:
        """Closes every environment that can be closed."""
        for env in self._envs:
            if hasattr(env, "close"):
                env.close()
