"""The loop of on-policy safe RL."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

from shapo.algorithms.advantages import Batch, Rollout, collect, make_batch
from shapo.algorithms.config import Config
from shapo.algorithms.critics import Critics
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import GaussianActor, RunningNormalizer
from shapo.checks import NonFiniteError, try_out
from shapo.runs.store import pack_tables, prefixed, restore_rng, rng_state, unpack_tables, unprefixed
from shapo.runs.train import seeded_torch

WINDOW = 50  # J_C is the mean cost of this many finished episodes


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
        if config.actor is not None:
            with seeded_torch(config.seed):
                try_out(config.actor, GaussianFisher(self.actor, self.normalizer(self.observation)))
        self.running = np.zeros((3, config.num_envs))  # return, cost, length of the episodes under way
        self.epoch, self.totals = 0, {"total_cost": 0.0, "failures": 0}
        self.progress: list[dict] = []
        self.episodes: list[dict] = []
        self.timing: list[dict] = []

    def next_batch(self) -> tuple[Batch, list[dict], float]:
        """Rolls the policy out for an epoch and moves the multiplier: (batch, episodes that ended, J_C)."""
        config = self.config
        if (
            not self.env.resumable
        ):  # its state is in no checkpoint: with every epoch begins what a resumed run has too
            seed = np.random.SeedSequence((config.seed, self.epoch)).generate_state(1)[0] >> 1
            self.observation, _ = self.env.reset(seed=int(seed))
            self.running[:] = 0
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
