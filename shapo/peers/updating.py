"""The two costly pieces of an update, against the plain way to write them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from shapo.algorithms.critics import Critics
from shapo.algorithms.fisher import GaussianFisher, kl_hessian_product
from shapo.algorithms.networks import GaussianActor
from shapo.peers.measuring import in_turn, run_apart, side_by_side
from shapo.sharpness import EuclideanSAM, conjugate_gradient

OBSERVATIONS, ACTIONS, DAMPING = 60, 2, 0.2  # of PointGoal1-v0


def solve_fisher(samples: int) -> dict[str, float]:
    """Probe: ms of solving x = F⁻¹g by 15 products, structured ones or those of differentiating the KL twice."""
    random = torch.Generator().manual_seed(0)
    actor = GaussianActor(OBSERVATIONS, ACTIONS, rng=np.random.default_rng(0))
    observation = torch.randn(samples, OBSERVATIONS, generator=random)
    gradient = torch.randn(len(actor.theta), generator=random)

    def double_backward() -> None:
        product = kl_hessian_product(actor, observation)
        conjugate_gradient(lambda v: product(v) + DAMPING * v, gradient)

    def ours() -> None:
        GaussianFisher(actor, observation, DAMPING).solve(gradient)

    return _milliseconds({"shapo": ours, "double backward": double_backward})


def fit_critics(samples: int) -> dict[str, float]:
    """Probe: ms of a pass of both critics over a batch: ours, ours under SAM, and two modules by autograd."""
    random = torch.Generator().manual_seed(0)
    observation = torch.randn(samples, OBSERVATIONS, generator=random)
    target = torch.randn(2, samples, generator=random)
    critics, rng = Critics(OBSERVATIONS, rng=np.random.default_rng(0)), np.random.default_rng(0)
    modules = [
        nn.Sequential(nn.Linear(OBSERVATIONS, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
        for _ in "rc"
    ]
    optimizers = [torch.optim.Adam(module.parameters(), lr=1e-3) for module in modules]

    def autograd() -> None:
        for part in torch.randperm(samples)[: samples // 128 * 128].split(128):
            for module, optimizer, values in zip(modules, optimizers, target, strict=True):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(module(observation[part])[:, 0], values[part])
                (loss + 1e-3 * sum(p.square().sum() for p in module.parameters())).backward()
                nn.utils.clip_grad_norm_(module.parameters(), 40.0)
                optimizer.step()

    ours = partial(critics.fit, observation, target, rng, passes=1)
    return _milliseconds(
        {"shapo": ours, "shapo, SAM": partial(ours, sam=EuclideanSAM(0.05)), "autograd": autograd}
    )


def _milliseconds(ways: dict) -> dict[str, float]:
    return {way: 1e3 * seconds for way, seconds in in_turn(ways).items()}


def pieces(repeats: int, samples: int) -> pd.DataFrame:
    """Time of a solve with the Fisher matrix and of a pass of the critics, on one core."""
    probes = {"Fisher solve": solve_fisher, "critic pass": fit_critics}
    probes = {quantity: partial(run_apart, probe, samples=samples) for quantity, probe in probes.items()}
    return side_by_side("pieces", probes, repeats, "ms")
