"""The differentiable simulator: the cost of gradients, and of a second rollout in an iteration of SHAC."""

from __future__ import annotations

from functools import partial

import pandas as pd
import psutil
import torch

from shapo.peers.measuring import in_turn, run_apart, side_by_side
from shapo.sharpness import AdaptiveSAM

FEW = "SHAC-ASAM, few robots"
FORWARD, BOTH = "forward", "forward and backward"
NEWTON = {way: f"Newton's solver, {way}" for way in (FORWARD, BOTH)}


def simulate(task: str, envs: int, horizon: int) -> dict[str, float]:
    """Probe: steps per second of a window, without and with the gradient of its reward in all actions; memory, MB.

    The bare solver of Newton is measured as well, without observations, rewards and autograd.
    """
    from shapo.peers.newton_solver import NewtonSolver  # here, since no other probe needs it
    from shapo.robots.env import DifferentiableEnv

    env = DifferentiableEnv(task, envs)
    actions = torch.rand(horizon, *env.action.shape) - 0.5

    def reward(actions: torch.Tensor) -> torch.Tensor:
        env.detach()
        return sum(env.step(action)[1].sum() for action in actions)

    def both() -> None:
        leaf = actions.clone().requires_grad_()
        torch.autograd.grad(reward(leaf), leaf)

    both()
    memory = psutil.Process().memory_info().rss / 1e6  # before Newton's solver takes any
    newton = NewtonSolver(env.robot, envs)
    q, qd, torque = env.simulator.q0.repeat(envs, 1), torch.zeros(envs, 6 + env.robot.actions), 0 * actions[0]

    def newtons(backward: bool) -> None:
        for _ in range(horizon):
            newton.forward(q, qd, torque)
            if backward:
                newton.backward(torch.ones_like(q), torch.ones_like(qd))

    ways = {FORWARD: lambda: reward(actions), BOTH: both}
    ways |= {name: lambda way=way: newtons(way == BOTH) for way, name in NEWTON.items()}
    return {way: envs * horizon / value for way, value in in_turn(ways).items()} | {"memory": memory}


def gradients(repeats: int, task: str, envs: int = 64, horizon: int = 32) -> pd.DataFrame:
    """Speed of `horizon` control steps on one core, forward, and forward and backward; memory after the latter."""
    units = dict.fromkeys((FORWARD, BOTH, *NEWTON.values()), "steps/s") | {"memory": "MB"}
    sides = {"steps": partial(run_apart, simulate, task=task, envs=envs, horizon=horizon)}
    rows = side_by_side("gradients", sides, repeats, units, task)
    rows.loc[rows.side == "memory", ["quantity", "side"]] = "memory", BOTH
    return rows


def iterate(task: str, envs: int, horizon: int, iterations: int) -> dict[str, float]:
    """Probe: seconds of an iteration of SHAC, of SHAC-ASAM, and of SHAC-ASAM with an ascent on few robots."""
    from shapo.experiments.robots import RHO, few_robots
    from shapo.robots.config import SHAC, RobotConfig

    ways = {"SHAC": {}, "SHAC-ASAM": {"actor": AdaptiveSAM(RHO)}}
    ways[FEW] = ways["SHAC-ASAM"] | {"ascent_envs": few_robots(envs)}
    settings = {"algorithm": SHAC(horizon), "iterations": 1_000, "num_envs": envs}
    trainers = {name: RobotConfig(task, **settings, **way).trainer() for name, way in ways.items()}

    def several(trainer) -> None:
        for _ in range(iterations):
            trainer.run_epoch()

    seconds = in_turn({name: partial(several, trainer) for name, trainer in trainers.items()})
    return {name: value / iterations for name, value in seconds.items()}


def robots(repeats: int, task: str, envs: int = 64, horizon: int = 32, iterations: int = 3) -> pd.DataFrame:
    """An iteration of training on one core: with one rollout, with two, and with a second one of few robots."""
    probe = partial(run_apart, iterate, task=task, envs=envs, horizon=horizon, iterations=iterations)
    return side_by_side("robots", {"iteration": probe}, repeats, "s", task)
