"""The trained policies of robots."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from shapo.algorithms.networks import Acts, RunningNormalizer
from shapo.robots.networks import ClippedActor, SquashedActor
from shapo.robots.simulator import ROBOTS
from shapo.runs.identity import RunConfig
from shapo.runs.store import unprefixed


class RobotPolicy(Acts):
    """A robot's policy: `policy(observation)` gives actions in ±1 (see `Acts`), differentiable in a tensor observation.

    theta: (P,) the actor's parameters, which may be replaced. mean, scale: (obs,) of observations. clip: observations
    are clipped to ± clip after they are scaled.
    """

    def __init__(
        self, actor: SquashedActor | ClippedActor, theta: np.ndarray, mean: np.ndarray, scale: np.ndarray,
        clip: float = np.inf,
    ):  # fmt: skip
        self.actor, self.theta, self.clip = actor, torch.from_numpy(theta.copy()), clip
        self.mean, self.scale = (torch.tensor(np.asarray(array)).float() for array in (mean, scale))
        self.columns = len(self.mean)

    @property
    def digest(self) -> str:
        """Hash of the policy's numbers: its parameters, and mean and scale of observations."""
        arrays = [tensor.numpy() for tensor in (self.theta, self.mean, self.scale)]
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:12]

    @torch.autocast("cpu", enabled=False)
    def act(self, observation: np.ndarray | Tensor, rng: np.random.Generator | None) -> Tensor:
        """The mode, or a sample if a generator is given."""
        observation = torch.as_tensor(observation, device=self.mean.device).float()
        shape = len(observation), self.actor.actions
        noise = None if rng is None else torch.from_numpy(rng.standard_normal(shape, np.float32))
        scaled = ((observation - self.mean) * self.scale).clamp(-self.clip, self.clip)
        return self.actor(self.theta, scaled, noise)


def shac_policy(config: RunConfig, arrays: dict[str, np.ndarray]) -> RobotPolicy:
    """The policy in a checkpoint of SHAC."""
    robot = ROBOTS[config.task]
    actor = SquashedActor(robot.observations, config.algorithm.actor_hidden_sizes, robot.actions)
    normalizer = RunningNormalizer(robot.observations)
    normalizer.load_state_dict(unprefixed("normalizer", arrays))
    return RobotPolicy(actor, arrays["theta"], normalizer.mean, normalizer.scale)


def ppo_policy(config: RunConfig, arrays: dict[str, np.ndarray]) -> RobotPolicy:
    """The policy in a checkpoint of PPO, which acts as in stable-baselines3."""
    robot, weights = ROBOTS[config.task], unprefixed("policy", arrays)
    actor = ClippedActor(robot.observations, config.algorithm.actor_hidden_sizes, robot.actions)
    hidden = [name for name in weights if name.startswith("mlp_extractor.policy_net.")]
    names = [*hidden, "action_net.weight", "action_net.bias", "log_std"]
    theta = np.concatenate([weights[name].ravel() for name in names])
    scale = 1 / np.sqrt(arrays["normalizer/var"] + 1e-8)
    return RobotPolicy(actor, theta, arrays["normalizer/mean"], scale, clip=10.0)
