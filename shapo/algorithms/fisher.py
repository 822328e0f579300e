"""The Fisher matrix of a Gaussian policy, as products F v."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shapo.algorithms.networks import GaussianActor, gaussian_kl
from shapo.sharpness import Fisher


class GaussianFisher(Fisher):
    """Fisher matrix of a `GaussianActor`, averaged over the states of a batch.

    For π_θ = N(μ_θ(s), diag(σ²)) with log σ a parameter of its own,

        F = [ E_s J(s)ᵀ Σ⁻¹ J(s)    0  ]        J = ∂μ/∂θ, Σ = diag(σ²)
            [        0             2 I ]        the block of log σ,

    so F v takes one tangent and one cotangent of the network of μ, without a graph or a second derivative of the KL.
    observation: normalised states (N, obs). damping: of the whole action, a baseline's `cg_damping`. theta: θ₀ (P,).
    """

    def __init__(
        self, actor: GaussianActor, observation: Tensor, damping: float, iterations: int = 15, **kwargs
    ):
        self.theta, mlp, self._chunks = actor.theta.clone(), actor.mlp, []
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


def kl_hessian_product(actor: GaussianActor, observation: Tensor) -> Callable[[Tensor], Tensor]:
    """v ↦ ∇²_θ E_s KL(π_θ₀ ‖ π_θ) v at θ₀, by differentiating the KL twice: the definition of F, and slower."""
    theta = actor.theta.clone().requires_grad_()
    with torch.no_grad():
        mean0, log_std0 = actor.mean(observation), actor.log_std()
    kl = gaussian_kl(mean0, log_std0, actor.mean(observation, theta), actor.log_std(theta)).mean()
    (gradient,) = torch.autograd.grad(kl, theta, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(gradient @ v, theta, retain_graph=True)[0]

    return product
