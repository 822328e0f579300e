# ruff: noqa: NPY002
"""PPO of stable-baselines3, the zeroth-order reference, on the same robots and in the same store.

stable-baselines3 draws from the global generators of NumPy and PyTorch. Each iteration seeds them with the run's seed
and its own number, so that an interrupted run continues with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from shapo.robots.env import DifferentiableEnv
from shapo.robots.trainer import RobotTrainer, Window
from shapo.runs.identity import RunConfig
from shapo.runs.store import prefixed, unprefixed
from shapo.runs.train import seeded_torch

LOGGED = {"kl": "approx_kl", "loss": "loss", "critic_loss": "value_loss", "std": "std"}  # ours: theirs


class RobotVecEnv(VecEnv):
    """`DifferentiableEnv` with the interface of stable-baselines3; `window` records the steps since it was set."""

    def __init__(self, env: DifferentiableEnv):
        self.env, self.window = env, Window()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        return self.env.reset().numpy()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = torch.from_numpy(actions)

    @torch.no_grad()
    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict]]:
        before = self.env.observation()
        observation, reward, terminated, truncated, info = self.env.step(self.actions)
        self.window.append(before, reward, terminated, truncated, info)
        done, infos = terminated | truncated, [{} for _ in range(self.num_envs)]
        for i in done.nonzero()[:, 0].tolist():
            last = info["final_observation"][i].numpy()
            infos[i] = {"terminal_observation": last, "TimeLimit.truncated": bool(truncated[i])}
        return observation.numpy(), reward.numpy().copy(), done.numpy(), infos

    def close(self) -> None:
        """Does nothing: there is nothing to close."""

    def get_attr(self, attr_name, indices=None):
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError("the robots share one environment, whose attributes are not set one by one")

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        raise NotImplementedError("the robots share one environment, whose methods are not called one by one")

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


@contextmanager
def _seeded(*entropy: int) -> Iterator[None]:
    """Seeds the global generators of NumPy and PyTorch with `entropy` inside; outside they continue as before."""
    before = np.random.get_state()
    try:
        np.random.seed(np.random.SeedSequence(entropy).generate_state(4))
        with seeded_torch(*entropy):
            yield
    finally:
        np.random.set_state(before)


class PPOTrainer(RobotTrainer):
    """Runs the `learn` of stable-baselines3 one iteration at a time."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        ppo, self.robots = self.algorithm, RobotVecEnv(self.env)
        self.scaled = VecNormalize(self.robots, gamma=ppo.gamma)  # scales observations and rewards
        networks = {"pi": list(ppo.actor_hidden_sizes), "vf": list(ppo.critic_hidden_sizes)}
        with _seeded(config.seed):
            self.model = stable_baselines3.PPO(
                "MlpPolicy", self.scaled, learning_rate=ppo.learning_rate, n_steps=ppo.horizon,
                batch_size=config.steps_per_epoch // ppo.minibatches, n_epochs=ppo.passes, gamma=ppo.gamma,
                gae_lambda=ppo.gae_lambda, clip_range=ppo.clip_range, max_grad_norm=ppo.max_grad_norm, device="cpu",
                policy_kwargs={"net_arch": networks, "activation_fn": torch.nn.ELU, "log_std_init": ppo.log_std_init},
            )  # fmt: skip
        self.model.set_logger(Logger(None, []))

    def run_epoch(self) -> dict:
        """Runs one iteration, a rollout and `passes` over it; returns its row of progress."""
        self.robots.window, clock = Window(), time.perf_counter()
        with _seeded(self.config.seed, self.epoch + 1):  # + 1, because SeedSequence ignores a trailing 0
            try:
                self.model.learn(self.config.steps_per_epoch, log_interval=None, reset_num_timesteps=False)
            finally:  # replaces the ValueError of PyTorch's distributions for NaN
                self.check_parameters(**{"actor or the critic": self.model.policy.parameters()})
        logged = self.model.logger.name_to_value
        log = {name: float(logged[f"train/{theirs}"]) for name, theirs in LOGGED.items()}
        return self.account(self.robots.window, log, {"total": time.perf_counter() - clock})

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, meta = super().state()
        arrays |= prefixed("returns", _moments(self.scaled.ret_rms))
        arrays |= prefixed("normalizer", _moments(self.scaled.obs_rms))
        arrays["discounted"] = self.scaled.returns.copy()
        if self.epoch:
            arrays["observation"] = self.model._last_obs.copy()
            arrays["began"] = self.model._last_episode_starts.copy()
        for name, value in self.model.policy.state_dict().items():
            arrays[f"policy/{name}"] = value.numpy().copy()
        for index, moments in self.model.policy.optimizer.state_dict()["state"].items():
            copies = {name: value.numpy().copy() for name, value in moments.items()}
            arrays |= prefixed(f"adam/{index}", copies)
        return arrays, meta | {"num_timesteps": self.model.num_timesteps, "n_updates": self.model._n_updates}

    def restore(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        super().restore(arrays, meta)
        for name, statistics in (("normalizer", self.scaled.obs_rms), ("returns", self.scaled.ret_rms)):
            for field, value in unprefixed(name, arrays).items():
                setattr(statistics, field, value.copy())
        self.scaled.returns = arrays["discounted"].copy()
        if "observation" in arrays:
            self.model._last_obs = arrays["observation"].copy()
            self.model._last_episode_starts = arrays["began"].copy()
        policy, optimizer = self.model.policy, self.model.policy.optimizer
        weights = unprefixed("policy", arrays).items()
        policy.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights})
        parameters = list(policy.parameters())
        moments: dict[int, dict] = {}
        for name, value in unprefixed("adam", arrays).items():
            index, moment = name.split("/")
            like = torch.zeros(()) if moment == "step" else parameters[int(index)]
            moments.setdefault(int(index), {})[moment] = torch.from_numpy(value.copy()).view_as(like)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
        self.model.num_timesteps, self.model._n_updates = meta["num_timesteps"], meta["n_updates"]


def _moments(statistics) -> dict[str, np.ndarray]:
    """The arrays of a running mean and variance of stable-baselines3."""
    return {name: np.array(getattr(statistics, name)) for name in ("mean", "var", "count")}
