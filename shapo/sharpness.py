"""SHAPO in one file: pessimism in the face of epistemic uncertainty.

    g      = ∇L(θ₀)                        gradient of the surrogate the baseline maximises
    ε_Down = U_F(−g, δ_Down)               the worst policy of a small KL ball around π₀
    g̃      = ∇L(θ₀ + ε_Down)               same batch, same π₀ in the ratio
    ε_Up   = U_F(g̃, δ_Up)                  the baseline's own trust-region step and line search, from θ₀

Only the gradient changes (Algorithm 1). A perturbation is any object `perturbation(gradient, fisher, samples) -> ε`;
the baselines call it at one place, `sharpness_aware_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from shapo.checks import AT_LEAST_0, POSITIVE, TAIL, Checked, NonFiniteError, schedule, setting, vector, whole


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    iterations: int = 15,
    tolerance: float = 1e-10,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Solves F x = b for a symmetric positive definite F given as v ↦ F v (Hestenes and Stiefel 1952).

    The iteration stops after `iterations` products, or when ‖b − F x‖ ≤ tolerance · ‖b‖.
    start: the pair (x, F x) to start from; x = 0 by default.
    Returns x, (P,), the residual b − F x, (P,), and the number of products.
    """
    vector("b", b)
    x, residual = (torch.zeros_like(b), b.clone()) if start is None else (start[0].clone(), b - start[1])
    direction, squared = residual.clone(), residual @ residual
    enough = (tolerance * b.norm()) ** 2
    for iteration in range(iterations):
        if squared <= enough:
            return x, residual, iteration
        image = product(direction)
        alpha = squared / (direction @ image)
        x += alpha * direction
        residual -= alpha * image
        previous, squared = squared, residual @ residual
        direction = residual + (squared / previous) * direction
    return x, residual, iterations


