"""The simulator's gradients beside central differences of the simulation itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from shapo.robots.simulator.catalogue import ROBOTS
from shapo.robots.simulator.simulator import Simulator

WARM_UP = 8  # control steps of random torques before, so that there are contacts and velocities
AMPLITUDE = 0.3  # of the actions
STEPS = (1e-3, 2e-3, 3e-3)  # of the differences, in actions and in m/s or rad/s
AGREEMENT = 0.02
GROUND = {"DiffAnt": 0.6, "DiffHumanoid": 1.33}  # heights of the torso at which the feet touch


def rolled_out(simulator: Simulator, q: Tensor, qd: Tensor, torques: Tensor) -> tuple[Tensor, Tensor]:
    """The state under torques (h, N, n), after the last of them."""
    for torque in torques:
        q, qd = simulator.step(q, qd, torque)
    return q, qd


def gradient_check(task: str, horizon: int, seed: int = 0) -> pd.DataFrame:
    """∂x/∂v of the torso's position x after `horizon` control steps, in every action and every first velocity.

    A row per component v: input ("action", "velocity"), gradient, difference (central, by STEPS[1]), and whether it has
    converged: differences by all STEPS agree to AGREEMENT. Where a contact or a joint's limit switches within the
    difference, they do not, and say nothing about a derivative.
    """
    robot, generator = ROBOTS[task], torch.Generator().manual_seed(seed)
    scale = torch.tensor(robot.torque)
    random = AMPLITUDE * (2 * torch.rand(WARM_UP + horizon, 1, robot.actions, generator=generator) - 1)
    one = Simulator(robot, 1)
    q, qd = one.q0[None].clone(), torch.zeros(1, 6 + robot.actions)
    q[:, 2] = GROUND[task]
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
    """‖gradient − difference‖ / ‖difference‖ over the components that have converged."""
    rows = table[table.converged]
    return float(np.linalg.norm(rows.gradient - rows.difference) / np.linalg.norm(rows.difference))
