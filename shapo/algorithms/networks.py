"""The tanh network, the Gaussian actor and the running observation normaliser.

Every network keeps its parameters in one flat vector θ, as in the paper: a perturbation ε is added to θ, and a Fisher
matrix is a matrix over θ. The tanh network has hand-written derivatives in two directions, `tangent` (J v) and
`cotangent` (uᵀ J). A Fisher-vector product is a tangent followed by a cotangent, and the gradient of a critic's
minibatch is one cotangent, several times faster than a graph built for every product.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


class MLP:
    """K independent tanh networks of one shape, evaluated together. Their parameters are the rows of a (K, P) tensor.

    sizes: (inputs, hidden…, outputs). Each layer computes h ← tanh(W h + b); the last one has no tanh.
    """

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = tuple(sizes)
        self.shapes = [(n_out, n_in) for n_in, n_out in pairwise(sizes)]
        self._split = [size for n_out, n_in in self.shapes for size in (n_out * n_in, n_out)]  # W₁, b₁, W₂, …
        self.num_parameters = sum(self._split)

    def initialise(self, networks: int, rng: np.random.Generator) -> Tensor:
        """Parameters (K, P), uniform in ±1/√fan_in: PyTorch's default, which SafePO and OmniSafe use."""
        parts = [
            rng.uniform(-1, 1, (networks, n_out * (n_in + 1))) / math.sqrt(n_in)
            for n_out, n_in in self.shapes
        ]
        return torch.as_tensor(np.concatenate(parts, axis=1), dtype=torch.float32)

    def layers(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views (W, b) of every layer in parameters (K, P), of shapes (K, out, in) and (K, 1, out)."""
        parts = theta.split(self._split, dim=1)
        return [
            (weight.view(-1, n_out, n_in), bias.unsqueeze(1))
            for weight, bias, (n_out, n_in) in zip(parts[::2], parts[1::2], self.shapes, strict=True)
        ]

    def activations(self, x: Tensor, layers) -> list[Tensor]:
        """[x, h₁, …, output], each (K, N, width), at inputs x (K, N, inputs)."""
        hidden = [x]
        for weight, bias in layers[:-1]:
            hidden.append(torch.baddbmm(bias, hidden[-1], weight.mT).tanh_())
        weight, bias = layers[-1]
        hidden.append(torch.baddbmm(bias, hidden[-1], weight.mT))
        return hidden

    def tangent(self, hidden: list[Tensor], layers, v_layers) -> Tensor:
        """J v, (K, N, outputs): the change of the outputs when the parameters move along v."""
        t = None
        for h, out, (weight, _), (dweight, dbias) in zip(hidden, hidden[1:], layers, v_layers, strict=False):
            dz = torch.baddbmm(dbias, h, dweight.mT)  # dz = dW h + db + W t
            if t is not None:
                dz.baddbmm_(t, weight.mT)
            t = dz if out is hidden[-1] else times_tanh_slope(dz, out)
        return t

    def cotangent(self, u: Tensor, hidden: list[Tensor], layers, out_layers) -> None:
        """Writes uᵀJ, summed over the N inputs, into the views `out_layers`; u is (K, N, outputs)."""
        for index in reversed(range(len(layers))):
            weight_out, bias_out = out_layers[index]
            torch.bmm(u.mT, hidden[index], out=weight_out)
            torch.sum(u, 1, keepdim=True, out=bias_out)
            if index:
                u = times_tanh_slope(torch.bmm(u, layers[index][0]), hidden[index])


def times_tanh_slope(u: Tensor, h: Tensor) -> Tensor:
    """u (1 − h²), in one pass: the tangent or the cotangent u times the slope of h = tanh(z)."""
    return torch.ops.aten.tanh_backward(u, h)


class GaussianActor:
    """π_θ(a|s) = N(μ_θ(s), diag(σ²)): μ is a tanh network, log σ is learned and independent of the state.

    theta: (P,) parameters of the network, followed by log σ (one per action).
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_sizes: tuple[int, ...] = (64, 64),
        rng: np.random.Generator | None = None,
        log_std: float = 0.0,
    ):
        self.mlp = MLP((observation_dim, *hidden_sizes, action_dim))
        self.action_dim = action_dim
        mean_parameters = self.mlp.initialise(1, rng or np.random.default_rng())
        self.theta = torch.cat([mean_parameters[0], torch.full((action_dim,), float(log_std))])

    def mean(self, observation: Tensor, theta: Tensor | None = None) -> Tensor:
        """μ_θ(s), (N, actions), at normalised observations (N, obs); θ defaults to the actor's own."""
        theta = self.theta if theta is None else theta
        layers = self.mlp.layers(theta[: self.mlp.num_parameters].unsqueeze(0))
        return self.mlp.activations(observation.unsqueeze(0), layers)[-1][0]

    def log_std(self, theta: Tensor | None = None) -> Tensor:
        """log σ, (actions,)."""
        return (self.theta if theta is None else theta)[self.mlp.num_parameters :]

    def log_prob(self, observation: Tensor, action: Tensor, theta: Tensor | None = None) -> Tensor:
        """log π_θ(a|s), (N,)."""
        return gaussian_log_prob(action, self.mean(observation, theta), self.log_std(theta))

    def sample(self, observation: Tensor, rng: np.random.Generator) -> np.ndarray:
        """Actions a ~ π_θ(·|s), (N, actions) float64. They are not clipped: the environment does that."""
        noise = rng.standard_normal((observation.shape[0], self.action_dim))
        return self.mean(observation).numpy().astype(np.float64) + np.exp(self.log_std().numpy()) * noise

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"theta": self.theta.numpy().copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.theta = torch.tensor(state["theta"]).view_as(self.theta)


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(a; μ, diag(σ²)), summed over the action's components."""
    z = (action - mean) * torch.exp(-log_std)
    return -0.5 * z.square().sum(-1) - log_std.sum() - 0.5 * math.log(2 * math.pi) * action.shape[-1]


