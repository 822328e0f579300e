"""A policy for tests: it drives to the goal it sees in the lidar, through whatever lies on the way."""

import numpy as np

# Where the goal's lidar begins, by the width of an observation: the Point's four, then the Car's.
GOAL_LIDAR = {28: 12, 60: 12, 44: 28, 76: 28, 40: 24, 72: 24, 56: 40, 88: 40}


def seek_goal(observation, noise):
    """Actions (n, 2) for observations of a navigation task, perturbed by `noise` (n, 2)."""
    width = observation.shape[1]
    lidar = observation[:, GOAL_LIDAR[width] : GOAL_LIDAR[width] + 16]
    bearing = np.angle(lidar @ np.exp(1j * (np.arange(16) + 0.5) * 2 * np.pi / 16))
    if GOAL_LIDAR[width] in (12, 28):
        return np.stack([np.cos(bearing), np.clip(2 * bearing, -1, 1)], axis=1) + noise
    ahead = np.angle(1j * np.exp(1j * bearing))  # the Car faces its −y; its right wheel is the first
    forward, turn = np.cos(ahead), np.clip(ahead, -0.5, 0.5)
    return np.clip(np.stack([forward + turn, forward - turn], axis=1), -1, 1) + noise


def roll(env, observation, steps, seed):
    """Step `env` under the policy; return the last observation and all outcomes, (steps, n, obs_dim + 4)."""
    rng = np.random.default_rng(seed)
    record = []
    for _ in range(steps):
        action = seek_goal(observation, 0.3 * rng.standard_normal((env.num_envs, 2)))
        observation, *outcome, _ = env.step(action)
        record.append(np.column_stack([observation, *outcome]))
    return observation, np.array(record)
