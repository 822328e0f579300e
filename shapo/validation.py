"""Ours beside OmniSafe's own code: TRPO-Lagrangian, TRPO-PID and CPO on one task, with the same numbers.

OmniSafe (0.5.0, optional) trains here on our batched environment, which replays safety_gymnasium's bit for bit, so that
two runs differ by the algorithm's code and by nothing else. `omnisafe_settings` translates a `Config` into OmniSafe's
settings; the one unit that differs is the KL, which OmniSafe averages over the action's A components, too:

    KL_theirs = KL / A,    F_theirs + d I = (F + A d I) / A,    ½ εᵀ(F + A d I)ε ≤ A δ_theirs

so our δ_Up = 0.02 and damping 0.2 are OmniSafe's 0.01 and 0.1 on a task with two actions: the same ellipsoid.
"""

from __future__ import annotations

import functools
import os
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from shapo.algorithms import CPO, PIDLag, TRPOLag
from shapo.algorithms.cpo import BINDING, FREE, RECOVERY
from shapo.config import Config
from shapo.envs import TASKS, make_env
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium

# OmniSafe's defaults in our units; CPO with OmniSafe's cost violation, which is not divided by the episode's length.
BASELINES = {
    "TRPO-Lag": TRPOLag(target_kl=0.02, cg_damping=0.2),
    "TRPO-PID": PIDLag(target_kl=0.02, cg_damping=0.2),
    "CPO": CPO(target_kl=0.02, cg_damping=0.2, line_search_steps=20, cost_per_step=False),
}
THEIR_NAMES = {TRPOLag: "TRPOLag", PIDLag: "TRPOPID", CPO: "CPO"}
CASES = {0: RECOVERY, 1: BINDING, 2: BINDING, 3: FREE, 4: FREE}  # OmniSafe's numbers of CPO's cases, as ours


def configs(total_steps: int, seeds: int, task: str = "PointGoal1-v0") -> dict[str, list[Config]]:
    """Per baseline the runs to compare, one config per seed; whole episodes to an epoch."""
    return {
        name: [Config(task, algorithm, total_steps=total_steps, seed=seed) for seed in range(seeds)]
        for name, algorithm in BASELINES.items()
    }


def omnisafe_settings(config: Config, actions: int) -> dict[str, dict]:
    """OmniSafe's `custom_cfgs` that mean what `config` means on a task with `actions` action components.

    Raises ValueError for what OmniSafe cannot do: a perturbation, or CPO with the violation per step.
    """
    algorithm = config.algorithm
    if config.actor is not None or config.critic is not None or type(algorithm) not in THEIR_NAMES:
        raise ValueError(
            f"OmniSafe has no counterpart of {config}; it has {', '.join(BASELINES)}, unperturbed"
        )
    settings = {
        "seed": config.seed,
        "algo_cfgs": {
            "steps_per_epoch": config.steps_per_epoch, "update_iters": config.critic_passes,
            "batch_size": config.minibatch_size, "target_kl": algorithm.target_kl / actions,
            "cg_damping": algorithm.cg_damping / actions, "cg_iters": algorithm.cg_iterations,
            "gamma": config.gamma, "cost_gamma": config.cost_gamma, "lam": config.gae_lambda,
            "lam_c": config.cost_gae_lambda, "max_grad_norm": config.max_grad_norm,
            "critic_norm_coef": config.critic_l2,
        },
        "model_cfgs": {
            "actor": {"hidden_sizes": list(config.hidden_sizes)},
            "critic": {"hidden_sizes": list(config.hidden_sizes), "lr": config.critic_lr},
        },
    }  # fmt: skip
    if isinstance(algorithm, CPO):
        if algorithm.cost_per_step:
            raise ValueError("OmniSafe's CPO does not divide the violation: give CPO(cost_per_step=False)")
        settings["algo_cfgs"]["cost_limit"] = config.cost_limit
        return settings
    theirs = {"lagrangian_multiplier_init": algorithm.lagrangian_multiplier_init}
    if isinstance(algorithm, TRPOLag):
        theirs["lambda_lr"] = algorithm.lagrangian_multiplier_lr
    else:
        theirs |= {name: getattr(algorithm, name) for name in ("pid_kp", "pid_ki", "pid_kd", "pid_d_delay")}
        theirs |= {
            f"{name}_alpha": getattr(algorithm, name) for name in ("pid_delta_p_ema", "pid_delta_d_ema")
        }
    return settings | {"lagrange_cfgs": {"cost_limit": config.cost_limit, **theirs}}


