"""The Fisher matrix of a Gaussian policy as an operator: products F v, and solves F⁻¹ b by conjugate gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shapo.networks import GaussianActor, gaussian_kl


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    iterations: int = 15,
    tolerance: float = 1e-10,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Solves F x = b for a symmetric positive definite F given as v ↦ F v (Hestenes and Stiefel 1952).

    Stops after `iterations` products, or when ‖b − F x‖ ≤ tolerance · ‖b‖.
    start: a pair (x, F x) to start from; zero by default.
    Returns x, the residual b − F x, and the number of products.
    """
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
    """F + damping · I as a linear operator; `fisher(v)` is its product with v, `fisher.solve(b)` its inverse's with b.

    product: v ↦ F v, for v of shape (P,). iterations, tolerance: of the conjugate gradient.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        *,
        damping: float = 0.0,
        iterations: int = 15,
        tolerance: float = 1e-10,
    ):
        self.product, self.damping = product, damping
        self.iterations, self.tolerance = iterations, tolerance
        self.solves: list[int] = []  # products used by each solve
        self._last: tuple[Tensor, Tensor, float] | None = None

    def __call__(self, v: Tensor) -> Tensor:
        return self.product(v) + self.damping * v

    def solve(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """x ≈ F⁻¹ b and F x, both (P,).

        A SHAPO update solves twice, for g and then for g̃ ≈ g. Where the best multiple of the last solution is better
        than nothing, a solve starts there and stops at the last one's relative residual: equal accuracy, less work.
        """
        start, tolerance = None, self.tolerance
        if self._last is not None:
            x, image, reached = self._last
            scale = (b @ x) / (x @ image)  # argmin over c of the F-norm error of c x
            if (b - scale * image).norm() < b.norm():
                start, tolerance = (scale * x, scale * image), max(tolerance, min(reached, 0.1))
        x, residual, used = conjugate_gradient(
            self, b, iterations=self.iterations, tolerance=tolerance, start=start
        )
        self.solves.append(used)
        image = b - residual
        if used:
            self._last = (x, image, float(residual.norm() / b.norm()))
        return x, image


class GaussianFisher(Fisher):
    """Fisher matrix of a `GaussianActor`, averaged over the states of a batch.

    For π_θ = N(μ_θ(s), diag(σ²)) with log σ a parameter of its own,

        F = [ E_s J(s)ᵀ Σ⁻¹ J(s)    0  ]        J = ∂μ/∂θ, Σ = diag(σ²)
            [        0             2 I ]        the block of log σ,

    so F v is one tangent and one cotangent of the network of μ: no graph, no second differentiation of the KL.
    observation: normalised states (N, obs). theta: (P,) θ₀.
    """

    def __init__(
        self,
        actor: GaussianActor,
        observation: Tensor,
        *,
        damping: float = 0.1,
        iterations: int = 15,
        **kwargs,
    ):
        self.theta, mlp, self._chunks = actor.theta, actor.mlp, []
        count, split = len(observation), mlp.num_parameters
        precision = torch.exp(-2 * actor.log_std()) / count
        layers = mlp.layers(actor.theta[:split].unsqueeze(0))
        for x in observation.split(2000):  # a chunk's activations stay in a core's cache
            self._chunks.append(mlp.activations(x.unsqueeze(0), layers))

        def product(v: Tensor) -> Tensor:
            v_layers = mlp.layers(v[:split].unsqueeze(0))
            out, part = torch.zeros_like(v), v.new_empty(1, split)
            for hidden in self._chunks:
                u = mlp.tangent(hidden, layers, v_layers).mul_(precision)  # Σ⁻¹ J v / N
                mlp.cotangent(u, hidden, layers, mlp.layers(part))
                out[:split] += part[0]
            out[split:] = 2 * v[split:]
            return out

        super().__init__(product, damping=damping, iterations=iterations, **kwargs)


class Euclidean(Fisher):
    """The identity in place of a Fisher matrix, at parameters theta (P,): the geometry of SHAC, which knows no KL."""

    def __init__(self, theta: Tensor):
        super().__init__(lambda v: v)
        self.theta = theta


def kl_hessian_product(actor: GaussianActor, observation: Tensor) -> Callable[[Tensor], Tensor]:
    """v ↦ ∇²_θ E_s KL(π_θ₀ ‖ π_θ) v at θ₀, by differentiating the KL twice: the definition, and the slower way."""
    theta = actor.theta.clone().requires_grad_()
    with torch.no_grad():
        mean0, log_std0 = actor.mean(observation), actor.log_std()
    kl = gaussian_kl(mean0, log_std0, actor.mean(observation, theta), actor.log_std(theta)).mean()
    (gradient,) = torch.autograd.grad(kl, theta, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(gradient @ v, theta, retain_graph=True)[0]

    return product
