"""RobotConfig: everything that defines a run on a differentiable robot, in frozen dataclasses of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from shapo import sharpness
from shapo.checks import (
    BELOW_1,
    FINITE,
    POSITIVE,
    UNIT,
    Checked,
    filled,
    layer_sizes,
    perturbation,
    setting,
    whole,
)
from shapo.robots.simulator import ROBOTS
from shapo.runs.identity import RunConfig, describe
from shapo.runs.switches import plain_torch
from shapo.sharpness import EffectiveAlpha, Perturbation

if TYPE_CHECKING:  # these import Newton, which takes seconds
    from shapo.robots.env import DifferentiableEnv
    from shapo.robots.policy import RobotPolicy
    from shapo.robots.trainer import RobotTrainer


def two_betas(field: str, value: object) -> tuple[float, float]:
    """The rule for the two betas of an Adam optimiser."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{field} must be two numbers such as (0.7, 0.95); got {value!r}")
    return tuple(BELOW_1(field, beta) for beta in value)


@dataclass(frozen=True)
class SHAC(Checked):
    """Short-horizon actor-critic (Xu et al. 2022) with its published settings. None means the robot's own setting."""

    horizon: int = setting(whole(1), 32)  # h, steps of a window, within which gradients pass
    actor_hidden_sizes: tuple[int, ...] | None = setting(layer_sizes, None)  # ELU layers
    critic_hidden_sizes: tuple[int, ...] | None = setting(layer_sizes, None)
    actor_lr: float = setting(POSITIVE, 2e-3)  # Adam step size; both decay linearly to 1e-5 over the run
    critic_lr: float | None = setting(POSITIVE, None)  # Adam step size
    betas: tuple[float, float] = setting(two_betas, (0.7, 0.95))  # of both Adam optimisers
    gamma: float = setting(UNIT, 0.99)  # discount
    td_lambda: float = setting(UNIT, 0.95)  # λ of the critic's targets
    target_critic_alpha: float | None = setting(UNIT, None)  # weight of the old target critic at an update
    critic_passes: int = setting(whole(1), 16)  # passes over a window, per iteration
    critic_minibatches: int = setting(whole(1), 4)  # minibatches per pass
    max_grad_norm: float = setting(POSITIVE, 1.0)  # gradients of actor and critic are clipped to this norm

    def check(self, config: RobotConfig) -> None:
        if (samples := config.steps_per_epoch) < self.critic_minibatches:
            raise ValueError(
                f"num_envs × horizon = {samples} samples cannot make {self.critic_minibatches} minibatches: raise "
                "num_envs or horizon, or lower critic_minibatches"
            )


@dataclass(frozen=True)
class PPO(Checked):
    """Proximal policy optimisation, the zeroth-order reference: that of stable-baselines3 with its default settings.

    These settings differ: many robots fill the batch; networks have SHAC's sizes and ELU without layer normalisation;
    observations and rewards are scaled by running moments and clipped to ±10; σ starts at SHAC's value. Actions are
    clipped to ±1, where SHAC's are squashed. None means the robot's own setting.
    """

    horizon: int = setting(whole(1), 128)  # steps of each robot between updates
    actor_hidden_sizes: tuple[int, ...] | None = setting(layer_sizes, None)  # ELU layers
    critic_hidden_sizes: tuple[int, ...] | None = setting(layer_sizes, None)
    learning_rate: float = setting(POSITIVE, 3e-4)  # Adam step size
    gamma: float = setting(UNIT, 0.99)  # discount
    gae_lambda: float = setting(UNIT, 0.95)  # λ of the generalised advantages
    clip_range: float = setting(POSITIVE, 0.2)  # the ratio of probabilities is clipped to 1 ± this
    passes: int = setting(whole(1), 10)  # passes over a batch, per iteration
    minibatches: int = setting(whole(1), 16)  # minibatches per pass
    max_grad_norm: float = setting(POSITIVE, 0.5)  # both networks' joint gradient is clipped to this norm
    log_std_init: float = setting(FINITE, -1.0)  # log σ at the start, as in SHAC

    def check(self, config: RobotConfig) -> None:
        if config.actor is not None:
            raise ValueError(f"actor must be None for PPO, which has no sharpness; got {config.actor!r}")
        samples = config.steps_per_epoch
        if samples % self.minibatches or samples == self.minibatches:
            raise ValueError(
                f"minibatches must divide num_envs × horizon = {samples} samples into equal parts of 2 or more; got "
                f"{self.minibatches}"
            )