@functools.cache
def omnisafe_environment() -> type:
    """Our environments as a class of OmniSafe's, registered under our names of the tasks. Raises ImportError."""
    os.environ.update(WANDB_MODE="disabled", WANDB_ERROR_REPORTING="false")  # imported, never used
    import_safety_gymnasium()
    import torch
    from omnisafe.envs.core import CMDP, env_register

    @env_register
    class BatchedTask(CMDP):
        """Several environments, stepped together. It keeps a record of the episodes: `episodes`."""

        _support_envs: ClassVar = list(TASKS)
        need_time_limit_wrapper = need_auto_reset_wrapper = False  # ours do both

        def __init__(self, env_id: str, num_envs: int = 1, device: Any = "cpu", **_):
            super().__init__(env_id)
            self._env, self._num_envs, self._device = make_env(env_id, num_envs), num_envs, device
            self._observation_space = self._env.single_observation_space
            self._action_space = self._env.single_action_space
            self._metadata, self._seed, self._steps = {}, None, 0
            self._running, self.episodes = np.zeros((3, num_envs)), []

        def set_seed(self, seed: int) -> None:
            """Of the next reset; as in `shapo.train`, which keeps the environments of two seeds apart."""
            self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)

        def reset(self, seed=None, options=None):
            """OmniSafe resets at every epoch: an episode that has not begun yet stays."""
            if seed is not None:
                self.set_seed(seed)
            if self._seed is not None or self._running[2].any():
                observation, _ = self._env.reset(seed=self._seed)
            else:
                observation = self._env.observe()
            self._seed, self._running[:] = None, 0
            return self._tensor(observation), {}

        def step(self, action):
            observation, reward, cost, terminated, truncated, info = self._env.step(action.cpu().numpy())
            self._steps += self._num_envs
            self._running += (reward, cost, np.ones(self._num_envs))
            done = terminated | truncated
            for i in np.flatnonzero(done):
                self.episodes.append((self._steps, *self._running[:, i]))
            self._running[:, done] = 0
            if done.any():  # OmniSafe wants an array; rows of episodes that go on are not read
                last = [observation[0] if row is None else row for row in info["final_observation"]]
                info["final_observation"] = self._tensor(np.array(last))
            tensors = map(self._tensor, (observation, reward, cost, terminated, truncated))
            return (*tensors, info)

        def _tensor(self, values):
            return torch.as_tensor(values, dtype=torch.float32, device=self._device)

        def render(self):
            raise NotImplementedError("these environments draw nothing")

        def close(self) -> None:
            self._env.close()

    return BatchedTask


def train_omnisafe(config: Config) -> pd.DataFrame:
    """One run of OmniSafe's, in this process, whose random state and torch settings it changes; a row per epoch.

    Columns as in `Run.progress`: epoch, steps, episode_return, episode_cost (means of the epoch's episodes), J_C,
    lagrangian_multiplier (CPO: ν*, nan in recovery), std, and CPO's case. Raises ImportError without OmniSafe.
    """
    omnisafe_environment()
    import omnisafe

    actions = make_env(config.task).single_action_space.shape[0]
    terminal = {"vector_env_nums": config.num_envs, "torch_threads": 1, "total_steps": config.total_steps}
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence, redirect_stdout(silence):
        logger = {"use_wandb": False, "use_tensorboard": False, "log_dir": folder}
        wrapper = omnisafe.Agent(
            THEIR_NAMES[type(config.algorithm)], config.task, train_terminal_cfgs=terminal,
            custom_cfgs=omnisafe_settings(config, actions) | {"logger_cfgs": logger},
        )  # fmt: skip
        wrapper.agent.learn()
        (path,) = Path(folder).rglob("progress.csv")
        theirs = pd.read_csv(path)
    columns = ["steps", "episode_return", "episode_cost", "length"]
    # a wrapper hands on public names: this is our environment's record, inside OmniSafe's wrappers
    episodes = pd.DataFrame(wrapper.agent._env._env.episodes, columns=columns)
    epoch = np.ceil(episodes["steps"] / config.steps_per_epoch).astype(int)
    table = episodes.groupby(epoch)[["episode_return", "episode_cost"]].mean()
    table = table.rename_axis("epoch").reindex(range(1, config.epochs + 1)).reset_index()
    table.insert(1, "steps", table["epoch"] * config.steps_per_epoch)
    table["J_C"], table["std"] = theirs["Metrics/EpCost"], theirs["Train/PolicyStd"]
    if isinstance(config.algorithm, CPO):
        table["case"] = theirs["Misc/OptimCase"].map(CASES)
        return table.assign(lagrangian_multiplier=theirs["Misc/Nu_star"].where(table["case"] != RECOVERY))
    return table.assign(lagrangian_multiplier=theirs["Metrics/LagrangeMultiplier"])