class Fisher:
    """F + damping · I as a linear operator: `fisher(v)` multiplies v by it, and `fisher.solve(b)` b by its inverse.

    product: the function v ↦ F v, for v of shape (P,). iterations, tolerance: settings of `conjugate_gradient`.
    """

    def __init__(
        self, product: Callable[[Tensor], Tensor], *, damping: float = 0.0, iterations: int = 15,
        tolerance: float = 1e-10,
    ):  # fmt: skip
        self.product, self.damping = product, AT_LEAST_0("damping", damping)
        self.iterations, self.tolerance = whole(1)("iterations", iterations), tolerance
        self.solves: list[int] = []  # number of products that each solve used
        self._last: tuple[Tensor, Tensor, float] | None = None

    def __call__(self, v: Tensor) -> Tensor:
        return self.product(v) + self.damping * v

    def solve(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x ≈ F⁻¹ b and F x, both (P,), where F includes the damping.

        A SHAPO update solves twice, for g and then for g̃ ≈ g. So a solve starts from the best multiple of the last
        solution, if that is better than x = 0, and stops at its relative residual. This is as accurate, for less work.
        """
        start, tolerance = None, self.tolerance
        if self._last is not None:
            x, image, reached = self._last
            scale = (b @ x) / (x @ image)  # the c that minimises the error of c x in the F-norm
            if (b - scale * image).norm() < b.norm():
                start, tolerance = (scale * x, scale * image), max(tolerance, min(reached, 0.1))
        x, residual, used = conjugate_gradient(
            self, b, iterations=self.iterations, tolerance=tolerance, start=start
        )
        self.solves.append(used)
        image = b - residual
        if used:  # copies, since the caller may write into what is returned
            self._last = (x.clone(), image.clone(), float(residual.norm() / b.norm()))
        return x, image


class Euclidean(Fisher):
    """The identity in place of a Fisher matrix, at parameters theta (P,): the geometry of SHAC, which uses no KL."""

    def __init__(self, theta: Tensor):
        super().__init__(lambda v: v)
        self.theta = theta


def trust_region_step(
    gradient: Tensor, fisher_vector_product: Callable[[Tensor], Tensor], delta: float
) -> Tensor:
    """U_F(g, δ) = sqrt(2δ / gᵀF⁻¹g) F⁻¹g: the maximiser of gᵀε subject to ½ εᵀFε ≤ δ. (SHAPO, Section 4)

    gradient: (P,). fisher_vector_product: a `Fisher`, or any v ↦ F v with F symmetric positive definite.
    delta: radius in nats of the second-order KL; at least 0. If gradient or delta is zero, so is the step.
    Raises ValueError for a negative or non-finite delta, NonFiniteError for a non-finite gradient, and LinAlgError if F
    is not positive along the step (a Fisher matrix needs damping when it has fewer samples than parameters).
    """
    delta, fisher = AT_LEAST_0("delta", delta), fisher_vector_product
    vector("gradient", gradient)
    if not isinstance(fisher, Fisher):
        # P products suffice in exact arithmetic; rounding takes more, and the tolerance ends them early.
        fisher = Fisher(fisher_vector_product, iterations=10 * gradient.numel())
    if not torch.isfinite(gradient).all():
        raise NonFiniteError("the gradient of a trust-region step is not finite")
    scale = gradient.abs().max()
    if delta == 0 or scale == 0:
        return torch.zeros_like(gradient)
    x, fisher_x = fisher.solve(gradient / scale)  # U_F does not depend on the length of g, but rounding does
    # With an exact x = F⁻¹g, xᵀFx = gᵀF⁻¹g. With x from a few iterations, scaling by xᵀFx still gives ½ εᵀFε = δ.
    squared = float(x @ fisher_x)
    if not 0 < squared < math.inf:
        raise torch.linalg.LinAlgError(
            f"xᵀFx = {squared:g} along x = F⁻¹g: F is not positive definite, or too nearly not"
        )
    return math.sqrt(2 * delta / squared) * x


def sharpness_aware_gradient(
    gradient_at: Callable[[Tensor], Tensor], theta: Tensor, perturb: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Returns g̃ = ∇L(θ + ε) with ε = perturb(∇L(θ)), or plain ∇L(θ) if `perturb` is None.

    This is the only place where sharpness enters the update of a baseline's actor or of a critic's minibatch.
    """
    gradient = gradient_at(theta)
    return gradient if perturb is None else gradient_at(theta + perturb(gradient))


class Perturbation(Protocol):
    """The type that `Config(actor=…)` accepts: a frozen dataclass of plain values that can be called like this."""

    def __call__(self, gradient: Tensor, fisher: Fisher, samples: Any) -> Tensor:
        """Returns the perturbation ε, (P,), that worsens the objective.

        gradient: ∇L(θ₀) of the objective being maximised, (P,). fisher: F at θ₀; `fisher(v)` is F v, `fisher.solve(b)`
        is the pair x ≈ F⁻¹b and F x, `fisher.theta` is θ₀. samples: how many samples have been seen; in safe RL a
        `sample_size.Samples` with `.steps`, n_t, and `.effective`, n_eff,t; for robots the number n_t itself.
        """
        ...


def delta_from_alpha(alpha: float, n: float) -> float:
    """δ_Down = z_α² / (2n): the radius whose worst policy is the most likely one in the α-tail. (Proposition 2)

    alpha: confidence level in (0, 0.5), the mass of that tail. n: effective number of independent samples, positive.
    """
    return float(ndtri(TAIL("alpha", alpha))) ** 2 / (2 * POSITIVE("n", n))


def alpha_from_delta(delta_down: float, n: float) -> float:
    """α = Φ(−sqrt(2 n δ_Down)): the confidence level of a radius at n samples. (Proposition 2, inverted)"""
    delta_down, n = AT_LEAST_0("delta_down", delta_down), POSITIVE("n", n)
    return float(ndtr(-math.sqrt(2 * n * delta_down)))


@dataclass(frozen=True)
class FixedAlpha(Checked):
    """Schedule of one confidence level: δ_Down,t = z_α² / (2 n_t) decays as samples come in."""

    alpha: float = setting(TAIL)  # quantile of the surrogate's uncertainty to guard against, in (0, 0.5)
    steps_per_sample: float = setting(POSITIVE, 1.0)  # environment steps that count as one independent sample

    def __call__(self, samples: float) -> float:
        return delta_from_alpha(self.alpha, POSITIVE("samples", samples) / self.steps_per_sample)


@dataclass(frozen=True)
class EffectiveAlpha(Checked):
    """`FixedAlpha` with measured n: δ_Down,t = z_α² / (2 n_eff,t), so that α is the only setting. (Beyond the paper)"""

    alpha: float = setting(TAIL)  # quantile of the surrogate's uncertainty to guard against, in (0, 0.5)

    def __call__(self, samples: Any) -> float:
        return delta_from_alpha(self.alpha, samples.effective)


@dataclass(frozen=True)
class FixedDelta(Checked):
    """Schedule of one radius: as samples come in, α_t = Φ(−sqrt(2 n_t δ_Down)) falls, so pessimism grows."""

    delta_down: float = setting(AT_LEAST_0)  # radius of the KL ball, nats

    def __call__(self, samples: float) -> float:
        return self.delta_down


@dataclass(frozen=True)
class FisherSAM(Checked):
    """SHAPO's perturbation of the actor, ε_Down = U_F(−g, δ_Down).

    F is the operator that the baseline steps with. `TrustRegion` damps it, as is usual in the field. Then
    ½ εᵀ(F + damping · I)ε = δ_Down, so the KL that is reached lies below δ_Down (notebook 03 measures it).

    delta_down: a number (the same radius throughout) or a schedule n_t ↦ δ_Down,t such as `FixedAlpha(0.05)`. The
    schedule gets n_t as a number; only `EffectiveAlpha` gets the `sample_size.Samples`, whose `.effective` it reads.
    """

    delta_down: float | FixedDelta | FixedAlpha | EffectiveAlpha = setting(schedule)  # radius, nats

    def radius(self, samples: Any) -> float:
        """Returns δ_Down at n_t samples. Raises ValueError if a schedule gives a negative or non-finite number."""
        if not callable(schedule := self.delta_down):
            return schedule
        measured = isinstance(schedule, EffectiveAlpha)
        return AT_LEAST_0("delta_down", schedule(samples if measured else getattr(samples, "steps", samples)))

    def __call__(self, gradient: Tensor, fisher: Fisher, samples: Any) -> Tensor:
        return trust_region_step(-vector("gradient", gradient), fisher, self.radius(samples))


@dataclass(frozen=True)
class KLMatchedSAM(FisherSAM):
    """E-SAM at SHAPO's strength: ε = −ρ g/‖g‖, with ρ such that the mean KL, ½ εᵀFε, is that of SHAPO's ε_Down.

    Without this match, comparing Fisher with Euclidean perturbations would compare their radii.
    """

    def __call__(self, gradient: Tensor, fisher: Fisher, samples: Any) -> Tensor:
        shapo = super().__call__(gradient, fisher, samples)
        return of_equal_kl(self.direction(gradient), shapo, fisher)

    def direction(self, gradient: Tensor) -> Tensor:
        return -gradient


@dataclass(frozen=True)
class RandomSAM(KLMatchedSAM):
    """Noise in place of SHAPO's ε_Down: a random direction in θ with the same mean KL. (An ablation beyond the paper)

    The direction is drawn from PyTorch's generator, which a run seeds at every update.
    """

    def direction(self, gradient: Tensor) -> Tensor:
        return torch.randn_like(gradient)


@dataclass(frozen=True)
class OptimisticSAM(FisherSAM):
    """ε = +U_F(g, δ): the best policy of SHAPO's ball in place of the worst. (An ablation beyond the paper)"""

    def __call__(self, gradient: Tensor, fisher: Fisher, samples: Any) -> Tensor:
        return -super().__call__(gradient, fisher, samples)


def of_equal_kl(direction: Tensor, epsilon: Tensor, fisher: Fisher) -> Tensor:
    """Scales `direction` to the mean KL, ½ vᵀFv, of `epsilon`; F has no damping here, which is no part of the KL."""
    squared = float(direction @ fisher.product(direction))
    if squared == 0:  # a zero direction, or one along which the policy does not change
        return torch.zeros_like(direction)
    return math.sqrt(float(epsilon @ fisher.product(epsilon)) / squared) * direction


@dataclass(frozen=True)
class EuclideanSAM(Checked):
    """Foret et al.'s perturbation, ε = −ρ g/‖g‖, for critics (SAM Critic) and, as the ablation E-SAM, for actors.

    In a gradient of shape (K, P), each row is a network of its own and gets an ε of norm ρ.
    """

    rho: float = setting(AT_LEAST_0)  # Euclidean radius in parameter space

    def __call__(self, gradient: Tensor, fisher: Fisher | None = None, samples: Any = None) -> Tensor:
        if not isinstance(gradient, Tensor) or not gradient.dim():
            vector("gradient", gradient)
        return gradient * (-self.rho / (torch.linalg.vector_norm(gradient, dim=-1, keepdim=True) + 1e-12))


@dataclass(frozen=True)
class AdaptiveSAM(Checked):
    """ASAM's perturbation (Kwon et al. 2021), ε = −ρ T²g / ‖T g‖ with T = diag(|θ₀|): the worst of ‖T⁻¹ε‖ ≤ ρ.

    The ball is measured relative to the parameters, so their scales do not matter. SHAC-ASAM uses this perturbation
    (Equations 4 to 8 of its paper, for the objective −L).
    """

    rho: float = setting(AT_LEAST_0)  # radius, relative to the parameters

    def __call__(self, gradient: Tensor, fisher: Fisher, samples: Any) -> Tensor:
        scaled = fisher.theta.abs() * vector("gradient", gradient, tuple(fisher.theta.shape))  # T g
        return fisher.theta.abs() * scaled * (-self.rho / (torch.linalg.vector_norm(scaled) + 1e-12))
