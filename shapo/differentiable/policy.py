"""A trained robot's policy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shapo.differentiable.config import RobotConfig
from shapo.differentiable.networks import SquashedActor
from shapo.differentiable.robots import ROBOTS
from shapo.networks import RunningNormalizer
from shapo.store import unprefixed


class RobotPolicy:
    """`policy(observation)` gives actions (N, act) in (−1, 1) at raw observations (N, obs); differentiable.

    theta: (P,) the actor's parameters, which may be replaced.
    """

    def __init__(self, config: RobotConfig, arrays: dict[str, np.ndarray]):
        robot = ROBOTS[config.task]
        self.actor = SquashedActor(robot.observations, config.algorithm.actor_hidden_sizes, robot.actions)
        self.theta = torch.from_numpy(arrays["theta"].copy())
        normalizer = RunningNormalizer(robot.observations)
        normalizer.load_state_dict(unprefixed("normalizer", arrays))
        self.mean, self.scale = (torch.from_numpy(a).float() for a in (normalizer.mean, normalizer.scale))

    def __call__(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """noise: ξ (N, act), standard normal, to sample from the policy; the mode without."""
        if observation.shape[-1] != len(self.mean):
            raise ValueError(f"observation must have {len(self.mean)} columns; got {observation.shape[-1]}")
        return self.actor(self.theta, (observation - self.mean) * self.scale, noise)
