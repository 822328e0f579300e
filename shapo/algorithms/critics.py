"""The critics of reward and cost, fitted together, with or without Euclidean SAM."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shapo.algorithms.networks import MLP
from shapo.runs.switches import flushing_subnormals
from shapo.sharpness import EuclideanSAM, sharpness_aware_gradient


class Critics:
    """V_r and V_c, the values of reward and cost: two networks of one shape, trained as one batched module.

    theta: (2, P), a row per critic.
    """

    def __init__(
        self,
        observation_dim: int,
        hidden_sizes: tuple[int, ...] = (64, 64),
        rng: np.random.Generator | None = None,
        learning_rate: float = 1e-3,
        l2: float = 1e-3,
        max_grad_norm: float = 40.0,
    ):
        self.mlp = MLP((observation_dim, *hidden_sizes, 1))
        self.learning_rate, self.l2, self.max_grad_norm = learning_rate, l2, max_grad_norm
        self.theta = self.mlp.initialise(2, rng or np.random.default_rng())
        self.adam_m, self.adam_v, self.steps = torch.zeros_like(self.theta), torch.zeros_like(self.theta), 0

    def values(self, observation: Tensor, theta: Tensor | None = None) -> Tensor:
        """Values (2, N) of normalised observations (N, obs), of other parameters if `theta` is given."""
        x, theta = observation.expand(2, *observation.shape), self.theta if theta is None else theta
        return self.mlp.activations(x, self.mlp.layers(theta))[-1][..., 0]

    def loss_gradient(self, x: Tensor, target: Tensor, theta: Tensor) -> Tensor:
        """∇ℓ(φ) (2, P) of each critic's ℓ = mean (V_φ(s) − V̂)² + l2 ‖φ‖², at states x (2, B, obs) and V̂ (2, B, 1)."""
        layers, gradient = self.mlp.layers(theta), torch.empty_like(theta)
        hidden = self.mlp.activations(x, layers)
        u = (hidden[-1] - target).mul_(2 / x.shape[1])
        self.mlp.cotangent(u, hidden, layers, self.mlp.layers(gradient))
        return gradient.add_(theta, alpha=2 * self.l2)

    def adam_step(self, gradient: Tensor) -> None:
        """θ ← θ − lr m̂ / (√v̂ + 10⁻⁸) (Kingma and Ba 2015), without the overhead of torch.optim on 16 000 numbers."""
        self.steps += 1
        self.adam_m.lerp_(gradient, 0.1)
        self.adam_v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        denominator = self.adam_v.sqrt().mul_((1 - 0.999**self.steps) ** -0.5).add_(1e-8)
        self.theta.addcdiv_(self.adam_m, denominator, value=-self.learning_rate / (1 - 0.9**self.steps))

    # ‖φ‖² and Adam's momentum let the weights of constant inputs decay into subnormals, on which processors are slow:
    # fits took up to four times as long.
    @flushing_subnormals()
    def fit(
        self,
        observation: Tensor,
        target: Tensor,
        rng: np.random.Generator,
        passes: int = 10,
        minibatch_size: int = 128,
        sam: EuclideanSAM | None = None,
    ) -> None:
        """Fits targets (2, N) at observations (N, obs): `passes` over shuffled full minibatches, an Adam step on each.

        sam: Euclidean perturbation of each critic's parameters, at which the gradient is taken; None for no SAM.
        """
        for _ in range(passes):
            order = torch.from_numpy(rng.permutation(len(observation)))
            shuffled = observation[order].expand(2, *observation.shape).contiguous()
            shuffled_target = target[:, order].unsqueeze(-1)
            for start in range(0, len(order) - minibatch_size + 1, minibatch_size):
                x = shuffled[:, start : start + minibatch_size]
                y = shuffled_target[:, start : start + minibatch_size]
                gradient = sharpness_aware_gradient(
                    lambda theta, x=x, y=y: self.loss_gradient(x, y, theta),
                    self.theta,
                    sam and (lambda g: sam(-g)),  # SAM worsens an objective, which for a loss is −ℓ
                )
                self.adam_step(gradient.renorm_(2, 0, self.max_grad_norm))  # clips each critic's norm

    def state_dict(self) -> dict[str, np.ndarray]:
        tensors = {"theta": self.theta, "adam_m": self.adam_m, "adam_v": self.adam_v}
        return {name: tensor.numpy().copy() for name, tensor in tensors.items()} | {
            "steps": np.array(self.steps)
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        for name in ("theta", "adam_m", "adam_v"):
            setattr(self, name, torch.tensor(state[name]).view_as(getattr(self, name)))
        self.steps = int(state["steps"])
