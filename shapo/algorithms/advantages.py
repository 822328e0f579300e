"""The on-policy batch: rollouts of all environments together, and generalised advantage estimation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shapo.algorithms.critics import Critics
from shapo.algorithms.networks import GaussianActor, RunningNormalizer
from shapo.checks import NonFiniteError


@dataclass
class Rollout:
    """T steps of n environments, time first. Observations are normalised float32; other numbers are float64.

    next_observation: s_T. final_observation: for every (t, i) at which an episode ended, its last observation.
    """

    observation: Tensor  # (T, n, obs)
    action: np.ndarray  # (T, n, act)
    reward: np.ndarray  # (T, n)
    cost: np.ndarray  # (T, n)
    terminated: np.ndarray  # (T, n) bool
    truncated: np.ndarray  # (T, n) bool
    next_observation: Tensor  # (n, obs)
    final_observation: dict[tuple[int, int], Tensor]


def collect(
    env,
    actor: GaussianActor,
    normalizer: RunningNormalizer,
    observation: np.ndarray,
    steps: int,
    rng: np.random.Generator,
) -> tuple[Rollout, np.ndarray]:
    """Rolls the policy out for `steps` steps of every environment from `observation` (n, obs), which is not normalised.

    Returns the rollout and the observation to continue from. Raises NonFiniteError, naming the step and the quantity.
    """
    n, act_dim = env.num_envs, env.single_action_space.shape[0]
    states = torch.empty(steps, n, observation.shape[1])
    actions, reward, cost = np.empty((steps, n, act_dim)), np.empty((steps, n)), np.empty((steps, n))
    terminated, truncated = np.empty((steps, n), bool), np.empty((steps, n), bool)
    final = {}
    for t in range(steps):
        normalizer.update(observation)
        states[t] = normalizer(observation)
        actions[t] = actor.sample(states[t], rng)
        observation, reward[t], cost[t], terminated[t], truncated[t], info = env.step(actions[t])
        for name, value in (("observation", observation), ("reward", reward[t]), ("cost", cost[t])):
            if not np.isfinite(value.sum()):
                raise NonFiniteError(f"{name} became non-finite at step {t} of the rollout")
        if "_final_observation" in info:
            for i in np.flatnonzero(info["_final_observation"]):
                final[t, int(i)] = normalizer(info["final_observation"][i])
    last = normalizer(observation)
    return Rollout(states, actions, reward, cost, terminated, truncated, last, final), observation


@dataclass
class Batch:
    """The B = T · n samples of an update. Advantages are as estimated: neither centred nor scaled."""

    observation: Tensor  # (B, obs) normalised
    action: Tensor  # (B, act)
    advantage: Tensor  # (2, B): of reward and of cost, A_r and A_c
    target: Tensor  # (2, B): what V_r and V_c are fitted to
    episode_length: float = math.nan  # mean length of the episodes over which J_C is taken
    episode: np.ndarray | None = None  # (T, n) equal where two steps of an environment belong to one episode


def gae(
    reward: np.ndarray, value: np.ndarray, next_value: np.ndarray, terminated: np.ndarray, done: np.ndarray,
    gamma: np.ndarray | float, lam: np.ndarray | float,
) -> np.ndarray:  # fmt: skip
    """Generalised advantages (Schulman et al. 2016, eq. 16), time on axis 0.

        δ_t = r_t + γ V(s_{t+1}) − V(s_t),    A_t = δ_t + γλ A_{t+1}

    V(s_{t+1}) counts as 0 where the episode terminated. The sum is cut where the episode is done, i.e. terminated or
    truncated. next_value[t]: V of the state that followed, before any reset. All arrays broadcast together.
    """
    delta = reward + gamma * next_value * ~terminated - value
    discount = gamma * lam * ~done
    advantage = np.empty_like(delta)
    tail = np.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        tail = delta[t] + discount[t] * tail
        advantage[t] = tail
    return advantage


def make_batch(
    rollout: Rollout,
    critics: Critics,
    gammas: tuple[float, float],
    lambdas: tuple[float, float],
    episode_length: float = math.nan,
) -> Batch:
    """Values, advantages and critic targets of a rollout; gammas and lambdas are (reward's, cost's)."""
    steps, n = rollout.reward.shape
    observation = rollout.observation.reshape(steps * n, -1)
    value = critics.values(observation).numpy().astype(np.float64).reshape(2, steps, n)
    last = critics.values(rollout.next_observation).numpy()
    next_value = np.concatenate([value[:, 1:], last[:, None]], axis=1)
    if rollout.final_observation:  # an episode ends in its own last state, not in the reset's
        where = np.array(list(rollout.final_observation))
        final = critics.values(torch.stack(list(rollout.final_observation.values()))).numpy()
        next_value[:, where[:, 0], where[:, 1]] = final
    to_time_first = (1, 2, 0)
    rewards = np.stack([rollout.reward, rollout.cost], axis=-1)
    done = rollout.terminated | rollout.truncated
    advantage = gae(
        rewards, value.transpose(to_time_first), next_value.transpose(to_time_first),
        rollout.terminated[..., None], done[..., None], np.array(gammas), np.array(lambdas),
    ).transpose(2, 0, 1)  # fmt: skip
    return Batch(
        observation=observation,
        action=torch.tensor(rollout.action.reshape(steps * n, -1), dtype=torch.float32),
        advantage=torch.tensor(advantage.reshape(2, -1), dtype=torch.float32),
        target=torch.tensor((advantage + value).reshape(2, -1), dtype=torch.float32),
        episode=np.cumsum(done, axis=0) - done,
        episode_length=episode_length,
    )
