"""Notebooks 01 and 02: the geometry of pessimism, its quantile, and what it weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import norm

from shapo.figures.curves import curves
from shapo.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    LOOKS,
    ORANGE,
    PAGE,
    PINK,
    RED,
    canvas,
    movable,
    name_lines,
    ordered,
    plain_log,
    say,
)

FISHER, EUCLIDEAN = BLUE, ORANGE
BALLS = {"Euclidean": EUCLIDEAN, "Fisher": FISHER}
BAD, GOOD = ORANGE, BLUE  # advantages
DISTANCES = r"$|a|$ [standard deviations]"
ARROW = {"arrowstyle": "-|>", "lw": 1.6, "shrinkA": 0, "shrinkB": 0}


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
    fig, (plane, actions, sharpen) = canvas(PAGE, 2.35, 3)

    turn = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([np.cos(turn), np.sin(turn)])
    ellipse = np.sqrt(2 * delta) * np.linalg.solve(np.linalg.cholesky(fisher).T, circle)
    edges = {"Fisher": ellipse, "Euclidean": rho * circle}
    reach = 1.25 * max(np.abs(edge).max() for edge in edges.values())
    mean, log_std = np.meshgrid(*(centre + reach * np.linspace(-1, 1, 241) for centre in theta))
    fall = theta[1] - log_std
    kl = 0.5 * (np.exp(2 * fall) + ((mean - theta[0]) * np.exp(-log_std)) ** 2 - 1) - fall
    contours = plane.contour(mean, log_std, kl, delta * np.array([0.25, 4, 16]), colors=GREY, linewidths=0.7)
    corner = theta + reach * np.array([0.62, -0.85])  # below both balls
    plane.clabel(contours, [4 * delta], fmt=lambda level: f"{level:.2g}", fontsize=6, manual=[corner])
    for name, edge in edges.items():
        plane.plot(theta[0] + edge[0], theta[1] + edge[1], lw=1.2, label=f"{name} ball", **LOOKS[name].line)
        plane.annotate("", theta + np.asarray(steps[name]), theta, arrowprops=ARROW | {"color": BALLS[name]})
    plane.plot(*theta, "o", color="k", ms=3)
    plane.set_aspect("equal")
    plane.grid(False)
    plane.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), fontsize=6.5, ncols=2)
    say(plane, r"KL contours around $\theta_0$", r"mean $\mu$", r"$\log\,\sigma$")

    width = np.exp(theta[1])
    a = np.linspace(theta[0] - 4.5 * width, theta[0] + 4.5 * width, 400)
    actions.fill_between(a, norm.pdf(a, theta[0], width), color="#DDDDDD", lw=0, label=r"$\pi_0$")
    moved = {name: theta + np.asarray(step) for name, step in steps.items()}
    for name, (mean, log_std) in moved.items():
        actions.plot(a, norm.pdf(a, mean, np.exp(log_std)), label=name, **LOOKS[name].line)
    actions.set_ylim(0, 1.5 * norm.pdf(0, 0, width))
    actions.legend(loc="upper right")
    say(actions, "the perturbed policies", "action", "density")

    curves(sharpen, {name: [sweep.set_index("std")[name]] for name in BALLS}, LOOKS)
    sharpen.axhline(delta, color="k", lw=0.8, ls=":", label=r"$\delta_{\rm Down}$")
    sharpen.set(xscale="log", yscale="log", ylim=(delta / 3, None))
    sharpen.invert_xaxis()
    sharpen.legend(loc="upper left")
    plain_log(sharpen.xaxis, sharpen.yaxis)
    label = r"$D_{\rm KL}(\pi_0,\tilde\pi)$ [nats]"
    say(sharpen, "as the policy sharpens", r"standard deviation $\sigma_0$", label)
    return fig


def theorem1(table: pd.DataFrame, constant: float, trivial: float, sharpening: pd.DataFrame) -> Figure:
    """Theorem 1 on the ring road: both sides for random policies, and the bound as the policy sharpens.

    Args:
        table: `theory.theorem1_table`. constant: C. trivial: |J(π̃) − J(π₀)| is below it for any two policies.
        sharpening: columns std, ball, bound, error: the largest over each ball, per standard deviation.
    """
    fig, (left, right) = canvas(PAGE, 2.7, 2)
    kl = np.array([table["kl_max"].min() / 2, table["kl_max"].max() * 2])
    tight = (table["error"] / table["kl_max"]).max()
    left.loglog(kl, constant * kl, color="k", label=rf"bound, $C={constant:.0f}$")
    left.loglog(kl, tight * kl, color="k", lw=0.9, ls="--", label=f"{tight:.2g} would do here")
    density = {"levels": 6, "thresh": 0.03, "gridsize": 80, "alpha": 0.75, "warn_singular": False}
    for ball, fill in (("Euclidean", False), ("Fisher", True)):
        rows = table[table["ball"] == ball].assign(error=lambda rows: rows.error.clip(lower=1e-12))
        sns.kdeplot(rows, x="kl_max", y="error", ax=left, color=BALLS[ball], fill=fill, **density)
        left.plot([], [], color=BALLS[ball], lw=4 if fill else 1.2, label=f"{ball} ball")
    for axis in (left, right):
        axis.axhline(trivial, color=GREY, lw=0.9, ls=":")
        axis.set_ylim(1e-9, 3e3)
        axis.annotate("no two policies differ by more", (0.03, trivial), (0, 2), fontsize=6.5, color=GREY,
                      xycoords=axis.get_yaxis_transform(), textcoords="offset points")  # fmt: skip
    left.legend(loc="lower right", fontsize=6.5, ncols=2)
    error = r"$|J(\tilde\pi)-J(\pi_0)-L(\tilde\pi)|$"
    say(left, "density of random policies", r"$D_{\rm KL}^{\max}(\pi_0,\tilde\pi)$ [nats]", error)

    for ball, rows in sharpening.groupby("ball"):
        right.loglog(rows["std"], rows["bound"], color=BALLS[ball], label=f"{ball}: bound")
        right.loglog(rows["std"], rows["error"], color=BALLS[ball], ls="--", label=f"{ball}: error")
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
    plane.contour(x, y, energy, [at_best * f for f in (0.25, 1, 2.25)], colors="k", linewidths=0.6)
    plane.annotate("", step, (0, 0), arrowprops=ARROW | {"color": FISHER})
    mark = {"mfc": "none", "mec": "k", "mew": 1.3, "label": "most likely in the tail (optimiser)"}
    plane.plot(*most_likely, "o", ms=8, **mark)
    plane.plot(*step, "o", ms=3.5, color=FISHER, label=r"$\varepsilon_{\rm Down}=U_F(-g,\,z_\alpha^2/2n)$")
    plane.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7)
    plane.grid(False)
    title = r"draws from $Q=\mathcal{N}(\theta_0,F^{-1}/n)$"
    say(plane, title, r"$\theta_1-\theta_{0,1}$", r"$\theta_2-\theta_{0,2}$")

    width, std = np.ptp(values) / 60, values.std()
    edges = limit + width * np.arange(
        np.floor((values.min() - limit) / width), 62
    )  # one of them at the limit
    for part, colour in ((values[~tail], "#CFCFCF"), (values[tail], ORANGE)):
        weights = np.full(len(part), 1 / len(values) / width)
        histogram.hist(part, edges, weights=weights, color=colour)
    line = np.linspace(*edges[[0, -1]], 300)
    histogram.plot(line, norm.pdf(line, 0, std), color="k", lw=1)
    histogram.axvline(float(np.asarray(step) @ gradient), color=FISHER)
    words = rf"$g^\top\varepsilon_{{\rm Down}}$" "\n" rf"{100 * tail.mean():.1f} % below"
    place = {"textcoords": "offset points", "ha": "right", "color": FISHER, "fontsize": 7.5}
    histogram.annotate(words, (limit, 0.8 * norm.pdf(0, 0, std)), (-4, 0), **place)
    say(histogram, "the surrogate, to first order", r"$Y=g^\top(\theta-\theta_0)$", "density")
    return fig


def agreement(table: pd.DataFrame, reached: pd.DataFrame, alpha: float) -> Figure:
    """How well Proposition 2 holds: against an optimiser, and for a surrogate that is not linear.

    Args:
        table: `theory.proposition2_agreement`. reached: `theory.quantile_reached` at `alpha`.
    """
    fig, (left, right) = canvas(PAGE, 2.4, 2)
    table = table.assign(distance=np.maximum(table["distance"], 1e-17))
    style = {"color": FISHER, "density_norm": "width", "inner": "quart", "cut": 0, "linewidth": 0.8}
    sns.violinplot(table, x="dimension", y="distance", log_scale=(False, True), ax=left, **style)
    left.set_ylim(1e-17, 1e-3)
    title = r"density of $\varepsilon_{\rm Down}$ against SLSQP"
    say(left, title, "dimension", r"relative distance, in $\|\cdot\|_F$")

    bars = {"fmt": "s-", "ms": 3, "lw": 1, "color": FISHER, "capsize": 2}
    right.errorbar(reached["n"], reached["reached"], 2 * reached["standard_error"], **bars)
    right.axhline(alpha, color="k", lw=0.9, ls=":", label=rf"$\alpha={alpha:g}$")
    right.set(xscale="log", ylim=(0, None))
    right.legend(loc="lower right")
    label = r"$P_Q(L(\theta)\leq L(\theta_0+\varepsilon))$"
    say(right, "the curved surrogate of the ring road", "samples $n$", label)
    return fig


Curves = Mapping[float, ArrayLike]


def dial(n: ArrayLike, alpha_of_n: Curves, delta_of_n: Curves, mark: tuple | None = None) -> Figure:
    """The dial α ↔ δ_Down ↔ n: what a fixed radius means, and what radius a fixed confidence asks for.

    Args:
        n: sample counts (M,). alpha_of_n: δ_Down -> α at each n. delta_of_n: α -> δ_Down at each n.
        mark: (α, δ_Down, n) to mark in both panels, or None.
    """
    fig, axes = canvas(PAGE, 2.5, 2)
    _dial(axes, n, alpha_of_n, delta_of_n, mark)
    return fig


def turning_dial(
    n: ArrayLike,
    alpha_of_n: Curves,
    delta_of_n: Curves,
    samples: ArrayLike,
    gradient: ArrayLike,
    fisher: ArrayLike,
) -> Callable[[float, float, float], bytes]:
    """`dial` beside Proposition 2, whose marks move: (α, δ_Down, n) -> the picture as PNG, sharp at half its size.

    Args:
        samples: draws from N(0, F⁻¹) (N, 2), which are those of Q times √n. gradient: g (2,). fisher: F (2, 2).
    """
    fig, axes = canvas(1.3 * PAGE, 2.7, 3)
    rings = _dial(axes, n, alpha_of_n, delta_of_n, (np.nan,) * 3)
    plane, direction = axes[2], -np.linalg.solve(np.asarray(fisher, float), np.asarray(gradient, float))
    direction /= np.sqrt(direction @ fisher @ direction)  # of length one in F
    reach = 1.05 * np.abs(samples).max()
    plane.plot(*np.asarray(samples).T, ".", ms=1.6, alpha=0.5, color=GREY)
    plane.set(xlim=(-reach, reach), ylim=(-reach, reach))
    plane.set_aspect("equal")
    say(
        plane,
        r"Proposition 2, times $\sqrt{n}$",
        r"$\sqrt{n}\,(\theta_1-\theta_{0,1})$",
        r"$\sqrt{n}\,(\theta_2-\theta_{0,2})$",
    )
    along = (
        np.array([-np.asarray(gradient)[1], np.asarray(gradient)[0]]) * 9 * reach / np.linalg.norm(gradient)
    )
    (edge,) = plane.plot([], [], color=RED, lw=1.2, ls="--")
    (step,) = plane.plot([], [], "s-", color=FISHER, ms=4, lw=1.8, markevery=[1])
    draw = movable(fig, [*rings, edge, step])

    def picture(alpha: float, delta: float, count: float) -> bytes:
        for ring, height in zip(rings, (alpha, delta), strict=True):
            ring.set_data([count], [height])
        tip = np.sqrt(2 * count * delta) * direction
        step.set_data(*np.stack([0 * tip, tip]).T)
        edge.set_data(*np.stack([tip - along, tip + along]).T)  # the tail begins here
        return draw()

    return picture


def _dial(
    axes: tuple[Axes, ...], n: ArrayLike, alpha_of_n: Curves, delta_of_n: Curves, mark: tuple | None
) -> list:
    """Both panels; the rings that mark a point in each."""
    left, right, *_ = axes
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
    for axis, table, name in ((left, alpha_of_n, r"\delta_{\rm Down}"), (right, delta_of_n, r"\alpha")):
        named = {rf"${name}={value:g}$": curve for value, curve in table.items()}
        for label, look in ordered(named).items():
            axis.plot(n, named[label], label=label, **look.line)
        axis.set(xscale="log", yscale="log")
    left.set_ylim(1e-6, 0.7)
    name_lines(left)
    name_lines(right)
    ring = {"ms": 8, "mfc": "none", "mec": RED, "mew": 1.8}
    points = [(axis, mark[2], mark[k]) for k, axis in enumerate((left, right))] if mark else []
    return [axis.plot([x], [y], "o", **ring)[0] for axis, x, y in points]


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
    for sign, colour, name in ((bad, BAD, "bad action, $A<0$"), (good, GOOD, "good action, $A>0$")):
        weights.plot([], [], color=colour, label=name)
        for style, curve in zip(styles, sign.values(), strict=False):
            weights.plot(a, curve, style, color=colour)
    for style, delta in zip(styles, bad, strict=False):
        weights.plot([], [], style, color="k", lw=1, label=rf"$\delta_{{\rm Down}}={delta:g}$")
    weights.axhline(1, color="k", lw=0.7)
    weights.axhline(0, color="k", lw=0.7)
    weights.axvspan(0, 1, color="#F3F3F3", lw=0, zorder=0)
    weights.annotate("roles\nswapped", (0.97, -0.52), ha="right", fontsize=7, color="#555555")
    weights.set(xlim=(0, np.max(a)), ylim=(-0.6, 2.6))
    weights.legend(loc="upper left", bbox_to_anchor=(1 / np.max(a), 1.02), fontsize=6.5)
    say(weights, r"weight $\tilde g/g$ of an action", r"$|a|$ [standard deviations]", r"$\tilde g/g$")

    r = np.sqrt(2 * roots["delta"])
    zones.fill_between(roots["delta"], 0, r, color=PINK, alpha=0.25, lw=0)
    zones.semilogx(roots["delta"], r, color=PINK, label=r"sign change, $\sqrt{2\delta}$ ($A<0$)")
    zones.plot(roots["delta"], roots["bad"], color=BAD, label="crossover, $A<0$")
    zones.plot(roots["delta"], roots["good"], color=GOOD, label="crossover, $A>0$")
    zones.plot(roots["delta"], 1 + r / 2, ":", color="k", lw=1, label=r"$1\pm\sqrt{2\delta}/2$")
    zones.plot(roots["delta"], 1 - r / 2, ":", color="k", lw=1)
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
    r = np.sqrt(2 * delta)
    bins, edges = np.linspace(0.2, 3.4, 9), np.linspace(-2.5 * r, 2.5 * r, 41)
    for key, sign, colour, marker in (("bad", -1, BAD, "D"), ("good", 1, GOOD, "s")):
        rows = samples[np.sign(samples["advantage"]) == sign]
        binned = pd.cut(rows["distance"], bins, labels=(bins[1:] + bins[:-1]) / 2).astype(float)
        style = {"marker": marker, "ms": 4, "mew": 0, "color": colour, "ax": means, "legend": False}
        label = f"$A{'<>'[sign > 0]}0$"
        sns.lineplot(x=binned, y=rows["weight"], errorbar=("pi", 50), label=f"{label}, measured", **style)
        means.plot(
            prediction["distance"],
            prediction[key],
            "--",
            lw=1,
            color=colour,
            label=f"{label}, alone (Prop. 3)",
        )
        sns.histplot(
            x=rows["towards"],
            bins=edges,
            stat="density",
            element="step",
            fill=sign < 0,
            alpha=0.35,
            color=colour,
            ax=towards,
        )
        towards.axvline(-sign * r, color=colour, lw=1, ls="--")  # the move it would make alone
    means.axhline(1, color="k", lw=0.7)
    means.set(xlim=(0, 3.4), ylim=(1 - 4 * r, 1 + 4 * r))
    fig.legend(*means.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    say(
        means,
        "mean weight",
        r"distance $|z|$ [standard deviations]",
        r"weight in $\tilde g$ over weight in $g$",
    )

    far = samples[samples["distance"] > 0.5]
    own.hexbin(far["predicted"], far["weight"], gridsize=45, bins="log", mincnt=1, cmap="Greys", linewidths=0)
    ends = np.quantile(far["predicted"], [0.001, 0.999])
    own.axline((1, 1), slope=1, color=FISHER, lw=1)
    own.set(xlim=ends, ylim=ends)
    say(own, "density of samples", "Prop. 3 with the sample's own shift", "measured weight")
    towards.axvline(0, color="k", lw=0.7)
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
    axis.loglog(mean.index, mean, "s-", ms=4)
    axis.axhline(1, color="k", lw=0.9, ls="--")
    words = {"ha": "right", "fontsize": 7, "textcoords": "offset points"}
    axis.annotate("alone (Prop. 3)", (mean.index[-1], 1), (0, -9), **words)
    axis.set_ylim(0.01, 1.5)
    plain_log(axis.yaxis)
    say(axis, "", "samples in the batch", "a sample's share of the shift")
    return fig
