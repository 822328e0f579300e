"""Our learning curves and a peer's in the same axes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shapo.figures.style import BLACK, GREEN, GREY, ORANGE, PAGE, short_count, use_style

SIDES = {"ours": (GREEN, "-"), "OmniSafe": (ORANGE, (0, (4, 1.2)))}
ROWS = {
    "episode_return": "return per episode",
    "episode_cost": "cost per episode",
    "lagrangian_multiplier": r"multiplier $\lambda$",
}


def validation(curves: pd.DataFrame, cost_limit: float) -> Figure:
    """A column per baseline, a row each for return, cost and multiplier: the mean over seeds, and each seed (thin).

    curves: a row per epoch of each run, with the columns baseline, side ("ours", "OmniSafe"), seed, steps and those of
    ROWS. cost_limit: β, drawn in the row of costs. A baseline that has no multiplier in every epoch says so instead.
    """
    use_style()
    baselines = list(dict.fromkeys(curves["baseline"]))
    size = (PAGE, 1.45 * len(ROWS) + 0.4)
    fig, axes = plt.subplots(len(ROWS), len(baselines), figsize=size, sharex=True, squeeze=False)
    for column, baseline in enumerate(baselines):
        part = curves[curves["baseline"] == baseline]
        axes[0, column].set_title(baseline, loc="left")
        axes[-1, column].set_xlabel("environment steps")
        for axis, name in zip(axes[:, column], ROWS, strict=True):
            axis.xaxis.set_major_formatter(short_count)
            axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
            if name == "lagrangian_multiplier" and part[name].isna().any():
                axis.text(0.5, 0.5, "solved for at every update,\nnone in recovery", ha="center", va="center",
                          fontsize=7, color=GREY, transform=axis.transAxes)  # fmt: skip
                axis.set_yticks([])
                continue
            for side, (colour, dashes) in SIDES.items():
                table = part[part["side"] == side].pivot(index="steps", columns="seed", values=name)
                axis.plot(table.index, table, color=colour, lw=0.6, alpha=0.45)
                axis.plot(table.index, table.mean(axis=1), color=colour, ls=dashes, lw=1.7, label=side)
            if name == "episode_cost":
                axis.axhline(cost_limit, color=BLACK, lw=0.9, ls=":", label=f"limit {cost_limit:g}")
    for axis, label in zip(axes[:, 0], ROWS.values(), strict=True):
        axis.set_ylabel(label)
    handles, labels = axes[1, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return fig
