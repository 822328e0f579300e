"""What the algorithms on robots share: windows of steps, and the records made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shapo.checks import NonFiniteError
from shapo.robots.env import DifferentiableEnv
from shapo.runs.identity import RunConfig
from shapo.runs.store import prefixed, restore_rng, rng_state, unprefixed
from shapo.runs.trainer import RunTrainer, mean


@dataclass
class Window:
    """h steps of N environments, one tensor per step: (N,) unless said otherwise."""

    observation: list[Tensor] = field(default_factory=list)  # before the step, not normalised, (N, obs)
    final: list[Tensor] = field(default_factory=list)  # after the step, before a restart, (N, obs)
    reward: list[Tensor] = field(default_factory=list)
    terminated: list[Tensor] = field(default_factory=list)
    truncated: list[Tensor] = field(default_factory=list)
    diverged: list[Tensor] = field(default_factory=list)
    loss: Tensor | float = 0.0  # SHAC's loss, equation 2, with its graph

    def append(self, observation, reward, terminated, truncated, info: dict) -> None:
        """Adds a step from `observation`, for which `DifferentiableEnv.step` returned the other arguments."""
        step = {
            "observation": observation, "final": info["final_observation"], "reward": reward,
            "terminated": terminated, "truncated": truncated, "diverged": info["diverged"],
        }  # fmt: skip
        for name, tensor in step.items():
            getattr(self, name).append(tensor.detach())


class RobotTrainer(RunTrainer):
    """The training loop on robots; each algorithm adds `run_epoch`."""

    def __init__(self, config: RunConfig, rngs: Sequence[str] = (), gradients: bool = False):
        totals = {"failures": 0, "diverged": 0, "dropped_gradients": 0}
        super().__init__(config, ("return",), totals, rngs, gradients=gradients)

    def account(self, window: Window, log: dict, seconds: dict[str, float]) -> dict:
        """Closes an iteration; returns its row of progress, from the window and the algorithm's own `log`.

        Episodes that diverged are counted in `diverged` and left out of the mean return and length.
        """
        steps = window.reward, window.terminated, window.truncated, window.diverged
        reward, terminated, truncated, diverged = (torch.stack(tensors).numpy() for tensors in steps)
        marks = {"failed": terminated, "diverged": diverged}
        finished = self.finish_episodes({"return": reward}, terminated | truncated, **marks)
        self.totals["diverged"] += sum(episode["diverged"] for episode in finished)
        sound = [episode for episode in finished if not episode["diverged"]]
        row = {
            "episodes": len(finished), "episode_return": mean(sound, "return"), "episode_length": mean(sound, "length"),
            "reward": float(torch.stack(window.reward).mean()),
            "forward_velocity": float(torch.stack(window.final)[..., 5].mean()), **self.totals, **log,
        }  # fmt: skip
        return self.finish_epoch(row, seconds)

    def snapshot(self) -> tuple[dict, dict]:
        """The state of the environments: (arrays, JSON-able values)."""
        return self.env.state_dict(), rng_state(self.env.rng)

    def restore_envs(self, snapshot: tuple[dict, dict], env: DifferentiableEnv | None = None) -> None:
        """Returns the environments to a snapshot, or puts the first of its robots into `env`, as many as fit."""
        env, (arrays, rng) = env or self.env, snapshot
        env.load_state_dict({name: array[: env.num_envs] for name, array in arrays.items()})
        env.rng = restore_rng(rng)

    def check_parameters(self, **networks: Iterable[Tensor]) -> None:
        """Raises NonFiniteError, naming the network, if its parameters are not finite."""
        for name, parameters in networks.items():
            if not all(torch.isfinite(parameter).all() for parameter in parameters):
                raise NonFiniteError(f"parameters of the {name} became non-finite")

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, meta = super().state()
        envs, rng = self.snapshot()
        return arrays | prefixed("env", envs), meta | {"env_rng": rng}

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        super().restore(arrays, meta)
        self.restore_envs((unprefixed("env", arrays), meta["env_rng"]))
