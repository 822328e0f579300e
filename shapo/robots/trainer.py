"""What the algorithms on robots share: windows of steps, and the account of what happened in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from shapo.robots.config import RobotConfig
from shapo.robots.env import DifferentiableEnv
from shapo.runs.store import pack_tables, unpack_tables


@dataclass
class Window:
    """h steps of N environments: what an algorithm and its account need of them. Tensors (N,) unless said."""

    observation: list[Tensor] = field(default_factory=list)  # as acted on, not normalised, (N, obs)
    final: list[Tensor] = field(default_factory=list)  # after the step, before a restart, (N, obs)
    reward: list[Tensor] = field(default_factory=list)
    terminated: list[Tensor] = field(default_factory=list)
    truncated: list[Tensor] = field(default_factory=list)
    diverged: list[Tensor] = field(default_factory=list)
    loss: Tensor | float = 0.0  # SHAC's (2), with its graph

    def append(
        self, observation: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor, info: dict
    ) -> None:
        """A step from `observation`, of which `DifferentiableEnv.step` returned the others."""
        step = {
            "observation": observation, "final": info["final_observation"], "reward": reward,
            "terminated": terminated, "truncated": truncated, "diverged": info["diverged"],
        }  # fmt: skip
        for name, tensor in step.items():
            getattr(self, name).append(tensor.detach())


class RobotTrainer:
    """An environment, the random generators of a run, and what was recorded of it; each algorithm adds `run_epoch`."""

    def __init__(self, config: RobotConfig, gradients: bool):
        config = config.resolved
        self.config, self.algorithm = config, config.algorithm
        seeds = np.random.SeedSequence(config.seed)
        self.rngs = [np.random.default_rng(child) for child in seeds.spawn(3)]
        env_seed = int(seeds.generate_state(1)[0] >> 1)
        self.env = config.make_env(config.num_envs, seed=env_seed, gradients=gradients)
        self.running = np.zeros((2, config.num_envs))  # return, length of the episodes under way
        self.epoch, self.totals = 0, {"failures": 0, "diverged": 0, "dropped_gradients": 0}
        self.progress: list[dict] = []
        self.episodes: list[dict] = []
        self.timing: list[dict] = []

    def account(self, window: Window, log: dict, seconds: dict[str, float]) -> dict:
        """Closes an iteration: its row of progress, of what the window shows and the algorithm's own `log`.

        Episodes that diverged are counted in `diverged`, and left out of the means.
        """
        finished = self._finished_episodes(window)
        sound = [episode for episode in finished if not episode["diverged"]]
        self.epoch += 1
        row = {
            "epoch": self.epoch, "steps": self.epoch * self.config.steps_per_epoch, "episodes": len(finished),
            "episode_return": np.mean([e["return"] for e in sound]) if sound else np.nan,
            "episode_length": np.mean([e["length"] for e in sound]) if sound else np.nan,
            "reward": float(torch.stack(window.reward).mean()),
            "forward_velocity": float(torch.stack(window.final)[..., 5].mean()), **self.totals, **log,
        }  # fmt: skip
        self.progress.append(row)
        self.timing.append(seconds)
        return row

    def _finished_episodes(self, window: Window) -> list[dict]:
        """Accounts for every step once; appends the episodes that ended, in the order of time."""
        finished, envs = [], self.config.num_envs
        start = self.epoch * self.config.steps_per_epoch
        for t, reward in enumerate(window.reward):
            self.running += (reward.numpy(), np.ones(envs))
            for i in (window.terminated[t] | window.truncated[t]).nonzero()[:, 0].tolist():
                episode_return, length = self.running[:, i]
                finished.append(
                    {
                        "steps": start + (t + 1) * envs, "env": i, "return": episode_return, "length": int(length),
                        "failed": bool(window.terminated[t][i]), "diverged": bool(window.diverged[t][i]),
                    }
                )  # fmt: skip
                self.running[:, i] = 0
        self.totals["failures"] += sum(episode["failed"] for episode in finished)
        self.totals["diverged"] += sum(episode["diverged"] for episode in finished)
        self.episodes += finished
        return finished

    def place(self) -> tuple[dict, dict]:
        """Where the environments stand: (arrays, JSON-able values)."""
        return self.env.state_dict(), self.env.rng_state()

    def put(self, place: tuple[dict, dict], env: DifferentiableEnv | None = None) -> None:
        """Back to where they stood; or the first of them into `env`, as many as it has."""
        arrays, rng = place
        if env is not None:
            arrays = {name: array[: env.num_envs] for name, array in arrays.items()}
        env = env or self.env
        env.load_state_dict(arrays)
        env.load_rng_state(rng)

    def record(self) -> dict[str, np.ndarray]:
        """Everything recorded, as arrays; `load_record` takes them back."""
        tables = {"progress": self.progress, "episodes": self.episodes, "timing": self.timing}
        return {"running": self.running} | pack_tables(tables)

    def load_record(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        self.running = arrays["running"].copy()
        self.epoch, self.totals = meta["epoch"], dict(meta["totals"])
        for name, table in unpack_tables(arrays).items():
            setattr(self, name, table.to_dict("records"))
