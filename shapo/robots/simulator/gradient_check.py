"""A comparison of the simulator's gradients with central differences of the simulation itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from shapo.robots.simulator.catalogue import ROBOTS
from shapo.robots.simulator.simulator import Simulator

WARM_UP = 8  # control steps of random torques before the check, so that there are contacts and velocities
AMPLITUDE = 0.3  # of the random actions
STEPS = (1e-3, 2e-3, 3e-3)  # of the central differences, in units of action and in m/s or rad/s
AGREEMENT = 0.02  # spread of converged differences, relative to their size


def rolled_out(simulator: Simulator, q: Tensor, qd: Tensor, torques: Tensor) -> tuple[Tensor, Tensor]:
    """The state q, qd after control steps under torques (h, N, n)."""
    for torque in torques:
        q, qd = simulator.step(q, qd, torque)
    return q, qd


def gradient_check(task: str, horizon: int, seed: int = 0) -> pd.DataFrame:
    """∂x/∂v of the torso's position x after `horizon` control steps, for every action and every initial velocity v.

    Returns a row per component v: task, horizon, input ("action", "velocity"), gradient, difference (central, of
    STEPS[1]), converged: whether the differences of all STEPS agree to AGREEMENT. They do not where a contact or joint
    limit switches between the two simulations of a difference, which then says nothing about the derivative.
    """
    robot, generator = ROBOTS[task], torch.Generator().manual_seed(seed)
    scale = torch.tensor(robot.torque)
    random = AMPLITUDE * (2 * torch.rand(WARM_UP + horizon, 1, robot.actions, generator=generator) - 1)
    one = Simulator(robot, 1)
    q, qd = one.q0[None].clone(), torch.zeros(1, 6 + robot.actions)
    q[:, 2] = robot.contact_height
    with torch.no_grad():
        q, qd = rolled_out(one, q, qd, random[:WARM_UP] * scale)
    actions, velocity = random[WARM_UP:].clone().requires_grad_(), qd.clone().requires_grad_()
    reached = rolled_out(one, q, velocity, actions * scale)[0][0, 0]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(reached, (actions, velocity))])

    values = torch.cat([actions.detach().flatten(), qd.flatten()])
    many, differences = Simulator(robot, 2 * len(values), gradients=False), []
    for step in STEPS:
        moved = values + step * torch.cat([torch.eye(len(values)), -torch.eye(len(values))])
        torques = moved[:, : actions.numel()].view(len(moved), horizon, -1).transpose(0, 1) * scale
        x = rolled_out(many, q.expand(len(moved), -1), moved[:, actions.numel() :], torques)[0][:, 0].double()
        differences.append(((x[: len(values)] - x[len(values) :]) / (2 * step)).numpy())
    middle = differences[1]
    size = np.maximum(np.abs(middle), np.sqrt(np.mean(middle**2)))
    inputs = np.repeat(["action", "velocity"], [actions.numel(), velocity.numel()])
    return pd.DataFrame(
        {
            "task": task, "horizon": horizon, "input": inputs, "gradient": gradient.numpy(), "difference": middle,
            "converged": np.ptp(differences, axis=0) <= AGREEMENT * size,
        }
    )  # fmt: skip


def relative_error(table: pd.DataFrame) -> float:
    """‖gradient − difference‖ / ‖difference‖ over the components whose differences have converged."""
    rows = table[table.converged]
    return float(np.linalg.norm(rows.gradient - rows.difference) / np.linalg.norm(rows.difference))
