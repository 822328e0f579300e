"""OmniSafe's own trainers (0.5.0, optional) on our environments, from our configs.

A run of theirs and one of ours therefore differ only in the code of the algorithm. One unit differs: OmniSafe averages
the KL also over the action's A components, so that

    KL_theirs = KL / A,      F_theirs + d I = (F + A d I) / A,

and our ball ½ εᵀ(F + A d I)ε ≤ A δ is OmniSafe's with damping d and radius δ: the same ellipsoid.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from shapo.algorithms import CPO, PIDLag, TRPOLag
from shapo.algorithms.advantages import Batch
from shapo.algorithms.config import Config
from shapo.algorithms.cpo import BINDING, FREE, RECOVERY
from shapo.algorithms.networks import GaussianActor, gaussian_kl
from shapo.envs import TASKS, make_env
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium

NAMES = {TRPOLag: "TRPOLag", PIDLag: "TRPOPID", CPO: "CPO"}  # what OmniSafe calls our baselines
CASES = {0: RECOVERY, 1: BINDING, 2: BINDING, 3: FREE, 4: FREE}  # OmniSafe's numbers of CPO's cases -> ours


def custom_cfgs(config: Config) -> dict[str, dict]:
    """The `custom_cfgs` of OmniSafe that mean the same as `config`.

    Raises ValueError for what OmniSafe does not have: perturbations, other baselines, CPO with the violation per step.
    """
    config = config.resolved
    algorithm = config.algorithm
    if config.actor is not None or config.critic is not None or type(algorithm) not in NAMES:
        raise ValueError(f"OmniSafe has TRPOLag, PIDLag and CPO, unperturbed; got {config}")
    actions, sizes = TASKS[config.task].action_dim, list(config.hidden_sizes)
    custom = {
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
            "actor": {"hidden_sizes": sizes}, "critic": {"hidden_sizes": sizes, "lr": config.critic_lr},
        },
    }  # fmt: skip
    if isinstance(algorithm, CPO):
        if algorithm.cost_per_step:
            raise ValueError("OmniSafe's CPO does not divide the violation by the steps: cost_per_step=False")
        custom["algo_cfgs"]["cost_limit"] = config.cost_limit
        return custom
    first = algorithm.lagrangian_multiplier_init
    theirs = {"cost_limit": config.cost_limit, "lagrangian_multiplier_init": first}
    if isinstance(algorithm, TRPOLag):
        theirs["lambda_lr"] = algorithm.lagrangian_multiplier_lr
    else:
        theirs |= {name: getattr(algorithm, name) for name in ("pid_kp", "pid_ki", "pid_kd", "pid_d_delay")}
        for name in ("pid_delta_p_ema", "pid_delta_d_ema"):
            theirs[f"{name}_alpha"] = getattr(algorithm, name)
    return custom | {"lagrange_cfgs": theirs}


@functools.cache
def environment() -> type:
    """Our environments as a class of OmniSafe's, under our names of the tasks. Raises ImportError without OmniSafe."""
    os.environ.update(WANDB_MODE="disabled", WANDB_ERROR_REPORTING="false")  # wandb is never used
    import_safety_gymnasium()
    from omnisafe.envs.core import CMDP, env_register

    @env_register
    class BatchedTask(CMDP):
        """Several environments, stepped together. episodes: (steps so far, return, cost, length) of every ended one."""

        _support_envs: ClassVar = list(TASKS)
        need_time_limit_wrapper = need_auto_reset_wrapper = False  # ours do both

        def __init__(self, env_id: str, num_envs: int = 1, device: Any = "cpu", **_):
            super().__init__(env_id)
            self._env, self._num_envs, self._device = make_env(env_id, num_envs), num_envs, device
            self._observation_space = self._env.single_observation_space
            self._action_space = self._env.single_action_space
            self._metadata, self._seed, self._steps = {}, 0, 0
            self._running, self.episodes = np.zeros((3, num_envs)), []

        def set_seed(self, seed: int) -> None:
            """Sets the seed of the next reset, hashed as in `shapo.train` so that two seeds share no environment."""
            self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)

        def reset(self, seed=None, options=None):
            """Resets, as OmniSafe does at every epoch. Episodes that have just begun stay, as in `shapo.train`."""
            if seed is not None:
                self.set_seed(seed)
            begin = self._seed is not None or self._running[2].any()
            observation = self._env.reset(seed=self._seed)[0] if begin else self._env.observe()
            self._seed, self._running[:] = None, 0
            return self._tensor(observation), {}

        def step(self, action):
            observation, reward, cost, terminated, truncated, info = self._env.step(action.cpu().numpy())
            self._steps += self._num_envs
            self._running += (reward, cost, np.ones(self._num_envs))
            done = terminated | truncated
            self.episodes += [(self._steps, *self._running[:, i]) for i in np.flatnonzero(done)]
            self._running[:, done] = 0
            if done.any():  # OmniSafe wants an array, and reads the rows of episodes that ended
                last = [observation[0] if row is None else row for row in info["final_observation"]]
                info["final_observation"] = self._tensor(np.array(last))
            return *map(self._tensor, (observation, reward, cost, terminated, truncated)), info

        def _tensor(self, values):
            return torch.as_tensor(values, dtype=torch.float32, device=self._device)

        def render(self):
            raise NotImplementedError("these environments draw nothing")

        def close(self) -> None:
            self._env.close()

    return BatchedTask


