"""Notebooks 01 and 02: the geometry of pessimism, its quantile, and how it weighs actions."""

import io
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import norm

from shapo.figures.curves import curves, name_lines
from shapo.figures.style import BLUE, COLUMN, GREY, LOOKS, ORANGE, PAGE, RED, canvas, label, legend, ordered

BALLS = {"Euclidean": ORANGE, "Fisher": BLUE}
SIGNS = {"bad": (-1, ORANGE, "$A<0$"), "good": (1, BLUE, "$A>0$")}  # of advantages
ARROW = {"arrowstyle": "-|>", "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
CIRCLE = np.stack([np.cos(turn := np.linspace(0, 2 * np.pi, 400)), np.sin(turn)])
DOTTED = {"color": "k", "lw": 0.9, "ls": ":"}
Curves = Mapping[float, ArrayLike]


def geometry(
    theta: np.ndarray, steps: Mapping, fisher: ArrayLike, delta: float, rho: float, sweep: pd.DataFrame
) -> Figure:
    """Figure 1: a Gaussian policy θ = (μ, log σ), its KL contours, and the two perturbations.

    theta: θ₀ (2,). steps: ε of "Fisher" and "Euclidean" (2,). fisher: F (2, 2). delta: δ_Down. rho: ρ.
    sweep: columns std, Fisher, Euclidean: exact KL of either step from policies of several σ₀.
    """
    theta = np.asarray(theta, dtype=float)
    fig, (plane, actions, sharpen) = canvas(PAGE, 2.35, 3)
    ellipse = np.sqrt(2 * delta) * np.linalg.solve(np.linalg.cholesky(fisher).T, CIRCLE)
    edges = {"Fisher": ellipse, "Euclidean": rho * CIRCLE}
    reach = 1.25 * max(np.abs(edge).max() for edge in edges.values())
    mean, log_std = np.meshgrid(*(centre + reach * np.linspace(-1, 1, 241) for centre in theta))
    fall = theta[1] - log_std
    kl = 0.5 * (np.exp(2 * fall) + ((mean - theta[0]) * np.exp(-log_std)) ** 2 - 1) - fall
    plane.contour(mean, log_std, kl, delta * np.array([0.25, 4]), colors=GREY, linewidths=0.7)
    width = np.exp(theta[1])
    a = np.linspace(theta[0] - 4.5 * width, theta[0] + 4.5 * width, 400)
    actions.fill_between(a, norm.pdf(a, theta[0], width), color="#DDDDDD", lw=0, label=r"$\pi_0$")
    for name, step in steps.items():
        moved, (x, y) = theta + np.asarray(step), theta[:, None] + edges[name]
        plane.plot(x, y, lw=1.2, **LOOKS[name].line)
        plane.annotate("", moved, theta, arrowprops=ARROW | {"color": BALLS[name]})
        actions.plot(a, norm.pdf(a, moved[0], np.exp(moved[1])), label=name, **LOOKS[name].line)
    plane.plot(*theta, "o", color="k", ms=3)
    plane.set_aspect("equal")
    plane.grid(False)
    curves(sharpen, {name: [sweep.set_index("std")[name]] for name in BALLS}, LOOKS)
    sharpen.axhline(delta, label=r"$\delta_{\rm Down}$", **DOTTED)
    sharpen.set(xscale="log", yscale="log", ylim=(delta / 3, None))
    sharpen.invert_xaxis()
    label(plane, r"KL of $\delta/4$ and $4\delta$ (grey)", r"mean $\mu$", r"$\log\,\sigma$")
    label(actions, "the perturbed policies", "action", "density")
    divergence = r"$D_{\rm KL}(\pi_0,\tilde\pi)$ [nats]"
    label(sharpen, "sharper policies", r"standard deviation $\sigma_0$", divergence)
    return legend(fig)


def theorem1(table: pd.DataFrame, constant: float, trivial: float, sharpening: pd.DataFrame) -> Figure:
    """Theorem 1 on the ring road: both sides for random policies, and the bound as the policy sharpens.

    table: `theory.theorem1_table`. constant: C. trivial: |J(π̃) − J(π₀)| is below it for any two policies.
    sharpening: columns std, ball, bound, error: the largest over each ball, per standard deviation.
    """
    fig, (left, right) = canvas(PAGE, 2.7, 2)
    kl = np.array([table["kl_max"].min() / 2, table["kl_max"].max() * 2])
    tight = (table["error"] / table["kl_max"]).max()
    left.loglog(kl, constant * kl, color="k", label=rf"bound, $C={constant:.0f}$")
    left.loglog(kl, tight * kl, color="k", lw=0.9, ls="--", label=f"{tight:.2g} would do here")
    density = {"levels": 6, "thresh": 0.03, "gridsize": 80, "alpha": 0.75, "warn_singular": False}
    for ball, colour in BALLS.items():
        rows, filled = table[table["ball"] == ball], ball == "Fisher"
        sns.kdeplot(x=rows.kl_max, y=rows.error.clip(1e-12), ax=left, color=colour, fill=filled, **density)
        left.plot([], [], color=colour, lw=4 if filled else 1.2, label=f"{ball} ball")
        rows = sharpening[sharpening["ball"] == ball]
        right.loglog(rows["std"], rows["bound"], color=colour, label=f"{ball}: bound")
        right.loglog(rows["std"], rows["error"], color=colour, ls="--", label=f"{ball}: error")
    for axis in (left, right):
        axis.axhline(trivial, color=GREY, lw=0.9, ls=":")
        axis.set_ylim(1e-9, 3e3)
        axis.text(0.03, 1.5 * trivial, "no two policies differ by more", fontsize=6.5, color=GREY,
                  transform=axis.get_yaxis_transform())  # fmt: skip
        axis.legend(loc="lower left" if axis is right else "lower right", fontsize=6.5, ncols=2)
    right.invert_xaxis()
    error = r"$|J(\tilde\pi)-J(\pi_0)-L(\tilde\pi)|$"
    label(left, "density of random policies", r"$D_{\rm KL}^{\max}(\pi_0,\tilde\pi)$ [nats]", error)
    label(right, "worst of each ball as the policy sharpens", r"standard deviation $\sigma_0$", "objective")
    return fig


def quantile(
    samples: ArrayLike, gradient: ArrayLike, limit: float, most_likely: ArrayLike, step: ArrayLike
) -> Figure:
    """Proposition 2 in two dimensions: draws from Q, the α-tail, its most likely point, and ε_Down.

    samples: θ − θ₀ (N, 2), of which 4000 are shown. gradient: g (2,). limit: z_α σ.
    most_likely: the optimiser's point (2,). step: ε_Down (2,).
    """
    samples, gradient = np.asarray(samples), np.asarray(gradient, dtype=float)
    values = samples @ gradient
    tail, std = values <= limit, values.std()
    fig, (plane, histogram) = canvas(PAGE, 2.9, 2, width_ratios=(1, 1.25))
    for chosen, colour in ((~tail, GREY), (tail, ORANGE)):
        plane.plot(*samples[:4000][chosen[:4000]].T, ".", ms=1.6, alpha=0.55, color=colour, rasterized=True)
    reach = 1.05 * np.abs(samples).max(0)
    at, across = gradient * limit / (gradient @ gradient), gradient[::-1] * (-1, 1)
    plane.axline(at, at + across, color=ORANGE, lw=1, ls="--", label=r"the $\alpha$-tail begins")
    ring = np.linalg.cholesky(np.cov(samples.T)) @ CIRCLE
    for share in (0.5, 1, 1.5):
        plane.plot(*(share * abs(limit) / std * ring), color="k", lw=0.6)
    plane.annotate("", step, (0, 0), arrowprops=ARROW | {"color": BLUE})
    plane.plot(*most_likely, "o", ms=8, mfc="none", mec="k", mew=1.3, label="most likely in it (optimiser)")
    plane.plot(*step, "o", ms=3.5, color=BLUE, label=r"$\varepsilon_{\rm Down}=U_F(-g,\,z_\alpha^2/2n)$")
    plane.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
    plane.grid(False)
    width = np.ptp(values) / 60
    # one edge lies at the limit
    first, last = (np.array([values.min(), values.max()]) - limit) / width
    edges = limit + width * np.arange(np.floor(first), np.ceil(last) + 1)
    grey_and_orange = {"palette": ["#CFCFCF", ORANGE], "alpha": 1, "lw": 0, "legend": False}
    sns.histplot(x=values, hue=tail, bins=edges, stat="density", ax=histogram, **grey_and_orange)
    line = np.linspace(*edges[[0, -1]], 300)
    histogram.plot(line, norm.pdf(line, 0, std), color="k", lw=1)
    histogram.axvline(float(np.asarray(step) @ gradient), color=BLUE)
    words = rf"$g^\top\varepsilon_{{\rm Down}}$" "\n" rf"{100 * tail.mean():.1f} % below"
    histogram.text(limit - 0.1 * std, 0.8 * norm.pdf(0, 0, std), words, ha="right", color=BLUE, fontsize=7.5)
    title = r"draws from $Q=\mathcal{N}(\theta_0,F^{-1}/n)$"
    label(plane, title, r"$\theta_1-\theta_{0,1}$", r"$\theta_2-\theta_{0,2}$")
    label(histogram, "the surrogate, to first order", r"$Y=g^\top(\theta-\theta_0)$", "density")
    return legend(fig)


def agreement(table: pd.DataFrame, reached: pd.DataFrame, alpha: float) -> Figure:
    """How well Proposition 2 holds: against an optimiser, and for a surrogate that is not linear.

    table: `theory.proposition2_agreement`. reached: `theory.quantile_reached` at `alpha`.
    """
    fig, (left, right) = canvas(PAGE, 2.4, 2)
    style = {"color": "#9CD0F2", "density_norm": "width", "inner": "quart", "cut": 0, "linewidth": 0.8}
    across, up = table["dimension"], table["distance"].clip(1e-17)
    sns.violinplot(x=across, y=up, log_scale=(False, True), ax=left, **style)
    left.set_ylim(bottom=3e-18)
    bars = {"fmt": "s-", "ms": 3, "lw": 1, "color": BLUE, "capsize": 2}
    right.errorbar(reached["n"], reached["reached"], 2 * reached["standard_error"], **bars)
    right.axhline(alpha, label=rf"$\alpha={alpha:g}$", **DOTTED)
    right.set(xscale="log", ylim=(0, None))
    right.legend(loc="lower right")
    title = r"density of $\varepsilon_{\rm Down}$ against SLSQP"
    distance = r"relative distance, in $\|\cdot\|_F$"
    label(left, title, "dimension", distance)
    deep = r"$P_Q(L(\theta)\leq L(\theta_0+\varepsilon))$"
    label(right, "the curved surrogate of the ring road", "samples $n$", deep)
    return fig


class Dial:
    """α ↔ δ_Down ↔ n: what a fixed radius means, what radius a fixed confidence asks for, and Proposition 2's tail.

    n: sample counts (M,). alpha_of_n: δ_Down -> α at each n. delta_of_n: α -> δ_Down at each n. samples: draws from
    N(0, F⁻¹) (N, 2), which are those of Q times √n. gradient: g (2,). fisher: F (2, 2).
    """

    def __init__(self, n: ArrayLike, alpha_of_n: Curves, delta_of_n: Curves, samples, gradient, fisher):
        self.fig, (left, right, plane) = canvas(1.3 * PAGE, 2.7, 3)
        for axis, table in ((left, alpha_of_n), (right, delta_of_n)):
            named = {f"{value:g}": [pd.Series(curve, n)] for value, curve in table.items()}
            curves(axis, named, ordered(named))
            axis.set(xscale="log", yscale="log", ylim=(1e-6, 0.7) if axis is left else None)
            name_lines(axis)
        samples, count = np.asarray(samples), "effective samples $n$"
        reach = 1.05 * np.abs(samples).max()
        grey = {"ms": 1.6, "alpha": 0.5, "color": GREY, "label": "draws from $Q$"}
        plane.plot(*samples.T, ".", rasterized=True, **grey)
        plane.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        level = r"$\alpha=\Phi(-\sqrt{2n\delta_{\rm Down}})$"
        label(left, r"fixed $\delta_{\rm Down}$: pessimism grows", count, level)
        label(right, r"fixed $\alpha$: the radius decays", count, r"$\delta_{\rm Down}=z_\alpha^2/2n$ [nats]")
        moves = (rf"$\sqrt{{n}}\,(\theta_{i}-\theta_{{0,{i}}})$" for i in "12")
        label(plane, r"Proposition 2, times $\sqrt{n}$", *moves)
        direction = -np.linalg.solve(fisher, gradient)
        self.direction = direction / np.sqrt(direction @ fisher @ direction)  # of length one in F
        self.across = np.array([-gradient[1], gradient[0]]) * 9 * reach / np.linalg.norm(gradient)
        self.rings = [axis.plot([], [], "o", ms=8, mfc="none", mec=RED, mew=1.8)[0] for axis in (left, right)]
        (self.tail,) = plane.plot([], [], color=ORANGE, lw=1.2, ls="--", label=r"the $\alpha$-tail begins")
        step = {"color": BLUE, "ms": 4, "lw": 1.8, "markevery": [1], "label": r"$\varepsilon_{\rm Down}$"}
        (self.step,) = plane.plot([], [], "s-", **step)
        plane.legend(loc="lower left", markerscale=2)
        self.canvas = None

    def turn(self, alpha: float, delta: float, n: float) -> Figure:
        """Moves the rings, ε_Down and the edge of the tail."""
        for ring, height in zip(self.rings, (alpha, delta), strict=True):
            ring.set_data([n], [height])
        tip = np.sqrt(2 * n * delta) * self.direction
        self.step.set_data(*np.stack([0 * tip, tip]).T)
        self.tail.set_data(*np.stack([tip - self.across, tip + self.across]).T)
        return self.fig

    def png(self) -> bytes:
        """The picture as PNG, sharp at half its size. The parts that do not move are drawn once, at the first call."""
        moving = [*self.rings, self.tail, self.step]
        if self.canvas is None:
            for artist in moving:
                artist.set_animated(True)
            plt.close(self.fig)
            self.canvas = FigureCanvasAgg(self.fig)
            self.fig.set_dpi(200)
            self.canvas.draw()
            self.rest = self.canvas.copy_from_bbox(self.fig.bbox)
        self.canvas.restore_region(self.rest)
        for artist in moving:
            self.fig.draw_artist(artist)
        png = io.BytesIO()
        plt.imsave(png, np.asarray(self.canvas.buffer_rgba()), format="png", pil_kwargs={"compress_level": 1})
        return png.getvalue()


def reweighting(a: ArrayLike, bad: Curves, good: Curves, roots: pd.DataFrame) -> Figure:
    """Figure 2: the weight of an action in Proposition 3, and the |a| at which it crosses one.

    a: |a| in standard deviations (M,). bad, good: δ_Down -> weight g̃/g (M,), for A < 0 and A > 0.
    roots: columns delta, bad, good: the |a| at which the weight is one.
    """
    fig, (weights, zones) = canvas(PAGE, 2.9, 2, width_ratios=(1.35, 1))
    r, styles = np.sqrt(2 * roots["delta"]), ("-", "--", "-.")
    for (key, (_, colour, sign)), table in zip(SIGNS.items(), (bad, good), strict=True):
        for style, curve in zip(styles, table.values(), strict=False):
            weights.plot(a, curve, style, color=colour)
        zones.semilogx(roots["delta"], roots[key], color=colour, label=f"{key} action, {sign}")
    for style, delta in zip(styles, bad, strict=False):
        weights.plot([], [], style, color="k", label=rf"$\delta_{{\rm Down}}={delta:g}$")
    swapped = {"color": "#DDDDDD", "lw": 0, "label": "bad actions with the sign of good ones"}
    zones.fill_between(roots["delta"], 0, r, **swapped)
    zones.plot(roots["delta"], 1 + r / 2, label=r"$1\pm\sqrt{2\delta}/2$", **DOTTED)
    zones.plot(roots["delta"], 1 - r / 2, **DOTTED)
    for height in (0, 1):
        weights.axhline(height, color="k", lw=0.7)
    weights.axvspan(0, 1, color="#F3F3F3", lw=0, zorder=0)
    weights.annotate("roles\nswapped", (0.97, -0.52), ha="right", fontsize=7, color="#555555")
    weights.set(xlim=(0, np.max(a)), ylim=(-0.6, 2.6))
    zones.set_ylim(0, 2)
    distance = r"$|a|$ [standard deviations]"
    label(weights, r"weight $\tilde g/g$ of an action", distance, r"$\tilde g/g$")
    label(zones, "where the weight is one", r"$\delta_{\rm Down}$ [nats]", distance)
    return legend(fig)


def measured_weights(samples: pd.DataFrame, delta: float, prediction: Mapping[str, ArrayLike]) -> Figure:
    """The weights of a real batch: their mean over distance, each against its own prediction, and the shifts.

    samples: `theory.sample_weights` with a column advantage. delta: δ_Down.
    prediction: distance, bad, good (M,) of Proposition 3, for one sample alone in its batch.
    """
    fig, (means, own, towards) = canvas(PAGE, 2.6, 3)
    r, bins = np.sqrt(2 * delta), np.linspace(0.2, 3.4, 9)
    steps = {"bins": np.linspace(-2.5 * r, 2.5 * r, 41), "stat": "density", "element": "step"}
    for key, (sign, colour, name) in SIGNS.items():
        rows = samples[np.sign(samples["advantage"]) == sign]
        binned = pd.cut(rows["distance"], bins, labels=(bins[1:] + bins[:-1]) / 2).astype(float)
        style = {"marker": "D" if sign < 0 else "s", "ms": 4, "mew": 0, "color": colour}
        style |= {"errorbar": ("pi", 50), "legend": False, "ax": means}
        sns.lineplot(x=binned, y=rows["weight"], label=f"{name}, measured", **style)
        alone = {"lw": 1, "color": colour, "label": f"{name}, alone (Prop. 3)"}
        means.plot(prediction["distance"], prediction[key], "--", **alone)
        alpha = {"fill": True, "alpha": 0.5} if sign < 0 else {"fill": False, "alpha": 1, "lw": 1.2}
        sns.histplot(x=rows["towards"], color=colour, ax=towards, **alpha, **steps)
        towards.axvline(-sign * r, color=colour, lw=1, ls="--")  # the move of a lone sample
    means.axhline(1, color="k", lw=0.7)
    means.set(xlim=(0, 3.4), ylim=(1 - 4 * r, 1 + 4 * r))
    far = samples[samples["distance"] > 0.5]
    own.hexbin(far["predicted"], far["weight"], gridsize=45, bins="log", mincnt=1, cmap="Greys", linewidths=0)
    ends = np.quantile(far["predicted"], [0.001, 0.999])
    own.axline((1, 1), slope=1, color=BLUE, lw=1)
    own.set(xlim=ends, ylim=ends)
    towards.axvline(0, color="k", lw=0.7)
    towards.set_yticks([])
    deviations = "[standard deviations]"
    label(means, "mean weight", f"distance $|z|$ {deviations}", r"weight in $\tilde g$ over weight in $g$")
    label(own, "density of samples", "Prop. 3 with the sample's own shift", "measured weight")
    label(towards, "moves towards the action", rf"$\zeta\cdot z/|z|$ {deviations}", "density")
    return legend(fig)


def dilution(table: pd.DataFrame) -> Figure:
    """How much of Proposition 3's shift a sample gets for itself, over the number of samples that share it.

    table: a row per batch with columns samples and share; share is one where each sample stands alone.
    """
    fig, (axis,) = canvas(COLUMN, 2.3)
    mean = table.groupby("samples")["share"].mean()
    axis.plot(table["samples"], table["share"].where(table["share"] > 0), ".", ms=3, color=GREY, alpha=0.6)
    axis.plot(mean.index, mean, "s-", ms=4)
    axis.axhline(1, color="k", lw=0.9, ls="--", label="alone (Prop. 3)")
    axis.set(xscale="log", yscale="log", ylim=(0.01, 1.5))
    axis.legend(loc="lower left")
    label(axis, "", "samples in the batch", "a sample's share of the shift")
    return fig
