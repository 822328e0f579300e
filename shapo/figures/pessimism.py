"""Notebooks 01 and 02: the geometry of pessimism, its quantile, and what it weighs."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import norm

from shapo.figures.style import (
    BAD,
    BLACK,
    COLUMN,
    EUCLIDEAN,
    GOOD,
    GREY,
    ORANGE,
    PAGE,
    PINK,
    RED,
    SHAPO,
    canvas,
    plain_log,
    say,
)


def geometry(
    theta: ArrayLike,
    steps: Mapping[str, ArrayLike],
    fisher: ArrayLike,
    delta: float,
    rho: float,
    sweep: pd.DataFrame,
) -> Figure:
    """Figure 1: a Gaussian policy θ = (μ, log σ), its KL contours, and the two perturbations.

    Args:
        theta: θ₀ (2,). steps: ε of "Fisher" and "Euclidean" (2,). fisher: F (2, 2). delta: δ_Down. rho: ρ.
        sweep: columns std, Fisher, Euclidean: exact KL of either step from policies of several σ₀.
    """
    theta, fisher = np.asarray(theta, dtype=float), np.asarray(fisher, dtype=float)
    colours = {"Fisher": SHAPO, "Euclidean": EUCLIDEAN}
    fig, (plane, actions, sharpen) = canvas(PAGE, 2.35, 3)

    turn = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    edges = {
        "Fisher": np.sqrt(2 * delta) * np.linalg.solve(np.linalg.cholesky(fisher).T, circle),
        "Euclidean": rho * circle,
    }
    reach = 1.25 * max(np.abs(edge).max() for edge in edges.values())
    mean, log_std = np.meshgrid(*(centre + reach * np.linspace(-1, 1, 241) for centre in theta))
    kl = (
        0.5 * (np.exp(2 * (theta[1] - log_std)) + ((mean - theta[0]) * np.exp(-log_std)) ** 2 - 1)
        + log_std
        - theta[1]
    )
    levels = delta * np.array([0.25, 1, 4, 16])
    contours = plane.contour(mean, log_std, kl, levels, colors=GREY, linewidths=0.7)
    plane.clabel(contours, fmt=lambda level: f"{level:.2g}", fontsize=6)
    for name, edge in edges.items():
        plane.plot(theta[0] + edge[0], theta[1] + edge[1], color=colours[name], lw=1.2, label=f"{name} ball")
        tip = theta + np.asarray(steps[name])
        plane.annotate("", tip, theta, arrowprops={"arrowstyle": "-|>", "color": colours[name], "lw": 1.6})
    plane.plot(*theta, "o", color=BLACK, ms=3)
    plane.set_aspect("equal")
    plane.grid(False)
    plane.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=6.5, ncols=2)
    say(plane, r"KL contours around $\theta_0$", r"mean $\mu$", r"$\log\,\sigma$")

    width = np.exp(theta[1])
    a = np.linspace(theta[0] - 4.5 * width, theta[0] + 4.5 * width, 400)
    actions.fill_between(a, norm.pdf(a, theta[0], width), color="#DDDDDD", lw=0, label=r"$\pi_0$")
    for name, step in steps.items():
        moved = theta + np.asarray(step)
        actions.plot(a, norm.pdf(a, moved[0], np.exp(moved[1])), color=colours[name], label=name)
    actions.set_ylim(0, 1.45 * norm.pdf(0, 0, width))
    actions.legend(loc="upper right")
    say(actions, "the perturbed policies", "action", "density")

    for name, colour in colours.items():
        sharpen.loglog(sweep["std"], sweep[name], color=colour, label=name)
    sharpen.axhline(delta, color=BLACK, lw=0.8, ls=":", label=r"$\delta_{\rm Down}$")
    sharpen.invert_xaxis()
    sharpen.legend(loc="upper left")
    sharpen.set_ylim(delta / 3, None)
    plain_log(sharpen.xaxis)
    plain_log(sharpen.yaxis)
    say(
        sharpen,
        "as the policy sharpens",
        r"standard deviation $\sigma_0$",
        r"$D_{\rm KL}(\pi_0,\tilde\pi)$ [nats]",
    )
    return fig


def theorem1(table: pd.DataFrame, constant: float, trivial: float, sharpening: pd.DataFrame) -> Figure:
    """Theorem 1 on the ring road: both sides for random policies, and the bound as the policy sharpens.

    Args:
        table: `theory.theorem1_table`. constant: C. trivial: |J(π̃) − J(π₀)| is below it for any two policies.
        sharpening: columns std, ball, bound, error: the largest over each ball, per standard deviation.
    """
    fig, (left, right) = canvas(PAGE, 2.6, 2)
    for ball, colour in (("Euclidean", EUCLIDEAN), ("Fisher", SHAPO)):
        rows = table[table["ball"] == ball]
        left.loglog(rows["kl_max"], rows["error"], ".", ms=3, alpha=0.6, color=colour, label=f"{ball} ball")
    kl = np.array([table["kl_max"].min() / 2, table["kl_max"].max() * 2])
    tight = (table["error"] / table["kl_max"]).max()
    left.loglog(kl, constant * kl, color=BLACK, label=rf"bound, $C={constant:.0f}$")
    left.loglog(kl, tight * kl, color=BLACK, lw=0.9, ls="--", label=f"{tight:.2g} would do here")
    for axis in (left, right):
        axis.axhline(trivial, color=GREY, lw=0.9, ls=":")
        axis.set_ylim(1e-9, 3e3)
        axis.annotate("no two policies differ by more", (0.03, trivial), (0, 2), fontsize=6.5, color=GREY,
                      xycoords=axis.get_yaxis_transform(), textcoords="offset points")  # fmt: skip
    left.legend(loc="lower right", fontsize=6.5, ncols=2)
    say(
        left,
        "random policies",
        r"$D_{\rm KL}^{\max}(\pi_0,\tilde\pi)$ [nats]",
        r"$|J(\tilde\pi)-J(\pi_0)-L(\tilde\pi)|$",
    )

    for ball, colour in (("Euclidean", EUCLIDEAN), ("Fisher", SHAPO)):
        rows = sharpening[sharpening["ball"] == ball]
        right.loglog(rows["std"], rows["bound"], color=colour, label=f"{ball}: bound")
        right.loglog(rows["std"], rows["error"], color=colour, ls="--", label=f"{ball}: error")
    right.invert_xaxis()
    right.legend(loc="lower left", fontsize=6.5, ncols=2)
    plain_log(right.xaxis)
    say(right, "worst of each ball as the policy sharpens", r"standard deviation $\sigma_0$", "objective")
    return fig


def quantile(
    samples: ArrayLike, gradient: ArrayLike, limit: float, most_likely: ArrayLike, step: ArrayLike
) -> Figure:
    """Proposition 2 in two dimensions: draws from Q, the α-tail, its most likely point, and ε_Down.

    Args:
        samples: θ − θ₀ (N, 2), of which 4000 are shown.
        gradient: g (2,). limit: z_α σ. most_likely: the optimiser's point (2,).
        step: ε_Down (2,).
    """
    samples, gradient = np.asarray(samples), np.asarray(gradient, dtype=float)
    values = samples @ gradient
    tail = values <= limit
    fig, (plane, histogram) = canvas(PAGE, 2.9, 2, width_ratios=(1, 1.25))

    for chosen, colour in ((~tail, GREY), (tail, ORANGE)):
        plane.plot(*samples[:4000][chosen[:4000]].T, ".", ms=1.6, alpha=0.55, color=colour, rasterized=True)
    reach = 1.05 * np.abs(samples).max(0)
    x, y = np.meshgrid(np.linspace(-reach[0], reach[0], 200), np.linspace(-reach[1], reach[1], 200))
    plane.contourf(x, y, x * gradient[0] + y * gradient[1], [-1e9, limit], colors=[ORANGE], alpha=0.15)
    precision = np.linalg.inv(np.cov(samples.T))
    energy = np.einsum("ihw,ij,jhw->hw", np.stack([x, y]), precision, np.stack([x, y]))
    at_best = np.asarray(most_likely) @ precision @ np.asarray(most_likely)
    plane.contour(x, y, energy, [at_best * f for f in (0.25, 1, 2.25)], colors=BLACK, linewidths=0.6)
    plane.annotate("", step, (0, 0), arrowprops={"arrowstyle": "-|>", "color": SHAPO, "lw": 1.6})
    plane.plot(
        *most_likely, "o", ms=8, mfc="none", mec=BLACK, mew=1.3, label="most likely in the tail (optimiser)"
    )
    plane.plot(*step, "o", ms=3.5, color=SHAPO, label=r"$\varepsilon_{\rm Down}=U_F(-g,\,z_\alpha^2/2n)$")
    plane.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7)
    plane.grid(False)
    say(
        plane,
        r"draws from $Q=\mathcal{N}(\theta_0,F^{-1}/n)$",
        r"$\theta_1-\theta_{0,1}$",
        r"$\theta_2-\theta_{0,2}$",
    )

    width = np.ptp(values) / 60
    bins = limit + width * np.arange(np.floor((values.min() - limit) / width), 62)  # one edge at the limit
    counts, _ = np.histogram(values, bins)
    middle = (bins[1:] + bins[:-1]) / 2
    histogram.bar(
        middle, counts / counts.sum() / width, width, color=np.where(middle <= limit, ORANGE, "#CFCFCF")
    )
    line, std = np.linspace(*bins[[0, -1]], 300), values.std()
    histogram.plot(line, norm.pdf(line, 0, std), color=BLACK, lw=1)
    histogram.axvline(float(np.asarray(step) @ gradient), color=SHAPO)
    histogram.annotate(
        rf"$g^\top\varepsilon_{{\rm Down}}$" "\n" rf"{100 * tail.mean():.1f} % below",
        (limit, 0.8 * norm.pdf(0, 0, std)), (-4, 0),
        textcoords="offset points", ha="right", color=SHAPO, fontsize=7.5,
    )  # fmt: skip
    say(histogram, "the surrogate, to first order", r"$Y=g^\top(\theta-\theta_0)$", "density")
    return fig


def agreement(table: pd.DataFrame, reached: pd.DataFrame, alpha: float) -> Figure:
    """How well Proposition 2 holds: against an optimiser, and for a surrogate that is not linear.

    Args:
        table: `theory.proposition2_agreement`. reached: `theory.quantile_reached` at `alpha`.
    """
    fig, (left, right) = canvas(PAGE, 2.3, 2)
    dimensions = sorted(table["dimension"].unique())
    for position, dimension in enumerate(dimensions):
        distance = np.maximum(table.loc[table["dimension"] == dimension, "distance"], 1e-17)
        spread = np.linspace(-0.25, 0.25, len(distance))
        left.semilogy(position + spread, distance, ".", ms=3, color=SHAPO, alpha=0.6)
    left.set_xticks(range(len(dimensions)), [str(d) for d in dimensions])
    left.set_ylim(1e-17, 1e-3)
    say(left, r"$\varepsilon_{\rm Down}$ against SLSQP", "dimension", r"relative distance, in $\|\cdot\|_F$")

    right.errorbar(
        reached["n"],
        reached["reached"],
        2 * reached["standard_error"],
        fmt="o-",
        ms=3,
        lw=1,
        color=SHAPO,
        capsize=2,
    )
    right.axhline(alpha, color=BLACK, lw=0.9, ls=":", label=rf"$\alpha={alpha:g}$")
    right.set_xscale("log")
    right.set_ylim(0, None)
    right.legend(loc="lower right")
    say(
        right,
        "the curved surrogate of the ring road",
        "samples $n$",
        r"$P_Q(L(\theta)\leq L(\theta_0+\varepsilon))$",
    )
    return fig


def dial(
    n: ArrayLike, alpha_of_n: Mapping[float, ArrayLike], delta_of_n: Mapping[float, ArrayLike], mark=None
) -> Figure:
    """The dial α ↔ δ_Down ↔ n: what a fixed radius means, and what radius a fixed confidence asks for.

    Args:
        n: sample counts (M,). alpha_of_n: δ_Down -> α at each n. delta_of_n: α -> δ_Down at each n.
        mark: (α, δ_Down, n) to mark in both panels, or None.
    """
    fig, (left, right) = canvas(PAGE, 2.5, 2)
    shades = plt.get_cmap("cividis")
    for axis, curves, name in ((left, alpha_of_n, r"\delta_{\rm Down}"), (right, delta_of_n, r"\alpha")):
        for position, (value, curve) in enumerate(curves.items()):
            colour = shades(0.05 + 0.8 * position / max(len(curves) - 1, 1))
            axis.plot(n, curve, color=colour, label=rf"${name}={value:g}$")
        axis.set_xscale("log")
        axis.set_yscale("log")
    left.set_ylim(1e-6, 0.7)
    left.legend(loc="lower left")
    right.legend(loc="upper right")
    say(
        left,
        r"fixed $\delta_{\rm Down}$: pessimism grows",
        "effective samples $n$",
        r"$\alpha=\Phi(-\sqrt{2n\delta_{\rm Down}})$",
    )
    say(
        right,
        r"fixed $\alpha$: the radius decays",
        "effective samples $n$",
        r"$\delta_{\rm Down}=z_\alpha^2/2n$ [nats]",
    )
    if mark is not None:
        alpha, delta, samples = mark
        left.plot(samples, alpha, "o", ms=6, mfc="none", mec=RED, mew=1.5)
        right.plot(samples, delta, "o", ms=6, mfc="none", mec=RED, mew=1.5)
    return fig


def reweighting(
    a: ArrayLike, bad: Mapping[float, ArrayLike], good: Mapping[float, ArrayLike], roots: pd.DataFrame
) -> Figure:
    """Figure 2: Proposition 3's weight of an action, and where its statement changes over.

    Args:
        a: |a| in standard deviations (M,). bad, good: δ_Down -> weight g̃/g (M,), for A < 0 and A > 0.
        roots: columns delta, bad, good: the |a| at which the weight is one.
    """
    fig, (weights, zones) = canvas(PAGE, 2.7, 2, width_ratios=(1.35, 1))
    styles = ["-", "--", ":"]
    for curves, colour, name in ((bad, BAD, "bad action, $A<0$"), (good, GOOD, "good action, $A>0$")):
        weights.plot([], [], color=colour, label=name)
        for style, curve in zip(styles, curves.values(), strict=False):
            weights.plot(a, curve, style, color=colour)
    for style, delta in zip(styles, bad, strict=False):
        weights.plot([], [], style, color=BLACK, lw=1, label=rf"$\delta_{{\rm Down}}={delta:g}$")
    weights.axhline(1, color=BLACK, lw=0.7)
    weights.axhline(0, color=BLACK, lw=0.7)
    weights.axvspan(0, 1, color="#F3F3F3", lw=0, zorder=0)
    weights.annotate("roles\nswapped", (0.97, -0.52), ha="right", fontsize=7, color="#555555")
    weights.set_ylim(-0.6, 2.6)
    weights.set_xlim(0, np.max(a))
    weights.legend(loc="upper left", bbox_to_anchor=(1 / np.max(a), 1.02), fontsize=6.5)
    say(weights, r"weight $\tilde g/g$ of an action", r"$|a|$ [standard deviations]", r"$\tilde g/g$")

    r = np.sqrt(2 * roots["delta"])
    zones.fill_between(roots["delta"], 0, r, color=PINK, alpha=0.25, lw=0)
    zones.semilogx(roots["delta"], r, color=PINK, label=r"sign change, $\sqrt{2\delta}$ ($A<0$)")
    zones.plot(roots["delta"], roots["bad"], color=BAD, label="crossover, $A<0$")
    zones.plot(roots["delta"], roots["good"], color=GOOD, label="crossover, $A>0$")
    zones.plot(roots["delta"], 1 + r / 2, ":", color=BLACK, lw=1, label=r"$1\pm\sqrt{2\delta}/2$")
    zones.plot(roots["delta"], 1 - r / 2, ":", color=BLACK, lw=1)
    zones.set_ylim(0, 2.1)
    zones.legend(loc="upper left", fontsize=6.5)
    say(zones, "where the statement turns", r"$\delta_{\rm Down}$ [nats]", r"$|a|$ [standard deviations]")
    return fig


def measured_weights(samples: pd.DataFrame, delta: float, prediction: Mapping[str, ArrayLike]) -> Figure:
    """The weights of a real batch: their mean over distance, each against its own prediction, and the shifts.

    Args:
        samples: `theory.sample_weights` with a column advantage. delta: δ_Down.
        prediction: Proposition 3: distance, bad, good (M,), for one sample alone in its batch.
    """
    fig, (means, own, towards) = canvas(PAGE, 2.5, 3)
    bins = np.linspace(0.2, 3.4, 9)
    middle = (bins[1:] + bins[:-1]) / 2
    signs = (
        (samples["advantage"] < 0, BAD, "bad", "$A<0$"),
        (samples["advantage"] > 0, GOOD, "good", "$A>0$"),
    )
    for rows, colour, key, name in signs:
        groups = samples[rows].groupby(np.digitize(samples.loc[rows, "distance"], bins))["weight"]
        mean = groups.mean().reindex(range(1, len(bins)))
        low, high = (groups.quantile(q).reindex(range(1, len(bins))) for q in (0.25, 0.75))
        means.fill_between(middle, low, high, color=colour, alpha=0.15, lw=0)
        means.plot(middle, mean, "o-", ms=3, color=colour, label=f"{name}, measured")
        means.plot(
            prediction["distance"],
            prediction[key],
            "--",
            lw=1,
            color=colour,
            label=f"{name}, alone (Prop. 3)",
        )
    means.axhline(1, color=BLACK, lw=0.7)
    r = np.sqrt(2 * delta)
    means.set_ylim(1 - 4 * r, 1 + 4 * r)
    means.set_xlim(0, 3.4)
    fig.legend(loc="outside lower center", ncols=4)
    say(
        means,
        "mean weight",
        r"distance $|z|$ [standard deviations]",
        r"weight in $\tilde g$ over weight in $g$",
    )

    far = samples[samples["distance"] > 0.5]
    own.plot(far["predicted"], far["weight"], ".", ms=1, alpha=0.25, color=GREY, rasterized=True)
    ends = np.quantile(far["predicted"], [0.001, 0.999])
    own.plot(ends, ends, color=BLACK, lw=1)
    own.set(xlim=ends, ylim=ends)
    say(own, "each sample", "Prop. 3 with the sample's own shift", "measured weight")

    edges = np.linspace(-2.5 * r, 2.5 * r, 41)
    for rows, colour, _, _ in signs:
        towards.hist(samples.loc[rows, "towards"], edges, density=True, histtype="step", color=colour)
        sign = 1 if colour == BAD else -1
        towards.axvline(sign * r, color=colour, lw=1, ls="--")  # the move it would make alone
    towards.axvline(0, color=BLACK, lw=0.7)
    towards.set_yticks([])
    say(towards, "moves of the mean towards $a$", r"$\zeta\cdot z/|z|$ [standard deviations]", "density")
    return fig


def dilution(table: pd.DataFrame) -> Figure:
    """How much of Proposition 3's shift a sample gets for itself, over the number of samples that share it.

    Args:
        table: columns samples, share: a row per batch; share is one where each sample stands alone.
    """
    fig, (axis,) = canvas(COLUMN, 2.3)
    mean = table.groupby("samples")["share"].mean()
    axis.loglog(table["samples"], table["share"].where(table["share"] > 0), ".", ms=3, color=GREY, alpha=0.6)
    axis.loglog(mean.index, mean, "o-", ms=4, color=SHAPO)
    axis.axhline(1, color=BLACK, lw=0.9, ls="--")
    axis.annotate(
        "alone (Prop. 3)", (mean.index[-1], 1), (0, -9), ha="right", fontsize=7, textcoords="offset points"
    )
    axis.set_ylim(0.01, 1.5)
    plain_log(axis.yaxis)
    say(axis, "", "samples in the batch", "a sample's share of the shift")
    return fig
