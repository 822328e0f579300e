"""The trust-region policy update that every baseline shares, with SHAPO's one change to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shapo.advantages import Batch, NonFiniteError
from shapo.fisher import GaussianFisher
from shapo.networks import GaussianActor, gaussian_kl, gaussian_log_prob
from shapo.sharpness import Perturbation, sharpness_aware_gradient, trust_region_step

State = dict[str, float | tuple[float, ...]]


class Surrogate:
    """L_π₀(θ) = E_{s,a~π₀}[ π_θ(a|s)/π₀(a|s) · A ] on one batch, π₀ the actor's policy when this was made."""

    def __init__(self, actor: GaussianActor, batch: Batch):
        self.actor, self.batch = actor, batch
        self.theta0 = actor.theta
        self.mean0, self.log_std0 = actor.mean(batch.observation), actor.log_std()
        self.log_prob0 = gaussian_log_prob(batch.action, self.mean0, self.log_std0)

    def value(self, theta: Tensor, advantage: Tensor, mean: Tensor | None = None) -> Tensor:
        """L_π₀(θ), a scalar. advantage: (B,). mean: μ_θ(s) where it is known already."""
        mean = self.actor.mean(self.batch.observation, theta) if mean is None else mean
        log_prob = gaussian_log_prob(self.batch.action, mean, self.actor.log_std(theta))
        return (torch.exp(log_prob - self.log_prob0) * advantage).mean()

    def gradient(self, theta: Tensor, advantage: Tensor) -> Tensor:
        """∇L_π₀(θ), (P,). Raises NonFiniteError."""
        theta = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.value(theta, advantage), theta)
        if not torch.isfinite(gradient).all():
            raise NonFiniteError("the gradient of the surrogate became non-finite")
        return gradient

    def value_and_kl(self, theta: Tensor, advantage: Tensor) -> tuple[float, float]:
        """L_π₀(θ) and E_s KL(π₀ ‖ π_θ), nats."""
        mean = self.actor.mean(self.batch.observation, theta)
        kl = gaussian_kl(self.mean0, self.log_std0, mean, self.actor.log_std(theta)).mean()
        return float(self.value(theta, advantage, mean)), float(kl)


def standardised(advantage: Tensor) -> Tensor:
    """(A − mean) / std: how SafePO and OmniSafe scale A_r."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def centred(advantage: Tensor) -> Tensor:
    """A − mean: how they treat A_c, whose scale λ has to see."""
    return advantage - advantage.mean()


@dataclass(frozen=True)
class TrustRegion:
    """Trust-region update of the actor (TRPO, Schulman et al. 2015); subclasses say which advantage it follows.

    A baseline is a frozen dataclass of its hyperparameters; what it learns between updates (multipliers) lives in a
    plain `state` of floats and tuples of floats, so that checkpoints need to know nothing about it.
    """

    target_kl: float = 0.01  # δ_Up: radius of the step, nats
    cg_iterations: int = 15  # conjugate-gradient products a solve may use
    cg_damping: float = 0.1  # F + damping · I stands for F
    line_search_steps: int = 15  # trials of the line search
    line_search_decay: float = 0.8  # factor between two trials

    def __post_init__(self):
        for name, valid, accepted in (
            ("target_kl", 0 < self.target_kl < math.inf, "positive and finite"),
            ("cg_iterations", self.cg_iterations >= 1, "at least 1"),
            ("cg_damping", 0 <= self.cg_damping < math.inf, "at least 0 and finite"),
            ("line_search_steps", self.line_search_steps >= 1, "at least 1"),
            ("line_search_decay", 0 < self.line_search_decay < 1, "in (0, 1)"),
        ):
            if not valid:
                raise ValueError(f"{name} must be {accepted}; got {getattr(self, name)!r}")

    def initial_state(self) -> State:
        """State before the first update."""
        return {"lagrangian_multiplier": 0.0}

    def observe(self, state: State, mean_cost: float, cost_limit: float) -> State:
        """State after seeing J_C, the mean undiscounted cost of the last 50 finished episodes."""
        return state

    def advantage(self, state: State, batch: Batch) -> Tensor:
        """(B,) the advantage of the objective to maximise; unconstrained TRPO: A_r."""
        return standardised(batch.advantage[0])

    def update_actor(
        self,
        actor: GaussianActor,
        batch: Batch,
        perturbation: Perturbation | None,
        samples: int,
        state: State,
    ) -> dict[str, float]:
        """Moves the actor one trust-region step; returns what to log.

        perturbation: ε(g, F, n_t) at which the gradient is taken (SHAPO), or None (the baseline as published).
        """
        surrogate = Surrogate(actor, batch)
        fisher = GaussianFisher(
            actor, batch.observation, damping=self.cg_damping, iterations=self.cg_iterations
        )
        advantage, theta0 = self.advantage(state, batch), actor.theta
        log = {}

        def perturb(gradient: Tensor) -> Tensor:
            epsilon = perturbation(gradient, fisher, samples)
            worst, kl = surrogate.value_and_kl(theta0 + epsilon, advantage)
            log.update(kl_down=kl, surrogate_down=worst, surrogate_down_linear=float(gradient @ epsilon))
            return epsilon

        gradient = sharpness_aware_gradient(
            lambda theta: surrogate.gradient(theta, advantage),
            theta0,
            None if perturbation is None else perturb,
        )
        step = trust_region_step(gradient, fisher, self.target_kl)
        actor.theta, accepted = self.line_search(surrogate, advantage, step)
        return log | accepted | {"cg_products": float(sum(fisher.solves))}

    def line_search(
        self, surrogate: Surrogate, advantage: Tensor, step: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """θ₀ + 0.8ᵏ ε for the first k that improves the surrogate and keeps the KL to π₀ at most target_kl."""
        theta0 = surrogate.theta0
        before = float(surrogate.value(theta0, advantage))
        for trial in range(self.line_search_steps):
            theta = theta0 + self.line_search_decay**trial * step
            value, kl = surrogate.value_and_kl(theta, advantage)
            if value >= before and kl <= self.target_kl:
                return theta, {"kl": kl, "improvement": value - before, "line_search_trials": trial + 1.0}
        return theta0, {"kl": 0.0, "improvement": 0.0, "line_search_trials": math.nan}