@dataclass(frozen=True)
class RobotConfig(Checked, RunConfig):
    """One training run on a differentiable robot. Raises ValueError or TypeError, naming the field that is wrong."""

    # Method 1 had Newton's contacts and joints, whose damping jumps; 2 its solver, without moving Ants to x = y = 0.
    method: ClassVar[int] = 3
    vocabulary: ClassVar[dict[str, Any]] = {"SHAC": SHAC, "PPO": PPO} | vars(sharpness)
    shown: ClassVar[dict[str, str]] = {
        "return": "episode_return", "length": "episode_length", "reward": "reward", "m/s": "forward_velocity",
    }  # fmt: skip
    checkpoint_seconds: ClassVar[float] = 1.0
    undifferentiated: ClassVar[dict[str, Any]] = {"gradients": False}
    episode_columns: ClassVar[tuple[str, ...]] = ("steps", "env", "return", "length", "failed", "diverged")
    shipped_networks: ClassVar[tuple[str, ...]] = ("theta", "target_phi", "normalizer/", "policy/")  # 0.1 MB

    task: str = "DiffAnt"  # a name in shapo.robots.simulator.ROBOTS
    algorithm: SHAC | PPO = SHAC()
    # Perturbation of SHAC's actor. AdaptiveSAM: SHAC-ASAM; EuclideanSAM: SAM, T = I; None: SHAC.
    actor: Perturbation | None = setting(perturbation, None)
    # How many of the N robots give the gradient for ε; None: all, as in the paper. With fewer, the whole N are rolled
    # out only at θ + ε, so `resolved` has along_perturbed=True.
    ascent_envs: int | None = setting(whole(1), None)
    # Whether next states, critic, scale of observations and records come from the rollout at θ + ε, not at θ.
    # Algorithm 1 of the paper reads like False; its optimiser, wrapped around DiffRL's code, would do True.
    along_perturbed: bool = False
    iterations: int = setting(whole(1), 2_000)  # updates of the actor; the default is the paper's
    seed: int = setting(whole(0), 0)  # seed of everything random in the run
    num_envs: int = setting(whole(1), 64)  # N, robots simulated together

    def __post_init__(self):
        if not isinstance(self.task, str) or self.task not in ROBOTS:
            raise ValueError(f"task must be one of {', '.join(ROBOTS)}; got {self.task!r}")
        if not isinstance(self.algorithm, SHAC | PPO):
            raise TypeError(f"algorithm must be an instance of SHAC or PPO; got {self.algorithm!r}")
        super().__post_init__()
        if isinstance(getattr(self.actor, "delta_down", None), EffectiveAlpha):
            raise ValueError(
                "actor must not have the schedule EffectiveAlpha, which measures n on safe RL's surrogate: FixedAlpha "
                f"counts steps; got {self.actor!r}"
            )
        few = self.ascent_envs
        if few is not None and (self.actor is None or few >= self.num_envs):
            raise ValueError(
                f"ascent_envs must be None, or below num_envs = {self.num_envs} and beside a perturbation of the "
                f"actor; got {few} with actor={self.actor!r}"
            )
        if not isinstance(self.along_perturbed, bool) or (self.along_perturbed and self.actor is None):
            raise ValueError(
                f"along_perturbed must be False, or True beside a perturbation of the actor; got "
                f"{self.along_perturbed!r} with actor={self.actor!r}"
            )
        self.algorithm.check(self)
        describe(self)  # raises now for a perturbation that could not be stored later

    @cached_property
    def resolved(self) -> RobotConfig:
        known, published = vars(self.algorithm), ROBOTS[self.task].settings.items()
        algorithm = filled(self.algorithm, **{name: value for name, value in published if name in known})
        along = self.along_perturbed or self.ascent_envs is not None
        if (algorithm, along) == (self.algorithm, self.along_perturbed):
            return self
        return replace(self, algorithm=algorithm, along_perturbed=along)

    @property
    def epochs(self) -> int:
        """Number of iterations of the run."""
        return self.iterations

    @property
    def length(self) -> str | None:
        """The field that holds the run's length. SHAC has none, as its learning rates decay over the whole run."""
        return "iterations" if isinstance(self.algorithm, PPO) else None

    @property
    def steps_per_epoch(self) -> int:
        """Environment steps of an iteration, all environments together, without those that compute ε."""
        return self.num_envs * self.algorithm.horizon

    def make_env(self, num_envs: int = 1, seed: int = 0, gradients: bool = True) -> DifferentiableEnv:
        """The task as `num_envs` robots. gradients: False saves the time to compile the derivative."""
        from shapo.robots.env import DifferentiableEnv

        with plain_torch():
            return DifferentiableEnv(self.task, num_envs, seed, gradients=gradients)

    def trainer(self) -> RobotTrainer:
        """The trainer that `shapo.train` runs for this config."""
        if isinstance(self.algorithm, PPO):
            from shapo.robots.ppo import PPOTrainer as Trainer
        else:
            from shapo.robots.shac import SHACTrainer as Trainer
        return Trainer(self)

    def policy(self, arrays: Mapping[str, NDArray]) -> RobotPolicy:
        """The policy in a checkpoint's arrays."""
        from shapo.robots import policy

        made = policy.ppo_policy if isinstance(self.algorithm, PPO) else policy.shac_policy
        return made(self.resolved, arrays)
