"""Config: everything that defines a run, in one frozen dataclass of plain values."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from shapo.algorithms import ALGORITHMS, TrustRegion
from shapo.envs import TASKS, BatchedEnv, make_env
from shapo.sharpness import EuclideanSAM, Perturbation

METHOD_VERSION = 1  # part of every run's name; raised whenever a change to the code changes numbers


@dataclass(frozen=True)
class Config:
    """One training run. Defaults are those SafePO and OmniSafe agree on; those of the actor's update, and of the
    multiplier, are fields of the algorithm. Raises ValueError or TypeError, naming the field, for what cannot be run.
    """

    task: str = "PointGoal1-v0"  # a name in shapo.envs.TASKS
    algorithm: str | TrustRegion = (
        "PIDLag"  # a name in shapo.algorithms.ALGORITHMS, or an instance with its own settings
    )
    actor: Perturbation | None = None  # FisherSAM: SHAPO; EuclideanSAM: E-SAM; None: the baseline
    critic: EuclideanSAM | None = None  # SAM of both critics; None: plain
    total_steps: int = 2_000_000  # environment steps, all environments together
    seed: int = 0  # of everything random in the run
    cost_limit: float | None = None  # β, mean cost of an episode; None: the task's own
    num_envs: int = 20  # environments stepped together
    steps_per_epoch: int = 20_000  # environment steps between updates, all environments together
    hidden_sizes: tuple[int, ...] = (64, 64)  # tanh layers of actor and critics
    gamma: float = 0.99  # discount of reward
    cost_gamma: float = 0.99  # discount of cost
    gae_lambda: float = 0.95  # λ of the reward's generalised advantages
    cost_gae_lambda: float = 0.95  # λ of the cost's
    critic_lr: float = 1e-3  # Adam step size
    critic_passes: int = 10  # passes over the batch an epoch
    minibatch_size: int = 128  # samples a critic step
    critic_l2: float = 1e-3  # coefficient of ‖φ‖² in the critic's loss
    max_grad_norm: float = 40.0  # each critic's gradient is clipped to this norm

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}; got {self.task!r}")
        if isinstance(self.algorithm, str):
            if self.algorithm not in ALGORITHMS:
                raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {self.algorithm!r}")
            object.__setattr__(self, "algorithm", ALGORITHMS[self.algorithm]())
        if not isinstance(self.algorithm, TrustRegion):
            raise TypeError(f"algorithm must be a name or a TrustRegion instance; got {self.algorithm!r}")
        if self.actor is not None and (isinstance(self.actor, type) or not callable(self.actor)):
            raise TypeError(
                f"actor must be None or a perturbation such as FisherSAM(0.001); got {self.actor!r}"
            )
        if self.critic is not None and not isinstance(self.critic, EuclideanSAM):
            raise TypeError(f"critic must be None or EuclideanSAM(rho); got {self.critic!r}")
        if self.cost_limit is None:
            object.__setattr__(self, "cost_limit", float(TASKS[self.task].cost_limit))
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        self._check_numbers()
        object.__setattr__(self, "algorithm", self.algorithm.prepared(self.task, self.cost_limit))
        describe(self)  # a perturbation that cannot be named cannot be stored either: say so now

    def _check_numbers(self) -> None:
        for name in ("total_steps", "num_envs", "steps_per_epoch", "critic_passes", "minibatch_size", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}")
        if not self.hidden_sizes or any(not isinstance(size, int) or size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive whole numbers; got {self.hidden_sizes!r}")
        for name, lowest, highest in (
            ("cost_limit", 0, math.inf), ("critic_lr", 0, math.inf), ("critic_l2", 0, math.inf),
            ("max_grad_norm", 0, math.inf), ("gamma", 0, 1), ("cost_gamma", 0, 1),
            ("gae_lambda", 0, 1), ("cost_gae_lambda", 0, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if (
                not isinstance(value, int | float)
                or not math.isfinite(value)
                or not lowest <= value <= highest
            ):
                raise ValueError(f"{name} must be a finite number from {lowest} to {highest}; got {value!r}")
        if self.steps_per_epoch % self.num_envs:
            raise ValueError(
                f"num_envs must divide steps_per_epoch = {self.steps_per_epoch}; got num_envs = {self.num_envs}"
            )
        if self.total_steps % self.steps_per_epoch:
            raise ValueError(
                f"total_steps must be a multiple of steps_per_epoch = {self.steps_per_epoch}; got {self.total_steps}"
            )
        if self.minibatch_size > self.steps_per_epoch:
            raise ValueError(
                f"minibatch_size must be at most steps_per_epoch = {self.steps_per_epoch}; got {self.minibatch_size}"
            )

    @property
    def epochs(self) -> int:
        """Updates in the run."""
        return self.total_steps // self.steps_per_epoch

    def make_env(self, num_envs: int = 1, seed: int = 0) -> BatchedEnv:
        """The task as this run's policy sees it: `shapo.make_env`, and around it what the baseline adds to observations
        (Sauté: the budget left). Rewards and costs are the task's own.
        """
        return self.algorithm.wrap(make_env(self.task, num_envs=num_envs, seed=seed), self.cost_limit)

    @property
    def run_id(self) -> str:
        """Hash of the whole config and the method version: the run's identity."""
        text = json.dumps({"method": METHOD_VERSION, "config": describe(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def describe(value: Any) -> Any:
    """A config as JSON-able values. Classes go by name; one from outside the package (a notebook cell, say) also by the
    hash of its source, so that editing it names a new run. Raises TypeError for what has no such description.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        inside = kind.__module__.split(".")[0] == "shapo"
        name = (
            {"class": kind.__qualname__}
            if inside
            else {"class": kind.__qualname__, "source": _source_hash(kind)}
        )
        return name | {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a config holds plain values and frozen dataclasses of them; got {value!r}")


def _source_hash(kind: type) -> str:
    try:
        source = "".join(inspect.getsource(base) for base in kind.__mro__ if _user_defined(base))
    except (OSError, TypeError) as error:
        raise TypeError(
            f"the source of {kind.__qualname__} cannot be read, so its runs cannot be named"
        ) from error
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def _user_defined(kind: type) -> bool:
    return kind.__module__.split(".")[0] not in ("shapo", "builtins", "typing", "abc")
