"""A batch of robots, one control step at a time, differentiable by PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shapo.robots.simulator.cache import compiling
from shapo.robots.simulator.catalogue import Robot
from shapo.robots.simulator.expressions import evaluate
from shapo.robots.simulator.kernels import LANES, backward_kernel, formulas, forward_kernel
from shapo.robots.simulator.mechanism import mechanism, wp

CONTACT_PARAMETERS = (
    ("stiffness", True),
    ("damping", False),
    ("friction", False),
)  # (field of Robot, whether it must be above 0)


class Simulator:
    """N copies of a robot above the ground z = 0, which do not touch each other.

    gradients: False saves the time to compile the derivative. q0: (7 + n,) the robot standing at its start.
    dropped_gradients: how many robots' steps had a backward pass that was not finite, and was replaced by zero.
    """

    def __init__(self, robot: Robot, num_envs: int, gradients: bool = True):
        self.robot, self.num_envs, self.gradients = robot, num_envs, gradients
        self._contact_version = self.dropped_gradients = 0
        start = [0, 0, robot.start_height, 0, 0, 0, 1, *robot.start_joints]
        self.q0 = torch.tensor(start, dtype=torch.float32)
        self._contact = torch.empty(num_envs, len(CONTACT_PARAMETERS))
        self.set_contact(robot.stiffness, robot.damping, robot.friction)
        n = robot.actions
        self._inputs = [torch.zeros(num_envs, size) for size in (7 + n, 6 + n, n)]
        self._inputs[0].copy_(self.q0)
        like = [[torch.zeros_like(value) for value in self._inputs[:count]] for count in (2, 2, 3)]
        self._outputs, self._seeds, self._gradients = like
        self._forward_graph = self._record(forward_kernel(robot), self._outputs)
        if gradients:
            self._backward_graph = self._record(backward_kernel(robot), self._seeds, self._gradients)

    def set_contact(self, stiffness=None, damping=None, friction=None) -> None:
        """Sets contact stiffness k_e (N/m), damping k_d (N·s/m²), friction μ: each a number or (N,); None leaves it.

        They must not change between a step and the backward pass through it. Raises ValueError, and changes nothing,
        for values that are not finite or are negative, and for a stiffness of 0.
        """
        contact, n = self._contact.clone(), self.num_envs
        for column, given in enumerate((stiffness, damping, friction)):
            if given is None:
                continue
            field, positive = CONTACT_PARAMETERS[column]
            value = np.asarray(given, np.float32)
            if value.shape not in ((), (n,)):
                raise ValueError(f"{field} must be a number or one of each robot, ({n},); got {value.shape}")
            if not np.isfinite(value).all() or (value <= 0 if positive else value < 0).any():
                least = "above" if positive else "at least"
                raise ValueError(f"{field} must be finite and {least} 0; got {value}")
            contact[:, column] = torch.from_numpy(value)
        self._contact.copy_(contact)  # in place: the recorded kernels read it
        self._contact_version += 1

    def step(self, q: Tensor, qd: Tensor, torque: Tensor) -> tuple[Tensor, Tensor]:
        """The state q, qd after a control step under joint torques (N, n) in N·m, differentiable in all three.

        Raises ValueError for arguments of other shapes.
        """
        for name, value, kept in zip(("q", "qd", "torque"), (q, qd, torque), self._inputs, strict=True):
            if value.shape != kept.shape:
                raise ValueError(f"{name} must have shape {tuple(kept.shape)}; got {tuple(value.shape)}")
        return _Step.apply(q, qd, torque, self)

    def skeleton(self, q: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The robots at q (N, 7 + n) for drawing: ends (N, k, 2, 3) of their capsules and radii (k,), in metres."""
        ends = evaluate(formulas(self.robot).limbs, {"q": q.detach().numpy().T}).T
        radii = [radius for body in mechanism(self.robot).bodies for _, radius in body.capsules]
        return ends.reshape(len(q), -1, 2, 3).astype(np.float32), np.array(radii)

    def _record(self, kernel: wp.Kernel, *buffers: list[Tensor]) -> wp.Graph:
        """Runs the kernel once, which compiles it, and records its launch on these tensors."""
        tensors = [*self._inputs, self._contact, *(tensor for buffer in buffers for tensor in buffer)]
        arrays = [wp.from_torch(tensor.view(-1), requires_grad=False) for tensor in tensors]
        blocks = math.ceil(self.num_envs / LANES)
        with compiling():
            wp.launch(kernel, blocks, [self.num_envs, *arrays], device="cpu")
        with wp.ScopedCapture(device="cpu") as capture:
            wp.launch(kernel, blocks, [self.num_envs, *arrays], device="cpu")
        return capture.graph

    def _forward(self, *inputs: Tensor) -> list[Tensor]:
        _fill(self._inputs, inputs)
        wp.capture_launch(self._forward_graph)
        return [value.clone() for value in self._outputs]

    def _backward(self, inputs: tuple[Tensor, ...], seeds: tuple[Tensor, ...]) -> list[Tensor]:
        finite = _finite(seeds)
        _fill(self._inputs, inputs)
        _fill(self._seeds, [torch.where(finite[:, None], seed, 0.0) for seed in seeds])
        wp.capture_launch(self._backward_graph)
        finite &= _finite(self._gradients)
        self.dropped_gradients += int((~finite).sum())
        return [torch.where(finite[:, None], gradient, 0.0) for gradient in self._gradients]


def _fill(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)


def _finite(values: Sequence[Tensor]) -> Tensor:
    """Whether a robot's numbers are finite in all of the tensors (N, k), as (N,)."""
    return torch.stack([torch.isfinite(value).all(1) for value in values]).all(0)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, qd: Tensor, torque: Tensor, simulator: Simulator):
        ctx.save_for_backward(q, qd, torque)
        ctx.simulator, ctx.version = simulator, simulator._contact_version
        return tuple(simulator._forward(q, qd, torque))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *seeds: Tensor):
        if not ctx.simulator.gradients:
            raise RuntimeError("this simulator was made with gradients=False")
        if ctx.version != ctx.simulator._contact_version:
            raise RuntimeError("contact parameters were set between a step and its backward pass")
        return *ctx.simulator._backward(ctx.saved_tensors, seeds), None
