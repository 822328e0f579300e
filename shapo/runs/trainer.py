"""The code that all training loops share: environments, random generators, finished episodes, and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shapo.runs.identity import RunConfig
from shapo.runs.store import pack_tables, restore_rng, rng_state, unpack_tables


class RunTrainer:
    """The base class of a config's `trainer()`; each algorithm adds `run_epoch` and extends `state` and `restore`.

    sums: names of what an episode's row in `episodes` adds up over its steps. totals: first values of what is counted
    over training, such as failures. rngs: names of at most two generators. of_env: arguments of `config.make_env`.
    """

    def __init__(
        self, config: RunConfig, sums: Sequence[str], totals: Mapping[str, float], rngs: Sequence[str], **of_env: Any
    ):  # fmt: skip
        self.config = config = config.resolved
        self.algorithm = config.algorithm
        seeds = np.random.SeedSequence(config.seed)
        self.networks_rng, *others = (np.random.default_rng(child) for child in seeds.spawn(3))
        self.rngs = dict(zip(rngs, others, strict=False))
        env_seed = int(seeds.generate_state(1)[0] >> 1)
        self.env = config.make_env(config.num_envs, seed=env_seed, **of_env)
        self.sums = (*sums, "length")
        self.running = np.zeros((len(self.sums), config.num_envs))  # of the episodes under way
        self.epoch, self.totals = 0, dict(totals)
        self.progress: list[dict] = []
        self.episodes: list[dict] = []
        self.timing: list[dict] = []

    def run_epoch(self) -> dict:
        """Trains one epoch and returns its row of progress."""
        raise NotImplementedError

    def finish_episodes(
        self, steps: Mapping[str, np.ndarray], done: np.ndarray, **marks: np.ndarray
    ) -> list[dict]:
        """Counts every step once; records and returns the episodes that ended, in the order of time.

        steps: the `sums` of each step. done: whether it ended an episode. marks: flags that an episode's row takes from
        its last step, `failed` among them. All have shape (T, N).
        """
        finished, (length, envs) = [], done.shape
        start = self.epoch * self.config.steps_per_epoch
        for t in range(length):
            self.running += (*(steps[name][t] for name in self.sums[:-1]), np.ones(envs))
            for i in np.flatnonzero(done[t]):
                sums = dict(zip(self.sums, self.running[:, i], strict=True))
                sums["length"] = int(sums["length"])
                told = {name: bool(mark[t, i]) for name, mark in marks.items()}
                finished.append({"steps": start + (t + 1) * envs, "env": int(i)} | sums | told)
                self.running[:, i] = 0
        self.totals["failures"] += sum(episode["failed"] for episode in finished)
        self.episodes += finished
        return finished

    def finish_epoch(self, row: dict, seconds: dict[str, float]) -> dict:
        """Closes an epoch; returns its row of progress, which is `row` after epoch and steps."""
        self.epoch += 1
        row = {"epoch": self.epoch, "steps": self.epoch * self.config.steps_per_epoch} | row
        self.progress.append(row)
        self.timing.append(seconds)
        return row

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Returns everything that the next epoch depends on, and everything recorded: (arrays, JSON-able values)."""
        tables = {"progress": self.progress, "episodes": self.episodes, "timing": self.timing}
        meta = {f"{name}_rng": rng_state(rng) for name, rng in self.rngs.items()}
        return {"running": self.running} | pack_tables(tables), {
            "epoch": self.epoch,
            "totals": self.totals,
        } | meta

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Restores a state that `state` returned."""
        self.running = arrays["running"].copy()
        self.epoch, self.totals = meta["epoch"], dict(meta["totals"])
        self.rngs = {name: restore_rng(meta[f"{name}_rng"]) for name in self.rngs}
        for name, table in unpack_tables(arrays).items():
            setattr(self, name, table.to_dict("records"))


def mean(episodes: Sequence[Mapping[str, float]], name: str) -> float:
    """Returns the mean of a column of episodes; NaN if there are none."""
    return float(np.mean([episode[name] for episode in episodes])) if episodes else np.nan
