"""The policy's loss around a trained policy: how sharp it is, and how good a cheap ascent direction is.

Displacements are measured as ASAM measures them, ‖T⁻¹ε‖ with T = diag(|θ|): relative to the parameters.
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
    """L(θ + ε), equation 2, around the policy in `networks` (of a `Run`), on windows that begin in the same states.

    The robots stand where `settle` windows of the policy took them, their clocks spread over an episode; `advance`
    moves them on. A window's noise is drawn once, the same at every displacement. Raises ValueError for PPO's config.
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
        """Windows now begin where one more window of the policy ends; `earlier` is where they began before."""
        self.loss(0.0, self.noise())
        self.earlier, self.start = self.start, self.trainer.snapshot()

    def noise(self) -> Tensor:
        """ξ (h, N, actions) of a window."""
        config = self.trainer.config
        shape = config.algorithm.horizon, config.num_envs, self.trainer.env.robot.actions
        return torch.from_numpy(self.rng.standard_normal(shape, np.float32))

    @torch.no_grad()
    def loss(self, epsilon: Tensor | float, noise: Tensor) -> float:
        """L(θ + ε) of the window with this noise."""
        self.trainer.restore_envs(self.start)
        return float(self.trainer.rollout(self.theta + epsilon, noise).loss)

    def gradient(
        self, noise: Tensor, epsilon: Tensor | float = 0.0, robots: int | None = None, earlier: bool = False
    ) -> Tensor:
        """∇L(θ + ε) of this noise's window. robots: of the first so many alone. earlier: of the window before."""
        self.trainer.restore_envs(self.earlier if earlier else self.start)
        theta = (self.theta + epsilon).requires_grad_()
        weight = (torch.arange(self.trainer.config.num_envs) < (robots or np.inf)).float()
        (gradient,) = torch.autograd.grad(self.trainer.rollout(theta, noise, weight).loss, theta)
        return gradient

    def worst(self, gradient: Tensor, rho: float) -> Tensor:
        """ε of size ρ along ∇L, equation 9."""
        return AdaptiveSAM(rho)(-gradient, Euclidean(self.theta), 1)

    def random(self, rho: float) -> Tensor:
        """ε of size ρ in a direction drawn uniformly on the ellipsoid ‖T⁻¹ε‖ = ρ."""
        direction = torch.from_numpy(self.rng.standard_normal(len(self.theta), np.float32))
        return self.theta.abs() * direction * (rho / direction.norm())


def sharpness(
    config: RobotConfig, networks: Mapping[str, np.ndarray], radii: Sequence[float], windows: int = 4,
    directions: int = 4, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """How L rises away from a trained policy: columns direction, radius, loss = L(θ), rise = L(θ + ε) − L(θ).

    The "worst" direction is that of the mean gradient of `windows` windows. Rises are means over as many windows of
    other robots; those at "random" also over `directions` directions.
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
    """What a cheap ascent finds. Columns: ascent, share (of the exact one's simulation), rise of L at its ε, cosine.

    Every ascent takes ε from one window, and is judged on another one, of other robots. ascent: "all" of the window;
    "first steps" of all robots; all steps of the "first robots"; the "window before", as if each ascent served two
    windows. cosine: of T∇L with that of the whole window.
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
    """`ascents` of several policies (column run), each rise as a share of the exact ascent's around the same policy.

    A row per ascent, share and run: rise and cosine, means over the windows, and of_exact.
    """
    means = found.groupby(["ascent", "share", "run"])[["rise", "cosine"]].mean()
    exact = means.rise.xs("all", level="ascent").droplevel("share")
    return means.assign(of_exact=means.rise.div(exact, level="run"))
