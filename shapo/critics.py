"""The critics of reward and cost, fitted together; plain or under Euclidean SAM."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shapo.networks import MLP, tanh_slopes
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
        self.l2, self.max_grad_norm = l2, max_grad_norm
        self.theta = self.mlp.initialise(2, rng or np.random.default_rng())
        self.optimizer = torch.optim.Adam([self.theta], lr=learning_rate, fused=True)
        self.theta.grad = torch.zeros_like(self.theta)
        self._grad_layers = self.mlp.layers(self.theta.grad)

    def values(self, observation: Tensor) -> Tensor:
        """(2, N) values of normalised observations (N, obs)."""
        x = observation.expand(2, *observation.shape)
        return self.mlp.activations(x, self.mlp.layers(self.theta))[-1][..., 0]

    def loss_gradient(self, x: Tensor, target: Tensor, theta: Tensor) -> Tensor:
        """∇ℓ(φ) of ℓ = mean (V_φ(s) − V̂)² + l2 ‖φ‖², each critic its own; x (2, B, obs), target (2, B, 1).

        The result lives in a buffer that the next call overwrites.
        """
        layers = self.mlp.layers(theta)
        hidden = self.mlp.activations(x, layers)
        u = hidden[-1].sub_(target).mul_(2 / x.shape[1])
        self.mlp.cotangent(u, hidden, tanh_slopes(hidden), layers, self._grad_layers)
        return self.theta.grad.add_(theta, alpha=2 * self.l2)

    def fit(
        self,
        observation: Tensor,
        target: Tensor,
        rng: np.random.Generator,
        passes: int = 10,
        minibatch_size: int = 128,
        sam: EuclideanSAM | None = None,
    ) -> None:
        """`passes` over shuffled full minibatches, one Adam step each, on targets (2, N) at observations (N, obs).

        sam: None, or the Euclidean perturbation of each critic's parameters under which the gradient is taken.
        """
        for _ in range(passes):
            order = torch.from_numpy(rng.permutation(len(observation)))
            shuffled = observation[order].expand(2, *observation.shape).contiguous()
            shuffled_target = target[:, order].unsqueeze(-1)
            for start in range(0, len(order) - minibatch_size + 1, minibatch_size):
                x = shuffled[:, start : start + minibatch_size]
                y = shuffled_target[:, start : start + minibatch_size]
                # A loss is minimised, so the objective a perturbation worsens is −ℓ.
                sharpness_aware_gradient(
                    lambda theta, x=x, y=y: self.loss_gradient(x, y, theta),
                    self.theta,
                    sam and (lambda gradient: sam(-gradient)),
                )
                norm = self.theta.grad.norm(dim=1, keepdim=True)
                self.theta.grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp_(max=1.0))
                self.optimizer.step()

    def state_dict(self) -> dict[str, np.ndarray]:
        adam = self.optimizer.state.get(self.theta, {})
        return {"theta": self.theta.numpy(), **{f"adam/{k}": v.numpy() for k, v in adam.items()}}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.theta.copy_(torch.from_numpy(state["theta"]))
        adam = {k.removeprefix("adam/"): torch.from_numpy(v).clone() for k, v in state.items() if k != "theta"}
        if adam:
            self.optimizer.state[self.theta] = adam
