"""A policy for tests: it drives to the goal it sees in the lidar, through whatever lies on the way."""

import numpy as np

GOAL_LIDAR = {
    60: slice(12, 28),
    76: slice(28, 44),
}  # by the width of an observation: PointGoal1, PointButton1


def seek_goal(observation, noise):
    """Return actions (n, 2) for observations (n, 60) or (n, 76), perturbed by `noise` (n, 2)."""
    lidar = observation[:, GOAL_LIDAR[observation.shape[1]]]
    bearings = (np.arange(16) + 0.5) * 2 * np.pi / 16
    bearing = np.angle(lidar @ np.exp(1j * bearings))
    return np.stack([np.cos(bearing), np.clip(2 * bearing, -1, 1)], axis=1) + noise


def roll(env, observation, steps, seed):
    """Step `env` under the policy; return the last observation and all outcomes, (steps, n, obs_dim + 4)."""
    rng = np.random.default_rng(seed)
    record = []
    for _ in range(steps):
        action = seek_goal(observation, 0.3 * rng.standard_normal((env.num_envs, 2)))
        observation, *outcome, _ = env.step(action)
        record.append(np.column_stack([observation, *outcome]))
    return observation, np.array(record)
