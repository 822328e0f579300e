"""The networks of SHAC and the actor of PPO, with their parameters in one flat vector."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LOG_STD = -1.0  # log σ at the start, as in DiffRL


class NormedMLP:
    """A network of hidden layers h ← LayerNorm(elu(W h + b)) with outputs W h + b.

    sizes: (inputs, hidden…, outputs). normed: False for hidden layers h ← elu(W h + b).
    """

    def __init__(self, sizes: tuple[int, ...], normed: bool = True):
        self.sizes, self.normed = tuple(sizes), normed
        self.shapes: list[tuple[int, ...]] = []
        for inputs, outputs in pairwise(self.sizes):
            self.shapes += [(outputs, inputs), (outputs,)]  # W, b
            self.shapes += [(outputs,), (outputs,)] if normed else []  # gain and shift of the norm
        if normed:  # the last layer has no norm
            del self.shapes[-2:]
        self._split = [math.prod(shape) for shape in self.shapes]
        self.num_parameters = sum(self._split)

    def initialise(self, rng: np.random.Generator) -> Tensor:
        """θ (P,): weights and biases uniform in ±1/√fan_in, PyTorch's default; norms of gain 1 and shift 0."""
        parts = []
        for inputs, outputs in pairwise(self.sizes):
            layer = rng.uniform(-1, 1, outputs * (inputs + 1)) / math.sqrt(inputs)
            parts += [layer, np.ones(outputs), np.zeros(outputs)]
        return torch.as_tensor(np.concatenate(parts[:-2]), dtype=torch.float32)

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """Outputs (N, outputs) at inputs x (N, inputs) and parameters θ (P,), differentiable in both."""
        parts = [part.view(shape) for part, shape in zip(theta.split(self._split), self.shapes, strict=True)]
        each = 4 if self.normed else 2
        for index in range(0, len(parts) - 2, each):
            weight, bias, *norm = parts[index : index + each]
            x = functional.elu(functional.linear(x, weight, bias))
            if norm:
                x = functional.layer_norm(x, norm[0].shape, *norm)
        return functional.linear(x, *parts[-2:])


class SquashedActor:
    """a = tanh(μ_θ(s) + σ ξ), ξ ~ N(0, 1): reparameterised, so that actions are differentiable in θ.

    θ (P,) holds the parameters of the network, followed by log σ (one per action).
    """

    normed, bounded = True, staticmethod(torch.tanh)

    def __init__(self, observations: int, hidden_sizes: tuple[int, ...], actions: int):
        self.mlp, self.actions = NormedMLP((observations, *hidden_sizes, actions), self.normed), actions

    def initialise(self, rng: np.random.Generator) -> Tensor:
        """An initial θ."""
        return torch.cat([self.mlp.initialise(rng), torch.full((self.actions,), LOG_STD)])

    def log_std(self, theta: Tensor) -> Tensor:
        """log σ, (actions,)."""
        return theta[self.mlp.num_parameters :]

    def __call__(self, theta: Tensor, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions (N, actions) within ±1 at normalised observations. noise: ξ (N, actions), None for the mode."""
        mean = self.mlp(theta[: self.mlp.num_parameters], observation)
        return self.bounded(mean if noise is None else mean + self.log_std(theta).exp() * noise)


class ClippedActor(SquashedActor):
    """PPO's actor a = clip(μ_θ(s) + σ ξ, ±1), without layer normalisation."""

    normed, bounded = False, staticmethod(partial(torch.clamp, min=-1, max=1))
