"""The parts of one update, and what in it is noise: notebooks 03, 08, 14 and 20."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from shapo.figures.curves import grid, name_lines
from shapo.figures.style import COLUMN, LIMIT, PAGE, legend, looks, short_count

UPHILL = r"distance along $\nabla\ell/\|\nabla\ell\|$"


def pessimistic_step(sweep: pd.DataFrame, delta_down: float) -> Figure:
    """What ε_Down does on a real batch, over its radius.

    sweep: columns delta, kl, quadratic (½ εᵀFε), drop, linear (gᵀε), angle and "step angle" (degrees).
    delta_down: the radius to mark.
    """
    of = {name: [pd.Series(values.to_numpy(), sweep.delta)] for name, values in sweep.items()}
    measured, first, radius = "measured", "to first or second order", "the radius itself"
    drawn = {
        "distance": {first: of["quadratic"], measured: of["kl"], radius: of["delta"]},
        "fall of the surrogate": {first: [-of["linear"][0]], measured: [-of["drop"][0]]},
        "turn": {r"$g$ to $\tilde g$": of["angle"], "step to step, in $F$": of["step angle"]},
    }
    labels = ["KL to $\\pi_0$ [nats]", r"$-L(\theta_0+\varepsilon_{\rm Down})$", "angle [degrees]"]
    like = {measured: "SHAPO", radius: "vanilla"}
    fig, axes = grid(drawn, r"radius $\delta_{\rm Down}$ [nats]", labels, like, at=delta_down)
    for axis in axes:
        axis.set(xscale="log", yscale="linear" if axis is axes[-1] else "log")
    for axis in axes[:2]:
        axis.lines[0].set_marker("")
        axis.lines[1].set(ls="", ms=5, markevery=1)  # a second line would hide the first
    axes[0].lines[-1].set_label("the radius in training")
    axes[-1].set_ylim(bottom=0)
    return legend(fig)


def conjugate_gradient_residuals(solves: Mapping[str, Sequence[float]]) -> Figure:
    """Relative residual ‖b − F x‖ / ‖b‖ after each product, per solve; a line marks the end of the first solve."""
    first = next(iter(solves))
    series = {name: [pd.Series(values)] for name, values in solves.items()}
    fig, (axis,) = grid(
        {"": series}, "products $F v$", ["relative residual"], {first: "vanilla"}, (COLUMN, 2.4)
    )
    axis.set_yscale("log")
    axis.axhline(solves[first][-1], color="k", lw=0.8, ls=":")
    name_lines(axis)
    return fig


def line_search(paths: Mapping[str, pd.DataFrame], accepted: Mapping[str, float], target_kl: float) -> Figure:
    """Surrogate and KL along steps, and the point the line search takes.

    paths: method -> columns surrogate and kl over the fraction of the step (index). accepted: method -> fraction taken.
    target_kl: δ_Up, nats.
    """
    titles = {"surrogate": "surrogate along the step", "kl": "distance along the step"}
    drawn = {title: {name: [path[of]] for name, path in paths.items()} for of, title in titles.items()}
    labels = [r"$L(\theta_0+t\,\varepsilon_{\rm Up})$", "KL to $\\pi_0$ [nats]"]
    fig, axes = grid(drawn, "fraction of the step", labels)
    for axis, column in zip(axes, titles, strict=True):
        for line in axis.lines:
            line.set_marker("")
        for name, look in looks(paths).items():
            taken = np.interp(accepted[name], paths[name].index, paths[name][column])
            axis.plot(accepted[name], taken, look.marker, color=look.colour, ms=6, label=f"taken, {name}")
    axes[1].axhline(target_kl, **LIMIT | {"label": r"$\delta_{\rm Up}$"})
    return legend(fig)


def critic_sharpness(distances: ArrayLike, curves: Mapping[str, np.ndarray], rho: float) -> Figure:
    """Rise of each critic's loss along its own steepest direction, after fits with and without SAM.

    distances: (M,) Euclidean, in parameters. curves: per fit, (M, 2) losses of the reward and the cost critic.
    rho: SAM's radius, to mark.
    """
    drawn = {
        f"{critic} critic": {fit: [pd.Series(losses[:, k], distances)] for fit, losses in curves.items()}
        for k, critic in enumerate(("reward", "cost"))
    }
    fig, _ = grid(drawn, UPHILL, ["mean squared error"], {next(iter(curves)): "vanilla"}, at=rho)
    return legend(fig)


def critic_symmetry(curves: Mapping[str, pd.DataFrame], rho: float) -> Figure:
    """Along SAM's perturbation of each critic: (a) the rise of its loss, (b) the mean change of its estimates.

    curves: critic -> columns rise and change over the distance in parameters (index). rho: SAM's radius, to mark.
    """
    titles = {"rise": "loss", "change": "estimates"}
    drawn = {title: {name: [rows[of]] for name, rows in curves.items()} for of, title in titles.items()}
    fig, axes = grid(drawn, UPHILL, [r"rise of $\ell$ [cost$^2$]", "mean change of $V_c$ [cost]"], at=rho)
    axes[1].axhline(0, color="k", lw=0.7)
    return legend(fig)


def tangent(steps: ArrayLike, losses: ArrayLike, slope: float) -> Figure:
    """A loss along a direction, and its tangent at step 0.

    steps: (k,), ascending, 0 among them. losses: (k,). slope: derivative of the loss along the direction.
    """
    loss, steps = pd.Series(np.asarray(losses, float), steps), np.asarray(steps, float)
    line = pd.Series(loss.iloc[np.abs(steps).argmin()] + slope * steps, steps)
    series = {"the loss": [loss], "its tangent": [line]}
    like, along = {"its tangent": "vanilla"}, "step along the gradient"
    fig, (axis,) = grid({"": series}, along, [r"$\mathcal{L}$"], like, (COLUMN, 2.4))
    axis.locator_params(axis="x", nbins=5)
    name_lines(axis)
    return fig


def moved_where_rare(tables: Mapping[str, pd.DataFrame], bins: int = 10) -> Figure:
    """A panel per policy: the KL of each perturbation, as a share of its mean, over how rare a state is.

    tables: policy -> `uncertainty.moved_where_rare`. A point is the mean over one of `bins` equal groups by rarity.
    """
    drawn = {}
    for policy, table in tables.items():
        means = table.groupby(pd.qcut(table.rarity, bins, duplicates="drop"), observed=True).mean()
        drawn[policy] = {name: [means.set_index("rarity")[name]] for name in table.columns[1:]}
    like, share = {"ε_Down": "SHAPO", "Euclidean": "E-SAM"}, ["KL, of its mean"] + [""] * (len(drawn) - 1)
    fig, axes = grid(drawn, "", share, like, (PAGE, 2.3), sharey=True)
    fig.supxlabel("how rare the state is: distance to its 10th neighbour", fontsize=8)
    for axis in axes:
        axis.axhline(1, color="k", lw=0.6)
    return legend(fig)


def gradient_noise(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A panel per policy over n: sharpness gᵀF⁻¹g, and the gradient's variance between batches, in the norm of F⁻¹ and
    along x = F⁻¹ḡ, there as a share of ḡᵀF⁻¹ḡ, with Proposition 2's prediction. tables: policy -> `uncertainty.noise`.
    """
    names = {
        "sharpness": "sharpness", "variance": "variance between batches",
        "along": "variance along $x$, relative", "predicted": "Proposition 2: $1/n$",
    }  # fmt: skip
    drawn = {}
    for policy, table in tables.items():
        scale = (table.predicted * table.n).iloc[0]  # ḡᵀF⁻¹ḡ
        table = table.set_index("n").assign(
            along=table.set_index("n").along / scale, predicted=1 / table.n.to_numpy()
        )
        drawn[policy] = {name: [table[column]] for column, name in names.items()}
    like = dict(zip(names.values(), ("SHAPO", "E-SAM", "random direction", "vanilla"), strict=True))
    fig, axes = grid(drawn, "steps in a batch $n$", [""], like, (PAGE, 2.3), sharey=True)
    for axis in axes:
        axis.set(xscale="log", yscale="log")
        axis.xaxis.set_major_formatter(short_count)
    return legend(fig)
