"""The robots' task as a batched environment of PyTorch: `step(action)` is differentiable in state and action."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import torch
from torch import Tensor

from shapo.checks import whole
from shapo.robots.simulator import ROBOTS
from shapo.robots.simulator.simulator import Simulator

LARGEST = 1e6  # of a coordinate or velocity: beyond it, the simulation has diverged


class DifferentiableEnv:
    """N robots that run along +x; an episode ends with a fall, or after `episode_length` steps.

        env = DifferentiableEnv("DiffAnt", num_envs=64, seed=0)
        observation = env.reset()
        observation, reward, terminated, truncated, info = env.step(action)

    All are tensors with N rows. An environment that ended starts anew at once: `info["final_observation"]` has what was
    observed before. Where the simulation broke down, `info["diverged"]` is true, the state before that step stands in,
    and the reward is 0. `detach()` begins a new window, through which later gradients do not pass.

    task: a name in ROBOTS. gradients: False saves compiling the derivative. Raises ValueError for arguments and actions
    that cannot be used.
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
        self.action = torch.zeros(self.num_envs, self.robot.actions)
        self.length = torch.zeros(self.num_envs, dtype=torch.int64)
        return self.observation()

    def observation(self) -> Tensor:
        """(N, obs) of the state as it is."""
        return self.robot.observe(self.q, self.qd, self.action)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Applies actions (N, act) for 1/60 s; they are clipped to ±1."""
        if action.shape != self.action.shape:
            raise ValueError(f"action must have shape {tuple(self.action.shape)}; got {tuple(action.shape)}")
        if not torch.isfinite(action).all():
            raise ValueError("action must be finite; got NaN or infinity")
        action = action.clamp(-1, 1)
        q, qd = self.simulator.step(self.q, self.qd, action * self._torque)
        with torch.no_grad():
            state = torch.cat([q, qd], 1)
            diverged = ~(state.abs() <= LARGEST).all(1)  # NaN is not
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

    def detach(self) -> Tensor:
        """Cuts gradients off here; returns the observations (N, obs)."""
        self.q, self.qd, self.action = self.q.detach(), self.qd.detach(), self.action.detach()
        return self.observation()

    def _restart(self, done: Tensor) -> None:
        """Fresh starts where `done`; no gradient passes."""
        q, qd = self._start(int(done.sum()))
        index = done.nonzero()[:, 0]
        self.q, self.qd = self.q.index_copy(0, index, q), self.qd.index_copy(0, index, qd)
        self.action = self.action.index_fill(0, index, 0.0)
        self.length = self.length.index_fill(0, index, 0)

    def _start(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` standing robots, moved, turned, bent and pushed a little."""
        joints = self.robot.actions
        noise = torch.from_numpy(self.rng.uniform(-1, 1, (count, 3 + 1 + 3 + joints + 6 + joints))).float()
        shift, angle, axis, bend, push = noise.split([3, 1, 3, joints, 6 + joints], 1)
        half = angle * (math.pi / 48)  # half the angle, which is within ±π/24
        turn = torch.cat([torch.nn.functional.normalize(axis) * half.sin(), half.cos()], 1)
        q = self.simulator.q0.repeat(count, 1)
        q[:, :3] += 0.1 * shift
        q[:, 3:7] = turn
        q[:, 7:] += 0.2 * bend
        return q, 0.25 * push

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything the next step depends on but `rng`, which draws fresh starts, and the contact parameters."""
        arrays = {"q": self.q, "qd": self.qd, "action": self.action, "length": self.length}
        return {name: value.detach().numpy().copy() for name, value in arrays.items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Back to a state that `state_dict` returned. Raises ValueError where it is not finite."""
        values = {name: torch.from_numpy(state[name].copy()) for name in ("q", "qd", "action", "length")}
        for name, value in values.items():
            shape = getattr(self, name).shape
            if value.shape != shape or not torch.isfinite(value).all():
                raise ValueError(f"{name} must be finite, of shape {tuple(shape)}; got {state[name]}")
        vars(self).update(values)
