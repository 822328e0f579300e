"""RobotConfig: everything that defines a run on the differentiable robots, in one frozen dataclass of plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from shapo.checks import BELOW_1, POSITIVE, UNIT, check, whole
from shapo.config import RunConfig, describe
from shapo.differentiable.robots import ROBOTS
from shapo.sharpness import Perturbation

if TYPE_CHECKING:  # these import Newton, which takes seconds
    from shapo.differentiable.env import DifferentiableEnv
    from shapo.differentiable.policy import RobotPolicy
    from shapo.differentiable.shac import SHACTrainer

PUBLISHED = {  # of DiffRL, where they depend on the robot
    "DiffAnt": {
        "actor_hidden_sizes": (128, 64, 32), "critic_hidden_sizes": (64, 64), "critic_lr": 2e-3,
        "target_critic_alpha": 0.2,
    },
    "DiffHumanoid": {
        "actor_hidden_sizes": (256, 128), "critic_hidden_sizes": (128, 128), "critic_lr": 5e-4,
        "target_critic_alpha": 0.995,
    },
}  # fmt: skip


@dataclass(frozen=True)
class SHAC:
    """Short-horizon actor-critic (Xu et al. 2022), with its published settings. None stands for the robot's own."""

    horizon: int = 32  # h, steps of a window, through which gradients pass
    actor_hidden_sizes: tuple[int, ...] | None = None  # ELU layers
    critic_hidden_sizes: tuple[int, ...] | None = None
    actor_lr: float = 2e-3  # Adam's, decaying linearly to 1e-5 over the run
    critic_lr: float | None = None
    betas: tuple[float, float] = (0.7, 0.95)  # of both Adams
    gamma: float = 0.99  # discount
    td_lambda: float = 0.95  # λ of the critic's targets
    target_critic_alpha: float | None = None  # of the target critic, what stays of it at an update
    critic_passes: int = 16  # over a window, per iteration
    critic_minibatches: int = 4  # per pass
    max_grad_norm: float = 1.0  # gradients of actor and critic are clipped to this norm

    def __post_init__(self):
        check(
            self, horizon=whole(1), actor_lr=POSITIVE, gamma=UNIT, td_lambda=UNIT, critic_passes=whole(1),
            critic_minibatches=whole(1), max_grad_norm=POSITIVE,
        )  # fmt: skip
        optional = {"critic_lr": POSITIVE, "target_critic_alpha": UNIT}
        check(self, **{name: rule for name, rule in optional.items() if getattr(self, name) is not None})
        betas = self.betas
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers such as (0.7, 0.95); got {betas!r}")
        object.__setattr__(self, "betas", tuple(BELOW_1("betas", beta) for beta in betas))
        for name in ("actor_hidden_sizes", "critic_hidden_sizes"):
            sizes = getattr(self, name)
            if sizes is None:
                continue
            if not isinstance(sizes, list | tuple) or not sizes:
                raise ValueError(f"{name} must be a tuple of layer sizes such as (64, 64); got {sizes!r}")
            object.__setattr__(self, name, tuple(whole(1)(name, size) for size in sizes))

    def prepared(self, task: str) -> SHAC:
        """With the published settings of the robot where there was None."""
        missing = {name: value for name, value in PUBLISHED[task].items() if getattr(self, name) is None}
        return replace(self, **missing)


@dataclass(frozen=True)
class RobotConfig(RunConfig):
    """One training run on a differentiable robot. Raises ValueError or TypeError, naming the field."""

    shown: ClassVar[dict[str, str]] = {
        "return": "episode_return", "length": "episode_length", "reward": "reward", "m/s": "forward_velocity",
    }  # fmt: skip
    episode_columns: ClassVar[tuple[str, ...]] = ("steps", "env", "return", "length", "failed", "diverged")

    task: str = "DiffAnt"  # a name in shapo.differentiable.robots.ROBOTS
    algorithm: SHAC = SHAC()
    actor: Perturbation | None = None  # AdaptiveSAM: SHAC-ASAM; EuclideanSAM: SAM, T = I; None: SHAC
    iterations: int = 500  # updates of the actor
    seed: int = 0  # of everything random in the run
    num_envs: int = 64  # N, robots simulated together

    def __post_init__(self):
        if not isinstance(self.task, str) or self.task not in ROBOTS:
            raise ValueError(f"task must be one of {', '.join(ROBOTS)}; got {self.task!r}")
        if not isinstance(self.algorithm, SHAC):
            raise TypeError(f"algorithm must be an instance of SHAC; got {self.algorithm!r}")
        if self.actor is not None and (isinstance(self.actor, type) or not callable(self.actor)):
            raise TypeError(
                f"actor must be None or a perturbation such as AdaptiveSAM(0.75); got {self.actor!r}"
            )
        check(self, iterations=whole(1), seed=whole(0), num_envs=whole(1))
        if self.steps_per_epoch < self.algorithm.critic_minibatches:
            raise ValueError(
                f"num_envs × horizon = {self.steps_per_epoch} samples cannot make {self.algorithm.critic_minibatches} "
                "minibatches: raise num_envs or horizon, or lower critic_minibatches"
            )
        object.__setattr__(self, "algorithm", self.algorithm.prepared(self.task))
        describe(self)  # a perturbation that cannot be named cannot be stored either: say so now

    @property
    def epochs(self) -> int:
        """Iterations of the run."""
        return self.iterations

    @property
    def steps_per_epoch(self) -> int:
        """Environment steps of an iteration, all environments together; those of an ascent are not counted."""
        return self.num_envs * self.algorithm.horizon

    def make_env(self, num_envs: int = 1, seed: int = 0, gradients: bool = True) -> DifferentiableEnv:
        """The robots."""
        from shapo.differentiable.env import DifferentiableEnv

        return DifferentiableEnv(self.task, num_envs, seed, gradients=gradients)

    def trainer(self) -> SHACTrainer:
        """What `shapo.train` trains this config with."""
        from shapo.differentiable.shac import SHACTrainer

        return SHACTrainer(self)

    def policy(self, arrays) -> RobotPolicy:
        """The policy in a checkpoint's arrays."""
        from shapo.differentiable.policy import RobotPolicy

        return RobotPolicy(self, arrays)
