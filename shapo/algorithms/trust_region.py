"""The trust-region policy update that all baselines share, with SHAPO's one change to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from shapo.algorithms.advantages import Batch, Rollout
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import GaussianActor, gaussian_kl, gaussian_log_prob
from shapo.algorithms.sample_size import Samples
from shapo.checks import (
    AT_LEAST_0,
    BELOW_1,
    POSITIVE,
    Checked,
    NonFiniteError,
    epsilon_of,
    filled,
    setting,
    whole,
)
from shapo.envs.batched import Task
from shapo.sharpness import Fisher, conjugate_gradient, sharpness_aware_gradient, trust_region_step

State = dict[str, float | tuple[float, ...]]


class Surrogate:
    """L_π₀(θ) = E_{s,a~π₀}[ π_θ(a|s)/π₀(a|s) · A ] on one batch, where π₀ is the actor's policy at construction.

    Advantages are (B,), or (K, B) if a baseline follows K surrogates at once; values and gradients then have K rows.
    """

    def __init__(self, actor: GaussianActor, batch: Batch):
        self.actor, self.batch = actor, batch
        self.theta0 = actor.theta
        self.mean0, self.log_std0 = actor.mean(batch.observation), actor.log_std()
        self.log_prob0 = gaussian_log_prob(batch.action, self.mean0, self.log_std0)

    def value(self, theta: Tensor, advantage: Tensor, mean: Tensor | None = None) -> Tensor:
        """L_π₀(θ), a scalar or (K,). mean: μ_θ(s), if it is known already."""
        mean = self.actor.mean(self.batch.observation, theta) if mean is None else mean
        log_prob = gaussian_log_prob(self.batch.action, mean, self.actor.log_std(theta))
        return (torch.exp(log_prob - self.log_prob0) * advantage).mean(-1)

    def gradient(self, theta: Tensor, advantage: Tensor) -> Tensor:
        """∇L_π₀(θ), (P,) or (K, P). Raises NonFiniteError if it is not finite."""
        if advantage.dim() == 2:
            return torch.stack([self.gradient(theta, row) for row in advantage])
        theta = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.value(theta, advantage), theta)
        if not torch.isfinite(gradient).all():
            raise NonFiniteError("the gradient of the surrogate became non-finite")
        return gradient

    def terms(self, advantage: Tensor, x: Tensor) -> Tensor:
        """The terms A_t ∇log π(a_t|s_t)ᵀx, (B,), whose mean is ∇L_π₀(θ₀)ᵀx."""

        def log_prob(theta: Tensor) -> Tensor:
            mean = self.actor.mean(self.batch.observation, theta)
            return gaussian_log_prob(self.batch.action, mean, self.actor.log_std(theta))

        return advantage * torch.func.jvp(log_prob, (self.theta0,), (x,))[1]

    def cross_fitted_terms(self, advantage: Tensor, fisher: Fisher) -> np.ndarray:
        """The terms (T, n) along F⁻¹g, with g from the *other* half of the environments (of the steps, if n is 1).

        A direction fitted to the terms themselves would align with all that they have in common, noise included, and
        make them look correlated. Each half is centred and scaled to variance 1.
        """
        steps, n = self.batch.episode.shape
        half = np.zeros((steps, n), bool)
        half[:, : n // 2] = True
        if n == 1:
            half[: steps // 2] = True
        y = np.empty((steps, n))
        for mine in (half, ~half):
            others = torch.from_numpy(~mine.ravel()).to(advantage.dtype)
            x, *_ = conjugate_gradient(
                fisher, self.gradient(self.theta0, advantage * others), iterations=fisher.iterations
            )
            terms = self.terms(advantage, x).double().numpy().reshape(steps, n)[mine]
            y[mine] = (terms - terms.mean()) / (terms.std() or 1.0)
        return y

    def value_and_kl(self, theta: Tensor, advantage: Tensor) -> tuple[float | list[float], float]:
        """L_π₀(θ), a number or K of them, and E_s KL(π₀ ‖ π_θ) in nats."""
        mean = self.actor.mean(self.batch.observation, theta)
        kl = gaussian_kl(self.mean0, self.log_std0, mean, self.actor.log_std(theta)).mean()
        return self.value(theta, advantage, mean).tolist(), float(kl)


def standardised(advantage: Tensor) -> Tensor:
    """(A − mean) / std, as SafePO and OmniSafe scale A_r."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def centred(advantage: Tensor) -> Tensor:
    """A − mean, as SafePO and OmniSafe treat A_c: λ must see the scale of A_c."""
    return advantage - advantage.mean()


