"""The tail of the episodic cost: its quantile through training, and how many episodes cost more than c."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from shapo.experiments.statistics import iqm
from shapo.figures.results import LIMIT, VARIANTS, nothing
from shapo.figures.style import PAGE, short_count, use_style

Costs = Mapping[tuple[str, str, str], Sequence[pd.DataFrame]]  # (task, baseline, variant) -> a table per seed
Curve = Callable[[str, pd.DataFrame], ArrayLike]  # (task, table of a seed) -> heights on the task's grid


def moving_quantile(
    steps: ArrayLike, costs: ArrayLike, q: float, ends: ArrayLike, width: float
) -> np.ndarray:
    """The q-quantile (ends,) of the costs (episodes,) whose steps lie in (end − width, end]; NaN where none does."""
    steps, costs = np.asarray(steps, float), np.asarray(costs, float)
    windows = [costs[(end - width < steps) & (steps <= end)] for end in ends]
    return np.array([np.quantile(window, q) if len(window) else np.nan for window in windows])


def tails(
    costs: Costs, levels: Mapping[str, float], limits: Mapping[str, float] | None = None, windows: int = 10
) -> Figure:
    """Figure 5. A quantile of the episodic cost over a window that moves through training.

    Seeds are thin, their interquartile mean is thick.

    Args:
        costs: a table per seed, with columns steps and cost; none for what is not there. Tasks are rows, baselines
            columns. levels: task -> q. limits: task -> β. windows: how many windows side by side make up training.
    """
    total = _largest(costs, "steps")
    grids = {task: np.linspace(end / windows, end, 4 * windows) for task, end in total.items()}

    def curve(task: str, table: pd.DataFrame) -> np.ndarray:
        return moving_quantile(table.steps, table.cost, levels[task], grids[task], total[task] / windows)

    rows = {task: f"{task}\nq = {levels[task]:.2f}" for task in total}
    fig, drawn = _small_multiples(costs, grids, curve, rows, limits)
    for (task, _), axis in drawn.items():
        axis.xaxis.set_major_formatter(short_count)
        axis.set(xlim=(0, total[task]), ylim=(0, None))
        if task in (limits or {}):
            axis.axhline(limits[task], **LIMIT)
    fig.supxlabel("environment steps", fontsize=8)
    fig.supylabel("q-quantile of the episodic cost in a moving window", fontsize=8)
    return fig


def exceedance(costs: Costs, limits: Mapping[str, float] | None = None) -> Figure:
    """The share of all of training's episodes that cost more than c, against c; arranged as `tails`."""
    grids = {task: np.linspace(0, most, 200) for task, most in _largest(costs, "cost").items()}

    def curve(task: str, table: pd.DataFrame) -> np.ndarray:
        return 1 - np.searchsorted(np.sort(table.cost), grids[task], side="right") / len(table)

    fig, drawn = _small_multiples(costs, grids, curve, {task: task for task in grids}, limits)
    for (task, _), axis in drawn.items():
        axis.set_yscale("log", nonpositive="mask")
        axis.set_ylim(1e-3, 1.3)
        if task in (limits or {}):
            axis.axvline(limits[task], **LIMIT)
    fig.supxlabel("episodic cost c", fontsize=8)
    fig.supylabel("share of episodes above c", fontsize=8)
    return fig


def _largest(costs: Costs, column: str) -> dict[str, float]:
    """The largest value in a task's tables; 1 where there is none."""
    largest = {task: 0.0 for task, _, _ in costs}
    for (task, _, _), tables in costs.items():
        largest[task] = max([largest[task], *(table[column].max() for table in tables if len(table))])
    return {task: value or 1.0 for task, value in largest.items()}


def _small_multiples(
    costs: Costs, grids: Mapping[str, np.ndarray], curve: Curve, rows: Mapping[str, str], limits
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Tasks × baselines, every variant's curves in each. Gives the panels in which something is drawn."""
    use_style()
    baselines = list(dict.fromkeys(baseline for _, baseline, _ in costs))
    shape, size = (len(rows), len(baselines)), (PAGE, 1.3 * len(rows) + 0.7)
    fig, axes = plt.subplots(*shape, figsize=size, sharex="row", sharey="row", squeeze=False)
    drawn = {}
    for (task, baseline), axis in zip(product(rows, baselines), axes.flat, strict=True):
        cells = {key[2]: tables for key, tables in costs.items() if key[:2] == (task, baseline)}
        if not cells:  # not asked for, as Sauté where the limit is 0
            axis.set_axis_off()
            continue
        for variant, tables in cells.items():
            if heights := [curve(task, table) for table in tables if len(table)]:
                _seeds_and_middle(axis, grids[task], np.array(heights), VARIANTS[variant], variant)
                first = next((there for there in drawn if there[0] == task), (task, baseline))
                axis.tick_params(labelleft=first == (task, baseline))
                drawn[task, baseline] = axis
        axis.xaxis.set_major_locator(MaxNLocator(2))
        if (task, baseline) not in drawn:
            nothing(axis, "no run yet")
    for axis, baseline in zip(axes[0], baselines, strict=True):
        axis.set_title(baseline)
    for axis, label in zip(axes[:, 0], rows.values(), strict=True):
        axis.set_ylabel(label)
    keys = [Line2D([], [], color=colour, label=name) for name, colour in VARIANTS.items()]
    keys += [Line2D([], [], **LIMIT, label="cost limit")] * bool(limits)
    fig.legend(handles=keys, loc="outside upper center", ncols=3)
    return fig, drawn


def _seeds_and_middle(axis: Axes, grid: np.ndarray, seeds: np.ndarray, colour: str, label: str) -> None:
    """seeds: (seeds, grid). The middle is theirs only where every seed has a value."""
    axis.plot(grid, seeds.T, color=colour, lw=0.5, alpha=0.5)
    middle = np.where(np.isnan(seeds).any(axis=0), np.nan, iqm(seeds, axis=0))
    # With a marker, a value between two gaps is seen too.
    axis.plot(grid, middle, color=colour, label=label, marker="o", ms=1.5, mew=0)
