"""Config: everything that defines a run, in one frozen dataclass of plain values."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol

import numpy as np

from shapo import algorithms, sharpness
from shapo.algorithms import ALGORITHMS, TrustRegion
from shapo.checks import AT_LEAST_0, POSITIVE, UNIT, check, optional, whole
from shapo.envs import TASKS, BatchedEnv, make_env
from shapo.networks import GaussianActor, Policy, RunningNormalizer
from shapo.sharpness import EuclideanSAM, Perturbation
from shapo.store import unprefixed

if TYPE_CHECKING:
    from shapo.training import Trainer


class RunConfig:
    """What `train`, `Run` and `Study` ask of a frozen dataclass that defines a run: `Config`, `RobotConfig`.

    Fields task, algorithm, seed and num_envs; `epochs`, `steps_per_epoch`; `make_env(num_envs, seed)`; `trainer()`, of
    something with run_epoch, state, restore; `policy(arrays)` of a checkpoint.
    """

    method: ClassVar[int]  # part of every run's name; raised whenever a change to the code changes numbers
    shown: ClassVar[dict[str, str]]  # label -> column of progress, on progress bars
    checkpoint_seconds: ClassVar[float] = 0.0  # epochs that are shorter share a checkpoint
    episode_columns: ClassVar[tuple[str, ...]]
    shipped_networks: ClassVar[tuple[str, ...]] = ()  # how names begin of arrays that ship with results

    @property
    def resolved(self) -> RunConfig:
        """The config as it is run, with the task's own value in every field left None: what `identity` names."""
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """The method version and the whole config: what a run is."""
        return {"method": self.method, "config": describe(self.resolved)}

    @property
    def run_id(self) -> str:
        """Hash of the identity."""
        text = json.dumps(self.identity, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Config(RunConfig):
    """One training run. Defaults are those SafePO and OmniSafe agree on; those of the actor's update, and of the
    multiplier, are fields of the algorithm. A field that is None stands for the task's own value, which `resolved` has.
    Raises ValueError or TypeError, naming the field, for what cannot be run.
    """

    method: ClassVar[int] = (
        2  # 1 had an absolute trust region and tolerance, whatever the task's action and cost limit
    )
    shown: ClassVar[dict[str, str]] = {
        "return": "episode_return", "cost": "episode_cost", "λ": "lagrangian_multiplier", "KL": "kl",
    }  # fmt: skip
    episode_columns: ClassVar[tuple[str, ...]] = ("steps", "env", "return", "cost", "length", "failed")

    task: str = "PointGoal1-v0"  # a name in shapo.envs.TASKS
    algorithm: str | TrustRegion = "PIDLag"  # a name in shapo.algorithms.ALGORITHMS, or an instance
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
        if not isinstance(self.task, str) or self.task not in TASKS:
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
        self._check_numbers()
        describe(self.resolved)  # a perturbation that cannot be named cannot be stored either: say so now

    def _check_numbers(self) -> None:
        check(
            self, total_steps=whole(1), seed=whole(0), num_envs=whole(1), steps_per_epoch=whole(1),
            critic_passes=whole(1), minibatch_size=whole(1), cost_limit=optional(AT_LEAST_0), critic_lr=AT_LEAST_0,
            critic_l2=AT_LEAST_0, max_grad_norm=POSITIVE, gamma=UNIT, cost_gamma=UNIT, gae_lambda=UNIT,
            cost_gae_lambda=UNIT,
        )  # fmt: skip
        sizes = self.hidden_sizes
        if not isinstance(sizes, list | tuple) or not sizes:
            raise ValueError(f"hidden_sizes must be a tuple of layer sizes such as (64, 64); got {sizes!r}")
        object.__setattr__(self, "hidden_sizes", tuple(whole(1)("hidden_sizes", size) for size in sizes))
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

    @cached_property
    def resolved(self) -> Config:
        task = TASKS[self.task]
        cost_limit = float(task.cost_limit) if self.cost_limit is None else self.cost_limit
        algorithm = self.algorithm.resolved(task, cost_limit)
        if (cost_limit, algorithm) == (self.cost_limit, self.algorithm):
            return self
        return replace(self, cost_limit=cost_limit, algorithm=algorithm)

    @property
    def epochs(self) -> int:
        """Updates in the run."""
        return self.total_steps // self.steps_per_epoch

    def make_env(self, num_envs: int = 1, seed: int = 0) -> BatchedEnv:
        """The task as this run's policy sees it: `shapo.make_env`, and around it what the baseline adds to observations
        (Sauté: the budget left). Rewards and costs are the task's own.
        """
        run = self.resolved
        return run.algorithm.wrap(make_env(self.task, num_envs=num_envs, seed=seed), run.cost_limit)

    def trainer(self) -> Trainer:
        """What `shapo.train` trains this config with."""
        from shapo.training import Trainer  # which needs this module

        return Trainer(self)

    def policy(self, arrays: dict[str, np.ndarray]) -> Policy:
        """The policy in a checkpoint's arrays."""
        normalizer = RunningNormalizer(len(arrays["normalizer/mean"]))
        normalizer.load_state_dict(unprefixed("normalizer", arrays))
        obs_dim = len(normalizer.mean) + self.algorithm.extra_observations
        actor = GaussianActor(obs_dim, TASKS[self.task].action_dim, self.hidden_sizes)
        actor.load_state_dict(unprefixed("actor", arrays))
        return Policy(actor, normalizer)


def describe(value: Any) -> Any:
    """A config as JSON-able values. Classes go by name; one from outside the package (a notebook cell, say) also by a
    hash of the code of its methods, so that editing it names a new run. What the methods call or read from outside
    the class is not seen: keep it in fields. Raises TypeError for what has no such description.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if not kind.__dataclass_params__.frozen:
            raise TypeError(f"{kind.__qualname__} must be a frozen dataclass: @dataclass(frozen=True)")
        name = {"class": kind.__qualname__}
        if any(map(_from_outside, kind.__mro__)):
            name["code"] = _code_hash(kind)
        return name | {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if (
        value is None
        or isinstance(value, bool | int | str)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise TypeError(f"a config holds plain, finite values and frozen dataclasses of them; got {value!r}")


def config_from(description: dict[str, Any]) -> RunConfig:
    """The resolved config that `describe` described, of the same run_id.

    Raises ValueError for a class from outside the package (a notebook cell, say), of which a description has only the
    name, and for what does not describe a config of this version of the package.
    """
    config = _rebuilt(description)
    if not isinstance(config, RunConfig) or config.identity["config"] != description:
        raise ValueError(f"not a description of a Config of this version of the package: {description!r}")
    return config


def _rebuilt(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_rebuilt, value))
    if not isinstance(value, dict):
        return value
    name = value.get("class")
    settings = {field: _rebuilt(v) for field, v in value.items() if field not in ("class", "code")}
    from shapo import differentiable  # which needs this module

    kind = ({"Config": Config} | vars(algorithms) | vars(sharpness) | vars(differentiable)).get(name)
    if not is_dataclass(kind) or "code" in value:
        raise ValueError(
            f"class {name} is not the package's own, so it cannot be rebuilt from its description"
        )
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"not a description of this version's {name}: {error}") from error


def _from_outside(kind: type) -> bool:
    return kind not in (object, Protocol, Generic) and kind.__module__.partition(".")[0] != "shapo"


def _code_hash(kind: type) -> str:
    """Compiled code, not source: a notebook's classes travel to worker processes without theirs."""
    code = []
    for base in filter(_from_outside, kind.__mro__):
        for name, member in sorted(vars(base).items()):
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(function, FunctionType) and name not in _GENERATED:
                code.append((name, _constants(function.__code__), function.__defaults__))
    return hashlib.sha256(repr(code).encode()).hexdigest()[:12]


# What @dataclass writes follows from the fields, which are named anyway.
_GENERATED = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__"}


def _constants(code: CodeType) -> tuple:
    """Code without file names and line numbers."""
    constants = [_constants(c) if isinstance(c, CodeType) else _ordered(c) for c in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames


def _ordered(constant: Any) -> Any:
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
