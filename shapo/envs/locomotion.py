"""The locomotion tasks: Ant-v4 and Walker2d-v4, replayed step for step from gymnasium.

The world and constants of a task are read once from gymnasium. Reward, cost and observation are computed for all
environments at once. The cost is ours: 1 on the step that ends an episode because the robot fell, which gymnasium
reports as termination.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from pathlib import Path

import gymnasium
import mujoco
import numpy as np

from shapo.envs.batched import BatchedEnv, Outcome, Task
from shapo.envs.physics import Physics, lean_model


@cache
def reference(name: str) -> gymnasium.Env:
    """Makes gymnasium's environment `name`, of which only the world and constants are read."""
    return gymnasium.make(name).unwrapped


class Locomotion(BatchedEnv):
    """Robots that must move forward without falling.

    Reward: forward velocity v_x (m/s), plus 1 for not having fallen before, minus w‖a‖² for the controls, where a is
    the action before it is clipped. Cost: 1 on the fall, else 0; a fall ends the episode.
    `info` holds `x_position` (m) and `x_velocity` (m/s), (n,) each.

    Observation: generalised positions without those along the ground, then generalised velocities.
    """

    _state = ("_last_x",)
    _seeded = staticmethod(np.random.default_rng)
    _unseen: int  # number of positions, the first ones, that are not observed: those along the ground

    def __init__(self, task: Task, num_envs: int, seed: int, threads: int = 1) -> None:
        self._its = its = reference(task.reference)
        model = lean_model(Path(its.fullpath).read_text(), sensors=())
        physics = Physics(model, num_envs, its.frame_skip, settle=False, threads=threads)
        super().__init__(task, physics, (its.observation_space, its.action_space), seed)
        self._noise = its._reset_noise_scale
        self._nq = model.nq
        self._last_x = np.zeros(num_envs)  # where the robot was before the step
        self._read = physics.reader(lambda data: (data.qpos, data.qvel, self._locate(data)))

    @abstractmethod
    def _locate(self, data: mujoco.MjData) -> np.ndarray:
        """Returns a view (1,) of the robot's x position, in metres, from which its velocity is computed."""

    @abstractmethod
    def _is_upright(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Returns which robots have not fallen, (n,) bool, given positions (n, nq) and velocities (n, nv)."""

    @abstractmethod
    def _draw_velocity(self, random: np.random.Generator, size: int) -> np.ndarray:
        """Draws an episode's first velocities, (size,)."""

    def _begin(self, index: int) -> None:
        random, model = self._random[index], self.physics.models[index]
        qpos = model.qpos0 + random.uniform(-self._noise, self._noise, model.nq)
        self.physics.start(index, qpos, self._draw_velocity(random, model.nv))
        self._readings = self._read(index)
        self._last_x[index] = qpos[0]

    def _outcome(self, action: np.ndarray) -> Outcome:
        read = self._readings = self._read()
        x = read[:, -1].copy()
        velocity = (x - self._last_x) / self._its.dt
        effort = self._its._ctrl_cost_weight * np.square(action).sum(axis=1)
        reward = velocity + self._its._healthy_reward - effort
        self._last_x[:] = x
        fallen = ~self._is_upright(read[:, : self._nq], read[:, self._nq : -1])
        return reward, fallen.astype(np.float64), fallen, {"x_position": x, "x_velocity": velocity}

    def observe(self) -> np.ndarray:
        """Returns the current observations as a new array (n, obs_dim)."""
        self._require_reset("observe")
        return self._readings[:, self._unseen : -1].copy()

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        super().load_state_dict(state)
        self._readings = self._read()


class Ant(Locomotion):
    """A torso on four legs, free in space; it has fallen when it is too low, or too high to be standing.

    Its position is read as gymnasium reads it: it is the one that MuJoCo's last substep began with, a little behind
    `qpos`.
    """

    _unseen = 2

    def _locate(self, data: mujoco.MjData) -> np.ndarray:
        return data.xpos[1, :1]

    def _is_upright(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = self._its._healthy_z_range
        finite = np.isfinite(qpos).all(axis=1) & np.isfinite(qvel).all(axis=1)
        return finite & (low <= qpos[:, 2]) & (qpos[:, 2] <= high)

    def _draw_velocity(self, random: np.random.Generator, size: int) -> np.ndarray:
        return self._noise * random.standard_normal(size)


class Walker2d(Locomotion):
    """Two legs and a torso in a vertical plane; it has fallen when it is too low, too high or leans too far.

    Observed velocities are clipped to ±10.
    """

    _unseen = 1

    def _locate(self, data: mujoco.MjData) -> np.ndarray:
        return data.qpos[:1]

    def _is_upright(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        (low, high), (back, front) = self._its._healthy_z_range, self._its._healthy_angle_range
        height, angle = qpos[:, 1], qpos[:, 2]
        return (low < height) & (height < high) & (back < angle) & (angle < front)

    def _draw_velocity(self, random: np.random.Generator, size: int) -> np.ndarray:
        return random.uniform(-self._noise, self._noise, size)

    def observe(self) -> np.ndarray:
        observation = super().observe()
        velocities = observation[:, self._nq - self._unseen :]
        np.maximum(np.minimum(velocities, 10, out=velocities), -10, out=velocities)
        return observation
