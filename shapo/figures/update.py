"""Notebook 03: one update, taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from shapo.figures.style import BLACK, COLUMN, GREEN, GREY, PAGE, PLAIN, RED, SHAPO, canvas, say


def pessimistic_step(sweep: pd.DataFrame, delta_down: float) -> Figure:
    """What ε_Down does on a real batch, over its radius.

    Args:
        sweep: columns delta, kl, quadratic (½ εᵀFε), drop, linear (gᵀε), angle and "step angle" (degrees).
        delta_down: the radius to mark.
    """
    fig, (kl, drop, angle) = canvas(PAGE, 2.4, 3)
    kl.loglog(sweep.delta, sweep.delta, color=GREY, lw=0.9, ls=":", label=r"$\delta_{\rm Down}$")
    kl.loglog(sweep.delta, sweep.kl, color=SHAPO, marker="o", ms=2.5, label="KL reached")
    quadratic = r"$\frac{1}{2}\varepsilon^\top F\varepsilon$"
    kl.loglog(sweep.delta, sweep.quadratic, color=RED, ls="--", lw=1.0, label=quadratic)
    say(kl, "distance", r"radius $\delta_{\rm Down}$ [nats]", "KL to $\\pi_0$ [nats]")
    drop.loglog(
        sweep.delta, -sweep.linear, color=RED, ls="--", lw=1.0, label=r"predicted, $-g^\top\varepsilon$"
    )
    drop.loglog(sweep.delta, -sweep["drop"], color=SHAPO, marker="o", ms=2.5, label="measured")
    say(
        drop,
        "fall of the surrogate",
        r"radius $\delta_{\rm Down}$ [nats]",
        r"$-L(\theta_0+\varepsilon_{\rm Down})$",
    )
    angle.semilogx(sweep.delta, sweep.angle, color=SHAPO, marker="o", ms=2.5, label=r"$g$ to $\tilde g$")
    angle.semilogx(
        sweep.delta, sweep["step angle"], color=GREEN, marker="s", ms=2.5, label="step to step, in $F$"
    )
    angle.set_ylim(bottom=0)
    say(angle, "turn of the gradient", r"radius $\delta_{\rm Down}$ [nats]", "angle [degrees]")
    for axis in (kl, drop, angle):
        axis.axvline(delta_down, color=BLACK, lw=0.8, ls=":")
        axis.legend()
    return fig


def conjugate_gradient_residuals(solves: Mapping[str, Sequence[float]]) -> Figure:
    """Relative residual ‖b − F x‖ / ‖b‖ after each product, per solve; the first one's end is what to reach."""
    fig, (axis,) = canvas(COLUMN, 2.3)
    styles = ((PLAIN, "-", "o"), (RED, "--", ""), (SHAPO, "-", "s"))
    for (color, line, marker), (label, values) in zip(styles, solves.items(), strict=True):
        axis.semilogy(range(len(values)), values, color=color, ls=line, marker=marker, ms=2.5, label=label)
    axis.axhline(next(iter(solves.values()))[-1], color=BLACK, lw=0.8, ls=":")
    axis.legend()
    say(axis, "", "products $F v$", "relative residual")
    return fig


def line_search(paths: Mapping[str, pd.DataFrame], accepted: Mapping[str, float], target_kl: float) -> Figure:
    """Surrogate and KL along steps, and the point the line search takes.

    Args:
        paths: per method, columns surrogate and kl over the fraction of the step (index). accepted: fraction taken.
        target_kl: δ_Up, nats.
    """
    fig, (value, kl) = canvas(PAGE, 2.4, 2)
    for color, (name, path) in zip((PLAIN, SHAPO), paths.items(), strict=True):
        for axis, column in ((value, "surrogate"), (kl, "kl")):
            axis.plot(path.index, path[column], color=color, label=name)
            axis.plot(
                accepted[name], np.interp(accepted[name], path.index, path[column]), "o", color=color, ms=5
            )
    kl.axhline(target_kl, color=BLACK, lw=0.9, ls="--", label=r"$\delta_{\rm Up}$")
    say(value, "surrogate along the step", "fraction of the step", r"$L(\theta_0+t\,\varepsilon_{\rm Up})$")
    say(kl, "distance along the step", "fraction of the step", "KL to $\\pi_0$ [nats]")
    value.legend()
    kl.legend()
    return fig


def critic_sharpness(distances: ArrayLike, curves: Mapping[str, np.ndarray], rho: float) -> Figure:
    """Rise of each critic's loss along its own steepest direction, after fits with and without SAM.

    Args:
        distances: (M,) Euclidean, in parameters. curves: per fit, (M, 2) losses of the reward and the cost critic.
        rho: SAM's radius, to mark.
    """
    distances = np.asarray(distances)
    fig, axes = canvas(PAGE, 2.4, 2)
    for k, (axis, name) in enumerate(zip(axes, ("reward", "cost"), strict=True)):
        for color, (label, losses) in zip((PLAIN, SHAPO), curves.items(), strict=True):
            axis.plot(distances, losses[:, k], color=color, label=label)
        axis.axvline(rho, color=BLACK, lw=0.8, ls=":")
        say(axis, f"{name} critic", r"distance along $\nabla\ell/\|\nabla\ell\|$", "mean squared error")
    axes[0].legend()
    return fig
