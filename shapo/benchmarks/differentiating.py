"""The differentiable simulator: what gradients cost, and what a second rollout costs an iteration of SHAC."""

from __future__ import annotations

from functools import partial

import pandas as pd
import psutil
import torch

from shapo.benchmarks.measuring import alternate, in_turn, run_apart, sides_of_one_probe
from shapo.sharpness import AdaptiveSAM


def simulate(task: str, envs: int, horizon: int) -> dict[str, float]:
    """Probe: environment steps per second of a window, without and with the gradient of its reward in all actions."""
    from shapo.differentiable.env import DifferentiableEnv  # Newton, which the other probes do without

    env = DifferentiableEnv(task, envs)
    actions = torch.rand(horizon, *env.action.shape) - 0.5

    def reward(actions: torch.Tensor) -> torch.Tensor:
        env.detach()
        return sum(env.step(action)[1].sum() for action in actions)

    def both() -> None:
        leaf = actions.clone().requires_grad_()
        torch.autograd.grad(reward(leaf), leaf)

    seconds = in_turn({"forward": lambda: reward(actions), "forward and backward": both})
    return {way: envs * horizon / value for way, value in seconds.items()}


def memory_of(task: str, envs: int, horizon: int) -> dict[str, float]:
    """Probe: resident memory of a process that has run `simulate`, MB."""
    simulate(task, envs, horizon)
    return {"memory": psutil.Process().memory_info().rss / 1e6}


def gradients(repeats: int, task: str, envs: int = 64, horizon: int = 32) -> pd.DataFrame:
    """Windows of `horizon` control steps on one core, forward alone and forward and backward; memory of both."""
    settings = {"task": task, "envs": envs, "horizon": horizon}
    speed = alternate(
        "gradients", {"steps": partial(run_apart, simulate, **settings)}, repeats, "steps/s", task
    )
    memory = alternate(
        "gradients", {"forward and backward": partial(run_apart, memory_of, **settings)}, 1, "MB", task
    )
    return pd.concat([sides_of_one_probe(speed), memory], ignore_index=True)


def iterate(task: str, envs: int, horizon: int, iterations: int) -> dict[str, float]:
    """Probe: seconds of an iteration of SHAC, and of SHAC-ASAM."""
    from shapo.differentiable.config import SHAC, RobotConfig

    def trainer(actor: AdaptiveSAM | None):
        return RobotConfig(task, SHAC(horizon), actor, iterations=1_000, num_envs=envs).trainer()

    trainers = {"SHAC": trainer(None), "SHAC-ASAM": trainer(AdaptiveSAM(0.75))}
    ways = {
        name: lambda trainer=trainer: [trainer.run_epoch() for _ in range(iterations)]
        for name, trainer in trainers.items()
    }
    return {name: seconds / iterations for name, seconds in in_turn(ways).items()}


def robots(repeats: int, task: str, envs: int = 64, horizon: int = 32, iterations: int = 3) -> pd.DataFrame:
    """An iteration of training with one rollout and with two, on one core."""
    settings = {"task": task, "envs": envs, "horizon": horizon, "iterations": iterations}
    return sides_of_one_probe(
        alternate("robots", {"iteration": partial(run_apart, iterate, **settings)}, repeats, "s", task)
    )
