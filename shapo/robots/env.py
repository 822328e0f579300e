"""The robots' task as a batched PyTorch environment, whose `step(action)` is differentiable in state and action."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import torch
from torch import Tensor

from shapo.checks import whole
from shapo.robots.simulator import ROBOTS
from shapo.robots.simulator.simulator import Simulator

LARGEST = 1e6  # a coordinate or velocity beyond it means that the simulation has diverged


class DifferentiableEnv:
    """N robots that run along +x. An episode ends with a fall or after `episode_length` steps.

        env = DifferentiableEnv("DiffAnt", num_envs=64, seed=0)
        observation = env.reset()
        observation, reward, terminated, truncated, info = env.step(action)

    All are tensors with N rows. An environment whose episode ended restarts at once; `info["final_observation"]` has
    the observation before that. Where the simulation diverged, `info["diverged"]` is true, the state before the step is
    kept, the reward is 0 and the episode terminates. `detach()` begins a new window: later gradients stop there.

    task: a name in ROBOTS. gradients: False saves the time to compile the derivative. Raises ValueError for arguments
    and actions that cannot be used.
    """

    render_mode = None  # `Simulator.skeleton` and `shapo.figures` draw

    def __init__(
        self, task: str, num_envs: int = 64, seed: int = 0, episode_length: int = 1000, gradients: bool = True
    ):
        if task not in ROBOTS:
            raise ValueError(f"task must be one of {', '.join(ROBOTS)}; got {task!r}")
        self.robot, self.num_envs = ROBOTS[task], whole(1)("num_envs", num_envs)
        self.episode_length = whole(1)("episode_length", episode_length)
        self.simulator = Simulator(self.robot, self.num_envs, gradients)
        self.rng = np.random.default_rng(seed)
        infinite = np.full(self.robot.observations, np.inf, np.float32)
        self.single_observation_space = gymnasium.spaces.Box(-infinite, infinite)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.robot.actions,), np.float32)
        self._torque = torch.tensor(self.robot.torque)
        self.reset()

    def reset(self) -> Tensor:
        """Starts an episode in every environment; returns observations (N, obs)."""
        self.q, self.qd = self._start(self.num_envs)
        zeros = self.q.new_zeros  # on the processor, whatever the default device
        self.action = zeros(self.num_envs, self.robot.actions)
        self.length = zeros(self.num_envs, dtype=torch.int64)
        return self.observation()

    def observation(self) -> Tensor:
        """Observations (N, obs) of the current state."""
        return self.robot.observe(self.q, self.qd, self.action)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Applies actions (N, act), clipped to ±1, for 1/60 s. Raises ValueError for another shape, NaN or infinity."""
        if action.shape != self.action.shape:
            raise ValueError(f"action must have shape {tuple(self.action.shape)}; got {tuple(action.shape)}")
        if not torch.isfinite(action).all():
            raise ValueError("action must be finite; got NaN or infinity")
        action = action.clamp(-1, 1)
        q, qd = self.simulator.step(self.q, self.qd, action * self._torque)
        with torch.no_grad():
            state = torch.cat([q, qd], 1)
            diverged = ~(state.abs() <= LARGEST).all(1)  # NaN compares as False
        if diverged.any():
            before = (self.q.detach(), q), (self.qd.detach(), qd)
            q, qd = (torch.where(diverged[:, None], *pair) for pair in before)
        self.q, self.qd, self.action, self.length = q, qd, action, self.length + 1
        observation = self.observation()
        reward = torch.where(diverged, 0.0, self.robot.reward(observation, action))
        terminated = self.robot.fallen(observation.detach()) | diverged
        truncated = (self.length >= self.episode_length) & ~terminated
        info = {"final_observation": observation, "diverged": diverged}
        done = terminated | truncated
        if done.any():
            self._restart(done)
            observation = self.observation()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Releases nothing: environments are closed alike, whichever they are."""

    def detach(self) -> Tensor:
        """Begins a window: later gradients stop at this state. Returns the observations (N, obs)."""
        self.q, self.qd, self.action = self.q.detach(), self.qd.detach(), self.action.detach()
        return self.observation()

    def _restart(self, done: Tensor) -> None:
        """Begins new episodes where `done`; no gradient passes into them."""
        q, qd = self._start(int(done.sum()))
        index = done.nonzero()[:, 0]
        self.q, self.qd = self.q.index_copy(0, index, q), self.qd.index_copy(0, index, qd)
        self.action = self.action.index_fill(0, index, 0.0)
        self.length = self.length.index_fill(0, index, 0)

    def _start(self, count: int) -> tuple[Tensor, Tensor]:
        """q, qd of `count` standing robots with random offsets of position, rotation, joint angles and velocities."""
        joints = self.robot.actions
        noise = torch.from_numpy(self.rng.uniform(-1, 1, (count, 3 + 1 + 3 + joints + 6 + joints))).float()
        shift, angle, axis, bend, push = noise.split([3, 1, 3, joints, 6 + joints], 1)
        half = angle * (math.pi / 48)  # half the angle, so the angle is within ±π/24
        turn = torch.cat([torch.nn.functional.normalize(axis) * half.sin(), half.cos()], 1)
        q = self.simulator.q0.repeat(count, 1)
        q[:, :3] += 0.1 * shift
        q[:, 3:7] = turn
        q[:, 7:] += 0.2 * bend
        return q, 0.25 * push

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything the next step depends on, except `rng`, which draws new starts, and the contact parameters."""
        arrays = {"q": self.q, "qd": self.qd, "action": self.action, "length": self.length}
        return {name: value.detach().numpy().copy() for name, value in arrays.items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Returns to a state of `state_dict`. Raises ValueError for another shape or numbers that are not finite."""
        values = {name: torch.from_numpy(state[name].copy()) for name in ("q", "qd", "action", "length")}
        for name, value in values.items():
            shape = getattr(self, name).shape
            if value.shape != shape or not torch.isfinite(value).all():
                raise ValueError(f"{name} must be finite, of shape {tuple(shape)}; got {state[name]}")
        vars(self).update(values)
