"""Run: the config, the state and the results of a training run, in the run store or shipped."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from shapo.runs.evaluate import evaluate
from shapo.runs.identity import RunConfig, checked_config
from shapo.runs.shipped import CorruptPackError, Pack, pack_of
from shapo.runs.store import (
    ABOVE,
    CorruptCheckpointError,
    corrupt,
    is_checkout,
    load_checkpoint,
    runs_folder,
    save_checkpoint,
    unpack_tables,
    version_of,
    write_atomically,
)
from shapo.runs.switches import plain_torch


class Run:
    """A run in the run store, finished or not, of this or another process; everything is read when it is asked for.

    If a run is not finished but shipped in `figures/data/`, its tables, networks and provenance are the shipped ones.
    Otherwise they go as far as the run store does.
    """

    def __init__(self, config: RunConfig, runs: str | Path | None = None):
        self.config = checked_config("config", config)
        if not isinstance(runs, str | os.PathLike | None):
            raise TypeError(f"runs must be None or a folder; got {runs!r}")
        self.folder = Path(runs if runs is not None else runs_folder()).absolute()
        name = f"{type(config.algorithm).__name__}-seed{config.seed}-{config.run_id}"
        self.path = self.folder / str(config.task) / name
        self.checkpoint = self.path / "checkpoint"
        self._history: list[dict] | None = None  # provenance as saved, known to the one process that trains
        self._epoch: tuple[tuple[int, ...], int] = (), 0  # the checkpoint's version when last read, its epoch

    def __repr__(self) -> str:
        try:
            how_far = "shipped" if self.pack else f"{self.epoch} of {self.config.epochs} epochs"
        except CorruptCheckpointError:
            how_far = "its checkpoint is damaged"
        except CorruptPackError as error:
            how_far = str(error)
        return f"<Run {self.path.parent.name}/{self.path.name}: {how_far}>"

    @property
    def exists(self) -> bool:
        """Whether training has begun."""
        return self.checkpoint.exists()

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        if not self.exists:
            return 0
        version = version_of(self.checkpoint)
        if self._epoch[0] != version:  # a study asks hundreds of runs, again and again
            self._epoch = version, self.load()[1]["epoch"]
        return self._epoch[1]

    @property
    def finished(self) -> bool:
        """Whether the run store has all epochs."""
        return self.epoch == self.config.epochs

    @property
    def shipped(self) -> bool:
        """Whether `figures/data/` holds the packed results of this run. `shapo.train` trains it all the same."""
        return pack_of(self.config.run_id) is not None

    @property
    def available(self) -> bool:
        """Whether the tables are those of the whole run: it is finished, or shipped."""
        return self.finished or self.shipped

    @property
    def pack(self) -> Pack | None:
        """The pack that stands in for this run: None if the run is finished, or not shipped."""
        return None if self.finished else pack_of(self.config.run_id)

    @property
    def progress(self) -> pd.DataFrame:
        """A row per epoch, with these columns in safe RL.

        epoch, steps: counts so far. episodes: number that ended in the epoch; episode_return, episode_cost: their
        means. J_C: mean cost of the last 50 episodes. total_cost, failures: sums so far; cost_rate: total_cost per
        step. lagrangian_multiplier: λ of the update. kl: KL(π₀ ‖ π₁) of the step, nats; improvement: gain of the
        surrogate; line_search_trials: NaN if none was accepted; cg_products: products with F. std: mean σ. With a
        perturbation, also kl_down: KL(π₀ ‖ π_θ₀+ε), nats; surrogate_down: L(θ₀ + ε); surrogate_down_linear: gᵀε, its
        prediction. If the schedule measures n, also autocorrelation_time: τ; n_eff: n_t / τ.
        """
        return self._table("progress")

    @property
    def episodes(self) -> pd.DataFrame:
        """A row per finished episode: steps so far, env, return, cost, length, failed.

        A run that is only shipped has return and cost in single precision.
        """
        return self._table("episodes")

    @property
    def timing(self) -> pd.DataFrame:
        """Seconds of each epoch: rollout, actor, critics, total. They are not part of what is reproduced.

        A run that is only shipped has one row, the medians.
        """
        return self._table("timing")

    @property
    def provenance(self) -> list[dict]:
        """Versions, commit and machine under which the epochs were run, in order of change."""
        if pack := self.pack:
            return pack.provenance(self.config.run_id)
        return self.load()[1]["provenance"]

    @property
    def networks(self) -> dict[str, np.ndarray]:
        """Arrays of the checkpoint, with the trained networks among them, or the arrays that ship of a shipped run.

        They are read-only, and editing a copy does not change the run. Raises FileNotFoundError if there are none.
        """
        if pack := self.pack:
            if not (shipped := pack.networks(self.config.run_id)):
                without = f"{self.path.name} is shipped as numbers, without its networks"
                raise FileNotFoundError(f"{without}; shapo.train(run.config) trains it here")
            return shipped
        return self.load()[0]

    @property
    def shipped_networks(self) -> dict[str, np.ndarray]:
        """The arrays of `networks` that a pack holds; empty for most configs."""
        if not (prefixes := self.config.shipped_networks):
            return {}
        return {name: array for name, array in self.networks.items() if name.startswith(prefixes)}

    @property
    def actor(self) -> Any:  # an `algorithms.networks.Policy`, or a `robots.policy.RobotPolicy`
        """The trained policy, ready to roll out. Raises FileNotFoundError if there is none, or none is shipped."""
        networks = self.networks
        with plain_torch(), self._restoring():
            return self.config.policy(networks)

    def evaluate(
        self, episodes: int = 20, deterministic: bool = True, seed: int = 0, env: Any = None
    ) -> pd.DataFrame:
        """Runs episodes of the trained policy; returns a row each: env, return, cost (0 if none), length, failed.

        deterministic: whether actions are the policy's mode, or samples. seed: seed of the samples and environments;
        environment i has `seed + i`. env: gymnasium environment to use instead (episode k has `seed + k`), or several.
        """
        return evaluate(self.config, self.actor, episodes, deterministic, seed, env)

    def load(self) -> tuple[dict[str, np.ndarray], dict]:
        """Returns the checkpoint's (arrays, meta); the arrays are read-only. Raises CorruptCheckpointError, and
        FileNotFoundError.
        """
        if not self.exists:
            raise FileNotFoundError(f"{self.path} has no checkpoint: this run has not begun")
        arrays, meta = _load(self.checkpoint, *version_of(self.checkpoint))
        epoch, epochs = meta.get("epoch"), self.config.epochs
        shapes = {name: a.shape for name, a in arrays.items() if name.startswith("progress:")}
        if any(meta.get(name) != value for name, value in self.config.identity.items()):
            raise corrupt(self.checkpoint, "it belongs to another run")
        if type(epoch) is not int or not 0 <= epoch <= epochs:
            raise corrupt(self.checkpoint, f"its epoch must be from 0 to {epochs}; got {epoch!r}")
        whole = set(shapes.values()) == ({(epoch,)} if epoch else set())
        if not (whole and isinstance(meta.get("provenance"), list)):
            problem = f"it must hold provenance, and progress of {epoch} epochs; got {shapes}"
            raise corrupt(self.checkpoint, problem)
        return dict(arrays), deepcopy(meta)  # they are cached

    def restore(self, trainer: Any) -> None:
        """Brings a fresh trainer of the config to the state of the checkpoint. Raises the errors of `load`."""
        arrays, meta = self.load()
        fresh, known = trainer.state()
        with self._restoring():
            for name, like in fresh.items():
                if ":" in name or name == "env/random":  # tables grow, and a generator's text has any length
                    continue
                if (arrays[name].dtype, arrays[name].shape) != (like.dtype, like.shape):
                    wanted, got = (f"{array.dtype} of shape {array.shape}" for array in (like, arrays[name]))
                    raise ValueError(f"{name} must be {wanted}; got {got}")
            for name, array in arrays.items():
                if array.dtype.kind == "f" and ":" not in name and not np.isfinite(array).all():
                    raise ValueError(f"{name} must be finite")
            _check_alike("meta", meta, known)
            for name, total in known["totals"].items():
                if isinstance(total, int) and meta["totals"][name] < 0:
                    raise ValueError(f"{name} must be at least 0; got {meta['totals'][name]}")
            trainer.restore(arrays, meta)

    def save(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        """Replaces the checkpoint atomically; before the last one, writes progress.csv and episodes.csv for people.

        The first `meta` of a run may hold the provenance of a shorter run that this one continues.
        """
        if self._history is None:  # once: the writer holds the run's lock, so nobody else adds to it
            self._history = self.load()[1]["provenance"] if self.exists else meta.get("provenance", [])
        here = provenance()
        if self._history[-1:] != [here]:
            self._history = [*self._history, here]
        meta = meta | self.config.identity | {"provenance": self._history}
        if meta["epoch"] == self.config.epochs:
            for name in ("progress", "episodes"):
                table = self._tables(arrays)[name]
                write_atomically(self.path / f"{name}.csv", table.to_csv(index=False).encode())
        save_checkpoint(self.checkpoint, arrays, meta)

    def write_config(self) -> None:
        """Writes config.json, for people and for longer runs that continue this one."""
        if not (self.path / "config.json").exists():
            write_atomically(self.path / "config.json", json.dumps(self.config.identity, indent=2).encode())

    @contextmanager
    def _restoring(self) -> Iterator[None]:
        """Turns the errors that a whole but crafted checkpoint causes inside into CorruptCheckpointError."""
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, CorruptCheckpointError | CorruptPackError):
                raise
            raise corrupt(self.checkpoint, f"{type(error).__name__}: {error}") from error

    def _table(self, name: str) -> pd.DataFrame:
        if pack := self.pack:
            return pack.table(name, self.config.run_id)
        if not self.exists:
            return pd.DataFrame()
        arrays, _ = self.load()
        with self._restoring():
            return self._tables(arrays)[name]

    def _tables(self, arrays: dict[str, np.ndarray]) -> dict[str, pd.DataFrame]:
        tables = unpack_tables(arrays)
        if not len(tables["episodes"].columns):
            tables["episodes"] = pd.DataFrame(columns=list(self.config.episode_columns), dtype=object)
        return tables


def _check_alike(name: str, value: Any, like: Any) -> None:
    """Raises a ValueError that names the value, if it has not the type of `like`, its keys, or is no finite number."""
    if isinstance(like, Mapping):
        right = isinstance(value, dict)
        for key in like if right else ():
            _check_alike(key, value.get(key), like[key])
    elif isinstance(like, int | float) and not isinstance(like, bool):
        right = type(value) in (int, float) and (math.isfinite(value) or not math.isfinite(like))
    elif isinstance(like, tuple):
        right = isinstance(value, list)
        for item in value if right and {*map(type, like)} == {float} else ():
            _check_alike(name, item, like[0])
    else:
        right = like is None or isinstance(value, type(like))
    if not right:
        raise ValueError(f"{name} must be like {like!r:.60}; got {value!r:.60}")


@functools.lru_cache(maxsize=8)  # for the tables of one run, asked for one after the other; they may be large
def _load(path: Path, *_version: int) -> tuple[dict[str, np.ndarray], dict]:
    return load_checkpoint(path)


@functools.cache
def provenance() -> dict:
    """Package versions, commit and machine of this process."""
    names = "torch numpy mujoco gymnasium safety-gymnasium newton warp-lang stable-baselines3".split()
    versions = {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}
    instructions = torch.backends.cpu.get_cpu_capability()  # they decide the rounding
    machine = f"{platform.system()} {platform.machine()}, {_processor()}, {instructions}"
    return {"versions": versions, "commit": _commit(), "machine": machine}


def _commit() -> str:
    """Returns the commit of the package's own checkout, marked if its files were edited; empty if there is none.

    It is never the commit of a repository around the package, or of one that the environment variables name.
    """
    if not is_checkout(ABOVE):
        return ""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=ABOVE, env=environment | {"GIT_CEILING_DIRECTORIES": str(ABOVE.parent)},
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