def gaussian_kl(mean0: Tensor, log_std0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(μ₀, σ₀²) ‖ N(μ, σ²)) at each state, (N,)."""
    variance_ratio = torch.exp(2 * (log_std0 - log_std))
    return 0.5 * (variance_ratio + ((mean - mean0) * torch.exp(-log_std)).square() - 1).sum(-1) + (
        log_std - log_std0
    ).sum(-1)


class RunningNormalizer:
    """Running mean and standard deviation of observations, merged batch by batch (Chan et al. 1979).

    mean, scale: (dim,); (x − mean) · scale is the normalised x before clipping. As in OmniSafe, a standard deviation
    below 0.01 counts as 0.01, and normalised values are clipped to ±5. Columns of an observation beyond `dim` are
    not normalised (in Sauté, the budget left).
    """

    def __init__(self, dim: int, clip: float = 5.0):
        self.mean, self.sum_of_squares, self.count = np.zeros(dim), np.zeros(dim), 0.0
        self.clip = clip
        self.scale = np.ones(dim)

    def update(self, batch: np.ndarray) -> None:
        """Merges observations (n, obs) into the statistics."""
        n, batch = len(batch), batch[:, : len(self.mean)]
        mean = batch.mean(0)
        centred = batch - mean
        delta = mean - self.mean
        total = self.count + n
        self.sum_of_squares += np.einsum("ij,ij->j", centred, centred) + delta**2 * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total
        self._rescale()

    def _rescale(self) -> None:
        std = np.sqrt(self.sum_of_squares / max(self.count - 1, 1))
        self.scale = 1 / np.maximum(std, 1e-2)

    def __call__(self, observation: np.ndarray) -> Tensor:
        """The observations normalised, as a float32 tensor of the same shape."""
        dim = len(self.mean)
        z = (observation[..., :dim] - self.mean) * self.scale
        z = np.clip(z, -self.clip, self.clip)
        if observation.shape[-1] > dim:
            z = np.concatenate([z, observation[..., dim:]], axis=-1)
        return torch.from_numpy(z).to(torch.float32)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "sum_of_squares": self.sum_of_squares, "count": np.array(self.count)}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.mean, self.sum_of_squares = state["mean"].copy(), state["sum_of_squares"].copy()
        self.count = float(state["count"])
        if self.count:  # before the first batch, scale stays 1
            self._rescale()


class Acts:
    """Interface of a trained policy. Subclasses have `columns`, the size of an observation, and `act` for a batch."""

    columns: int

    def __call__(self, observation, rng=None, deterministic: bool | None = None):
        """Actions (act,) or (n, act) at raw observations (obs,) or (n, obs), in their library and floating type.

        Observations are those of `config.make_env`, in a NumPy array, a tensor or lists of numbers.
        rng: a generator to sample with, NumPy's or PyTorch's; or a seed, which gives the same noise at every call.
        deterministic: True for the mode, False for a sample, with a fresh generator if none is given; None for a sample
        where `rng` is given and the mode otherwise. Raises ValueError for observations of another shape.
        """
        given = observation if isinstance(observation, Tensor) else np.array(observation)
        if given.ndim not in (1, 2) or given.shape[-1] != self.columns:
            raise ValueError(
                f"observation must have shape ({self.columns},) or (n, {self.columns}), as config.make_env() gives "
                f"them; got {tuple(given.shape)}"
            )
        if isinstance(rng, torch.Generator):
            rng = int(torch.randint(2**62, (), generator=rng))
        mode = rng is None if deterministic is None else deterministic
        batch = given[None] if given.ndim == 1 else given
        noise = None if mode else np.random.default_rng(rng)
        action = torch.as_tensor(self.act(batch, noise), device="cpu")  # never the default device
        floating = given.is_floating_point() if isinstance(given, Tensor) else given.dtype.kind == "f"
        if isinstance(given, Tensor):
            action = action.to(given if floating else torch.float64)
        else:
            action = action.detach().numpy().astype(given.dtype if floating else np.float64)
        return action[0] if given.ndim == 1 else action


class Policy(Acts):
    """A trained policy with its observation normaliser; `policy(observation)` gives actions (see `Acts`)."""

    def __init__(self, actor: GaussianActor, normalizer: RunningNormalizer):
        self.actor, self.normalizer, self.columns = actor, normalizer, actor.mlp.sizes[0]

    def act(self, observation: np.ndarray | Tensor, rng: np.random.Generator | None) -> np.ndarray:
        """The mean, or a sample if a generator is given. Actions are not clipped: the environment does that."""
        observation = observation.detach().cpu().numpy() if isinstance(observation, Tensor) else observation
        normalised: Tensor = self.normalizer(observation)
        if rng is not None:
            return self.actor.sample(normalised, rng)
        return self.actor.mean(normalised).numpy().astype(np.float64)
