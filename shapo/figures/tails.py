"""The tail of the episodic cost: its quantile through training, and how many episodes cost more than c (Figure 5)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from shapo.figures.curves import curves
from shapo.figures.style import LIMIT, PAGE, canvas, legend, looks, nothing, short_count

Costs = Mapping[tuple[str, str, str], Sequence[pd.DataFrame]]  # (task, baseline, variant) -> a table per seed
# (task, table of a seed, last step of its cell) -> the curve to draw
Curve = Callable[[str, pd.DataFrame, float], pd.Series]


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
    """Figure 5: `curves` of a quantile of the episodic cost in a window that moves through training.

    costs: a table per seed with columns steps and cost, no table where no run is available. Rows of panels are tasks,
    columns baselines. levels: task -> q. limits: task -> β. windows: how many windows side by side make up training.
    """

    def curve(task: str, table: pd.DataFrame, last: float) -> pd.Series:
        ends = np.linspace(last / windows, last, 4 * windows)
        return pd.Series(moving_quantile(table.steps, table.cost, levels[task], ends, ends[0]), ends)

    rows = {task: f"{task}\nq = {levels[task]:.2f}" for task in _largest(costs, "steps")}
    fig, drawn = _small_multiples(costs, curve, rows, sharex=False)  # PIDLag may train for longer
    for (task, _), axis in drawn.items():
        axis.xaxis.set_major_formatter(short_count)
        axis.set(xlim=(0, None), ylim=(0, None))
        if task in (limits or {}):
            axis.axhline(limits[task], **LIMIT)
    fig.supxlabel("environment steps", fontsize=8)
    fig.supylabel("q-quantile of the episodic cost in a moving window", fontsize=8)
    return legend(fig)


def exceedance(costs: Costs, limits: Mapping[str, float] | None = None) -> Figure:
    """The share of all training episodes that cost more than c, over c; arranged as in `tails`."""
    most = _largest(costs, "cost")

    def curve(task: str, table: pd.DataFrame, _: float) -> pd.Series:
        grid = np.linspace(0, most[task], 100)
        share = 1 - np.searchsorted(np.sort(table.cost), grid, side="right") / len(table)
        return pd.Series(share, grid)

    fig, drawn = _small_multiples(costs, curve, {task: task for task in most})
    for (task, _), axis in drawn.items():
        axis.set_yscale("log", nonpositive="clip")
        axis.set_ylim(1e-3, 1.3)
        if task in (limits or {}):
            axis.axvline(limits[task], **LIMIT)
    fig.supxlabel("episodic cost c", fontsize=8)
    fig.supylabel("share of episodes above c", fontsize=8)
    return legend(fig)


def _largest(costs: Costs, column: str) -> dict[str, float]:
    """The largest value of a column per task; 1 if there is none. Tasks of constant cost drop out, unless all are."""
    found: dict[str, list] = {}
    for (task, *_), tables in costs.items():
        found.setdefault(task, [pd.DataFrame({"steps": [], "cost": []})]).extend(filter(len, tables))
    whole = {task: pd.concat(tables) for task, tables in found.items()}
    varied = {task: table for task, table in whole.items() if table.cost.nunique() != 1}
    return {
        task: (table[column].max() if len(table) else 0.0) or 1.0 for task, table in (varied or whole).items()
    }


def _small_multiples(
    costs: Costs, curve: Curve, rows: Mapping[str, str], sharex: str | bool = "row"
) -> tuple[Figure, dict[tuple, Axes]]:
    """A panel per task and baseline with every variant's curves. Returns the figure, and the panels with curves."""
    baselines = list(dict.fromkeys(baseline for task, baseline, _ in costs if task in rows))
    size = (PAGE, 1.3 * len(rows) + 0.7)
    fig, axes = canvas(*size, len(baselines), len(rows), sharex=sharex, sharey="row")
    drawn = {}
    for (task, baseline), axis in zip(product(rows, baselines), axes, strict=True):
        cells = {key[2]: tables for key, tables in costs.items() if key[:2] == (task, baseline)}
        if task == next(iter(rows)):
            axis.set_title(baseline)
        if baseline == baselines[0]:
            axis.set_ylabel(rows[task])
        if not cells:  # not an experiment, as SauteRL where the limit is 0
            axis.set_axis_off()
        elif any(len(table) for tables in cells.values() for table in tables):
            last = max(table.steps.max() for tables in cells.values() for table in tables if len(table))
            series = {
                name: [curve(task, t, last) for t in tables if len(t)] for name, tables in cells.items()
            }
            curves(axis, series, looks(cells))
            axis.tick_params(labelleft=task not in {there for there, _ in drawn})
            axis.xaxis.set_major_locator(MaxNLocator(2))
            drawn[task, baseline] = axis
        else:
            nothing(axis, "no run yet")
    return fig, drawn
