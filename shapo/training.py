"""train(config): one run on one thread, checkpointed as it goes, resumable at any moment with the same numbers."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import threadpoolctl
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from shapo.advantages import Batch, Rollout, collect, make_batch
from shapo.checks import NonFiniteError
from shapo.config import Config, RunConfig
from shapo.critics import Critics
from shapo.networks import GaussianActor, RunningNormalizer
from shapo.run import Run, provenance
from shapo.store import (
    CorruptCheckpointError,
    pack_tables,
    prefixed,
    remove_leftovers,
    restore_rng,
    rng_state,
    unpack_tables,
    unprefixed,
    write_atomically,
    writing,
)

WINDOW = 50  # J_C is the mean cost of this many finished episodes
NOT_THE_RUNS_FAULT = OSError, MemoryError, CorruptCheckpointError  # mended outside it, so never recorded


def train(config: RunConfig, *, runs: str | Path | None = None, progress: bool = True) -> Run:
    """Trains what `config` describes and returns its `Run`.

    A finished run returns at once; an interrupted one goes on from its last checkpoint and ends with the same bytes of
    progress and episodes. Where another process works on the same run, this one waits for it, and says so.

    runs: folder of the run store; `shapo.store.runs_folder()` by default. progress: show a bar.
    Raises NonFiniteError when training diverges (the last good checkpoint stays), CorruptCheckpointError, OSError.
    """
    run = Run(config, runs)
    if run.finished:
        return run
    with writing(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
    with _exclusive(run), one_thread():
        if not run.finished:  # another process may have finished it meanwhile
            remove_leftovers(run.path)
            run.write_config()
            with _recording_failure(run):
                _train(run, progress)
    return run


def failure(run: Run) -> dict | None:
    """What stopped `run` when it was last tried: type, message, traceback, epoch, config, provenance; None if nothing.

    Kept in the run's folder until training gets past it. Full disks, killed processes and the like leave none.
    """
    path = run.path / "error.json"
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return {"type": type(error).__name__, "message": f"{path} is not readable: {error}", "epoch": 0}


@contextmanager
def _recording_failure(run: Run) -> Iterator[None]:
    try:
        yield
    except NOT_THE_RUNS_FAULT:
        raise
    except Exception as error:
        record = {
            "type": type(error).__name__, "message": str(error), "epoch": run.epoch,
            "traceback": "".join(traceback.format_exception(error)),
            "config": run.config.identity["config"], "provenance": provenance(),
        }  # fmt: skip
        try:
            write_atomically(run.path / "error.json", json.dumps(record, indent=2).encode())
        except OSError as unwritten:
            error.add_note(str(unwritten))
        raise


@contextmanager
def _exclusive(run: Run) -> Iterator[None]:
    lock = FileLock(run.path / "lock")
    with writing(run.path / "lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(
                f"Another process is training {run.path.name}; waiting for it.", file=sys.stderr, flush=True
            )
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def one_thread() -> Iterator[None]:
    """Numerical libraries use one thread inside: a run's bytes must not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded_torch(*entropy: int) -> Iterator[None]:
    """PyTorch's own generator, for perturbations that draw from it, begins inside as the numbers given say."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        yield


def _train(run: Run, progress: bool) -> None:
    config, trainer = run.config, run.config.trainer()
    if run.exists:
        trainer.restore(*run.load())
    else:
        run.save(*trainer.state())  # what cannot be stored should fail before the first epoch, not after it
    saved = time.monotonic()
    label = f"{type(config.algorithm).__name__} {config.task} seed {config.seed}"
    with tqdm(
        total=config.epochs,
        initial=trainer.epoch,
        desc=label,
        unit="epoch",
        file=sys.stdout,
        disable=not progress,
    ) as bar:
        while trainer.epoch < config.epochs:
            try:
                row = trainer.run_epoch()
            except NonFiniteError as error:
                raise NonFiniteError(
                    f"{error}, in epoch {trainer.epoch + 1} ({trainer.epoch * config.steps_per_epoch} steps done). "
                    f"The last good checkpoint stays in {run.path}."
                ) from error
            if time.monotonic() - saved >= config.checkpoint_seconds or trainer.epoch == config.epochs:
                run.save(*trainer.state())
                (run.path / "error.json").unlink(
                    missing_ok=True
                )  # it goes on; if it fails again, it says so again
                saved = time.monotonic()
            shown = {label: f"{row[column]:.3g}" for label, column in config.shown.items()}
            shown["steps/s"] = f"{config.steps_per_epoch / trainer.timing[-1]['total']:.0f}"
            bar.set_postfix(shown, refresh=False)
            bar.update()


class Trainer:
    """The loop of on-policy safe RL: roll out, move the multiplier, move the actor, fit the critics."""

    def __init__(self, config: Config):
        config = config.resolved
        self.config, self.algorithm = config, config.algorithm
        seeds = np.random.SeedSequence(config.seed)
        networks, actions, minibatches = (np.random.default_rng(child) for child in seeds.spawn(3))
        self.action_rng, self.minibatch_rng = actions, minibatches
        self.env = config.make_env(config.num_envs, seed=int(seeds.generate_state(1)[0] >> 1))
        obs_dim, act_dim = self.env.single_observation_space.shape[0], self.env.single_action_space.shape[0]
        self.actor = GaussianActor(obs_dim, act_dim, config.hidden_sizes, networks)
        self.critics = Critics(
            obs_dim,
            config.hidden_sizes,
            networks,
            learning_rate=config.critic_lr,
            l2=config.critic_l2,
            max_grad_norm=config.max_grad_norm,
        )
        self.normalizer = RunningNormalizer(obs_dim - self.algorithm.extra_observations)
        self.algorithm_state = self.algorithm.initial_state()
        self.observation, _ = self.env.reset()
        self.running = np.zeros((3, config.num_envs))  # return, cost, length of the episodes under way
        self.epoch, self.totals = 0, {"total_cost": 0.0, "failures": 0}
        self.progress: list[dict] = []
        self.episodes: list[dict] = []
        self.timing: list[dict] = []

    def next_batch(self) -> tuple[Batch, list[dict], float]:
        """Rolls the policy out for an epoch and moves the multiplier: (batch, episodes that ended, J_C)."""
        config = self.config
        rollout, self.observation = collect(
            self.env, self.actor, self.normalizer, self.observation,
            config.steps_per_epoch // config.num_envs, self.action_rng,
        )  # fmt: skip
        finished, recent = self._finished_episodes(rollout), self.episodes[-WINDOW:]
        mean_cost, mean_length = (
            float(np.mean([episode[key] for episode in recent])) if recent else np.nan
            for key in ("cost", "length")
        )
        if recent:
            self.algorithm_state = self.algorithm.observe(self.algorithm_state, mean_cost, config.cost_limit)
        batch = make_batch(
            replace(rollout, reward=self.algorithm.learned_reward(rollout)),
            self.critics,
            (config.gamma, config.cost_gamma),
            (config.gae_lambda, config.cost_gae_lambda),
            mean_length,
        )
        return batch, finished, mean_cost

    def run_epoch(self) -> dict:
        """One epoch; returns its row of progress."""
        config, clock = self.config, [time.perf_counter()]
        batch, finished, mean_cost = self.next_batch()
        clock.append(time.perf_counter())
        samples = (self.epoch + 1) * config.steps_per_epoch
        with seeded_torch(config.seed, self.epoch):
            actor_log = self.algorithm.update_actor(
                self.actor, batch, config.actor, samples, self.algorithm_state
            )
        clock.append(time.perf_counter())
        self.critics.fit(
            batch.observation,
            batch.target,
            self.minibatch_rng,
            passes=config.critic_passes,
            minibatch_size=config.minibatch_size,
            sam=config.critic,
        )
        clock.append(time.perf_counter())
        for name, network in (("actor", self.actor), ("critics", self.critics)):
            if not torch.isfinite(network.theta).all():
                raise NonFiniteError(f"parameters of the {name} became non-finite")

        self.epoch += 1
        row = {
            "epoch": self.epoch, "steps": samples, "episodes": len(finished),
            "episode_return": np.mean([e["return"] for e in finished]) if finished else np.nan,
            "episode_cost": np.mean([e["cost"] for e in finished]) if finished else np.nan,
            "J_C": mean_cost, **self.totals, "cost_rate": self.totals["total_cost"] / samples,
            "lagrangian_multiplier": self.algorithm_state.get("lagrangian_multiplier", np.nan),
            **actor_log, "std": float(self.actor.log_std().exp().mean()),
        }  # fmt: skip
        self.progress.append(row)
        rollout_s, actor_s, critics_s = np.diff(clock)
        self.timing.append(
            {"rollout": rollout_s, "actor": actor_s, "critics": critics_s, "total": clock[-1] - clock[0]}
        )
        return row

    def _finished_episodes(self, rollout: Rollout) -> list[dict]:
        """Accounts for every step once; appends the episodes that ended, in the order of time."""
        finished, start = [], self.epoch * self.config.steps_per_epoch
        done = rollout.terminated | rollout.truncated
        for t in range(len(done)):
            self.running += (rollout.reward[t], rollout.cost[t], np.ones(done.shape[1]))
            for i in np.flatnonzero(done[t]):
                episode_return, cost, length = self.running[:, i]
                finished.append(
                    {
                        "steps": start + (t + 1) * done.shape[1], "env": int(i), "return": episode_return, "cost": cost,
                        "length": int(length), "failed": bool(rollout.terminated[t, i]),
                    }
                )  # fmt: skip
                self.running[:, i] = 0
        self.totals["total_cost"] += float(rollout.cost.sum())
        self.totals["failures"] += sum(episode["failed"] for episode in finished)
        self.episodes += finished
        return finished

    def _parts(self) -> dict:
        return {"env": self.env, "actor": self.actor, "critics": self.critics, "normalizer": self.normalizer}

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Everything the next epoch depends on and everything recorded: (arrays, JSON-able values)."""
        arrays = {"observation": self.observation, "running": self.running}
        for name, part in self._parts().items():
            arrays |= prefixed(name, part.state_dict())
        tables = {"progress": self.progress, "episodes": self.episodes, "timing": self.timing}
        meta = {
            "epoch": self.epoch, "totals": self.totals, "algorithm": self.algorithm_state,
            "action_rng": rng_state(self.action_rng), "minibatch_rng": rng_state(self.minibatch_rng),
        }  # fmt: skip
        return arrays | pack_tables(tables), meta

    def restore(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        """Back to a state that `state` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(unprefixed(name, arrays))
        self.observation, self.running = arrays["observation"].copy(), arrays["running"].copy()
        self.epoch, self.totals = meta["epoch"], dict(meta["totals"])
        self.algorithm_state = {
            k: tuple(v) if isinstance(v, list) else v for k, v in meta["algorithm"].items()
        }
        self.action_rng, self.minibatch_rng = (
            restore_rng(meta["action_rng"]),
            restore_rng(meta["minibatch_rng"]),
        )
        for name, table in unpack_tables(arrays).items():
            setattr(self, name, table.to_dict("records"))
