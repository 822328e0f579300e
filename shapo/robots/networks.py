"""The networks of SHAC and the actor of PPO, their parameters in one flat vector."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LOG_STD = -1.0  # log σ at the start, as in DiffRL


class NormedMLP:
    """x ↦ W h + b over hidden layers h ← LayerNorm(elu(W h + b)); sizes: (inputs, hidden…, outputs)."""

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = tuple(sizes)
        self.shapes: list[tuple[int, ...]] = []
        for inputs, outputs in pairwise(self.sizes):
            # W, b, gain and shift of the norm
            self.shapes += [(outputs, inputs), (outputs,), (outputs,), (outputs,)]
        del self.shapes[-2:]  # the last layer is plain
        self._split = [math.prod(shape) for shape in self.shapes]
        self.num_parameters = sum(self._split)

    def initialise(self, rng: np.random.Generator) -> Tensor:
        """(P,) weights and biases uniform in ±1/√fan_in, PyTorch's default; norms that change nothing."""
        parts = []
        for inputs, outputs in pairwise(self.sizes):
            layer = rng.uniform(-1, 1, outputs * (inputs + 1)) / math.sqrt(inputs)
            parts += [layer, np.ones(outputs), np.zeros(outputs)]
        return torch.as_tensor(np.concatenate(parts[:-2]), dtype=torch.float32)

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """Outputs (N, outputs) at inputs (N, inputs), of parameters θ (P,); differentiable in both."""
        parts = [part.view(shape) for part, shape in zip(theta.split(self._split), self.shapes, strict=True)]
        for index in range(0, len(parts) - 2, 4):
            weight, bias, gain, shift = parts[index : index + 4]
            x = functional.elu(functional.linear(x, weight, bias))
            x = functional.layer_norm(x, gain.shape, gain, shift)
        return functional.linear(x, *parts[-2:])


class SquashedActor:
    """a = tanh(μ_θ(s) + σ ξ), ξ ~ N(0, 1): reparameterised, so that actions are differentiable in θ.

    A θ is (P,): the network's parameters, then log σ, one per action.
    """

    def __init__(self, observations: int, hidden_sizes: tuple[int, ...], actions: int):
        self.mlp, self.actions = NormedMLP((observations, *hidden_sizes, actions)), actions

    def initialise(self, rng: np.random.Generator) -> Tensor:
        """A first θ."""
        return torch.cat([self.mlp.initialise(rng), torch.full((self.actions,), LOG_STD)])

    def log_std(self, theta: Tensor) -> Tensor:
        """log σ, (actions,)."""
        return theta[self.mlp.num_parameters :]

    def __call__(self, theta: Tensor, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions (N, actions) in (−1, 1) at normalised observations; noise: ξ (N, actions), none for the mode."""
        before = self.mlp(theta[: self.mlp.num_parameters], observation)
        if noise is not None:
            before = before + self.log_std(theta).exp() * noise
        return torch.tanh(before)


class ClippedActor:
    """a = clip(μ_θ(s) + σ ξ, ±1), PPO's, with plain ELU layers; θ is (P,): weights and biases, then log σ."""

    def __init__(self, observations: int, hidden_sizes: tuple[int, ...], actions: int):
        sizes, self.actions = (observations, *hidden_sizes, actions), actions
        self.shapes = [
            shape for inputs, outputs in pairwise(sizes) for shape in ((outputs, inputs), (outputs,))
        ]
        self.shapes.append((actions,))  # log σ

    def __call__(self, theta: Tensor, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """As `SquashedActor`; actions in [−1, 1]."""
        split = theta.split([math.prod(shape) for shape in self.shapes])
        *layers, log_std = (part.view(shape) for part, shape in zip(split, self.shapes, strict=True))
        mean = observation
        for index in range(0, len(layers), 2):
            mean = functional.linear(functional.elu(mean) if index else mean, *layers[index : index + 2])
        if noise is not None:
            mean = mean + log_std.exp() * noise
        return mean.clamp(-1, 1)