@contextmanager
def agent_for(
    config: Config, task: str | None = None, envs: int | None = None, threads: int = 1
) -> Iterator[tuple[Any, Path]]:
    """OmniSafe's trainer for `config`, and the folder it writes to, which is removed at the end. The trainer is silent.

    task, envs: an environment of OmniSafe's own instead of ours, and how many of them.
    """
    environment()
    import omnisafe

    terminal = {"vector_env_nums": envs or config.num_envs, "torch_threads": threads}
    terminal["total_steps"] = config.total_steps
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence, redirect_stdout(silence):
        logger = {"use_wandb": False, "use_tensorboard": False, "log_dir": folder}
        wrapper = omnisafe.Agent(
            NAMES[type(config.algorithm)], task or config.task, train_terminal_cfgs=terminal,
            custom_cfgs=custom_cfgs(config) | {"logger_cfgs": logger},
        )  # fmt: skip
        yield wrapper.agent, Path(folder)  # wrapper.learn() would go on to build an evaluator and a plotter


def progress(folder: Path) -> pd.DataFrame:
    """The progress that OmniSafe wrote to a folder, a row per epoch."""
    (path,) = folder.rglob("progress.csv")
    return pd.read_csv(path)


@contextmanager
def _adding(eps: float) -> Iterator[None]:
    """A context in which OmniSafe's conjugate gradient adds `eps` to its denominators; its own value is 1e-6."""
    from omnisafe.algorithms.on_policy.base import trpo
    from omnisafe.algorithms.on_policy.second_order import cpo

    name, solver = "conjugate_gradients", functools.partial(trpo.conjugate_gradients, eps=eps)
    with patch.object(trpo, name, solver), patch.object(cpo, name, solver):
        yield


def train(config: Config, eps: float = 1e-6) -> pd.DataFrame:
    """Trains a run of OmniSafe in this process, whose random state and torch settings it changes; a row per epoch.

    Columns, as in `Run.progress`: epoch, steps, episode_return, episode_cost, J_C, std, lagrangian_multiplier (CPO: ν*,
    nan in recovery), and CPO's case. eps: as in `_adding`. Raises ImportError without OmniSafe.
    """
    with agent_for(config) as (agent, folder), _adding(eps):
        agent.learn()
        theirs = progress(folder)
    columns = ["steps", "episode_return", "episode_cost", "length"]
    # OmniSafe's wrappers pass public names on, so this is the record of our environment inside them
    episodes = pd.DataFrame(agent._env._env.episodes, columns=columns)
    epoch = np.ceil(episodes["steps"] / config.steps_per_epoch).astype(int)
    table = episodes.groupby(epoch)[["episode_return", "episode_cost"]].mean()
    table = table.rename_axis("epoch").reindex(range(1, config.epochs + 1)).reset_index()
    table.insert(1, "steps", table["epoch"] * config.steps_per_epoch)
    table["J_C"], table["std"] = theirs["Metrics/EpCost"], theirs["Train/PolicyStd"]
    if isinstance(config.algorithm, CPO):
        table["case"] = theirs["Misc/OptimCase"].map(CASES)
        return table.assign(lagrangian_multiplier=theirs["Misc/Nu_star"].where(table["case"] != RECOVERY))
    return table.assign(lagrangian_multiplier=theirs["Metrics/LagrangeMultiplier"])


