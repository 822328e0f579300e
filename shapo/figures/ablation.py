"""Figures 6 to 8: the variants of an experiment side by side, and a sweep of one radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shapo.experiments.safety import METRICS, tail_level
from shapo.figures.style import LOOKS, PAGE, canvas, legend, looks, nothing

CELL = ["task", "baseline", "metric"]


def ablation(
    results: pd.DataFrame,
    comparison: pd.DataFrame,
    variants: Sequence[str] | None = None,
    reference: str = "vanilla",
) -> Figure:
    """A row of panels per task and baseline, a column per metric, a line per variant: IQM, interval, single runs.

    The reference goes through each panel as a line, with its interval as a band. Constant metrics are left out.

    results: `experiments.results`. comparison: `safety.comparison` of them; its metrics are drawn, in order.
    variants: the lines, top to bottom; those in results if not given. One without runs keeps an empty line.
    Raises ValueError where there is no run to draw.
    """
    variants = list(results.variant.unique() if variants is None else variants)
    fig, panels = _panels(results, comparison, 0.17 * len(variants) + 0.75)
    chosen = looks(variants)
    lowest = {(task, metric): baseline for task, baseline, metric in panels}
    for cell, axis in panels.items():
        rows, runs = _rows(comparison, cell), _rows(results.assign(metric=cell[2]), cell)
        _band(axis, rows, reference, upright=True)
        # Of three points the median is the IQM, their range the interval: seaborn estimates nothing.
        three = rows[["iqm", "low", "high"]].stack().rename("value").reset_index()
        style = {"y": "variant", "order": variants, "hue": "variant", "hue_order": variants, "ax": axis}
        style |= {"palette": {name: look.colour for name, look in chosen.items()}, "legend": False}
        sns.stripplot(runs.reset_index(), x=cell[2], size=2.2, alpha=0.45, jitter=0.25, **style)
        markers = [look.marker for look in chosen.values()]
        interval = {"estimator": "median", "errorbar": ("pi", 100), "err_kws": {"lw": 1.2}}
        sns.pointplot(
            three, x="value", markers=markers, ms=4.5, mec="white", mew=0.4, ls="", **interval, **style
        )
        for y, variant in enumerate(variants):
            if variant not in rows.index:
                nothing(axis, "no run", 0.02, y, transform=axis.get_yaxis_transform(), ha="left")
        axis.set(ylabel="", ylim=(len(variants) - 0.4, -0.6), xlabel="")
        axis.tick_params(axis="y", left=False, labelleft=axis.get_subplotspec().is_first_col())
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if lowest[cell[0], cell[2]] == cell[1]:
            axis.set_xlabel(_name(cell[2], cell[0], "← →"))
    return fig


def sweep(
    results: pd.DataFrame,
    comparison: pd.DataFrame,
    rho: Mapping[str, float],
    references: Sequence[str] = ("vanilla", "SHAPO Actor"),
) -> Figure:
    """Each metric over the radius ρ of the Euclidean perturbation: IQM, interval, single runs; references as bands.

    results, comparison: as for `ablation`. rho: variant -> ρ. references: variants without a fixed ρ.
    Raises ValueError where there is no run to draw.
    """
    fig, panels = _panels(results, comparison, 1.75)
    look = LOOKS["E-SAM"]
    for cell, axis in panels.items():
        rows, runs = _rows(comparison, cell), _rows(results.assign(metric=cell[2]), cell)
        for variant in references:
            _band(axis, rows, variant)
        runs = runs[runs.index.isin(rho)]
        axis.plot(1.1 * runs.index.map(rho), runs[cell[2]], "o", color=look.colour, ms=2.2, mew=0, alpha=0.45)
        swept = rows.loc[[variant for variant in rho if variant in rows.index]]
        spread = [swept.iqm - swept.low, swept.high - swept.iqm]
        marks = {"marker": look.marker, "ms": 4, "label": r"E-SAM, fixed $\rho$", "elinewidth": 1.2}
        axis.errorbar(swept.index.map(rho), swept.iqm, spread, lw=0.8, **look.line, **marks)
        axis.set_xscale("log")
        axis.set_xlim(min(rho.values()) / 1.5, 1.5 * max(rho.values()))
        axis.set_xticks(list(rho.values()), [f"{radius:g}" for radius in rho.values()])
        axis.minorticks_off()
        axis.set(xlabel=r"$\rho$, Euclidean in parameters", ylabel=_name(cell[2], cell[0], "↓ ↑"))
    return legend(fig)


def _panels(
    results: pd.DataFrame, comparison: pd.DataFrame, height: float
) -> tuple[Figure, dict[tuple[str, str, str], Axes]]:
    """(task, baseline, metric) -> its panel: a row for each task and baseline with runs; constant metrics have none."""
    if results.empty:
        raise ValueError("results must hold at least one run; got none")
    metrics = {
        task: [
            name for name in comparison[comparison.task == task].metric.unique() if runs[name].nunique() > 1
        ]
        for task, runs in results.groupby("task", sort=False)
    }
    groups = list(results.groupby(["task", "baseline"], sort=False).groups)
    columns = max(1, *map(len, metrics.values()))
    fig, axes = canvas(PAGE, height * len(groups) + 0.3, columns, len(groups))
    panels = {}
    for (task, baseline), row in zip(groups, axes.reshape(len(groups), columns), strict=True):
        row[0].set_title(f"{task}, {baseline}", loc="left")
        for axis in row[len(metrics[task]) :]:
            axis.remove()
        panels |= {(task, baseline, metric): axis for metric, axis in zip(metrics[task], row, strict=False)}
    return fig, panels


def _rows(table: pd.DataFrame, cell: tuple[str, str, str]) -> pd.DataFrame:
    """A table's rows of one panel that have a number there, by variant."""
    here = table[(table[CELL] == list(cell)).all(axis=1)].set_index("variant")
    return here.dropna(subset="iqm" if "iqm" in here else cell[2])


def _band(axis: Axes, rows: pd.DataFrame, variant: str, upright: bool = False) -> None:
    """A variant's IQM across a panel, and its interval where there is one."""
    if variant in rows.index:
        row, look = rows.loc[variant], LOOKS[variant]
        line, span = (axis.axvline, axis.axvspan) if upright else (axis.axhline, axis.axhspan)
        line(row.iqm, lw=0.8, label=variant, **look.line)
        if np.isfinite(row.low):
            span(row.low, row.high, color=look.colour, alpha=0.12, lw=0)


def _name(metric: str, task: str, arrows: str) -> str:
    """On two lines, with an arrow towards better. arrows: of less and of more."""
    name, more = METRICS[metric]
    if metric == "tail":
        name = f"episodic cost, {100 * tail_level(task):g} % quantile"
    name = name.replace(", ", ",\n")
    return f"{name} ({arrows[-1 if more else 0]} better)"
