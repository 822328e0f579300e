"""Config: everything that defines a run, in one frozen dataclass of plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box

from shapo import algorithms, sharpness
from shapo.algorithms import ALGORITHMS, TrustRegion
from shapo.algorithms.networks import GaussianActor, Policy, RunningNormalizer
from shapo.algorithms.trainer import Trainer
from shapo.checks import AT_LEAST_0, POSITIVE, UNIT, Checked, layer_sizes, perturbation, setting, whole
from shapo.envs import OwnTask, VectorEnv, make_env, task_of
from shapo.runs.identity import RunConfig, describe
from shapo.runs.store import unprefixed
from shapo.sharpness import EuclideanSAM, Perturbation


@dataclass(frozen=True)
class Config(Checked, RunConfig):
    """One training run. Defaults are those that SafePO and OmniSafe agree on. The settings of the actor's update and of
    the multiplier are fields of the algorithm. A field that is None means the task's own value, which `resolved` fills
    in. Raises ValueError or TypeError, naming the field, for values that cannot be run.
    """

    # Method 1 had an absolute trust region and tolerance, whatever the task's actions and cost limit.
    method: ClassVar[int] = 2
    vocabulary: ClassVar[dict[str, Any]] = vars(algorithms) | vars(sharpness) | {"OwnTask": OwnTask}
    shown: ClassVar[dict[str, str]] = {
        "return": "episode_return", "cost": "episode_cost", "λ": "lagrangian_multiplier", "KL": "kl",
    }  # fmt: skip
    episode_columns: ClassVar[tuple[str, ...]] = ("steps", "env", "return", "cost", "length", "failed")
    length: ClassVar[str | None] = "total_steps"

    task: str | OwnTask = (
        "PointGoal1-v0"  # a name in shapo.envs.TASKS, any id of Safety-Gymnasium, or your own
    )
    algorithm: str | TrustRegion = "PIDLag"  # a name in shapo.algorithms.ALGORITHMS, or an instance
    # Perturbation of the actor. FisherSAM: SHAPO; EuclideanSAM: E-SAM; None: the baseline.
    actor: Perturbation | None = setting(perturbation, None)
    critic: EuclideanSAM | None = None  # perturbation of both critics; None: no SAM
    total_steps: int = setting(whole(1), 2_000_000)  # environment steps, all environments together
    seed: int = setting(whole(0), 0)  # seed of everything random in the run
    cost_limit: float | None = setting(AT_LEAST_0, None)  # β, cost of an episode; None: the task's own
    num_envs: int = setting(whole(1), 20)  # environments stepped together
    steps_per_epoch: int = setting(whole(2), 20_000)  # steps between updates, of all environments together
    hidden_sizes: tuple[int, ...] = setting(layer_sizes, (64, 64))  # tanh layers of actor and critics
    gamma: float = setting(UNIT, 0.99)  # discount of reward
    cost_gamma: float = setting(UNIT, 0.99)  # discount of cost
    gae_lambda: float = setting(UNIT, 0.95)  # λ of the reward's generalised advantages
    cost_gae_lambda: float = setting(UNIT, 0.95)  # λ of the cost's generalised advantages
    critic_lr: float = setting(AT_LEAST_0, 1e-3)  # Adam step size
    critic_passes: int = setting(whole(1), 10)  # passes over the batch per epoch
    minibatch_size: int = setting(whole(1), 128)  # samples per critic step
    critic_l2: float = setting(AT_LEAST_0, 1e-3)  # coefficient of ‖φ‖² in the critic's loss
    max_grad_norm: float = setting(POSITIVE, 40.0)  # each critic's gradient is clipped to this norm

    def __post_init__(self):
        task = task_of(self.task)
        if isinstance(self.algorithm, str):
            if self.algorithm not in ALGORITHMS:
                raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {self.algorithm!r}")
            object.__setattr__(self, "algorithm", ALGORITHMS[self.algorithm]())
        if not isinstance(self.algorithm, TrustRegion):
            raise TypeError(f"algorithm must be a name or a TrustRegion instance; got {self.algorithm!r}")
        if self.critic is not None and not isinstance(self.critic, EuclideanSAM):
            raise TypeError(f"critic must be None or EuclideanSAM(rho); got {self.critic!r}")
        super().__post_init__()
        epoch, envs = self.steps_per_epoch, self.num_envs
        if epoch % envs:
            raise ValueError(f"num_envs must divide steps_per_epoch = {epoch}; got num_envs = {envs}")
        if self.total_steps % epoch:
            raise ValueError(
                f"total_steps must be a multiple of steps_per_epoch = {epoch}; got {self.total_steps}"
            )
        if self.minibatch_size > epoch:
            raise ValueError(
                f"minibatch_size must be at most steps_per_epoch = {epoch}; got {self.minibatch_size}"
            )
        if isinstance(task, OwnTask) and epoch < envs * task.horizon:
            raise ValueError(
                f"steps_per_epoch must be at least {envs * task.horizon}, whole episodes of num_envs = {envs} "
                f"environments: those of {task} begin anew with each epoch; got {epoch}"
            )
        describe(self.resolved)  # raises now for a perturbation that could not be stored later

    @cached_property
    def resolved(self) -> Config:
        task = task_of(self.task)
        cost_limit = float(task.cost_limit) if self.cost_limit is None else self.cost_limit
        algorithm = self.algorithm.resolved(task, cost_limit)
        if (cost_limit, algorithm) == (self.cost_limit, self.algorithm):
            return self
        return replace(self, cost_limit=cost_limit, algorithm=algorithm)

    @property
    def epochs(self) -> int:
        """Updates in the run."""
        return self.total_steps // self.steps_per_epoch

    def make_env(self, num_envs: int = 1, seed: int = 0) -> VectorEnv:
        """The task as this run's policy sees it: `shapo.make_env`, with the columns a baseline adds to observations
        (Sauté: the budget left). Rewards and costs are the task's own.
        """
        run = self.resolved
        return run.algorithm.wrap(make_env(self.task, num_envs=num_envs, seed=seed), run.cost_limit)

    def bounded(self, action: np.ndarray, space: Box) -> np.ndarray:
        """Maps a policy's −1 and 1 to the bounds of an `OwnTask`'s space; other environments bound it themselves."""
        if not isinstance(task_of(self.task), OwnTask):
            return action
        finite = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(finite, space.low, -1.0), np.where(finite, space.high, 1.0)
        bound = np.where(finite, 1.0, np.inf)
        scaled = (low + high) / 2 + (high - low) / 2 * np.clip(action.reshape(space.shape), -bound, bound)
        return scaled.astype(space.dtype)

    def cost_of(self, info: dict, terminated: bool, own: float | None = None) -> float:
        """Cost of a step: what an `OwnTask` says of it; for other tasks `own`, which Safety-Gymnasium's step returns,
        or else 1 for a termination where that is a failure, or else info["cost"]. It is 0 where none is told.
        """
        task = task_of(self.task)
        if isinstance(task, OwnTask):
            return task.cost_of(info, terminated, own) or 0.0
        if own is None and task.failure_metric == "cumulative failures":
            return float(terminated)
        return super().cost_of(info, terminated, own)

    def trainer(self) -> Trainer:
        """The trainer that `shapo.train` runs for this config."""
        return Trainer(self)

    def policy(self, arrays: dict[str, np.ndarray]) -> Policy:
        """The policy in a checkpoint's arrays."""
        normalizer = RunningNormalizer(len(arrays["normalizer/mean"]))
        normalizer.load_state_dict(unprefixed("normalizer", arrays))
        obs_dim = len(normalizer.mean) + self.algorithm.extra_observations
        actor = GaussianActor(obs_dim, task_of(self.task).action_dim, self.hidden_sizes)
        actor.load_state_dict(unprefixed("actor", arrays))
        return Policy(actor, normalizer)