def shadow(config: Config, eps: float = 1e-6) -> pd.DataFrame:
    """Trains OmniSafe, and at every update computes our step from the same parameters on the same batch.

    A row per epoch: epoch; cosine of the angle between the two steps, and ratio of their lengths, ours to theirs (nan
    where either is zero); kl and their_kl of the new policies, nats; their_multiplier and our lagrangian_multiplier
    after as many updates by the same costs (CPO: only ours, ν*, and its case). eps: as in `_adding`.
    """
    config = config.resolved
    algorithm, rows, state = config.algorithm, [], config.algorithm.initial_state()
    with agent_for(config) as (agent, _), _adding(eps):
        update = agent._update_actor

        def beside(obs, act, logp, adv_r, adv_c):
            nonlocal state
            cost, length = (agent._logger.get_stats(f"Metrics/{name}")[0] for name in ("EpCost", "EpLen"))
            state = algorithm.observe(state, cost, config.cost_limit)
            actor = GaussianActor(obs.shape[1], act.shape[1], config.hidden_sizes)
            actor.theta = before = _parameters(agent)
            batch = Batch(obs, act, torch.stack([adv_r, adv_c]), target=None, episode_length=length)
            log = algorithm.update_actor(actor, batch, None, len(rows), state)
            update(obs, act, logp, adv_r, adv_c)
            ours, theirs = actor.theta - before, _parameters(agent) - before
            length, their_length = float(ours.norm()), float(theirs.norm())
            moved = min(length, their_length) > 0
            rows.append({
                "epoch": len(rows) + 1,
                "cosine": float(ours @ theirs) / (length * their_length) if moved else np.nan,
                "ratio": length / their_length if moved else np.nan,
                "kl": _kl(actor, obs, before, before + ours), "their_kl": _kl(actor, obs, before, before + theirs),
                "lagrangian_multiplier": state.get("lagrangian_multiplier"),
                "their_multiplier": _multiplier(agent),
            } | {name: log[name] for name in ("lagrangian_multiplier", "case") if name in log})  # fmt: skip

        agent._update_actor = beside
        agent.learn()
    return pd.DataFrame(rows)


def _multiplier(agent: Any) -> float:
    """λ of OmniSafe's Lagrangian methods; nan for CPO, which has none."""
    if not hasattr(agent, "_lagrange"):
        return np.nan
    multiplier = agent._lagrange.lagrangian_multiplier  # a parameter of PyTorch's, or a float
    return multiplier.item() if isinstance(multiplier, Tensor) else multiplier


def _parameters(agent: Any) -> Tensor:
    """Parameters (P,) of OmniSafe's actor in the order of `GaussianActor.theta`: log σ, first in theirs, goes last."""
    actor = agent._actor_critic.actor
    weights = [p.detach().flatten() for name, p in actor.named_parameters() if name != "log_std"]
    return torch.cat([*weights, actor.log_std.detach()])


def _kl(actor: GaussianActor, observation: Tensor, theta0: Tensor, theta: Tensor) -> float:
    """E_s KL(π_θ₀ ‖ π_θ), nats."""
    means = (actor.mean(observation, parameters) for parameters in (theta0, theta))
    (mean0, mean), (log_std0, log_std) = means, (actor.log_std(theta0), actor.log_std(theta))
    return float(gaussian_kl(mean0, log_std0, mean, log_std).mean())
