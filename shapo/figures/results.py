"""Return against cost: a point per baseline, an arrow from vanilla to SHAPO, and the Pareto fronts of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from shapo.experiments.statistics import pareto_front
from shapo.figures.style import BLACK, GREEN, ORANGE, PAGE, PINK, PLAIN, RED, SHAPO, SKY, use_style

VARIANTS = {"vanilla": PLAIN, "SHAPO": SHAPO}
LOOKS = {  # of the baselines; their shapes tell them apart where there is no colour
    "TRPOLag": ("o", BLACK), "PIDLag": ("s", RED), "CPO": ("^", GREEN), "CRPO": ("D", ORANGE), "SauteRL": ("v", PINK),
}  # fmt: skip
OTHER = ("P", SKY)  # a baseline from elsewhere
LIMIT = {"color": BLACK, "lw": 0.8, "ls": ":"}

Looks = Callable[[str, str], tuple[str, str]]  # (baseline, variant) -> (marker, colour)


def pareto(
    runs: pd.DataFrame,
    table: pd.DataFrame,
    x: Mapping[str, str],
    labels: Mapping[str, str],
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """Figure 3. A panel per task: vanilla hollow, SHAPO filled, and for each baseline an arrow from one to the other.

    Points are interquartile means over seeds with their intervals; seeds are faint; step lines are Pareto fronts.

    Args:
        runs: `experiments.results`, for the seeds. table: `report.comparison` of it, for the points.
        x: task -> metric on the horizontal axis; a panel each, in this order. labels: metric -> axis label.
        limits: task -> the cost limit, in the metric's unit.
    """
    there = set(table.baseline) or set(LOOKS)
    names = [name for name in LOOKS if name in there] + sorted(there - set(LOOKS))
    marks = {name: LOOKS.get(name, OTHER) for name in names}
    fig = _panels(runs, table, x, labels, limits or {}, lambda baseline, _: marks[baseline])
    return _with_legend(fig, marks, limits)


def frontier(
    runs: pd.DataFrame,
    table: pd.DataFrame,
    x: Mapping[str, str],
    labels: Mapping[str, str],
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """Figure 4. As `pareto`, but the "baselines" are settings of one; a point carries the last word of its setting."""
    marks = {name: (marker, BLACK) for name, marker in zip(pd.unique(table.baseline), cycle("os^Dv"))}

    def looks(setting: str, variant: str) -> tuple[str, str]:
        return marks[setting][0], VARIANTS[variant]

    return _with_legend(_panels(runs, table, x, labels, limits or {}, looks, named=True), marks, limits)


def nothing(axis: Axes, text: str) -> None:
    """An empty panel that says why."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=7, color=PLAIN)
    axis.tick_params(left=False, bottom=False, which="both", labelleft=False, labelbottom=False)
    axis.grid(False)


