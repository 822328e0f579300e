"""A trained robot, filmed."""

from __future__ import annotations

import numpy as np
import torch

from shapo.checks import whole
from shapo.robots.env import DifferentiableEnv
from shapo.robots.policy import RobotPolicy


@torch.no_grad()
def film(policy: RobotPolicy, task: str, steps: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An episode by the policy's mode, until it ends or for `steps` control steps: where the robot's limbs are.

    Returns what `figures.robot_frames` and `robot_animation` draw: ends (T, k, 2, 3) of its capsules before each step,
    in metres, and their radii (k,).
    """
    env = DifferentiableEnv(task, num_envs=1, seed=seed, gradients=False)
    observation, frames = env.reset(), []
    for _ in range(whole(1)("steps", steps)):
        limbs, radii = env.simulator.skeleton(env.q)
        frames.append(limbs[0])
        observation, _, terminated, truncated, _ = env.step(policy(observation))
        if terminated[0] or truncated[0]:
            break
    return np.array(frames), radii
