"""Is sharpness uncertainty? Where perturbations move a policy, and how sharpness goes with the size of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from shapo.figures.style import BLUE, ORANGE, PAGE, canvas, legend, looks, say, short_count


def moved_where_rare(tables: Mapping[str, pd.DataFrame], bins: int = 10) -> Figure:
    """A panel per policy: the KL of each perturbation, as a share of its mean, over how rare a state is.

    tables: policy -> `uncertainty.moved_where_rare`. A point is the mean over a tenth of the states, by rarity.
    """
    fig, axes = canvas(PAGE, 2.3, len(tables), sharey=True)
    for axis, (policy, table) in zip(axes, tables.items(), strict=True):
        means = table.groupby(pd.qcut(table.rarity, bins, duplicates="drop"), observed=True).mean()
        for name, look in looks(table.columns[1:], {"ε_Down": "SHAPO", "Euclidean": "E-SAM"}).items():
            axis.plot(means.rarity, means[name], **look.line, marker=look.marker, ms=3.5, label=name)
        axis.axhline(1, color="k", lw=0.6)
        say(axis, policy, "distance to the 10th neighbour", "KL, of its mean" if axis is axes[0] else "")
    return legend(fig)


def gradient_noise(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """A panel per policy: sharpness and the gradient's variance between batches over n; along F⁻¹g, what is predicted.

    tables: policy -> `uncertainty.noise`.
    """
    fig, axes = canvas(PAGE, 2.3, len(tables), sharey=True)
    for axis, (policy, table) in zip(axes, tables.items(), strict=True):
        scale = (table.predicted * table.n).iloc[0]  # ḡᵀF⁻¹ḡ
        axis.loglog(table.n, table.sharpness, "o-", color=BLUE, ms=3.5, label=r"sharpness $g^\top F^{-1}g$")
        axis.loglog(
            table.n,
            table.variance,
            "s--",
            color=ORANGE,
            ms=3.5,
            label=r"variance between batches, in $F^{-1}$",
        )
        axis.loglog(
            table.n,
            table.along / scale,
            "^",
            color="k",
            ms=4,
            label=r"variance of $g^\top x$, over $\bar g^\top F^{-1}\bar g$",
        )
        axis.loglog(table.n, 1 / table.n, ":", color="k", label=r"Proposition 2: $1/n$")
        say(axis, policy, "steps in a batch $n$")
        axis.xaxis.set_major_formatter(short_count)
        axis.set_xlim(np.array([0.8, 1.25]) * table.n.iloc[[0, -1]].to_numpy())
    return legend(fig)