@dataclass(frozen=True)
class TrustRegion(Checked):
    """Trust-region update of the actor (TRPO, Schulman et al. 2015); subclasses say which advantage it follows.

    A baseline is a frozen dataclass of its hyperparameters. What it learns between updates (a multiplier) is in a plain
    `state` of floats and tuples of floats, so that checkpoints need not know the baseline.
    """

    extra_observations: ClassVar[int] = 0  # columns that `wrap` appends to observations; not normalised

    # δ_Up, radius of the step in nats of the whole action; None: 0.01 per component of an action.
    target_kl: float | None = setting(POSITIVE, None)
    cg_iterations: int = setting(whole(1), 15)  # limit of conjugate-gradient products per solve
    # F + damping · I is used for F, of the whole action; None: 0.1 per component of an action.
    cg_damping: float | None = setting(AT_LEAST_0, None)
    line_search_steps: int = setting(whole(1), 15)  # limit of trials per line search
    line_search_decay: float = setting(BELOW_1, 0.8)  # factor between two trials

    def resolved(self, task: Task, cost_limit: float) -> TrustRegion:
        """The baseline as it runs on a task: fields that are None get their numbers for this task.

        SafePO and OmniSafe take the KL, and with it F, as a mean over the d components of an action. Their 0.01 and 0.1
        are 0.01 d and 0.1 d of the whole action, the unit used here. Raises ValueError if the baseline is not defined
        for the cost limit.
        """
        return filled(self, target_kl=task.action_dim / 100, cg_damping=task.action_dim / 10)

    def wrap(self, env, cost_limit: float):
        """The environment as the policy sees it."""
        return env

    def learned_reward(self, rollout: Rollout) -> np.ndarray:
        """Rewards (T, n) to learn from; the records of episodes and progress keep the task's own."""
        return rollout.reward

    def initial_state(self) -> State:
        """The state before the first update."""
        return {"lagrangian_multiplier": 0.0}

    def observe(self, state: State, mean_cost: float, cost_limit: float) -> State:
        """The state after observing J_C, the mean undiscounted cost of the last 50 finished episodes."""
        return state

    def advantage(self, state: State, batch: Batch) -> Tensor:
        """The advantage (B,) of the objective to maximise, in TRPO A_r; or (K, B) for K surrogates."""
        return standardised(batch.advantage[0])

    def objective(
        self, gradient: Tensor, advantage: Tensor, fisher: Fisher, state: State
    ) -> tuple[Tensor, Tensor]:
        """Gradient (P,) and advantage (B,) of the single objective that a perturbation worsens."""
        return gradient, advantage

    def step(self, gradient: Tensor, fisher: Fisher, state: State) -> tuple[Tensor, dict[str, float]]:
        """The step ε_Up (P,) for the gradient at the perturbed parameters, and a dict to log."""
        return trust_region_step(gradient, fisher, self.target_kl), {}

    def accepts(self, change: np.ndarray, state: State | None) -> bool:
        """Whether the line search may stop at this change of the surrogate, 0-d or (K,)."""
        return bool(change >= 0)

    def update_actor(
        self, actor: GaussianActor, batch: Batch, perturbation: Callable | None, steps: int, state: State
    ) -> dict[str, float]:
        """Moves the actor by one trust-region step; returns what to log.

        perturbation: ε(g, F, n_t); the gradient is taken at θ₀ + ε (SHAPO). None: the baseline as published.
        steps: n_t, environment steps seen so far. Raises ValueError for fields of None and for a batch of one sample.
        """
        if self.target_kl is None or self.cg_damping is None:
            raise ValueError(
                "target_kl and cg_damping are None: give numbers, or take the task's from `config.resolved.algorithm`"
            )
        if len(batch.observation) < 2:
            raise ValueError("batch must have at least 2 samples, to standardise advantages over; got 1")
        surrogate = Surrogate(actor, batch)
        fisher = GaussianFisher(actor, batch.observation, self.cg_damping, self.cg_iterations)
        advantage, theta0 = self.advantage(state, batch), actor.theta
        log = {}

        def perturb(gradient: Tensor) -> Tensor:
            objective, its = self.objective(gradient, advantage, fisher, state)
            samples = Samples(steps, lambda: surrogate.cross_fitted_terms(its, fisher), batch.episode)
            epsilon = epsilon_of(perturbation, objective, fisher, samples)
            worst, kl = surrogate.value_and_kl(theta0 + epsilon, its)
            log.update(kl_down=kl, surrogate_down=worst, surrogate_down_linear=float(objective @ epsilon))
            if "autocorrelation_time" in vars(samples):  # where a schedule has used it
                log.update(autocorrelation_time=samples.autocorrelation_time, n_eff=samples.effective)
            return epsilon

        gradient = sharpness_aware_gradient(
            lambda theta: surrogate.gradient(theta, advantage), theta0, perturbation and perturb
        )
        step, described = self.step(gradient, fisher, state)
        actor.theta, accepted = self.line_search(surrogate, advantage, step, state)
        return log | described | accepted | {"cg_products": float(sum(fisher.solves))}

    def line_search(
        self, surrogate: Surrogate, advantage: Tensor, step: Tensor, state: State | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """θ₀ + decayᵏ ε for the first k that `accepts` allows with KL(π₀ ‖ ·) ≤ target_kl, else θ₀; and what to log."""
        theta0 = surrogate.theta0
        before = np.array(advantage.mean(-1).tolist())  # L_π₀(θ₀), where the ratio is 1
        names = ("improvement", "cost_change")
        for trial in range(self.line_search_steps):
            theta = theta0 + self.line_search_decay**trial * step
            value, kl = surrogate.value_and_kl(theta, advantage)
            change = value - before
            if kl <= self.target_kl and self.accepts(change, state):
                changes = dict(zip(names, np.atleast_1d(change).tolist(), strict=False))
                return theta, {"kl": kl, **changes, "line_search_trials": trial + 1.0}
        changes = dict.fromkeys(names[: before.size], 0.0)
        return theta0, {"kl": 0.0, **changes, "line_search_trials": math.nan}
