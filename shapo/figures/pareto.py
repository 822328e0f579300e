"""Return against cost: a point per baseline, an arrow from vanilla to SHAPO, and the Pareto fronts of both."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from shapo.experiments.statistics import pareto_front
from shapo.figures.style import COMPARED, LIMIT, PAGE, Look, canvas, looks, nothing, ordered

ARROW = {"arrowstyle": "-|>", "lw": 1.1, "mutation_scale": 8, "shrinkA": 3, "shrinkB": 3}
VARIANTS = {"vanilla": COMPARED, "SHAPO": Look("black")}  # colours are the baselines'
Names, Limits = Mapping[str, str], Mapping[str, float] | None


def pareto(
    runs: pd.DataFrame, table: pd.DataFrame, x: Names, labels: Names, limits: Limits = None,
    chosen: Mapping[str, Look] | None = None,
) -> Figure:  # fmt: skip
    """Figure 3. A panel per task: vanilla hollow, SHAPO filled, and for each baseline an arrow from one to the other.

    Points are interquartile means over seeds with their intervals; seeds are faint; step lines are Pareto fronts.
    runs: `safety.results`, for the seeds. table: `safety.comparison` of them, for the points.
    x: task -> metric on the horizontal axis; a panel each, in this order. labels: metric -> axis label.
    limits: task -> the cost limit, in the metric's unit. chosen: baseline -> its look.
    """
    chosen, limits = chosen or looks(dict.fromkeys(table.baseline)), limits or {}
    columns, rows = min(2, len(x)), -(-len(x) // 2)
    fig, axes = canvas(PAGE * (0.3 + 0.35 * columns), 2.6 * rows + 0.5, columns, rows, len(x))
    for axis, (task, metric) in zip(axes, x.items(), strict=True):
        axis.set(xlabel=labels[metric], ylabel=labels["return"])
        axis.set_title(task, loc="left")
        points = _points(table, task, metric)
        if points.empty:
            nothing(axis, f"no run of {task} is there yet")
            continue
        for (baseline, variant), point in points.iterrows():
            cell = (runs.task == task) & (runs.baseline == baseline) & (runs.variant == variant)
            _point(axis, point, runs.loc[cell, [metric, "return"]].to_numpy(float), chosen[baseline])
        for baseline, pair in points.groupby("baseline"):
            if len(pair) == 2:
                tail, head = (pair.loc[(baseline, variant), ["x", "y"]].astype(float) for variant in VARIANTS)
                arrow = ARROW | {"color": chosen[baseline].colour}
                axis.annotate("", head, tail, arrowprops=arrow)
        if task in limits:
            axis.axvline(limits[task], **LIMIT)
        axis.xaxis.set_major_locator(MaxNLocator(6))
        _fronts(axis, points)
    marks = ((name, {"marker": look.marker, "color": look.colour}) for name, look in chosen.items())
    keys = [Line2D([], [], ls="", label=name, **mark) for name, mark in marks]
    for (name, look), fill in zip(VARIANTS.items(), ("hollow", "filled"), strict=True):
        keys.append(Line2D([], [], lw=1.0, label=f"{name} ({fill}), front", **look.line))
    keys += [Line2D([], [], **LIMIT)] * bool(limits)
    fig.legend(handles=keys, loc="outside upper center", ncols=2 * columns + 1)
    return fig


def frontier(
    runs: pd.DataFrame, table: pd.DataFrame, x: Names, labels: Names, limits: Limits = None
) -> Figure:
    """Figure 4: a `pareto` whose "baselines" are the settings of one dial, from light to dark."""
    return pareto(runs, table, x, labels, limits, ordered(dict.fromkeys(table.baseline)))


def _points(table: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """x, x_low, x_high, y, y_low, y_high of each (baseline, variant) that has both metrics."""
    part = table[table.task == task].set_index(["baseline", "variant"])
    across, up = (
        part[part.metric == name][["iqm", "low", "high"]].set_axis([way, f"{way}_low", f"{way}_high"], axis=1)
        for way, name in (("x", metric), ("y", "return"))
    )
    return across.join(up, how="inner").dropna(subset=["x", "y"])


def _point(axis: Axes, point: pd.Series, seeds: np.ndarray, look: Look) -> None:
    colour, face = look.colour, "white" if point.name[1] == "vanilla" else look.colour
    if len(seeds) > 1:
        axis.plot(*seeds.T, look.marker, ms=2, mfc=face, mec=colour, mew=0.4, alpha=0.3)
    for bar in (([point.x_low, point.x_high], [point.y] * 2), ([point.x] * 2, [point.y_low, point.y_high])):
        axis.plot(*bar, color=colour, lw=0.5, alpha=0.7)
    axis.plot(point.x, point.y, look.marker, ms=6, mfc=face, mec=colour, mew=1.1, zorder=4)


def _fronts(axis: Axes, points: pd.DataFrame) -> None:
    """Draws the edge of what each variant dominates, up to the frame, which stays where the points put it."""
    (_, right), (bottom, _) = frame = axis.get_xlim(), axis.get_ylim()
    for variant, part in points.groupby("variant"):
        front = part[pareto_front(part.x, part.y)].sort_values("x")
        steps = [front.x.iloc[0], *front.x, right], [bottom, *front.y, front.y.iloc[-1]]
        axis.step(*steps, where="post", lw=1.0, label=f"front of {variant}", **VARIANTS[variant].line)
    axis.set(xlim=frame[0], ylim=frame[1])