def _panels(runs, table, x, labels, limits, looks: Looks, named: bool = False) -> Figure:
    use_style()
    rows = -(-len(x) // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(PAGE, 2.5 * rows + 0.4), squeeze=False)
    for axis in axes.flat[len(x) :]:
        axis.set_axis_off()
    for axis, (task, metric) in zip(axes.flat, x.items(), strict=False):
        axis.set_title(task, loc="left")
        axis.set(xlabel=labels[metric], ylabel=labels["return"])
        points = _points(table, task, metric)
        if points.empty:
            nothing(axis, f"no run of {task} is there yet")
            continue
        for (baseline, variant), point in points.iterrows():
            cell = (runs.task == task) & (runs.baseline == baseline) & (runs.variant == variant)
            _point(axis, point, runs.loc[cell, [metric, "return"]].to_numpy(float), *looks(baseline, variant))
            if named:
                _name(axis, point, looks(baseline, variant)[1])
        _arrows(axis, points, looks)
        if task in limits:
            axis.axvline(limits[task], **LIMIT)
        axis.margins(x=0.15 if named else 0.06)
        axis.xaxis.set_major_locator(MaxNLocator(6))
        _fronts(axis, points)
    return fig


def _points(table: pd.DataFrame, task: str, metric: str) -> pd.DataFrame:
    """x, x_low, x_high, y, y_low, y_high of each (baseline, variant) that has both metrics."""
    part = table[table.task == task].set_index(["baseline", "variant"])
    across, up = (
        part[part.metric == name][["iqm", "low", "high"]].set_axis([way, f"{way}_low", f"{way}_high"], axis=1)
        for way, name in (("x", metric), ("y", "return"))
    )
    return across.join(up, how="inner").dropna(subset=["x", "y"])


def _point(axis: Axes, point: pd.Series, seeds: np.ndarray, marker: str, colour: str) -> None:
    face = "white" if point.name[1] == "vanilla" else colour
    if len(seeds) > 1:
        axis.plot(*seeds.T, marker, ms=2.5, mfc=face, mec=colour, mew=0.6, alpha=0.35)
    axis.plot([point.x_low, point.x_high], [point.y, point.y], color=colour, lw=0.8, alpha=0.7)
    axis.plot([point.x, point.x], [point.y_low, point.y_high], color=colour, lw=0.8, alpha=0.7)
    axis.plot(point.x, point.y, marker, ms=5.5, mfc=face, mec=colour, mew=1.1, zorder=4)


def _name(axis: Axes, point: pd.Series, colour: str) -> None:
    """Vanilla's below to the right, the other's above to the left: out of the way of most arrows."""
    baseline, variant = point.name
    place = {"xytext": (5, -3), "va": "top"} if variant == "vanilla" else {"xytext": (-5, 3), "ha": "right"}
    place |= {"textcoords": "offset points", "fontsize": 6, "color": colour, "zorder": 5}
    place["path_effects"] = [withStroke(linewidth=2, foreground="white")]
    axis.annotate(baseline.split()[-1], (point.x, point.y), **place)


def _arrows(axis: Axes, points: pd.DataFrame, looks: Looks) -> None:
    for baseline, pair in points.groupby("baseline"):
        if len(pair) == 2:
            tail, head = (pair.loc[(baseline, variant), ["x", "y"]].astype(float) for variant in VARIANTS)
            arrow = {
                "arrowstyle": "-|>",
                "color": looks(baseline, "vanilla")[1],
                "lw": 0.9,
                "mutation_scale": 7,
            }
            axis.annotate("", head, tail, arrowprops=arrow | {"shrinkA": 4, "shrinkB": 4})


def _fronts(axis: Axes, points: pd.DataFrame) -> None:
    """The edge of what each variant dominates, to the frame; the frame stays where the points put it."""
    (_, right), (bottom, _) = frame = axis.get_xlim(), axis.get_ylim()
    for variant, part in points.groupby("variant"):
        front = part[pareto_front(part.x, part.y)].sort_values("x")
        steps = [front.x.iloc[0], *front.x, right], [bottom, *front.y, front.y.iloc[-1]]
        axis.step(
            *steps, where="post", color=VARIANTS[variant], lw=1.0, alpha=0.7, label=f"front of {variant}"
        )
    axis.set(xlim=frame[0], ylim=frame[1])


def _with_legend(fig: Figure, marks: Mapping[str, tuple[str, str]], limits: Mapping | None) -> Figure:
    keys = [
        Line2D([], [], marker=m, color=colour, ls="", ms=5, label=name) for name, (m, colour) in marks.items()
    ]
    for (name, colour), face in zip(VARIANTS.items(), ("white", SHAPO), strict=True):
        keys.append(
            Line2D([], [], color=colour, mfc=face, marker="o", ms=5, lw=1.0, label=f"{name} and its front")
        )
    keys += [Line2D([], [], **LIMIT, label="cost limit")] * bool(limits)
    fig.legend(handles=keys, loc="outside upper center", ncols=4)
    return fig
