"""CPO: a trust-region step along the Lagrangian of a small convex problem, solved anew at every update."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shapo.algorithms.advantages import Batch
from shapo.algorithms.trust_region import State, TrustRegion, centred, standardised
from shapo.checks import flag, setting
from shapo.sharpness import Fisher, conjugate_gradient

MARGIN = 0.1  # share of the largest cost change in the ball; at the limit, a step must lower cost by it
FREE, BINDING, RECOVERY = 0.0, 1.0, 2.0  # the constraint at the solution: slack, an equality, out of reach
PARALLEL = 1e-6  # sin² of the angle, in the metric F⁻¹, below which float32 cannot tell g and b apart


def solve_dual(q: float, r: float, s: float, c: float, delta: float) -> tuple[float, float, float, float]:
    """Solves max gᵀε  s.t.  c + bᵀε ≤ 0,  ½ εᵀFε ≤ δ. (Achiam et al. 2017, Section 6, with signs for a maximum)

    q = gᵀF⁻¹g, r = gᵀF⁻¹b, s = bᵀF⁻¹b. Stationarity gives ε = F⁻¹(g − ν b)/λ. If both constraints are active,
    λ = sqrt(A/B) and ν = (r + λc)/s, where A = q − r²/s and B = 2δ − c²/s. If no ε in the ball meets the constraint,
    ε = −sqrt(2δ/s) F⁻¹b lowers the cost as far as the ball allows: the case RECOVERY, in which ν* is infinite.
    Returns (x, y, ν*, case) with ε = x F⁻¹g + y F⁻¹b. Raises ValueError for c = nan.
    """
    if math.isnan(c):
        raise ValueError("the violation c must be known; got nan (is the batch's episode_length known?)")
    alone = math.sqrt(2 * delta / q) if q > 0 else 0.0  # U_F(g, δ) = alone F⁻¹g, the step without constraint
    # Positive where the constraint's boundary crosses the ball.
    b = 2 * delta - c * c / s if s > 0 else -math.inf
    if c + alone * r <= 0 or (c < 0 and b <= 0):
        return alone, 0.0, 0.0, FREE
    if b <= 0:
        return 0.0, -math.sqrt(2 * delta / s) if s > 0 else 0.0, math.inf, RECOVERY
    a = q - r * r / s
    if a <= PARALLEL * q:  # the constraint sets how far to go along b; no other direction gains reward
        return 0.0, -c / s, r / s, BINDING
    lam = math.sqrt(a / b)
    nu = (r + lam * c) / s
    return 1 / lam, -nu / lam, nu, BINDING


@dataclass(frozen=True)
class CPO(TrustRegion):
    """Constrained policy optimisation (Achiam et al. 2017): ascent of the reward under a linearised constraint on cost.

    SHAPO solves for ν* at θ₀ and perturbs along −(g − ν* b). It then takes *both* gradients there and solves again.

    The scale of c = J_C − β: J_C is a sum over an episode of T steps, the surrogate behind b a mean over steps. A step
    ε changes J_C by about T bᵀε, so the constraint is c/T + bᵀε ≤ 0. Discounting leads to the same: a steady cost has
    J_C^γ = J_C / (T (1−γ)), and the paper bounds J_C^γ + bᵀε / (1−γ). Its authors do rescale (b by T in the paper's
    code, c by 1/T in safety-starter-agents). SafePO and OmniSafe do not (`cost_per_step = False`). Their c is T times
    too large, so its boundary hardly ever crosses the ball, and CPO becomes a switch between TRPO on reward and cost.

    At c = 0 exactly (β = 0, and no recent episode had a cost), the published step asks for bᵀε = 0. The published line
    search accepts no rise in cost, so the second order rejects every trial. For c from 0 to a tenth of what the ball
    allows, sqrt(2δ bᵀF⁻¹b), a step here asks for that tenth: a short enough step then lowers the cost.
    """

    cost_per_step: bool = setting(flag, True)  # divide c by T, the mean length of an episode

    def observe(self, state: State, mean_cost: float, cost_limit: float) -> State:
        return state | {"violation": mean_cost - cost_limit}

    def advantage(self, state: State, batch: Batch) -> Tensor:
        return torch.stack([standardised(batch.advantage[0]), centred(batch.advantage[1])])

    def update_actor(self, actor, batch, perturbation, samples, state):
        c = -math.inf  # no limit applies before the first episode has ended
        if "violation" in state:
            c = state["violation"] / (batch.episode_length if self.cost_per_step else 1.0)
        return super().update_actor(actor, batch, perturbation, samples, state | {"c": c})

    def objective(self, gradient, advantage, fisher, state) -> tuple[Tensor, Tensor]:
        _, (_, _, nu, case) = self._solve(gradient, fisher, state)
        weights = gradient.new_tensor([0.0, -1.0] if case == RECOVERY else [1.0, -nu])
        return weights @ gradient, weights @ advantage

    def step(self, gradient: Tensor, fisher: Fisher, state: State) -> tuple[Tensor, dict[str, float]]:
        (x_g, x_b), (x, y, nu, case) = self._solve(gradient, fisher, state)
        nu = math.nan if case == RECOVERY else nu
        return x * x_g + y * x_b, {"lagrangian_multiplier": nu, "case": case}

    def _solve(self, gradient: Tensor, fisher: Fisher, state: State) -> tuple[tuple, tuple]:
        """(F⁻¹g, F⁻¹b) and their `solve_dual`. Each solve starts from zero, so that equal gradients give equal bits."""
        if not isinstance(gradient, Tensor) or gradient.dim() != 2 or len(gradient) != 2:
            got = f"{type(gradient).__name__} of shape {tuple(np.shape(gradient))}"
            raise ValueError(
                f"gradient must be (2, P), a tensor with a row of reward and one of cost; got {got}"
            )
        (x_g, rest_g, n_g), (x_b, rest_b, n_b) = (
            conjugate_gradient(fisher, v, iterations=fisher.iterations) for v in gradient
        )
        fisher.solves += [n_g, n_b]
        image_g, image_b = gradient[0] - rest_g, gradient[1] - rest_b  # F x, even where x is inexact
        q, r, s = float(x_g @ image_g), float(x_g @ image_b), float(x_b @ image_b)
        c = state["c"] if state["c"] < 0 else max(state["c"], MARGIN * math.sqrt(2 * self.target_kl * s))
        return (x_g, x_b), solve_dual(q, r, s, c, self.target_kl)

    def accepts(self, change: np.ndarray, state: State) -> bool:
        """Whether the reward is no worse (or the cost over its limit), and the cost rises by no more than the slack."""
        reward, cost = change
        return bool((state["c"] > 0 or reward >= 0) and cost <= max(-state["c"], 0))
