"""The training loop of on-policy safe RL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from shapo.algorithms.advantages import Batch, Rollout, collect, make_batch
from shapo.algorithms.critics import Critics
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import GaussianActor, RunningNormalizer
from shapo.algorithms.sample_size import Samples
from shapo.checks import NonFiniteError, plain, try_out
from shapo.runs.identity import RunConfig
from shapo.runs.store import prefixed, unprefixed
from shapo.runs.train import seeded_torch
from shapo.runs.trainer import RunTrainer, mean

WINDOW = 50  # J_C is the mean cost of this many finished episodes
PARTS = ("env", "actor", "critics", "normalizer")  # attributes of the trainer whose state is in a checkpoint


class Trainer(RunTrainer):
    """The training loop of on-policy safe RL: roll out, update the multiplier and the actor, fit the critics."""

    def __init__(self, config: RunConfig):
        totals = {"total_cost": 0.0, "failures": 0}
        super().__init__(config, ("return", "cost"), totals, ("action", "minibatch"))
        try:
            self._build()
        except BaseException:
            self.env.close()
            raise

    def _build(self) -> None:
        """Makes all but the environments; what the user wrote runs here for the first time, and may fail."""
        config, networks = self.config, self.networks_rng
        obs_dim, act_dim = self.env.single_observation_space.shape[0], self.env.single_action_space.shape[0]
        self.actor = GaussianActor(obs_dim, act_dim, config.hidden_sizes, networks)
        settings = config.critic_lr, config.critic_l2, config.max_grad_norm
        self.critics = Critics(obs_dim, config.hidden_sizes, networks, *settings)
        self.normalizer = RunningNormalizer(obs_dim - self.algorithm.extra_observations)
        self.algorithm_state = self.algorithm.initial_state()
        self.observation, _ = self.env.reset()
        if config.actor is not None:
            with seeded_torch(config.seed):
                seen = self.normalizer(self.observation)
                fisher = GaussianFisher(self.actor, seen, self.algorithm.cg_damping)
                first = Samples(config.steps_per_epoch, lambda: np.ones((1, 1)), np.zeros((1, 1)))
                try_out(config.actor, fisher, first)

    def next_batch(self) -> tuple[Batch, list[dict], float]:
        """Rolls out an epoch and updates the multiplier; returns (batch, episodes that ended, J_C)."""
        config = self.config
        if not self.env.resumable:  # a checkpoint cannot hold its state, so every epoch begins as if resumed
            seed = np.random.SeedSequence((config.seed, self.epoch)).generate_state(1)[0] >> 1
            self.observation, _ = self.env.reset(seed=int(seed))
            self.running[:] = 0
        rollout, self.observation = collect(
            self.env, self.actor, self.normalizer, self.observation,
            config.steps_per_epoch // config.num_envs, self.rngs["action"],
        )  # fmt: skip
        finished, recent = self.account(rollout), self.episodes[-WINDOW:]
        mean_cost, mean_length = mean(recent, "cost"), mean(recent, "length")
        if recent:
            state = self.algorithm.observe(self.algorithm_state, mean_cost, config.cost_limit)
            self.algorithm_state = plain(state)
        learned = replace(rollout, reward=self.algorithm.learned_reward(rollout))
        gammas, lambdas = (config.gamma, config.cost_gamma), (config.gae_lambda, config.cost_gae_lambda)
        return make_batch(learned, self.critics, gammas, lambdas, mean_length), finished, mean_cost

    def run_epoch(self) -> dict:
        """Runs one epoch; returns its row of progress."""
        config, clock = self.config, [time.perf_counter()]
        batch, finished, mean_cost = self.next_batch()
        clock.append(time.perf_counter())
        steps, state = (self.epoch + 1) * config.steps_per_epoch, self.algorithm_state
        with seeded_torch(config.seed, self.epoch):
            actor_log = plain(self.algorithm.update_actor(self.actor, batch, config.actor, steps, state))
        clock.append(time.perf_counter())
        settings = self.rngs["minibatch"], config.critic_passes, config.minibatch_size, config.critic
        self.critics.fit(batch.observation, batch.target, *settings)
        clock.append(time.perf_counter())
        for name, network in (("actor", self.actor), ("critics", self.critics)):
            if not torch.isfinite(network.theta).all():
                raise NonFiniteError(f"parameters of the {name} became non-finite")
        row = {
            "episodes": len(finished), "episode_return": mean(finished, "return"),
            "episode_cost": mean(finished, "cost"), "J_C": mean_cost, **self.totals,
            "cost_rate": self.totals["total_cost"] / steps,
            "lagrangian_multiplier": state.get("lagrangian_multiplier", np.nan),
            **actor_log, "std": float(self.actor.log_std().exp().mean()),
        }  # fmt: skip
        seconds = dict(zip(("rollout", "actor", "critics"), np.diff(clock), strict=True))
        return self.finish_epoch(row, seconds | {"total": clock[-1] - clock[0]})

    def account(self, rollout: Rollout) -> list[dict]:
        """Adds a rollout's costs and episodes to the records; returns the episodes that ended."""
        self.totals["total_cost"] += float(rollout.cost.sum())
        steps, done = {"return": rollout.reward, "cost": rollout.cost}, rollout.terminated | rollout.truncated
        return self.finish_episodes(steps, done, failed=rollout.terminated)

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, meta = super().state()
        arrays["observation"] = self.observation
        for name in PARTS:
            arrays |= prefixed(name, getattr(self, name).state_dict())
        return arrays, meta | {"algorithm": self.algorithm_state}

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        super().restore(arrays, meta)
        for name in PARTS:
            getattr(self, name).load_state_dict(unprefixed(name, arrays))
        self.observation = arrays["observation"].copy()
        self.algorithm_state = plain(meta["algorithm"])  # where tuples became lists
