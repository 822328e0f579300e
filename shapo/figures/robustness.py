"""Notebooks 21 to 23: what sharpness-aware training changes for the robots."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shapo.figures.style import (
    BLACK,
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    canvas,
    one_legend,
    say,
)

COLOURS = {
    "SHAC": GREY, "SHAC-ASAM": BLUE, "SHAC-ASAM, few robots": ORANGE, "PPO": RED,
    "SHAC-ASAM, ρ = 0.25": SKY, "SHAC-ASAM, ρ = 0.75": BLUE, "SHAC-ASAM, ρ = 1.5": GREEN,
    "SHAC-ASAM, ρ = 0.75, few robots": ORANGE, "SHAC-ASAM, ρ = 0.75, along θ + ε": PINK,
    "SHAC-ASAM, ρ = 0.25, along θ + ε": YELLOW, "SHAC-ASAM, ρ = 1.5, along θ + ε": BLACK,
}  # fmt: skip
LABELS = {
    "noise": r"strength of action noise $\lambda$", "friction": r"contact friction $\mu$",
    "stiffness": "contact stiffness $k_e$ [10$^4$ N/m]", "damping": "contact damping $k_d$ [N·s/m²]",
}  # fmt: skip

QUANTITIES = {"return": "return per episode", "fallen": "share of episodes that fall"}


def robustness_colours(algorithms: Sequence[str]) -> dict[str, str]:
    """The colour of each algorithm: the same in every figure for those of the experiments, spare ones for others."""
    spare = itertools.cycle((YELLOW, BLACK))
    return {name: COLOURS.get(name) or next(spare) for name in algorithms}


def robustness(panels: Mapping[str, tuple[pd.DataFrame, str, float | None]]) -> Figure:
    """Return and falls over a condition: thick, mean over policies; thin, each policy (Figures 2 to 4).

    Args:
        panels: title -> (`policy_means` by one condition, the condition's column, its value in training).
    """
    fig, axes = canvas(PAGE, 0.5 + 2.1 * len(panels), len(QUANTITIES), rows=len(panels))
    names = list(dict.fromkeys(name for table, *_ in panels.values() for name in table.algorithm))
    chosen = robustness_colours(names)
    for (title, (table, column, trained)), row in zip(
        panels.items(), axes.reshape(len(panels), -1), strict=True
    ):
        for axis, (quantity, label) in zip(row, QUANTITIES.items(), strict=True):
            if trained is not None:
                axis.axvline(trained, color=BLACK, lw=0.7, ls=":")
            for name, rows in table.groupby("algorithm", sort=False):
                curves = rows.pivot(index=column, columns="policy", values=quantity)
                mean = curves.mean(axis=1)
                axis.plot(curves.index, curves, color=chosen[name], lw=0.5, alpha=0.45)
                axis.plot(mean.index, mean, color=chosen[name], marker="o", ms=2.5, label=name)
            say(axis, title, LABELS.get(column, column), label)
    one_legend(fig, 4)
    return fig


def heatmaps(table: pd.DataFrame, trained: tuple[float, float]) -> Figure:
    """Mean return over contact stiffness × damping, one map per algorithm on one scale (Figure 1).

    Args:
        table: `policy_means` by stiffness and damping. trained: the pair of training, framed.
    """
    means = table.groupby(["algorithm", "damping", "stiffness"])["return"].mean()
    names, low, high = list(dict.fromkeys(table.algorithm)), means.min(), means.max()
    columns = len(names) if len(names) < 4 else 2
    rows = -(-len(names) // columns)
    fig, axes = canvas(PAGE, 2.5 * rows, columns, rows=rows)
    for axis in axes[len(names) :]:
        axis.remove()
    axes = axes[: len(names)]
    for axis, name in zip(axes, names, strict=True):
        grid = means[name].unstack()
        image = axis.imshow(grid, origin="lower", aspect="auto", cmap="cividis", vmin=low, vmax=high)
        axis.set_xticks(range(len(grid.columns)), [f"{value / 1e4:g}" for value in grid.columns])
        axis.set_yticks(range(len(grid.index)), [f"{value:g}" for value in grid.index])
        axis.grid(False)
        axis.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(grid.to_numpy()):
            if np.isnan(value):
                continue
            dark = value < (low + high) / 2
            axis.text(
                column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color="w" if dark else "k"
            )
        if trained[0] in grid.columns and trained[1] in grid.index:
            corner = grid.columns.get_loc(trained[0]) - 0.5, grid.index.get_loc(trained[1]) - 0.5
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, ec=RED, lw=1.5))
        say(axis, name, LABELS["stiffness"], LABELS["damping"])
        axis.label_outer(remove_inner_ticks=True)
    fig.colorbar(image, ax=axes, label="return per episode", pad=0.01, aspect=30)
    return fig


def sharpness(table: pd.DataFrame) -> Figure:
    """How the loss rises away from trained policies, along the worst direction and along random ones.

    Args:
        table: columns algorithm, seed, direction, radius, rise (of |L|). Thick: mean over seeds; thin: a seed.
    """
    fig, axes = canvas(PAGE, 2.5, 2)
    chosen = robustness_colours(list(dict.fromkeys(table.algorithm)))
    for axis, way in zip(axes, ("worst", "random"), strict=True):
        for name, rows in table[table.direction == way].groupby("algorithm", sort=False):
            curves = rows.pivot(index="radius", columns="seed", values="rise")
            axis.plot(curves.index, curves, color=chosen[name], lw=0.6, alpha=0.5)
            axis.plot(curves.index, curves.mean(axis=1), color=chosen[name], marker="o", ms=2.5, label=name)
        name = f"{way} direction" + "s" * (way == "random")
        say(axis, name, r"size $\|T^{-1}\epsilon\|$", r"rise of the loss, of $|\mathcal{L}|$")
    one_legend(fig, 3)
    return fig


def flat_and_robust(table: pd.DataFrame, noise: float) -> Figure:
    """What policies keep under action noise, over how sharp they are: a mark per policy, a cross per method's median.

    Args:
        table: columns algorithm, rise (of |L|, along the gradient), kept (share of the return without noise), return.
        noise: λ at which kept and return were found.
    """
    fig, axes = canvas(PAGE, 2.6, 2)
    labels = {"kept": "share of return kept", "return": "return per episode"}
    for axis, (quantity, label) in zip(axes, labels.items(), strict=True):
        for name, colour in robustness_colours(list(dict.fromkeys(table.algorithm))).items():
            rows = table[table.algorithm == name]
            axis.plot(
                rows.rise, rows[quantity], ls="", marker="o", ms=3.5, alpha=0.6, color=colour, label=name
            )
            middle = rows[["rise", quantity]].median()
            axis.plot(*middle, ls="", marker="x", ms=7, mew=1.8, color=colour)
        axis.set_xscale("log")
        say(axis, "", r"rise of the loss, of $|\mathcal{L}|$", rf"{label}, $\lambda$ = {noise:g}")
    one_legend(fig, 4)
    return fig


def ascents(table: pd.DataFrame) -> Figure:
    """How far the loss rises where a cheaper ascent leads, of the exact ascent's rise, over what it costs.

    Args:
        table: `landscape.of_exact`. Small marks: a policy; large ones: their median.
    """
    fig, (axis,) = canvas(COLUMN, 2.6)
    looks = {
        "first steps": (BLUE, "o"),
        "first robots": (ORANGE, "s"),
        "window before": (RED, "D"),
        "all": (BLACK, "*"),
    }
    for name, (colour, marker) in looks.items():
        found = table.of_exact.loc[name].unstack("run")
        axis.plot(found.index, found, ls="", marker=marker, ms=3, color=colour, alpha=0.35)
        axis.plot(found.index, found.median(axis=1), color=colour, marker=marker, ms=5, label=name)
    axis.axhline(1, color=BLACK, lw=0.7, ls=":")
    axis.set_xlim(-0.05, 1.05)
    axis.legend()
    say(axis, "", "share of the ascent's simulation", "rise of the loss, of the exact ascent's")
    return fig


def training_time(table: pd.DataFrame, paper: Mapping[str, float], target: Mapping[str, float]) -> Figure:
    """Iterations with an ascent over iterations without, per robot (Table 1).

    Args:
        table: columns task, side, ratio, low, high. paper: task -> the paper's ratio. target: side -> our limit.
    """
    tasks = list(dict.fromkeys(table.task))
    fig, axes = canvas(COLUMN * max(1.0, 0.9 * len(tasks)), 1.9, len(tasks))
    for axis, task in zip(axes, tasks, strict=True):
        rows = table[table.task == task].reset_index(drop=True)
        chosen = robustness_colours(["SHAC", *rows.side])
        for y, row in rows.iterrows():
            axis.barh(y, row.ratio, color=chosen[row.side], height=0.55)
            axis.plot([row.low, row.high], [y, y], color=BLACK, lw=1)
            _target(axis, y, target.get(row.side))
        if task in paper:
            axis.axvline(paper[task], color=BLACK, lw=0.8, ls="--", label="the paper's SHAC-ASAM")
        axis.set_yticks(range(len(rows)), rows.side)
        axis.invert_yaxis()
        say(axis, task, "times an iteration of SHAC", "")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def _target(axis: Axes, y: int, target: float | None) -> None:
    if target is not None:
        axis.plot(
            [target, target], [y - 0.35, y + 0.35], color=RED, lw=1.5, label="our limit" if y == 0 else None
        )
