"""The loss landscape around a trained policy: how sharp it is, and how good cheap ascent directions are.

Displacements are measured relative to the parameters, as in ASAM: ‖T⁻¹ε‖ with T = diag(|θ|).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from shapo.checks import whole
from shapo.robots.config import SHAC, RobotConfig
from shapo.robots.shac import SHACTrainer
from shapo.sharpness import AdaptiveSAM, Euclidean


class Landscape:
    """L(θ + ε), equation 2, around the policy in `networks` (of a `Run`), on windows that all start in the same states.

    The robots reach these states after `settle` windows of the policy, with clocks spread over an episode; `advance`
    moves on by a window. A window's noise is the same at every displacement. Raises ValueError for a config of PPO.
    """

    def __init__(
        self, config: RobotConfig, networks: Mapping[str, np.ndarray], seed: int = 0, settle: int = 4
    ):
        if not isinstance(config.algorithm, SHAC):
            raise ValueError(f"the loss around a policy is SHAC's; got a config of {config.algorithm!r}")
        self.trainer = SHACTrainer(config)
        self.trainer.load_networks(networks)
        self.theta, self.rng = self.trainer.theta.detach().clone(), np.random.default_rng([seed, 0])
        self.trainer.env.rng = np.random.default_rng([seed, 1])
        self.trainer.env.reset()
        length = self.trainer.env.episode_length
        self.trainer.env.length = torch.from_numpy(self.rng.integers(0, length, config.num_envs))
        self.start = self.trainer.snapshot()
        for _ in range(whole(1)("settle", settle)):
            self.advance()

    def advance(self) -> None:
        """Moves the start of windows to the end of another window of the policy; `earlier` keeps the old start."""
        self.loss(0.0, self.noise())
        self.earlier, self.start = self.start, self.trainer.snapshot()

    def noise(self) -> Tensor:
        """Draws the noise ξ (h, N, actions) of a window."""
        config = self.trainer.config
        shape = config.algorithm.horizon, config.num_envs, self.trainer.env.robot.actions
        return torch.from_numpy(self.rng.standard_normal(shape, np.float32))

    @torch.no_grad()
    def loss(self, epsilon: Tensor | float, noise: Tensor) -> float:
        """L(θ + ε) on the window with this noise."""
        self.trainer.restore_envs(self.start)
        return float(self.trainer.rollout(self.theta + epsilon, noise).loss)

    def gradient(
        self, noise: Tensor, epsilon: Tensor | float = 0.0, robots: int | None = None, earlier: bool = False
    ) -> Tensor:
        """∇L(θ + ε) on the window of this noise. robots: only the first so many count. earlier: start at `earlier`."""
        self.trainer.restore_envs(self.earlier if earlier else self.start)
        theta = (self.theta + epsilon).requires_grad_()
        weight = (torch.arange(self.trainer.config.num_envs) < (robots or np.inf)).float()
        (gradient,) = torch.autograd.grad(self.trainer.rollout(theta, noise, weight).loss, theta)
        return gradient

    def worst(self, gradient: Tensor, rho: float) -> Tensor:
        """The ε of size ρ that raises L most, to first order: equation 9."""
        return AdaptiveSAM(rho)(-gradient, Euclidean(self.theta), 1)

    def random(self, rho: float) -> Tensor:
        """A random ε of size ρ: T⁻¹ε is uniform on the sphere of radius ρ."""
        direction = torch.from_numpy(self.rng.standard_normal(len(self.theta), np.float32))
        return self.theta.abs() * direction * (rho / direction.norm())


def sharpness(
    config: RobotConfig, networks: Mapping[str, np.ndarray], radii: Sequence[float], windows: int = 4,
    directions: int = 4, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """The rise of L around a trained policy: columns direction, radius, loss = L(θ), rise = L(θ + ε) − L(θ).

    The direction "worst" follows the mean gradient of `windows` windows. Loss and rise are means over as many windows
    of other robots; "random" is also a mean over `directions` directions.
    """
    search, judge = (Landscape(config, networks, s) for s in (seed, seed + 1))
    ascent = torch.stack([search.gradient(search.noise()) for _ in range(windows)]).mean(0)
    noises = [judge.noise() for _ in range(windows)]
    here = np.array([judge.loss(0.0, noise) for noise in noises])
    ways = {"worst": [search.worst(ascent, 1.0)], "random": [search.random(1.0) for _ in range(directions)]}
    rows = []
    for (way, units), radius in itertools.product(ways.items(), radii):
        there = [[judge.loss(radius * unit, noise) for noise in noises] for unit in units]
        rows.append((way, radius, here.mean(), np.mean(there - here)))
    return pd.DataFrame(rows, columns=["direction", "radius", "loss", "rise"])


def ascents(
    config: RobotConfig, networks: Mapping[str, np.ndarray], rho: float, shares: Sequence[int] = (2, 4, 8),
    repeats: int = 8, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Comparison of cheap ascents with the exact one: columns ascent, share, rise, cosine.

    Each ascent takes ε from one window. ascent: "all" of the window (exact); the "first steps" of all robots; all steps
    of the "first robots"; the "window before", as if each ascent served two windows. share: of the exact ascent's
    simulation. rise: of L at ε, on a window of other robots. cosine: between T∇L and the exact ascent's T∇L.
    """
    around, judge, rows = Landscape(config, networks, seed), Landscape(config, networks, seed + 1), []
    horizon, robots = config.algorithm.horizon, config.num_envs
    for _ in range(repeats):
        around.advance()
        judge.advance()
        noise, other, unseen = around.noise(), around.noise(), judge.noise()
        before = around.gradient(other, earlier=True)
        gradients = {("all", 1.0): around.gradient(noise), ("window before", 0.5): before}
        for share in shares:
            steps, few = max(1, horizon // share), max(1, robots // share)
            gradients["first steps", steps / horizon] = around.gradient(noise[:steps])
            gradients["first robots", few / robots] = around.gradient(noise, robots=few)
        here, exact = judge.loss(0.0, unseen), around.theta.abs() * gradients["all", 1.0]
        for (ascent, share), gradient in gradients.items():
            rise = judge.loss(around.worst(gradient, rho), unseen) - here
            cosine = torch.cosine_similarity(around.theta.abs() * gradient, exact, dim=0)
            rows.append((ascent, share, rise, float(cosine)))
    return pd.DataFrame(rows, columns=["ascent", "share", "rise", "cosine"])


def of_exact(found: pd.DataFrame) -> pd.DataFrame:
    """Compares each rise with that of the exact ascent around the same policy. found: `ascents`, with a column run.

    Returns a row per ascent, share and run: rise and cosine, means over repeats, and of_exact, the ratio of rises.
    """
    means = found.groupby(["ascent", "share", "run"])[["rise", "cosine"]].mean()
    exact = means.rise.xs("all", level="ascent").droplevel("share")
    return means.assign(of_exact=means.rise.div(exact, level="run"))
