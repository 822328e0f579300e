"""Figures 6 and 7: the variants of an experiment side by side, and a sweep of one radius."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from shapo.experiments.safety import METRICS, tail_level
from shapo.figures.style import BLACK, EUCLIDEAN, GREY, PAGE, PLAIN, SHAPO, one_legend, plain_log, use_style

ACTORS = {"no perturbation": PLAIN, "Fisher": SHAPO, "Euclidean": EUCLIDEAN, "another": BLACK}
CRITICS = {"plain critics": "o", "SAM critics": "s"}
NOTHING = {"fontsize": 6, "color": GREY, "bbox": {"fc": "white", "ec": "none", "pad": 0.5}}
FAINT = {"ls": "", "ms": 2.2, "mew": 0, "alpha": 0.45}  # single runs


def look(variant: str) -> tuple[str, str]:
    """(key of ACTORS, key of CRITICS): the actor's perturbation gives the colour, the critics the marker."""
    critics = "SAM critics" if variant == "SHAPO" or "SAM Critic" in variant else "plain critics"
    if variant in ("vanilla", "SAM Critic"):
        return "no perturbation", critics
    fisher = "Fisher" if variant.startswith(("SHAPO", "fixed")) else "another"  # "fixed": Figure 8's
    return "Euclidean" if variant.startswith("E-SAM") else fisher, critics


def ablation(
    results: pd.DataFrame,
    comparison: pd.DataFrame,
    variants: Sequence[str] | None = None,
    reference: str = "vanilla",
) -> Figure:
    """A row of panels per task and baseline, a column per metric, a line per variant: IQM, interval, single runs.

    The reference goes through each panel as a line, with its interval as a band.

    Args:
        results: `experiments.results`. comparison: `report.comparison` of them; its metrics are drawn, in order.
        variants: the lines, top to bottom; those in results if not given. One without runs keeps an empty line.

    Raises:
        ValueError: where there is no run to draw.
    """
    variants = list(results.variant.unique() if variants is None else variants)
    fig, panels = _panels(results, comparison, 0.16 * len(variants) + 0.75)
    lowest = {(task, metric): baseline for task, baseline, metric in panels}
    for (task, baseline, metric), axis in panels.items():
        rows = _rows(comparison, task, baseline, metric)
        _band(rows, reference, axis.axvline, axis.axvspan)
        for y, variant in enumerate(variants):
            if variant not in rows.index:
                at_the_left = axis.get_yaxis_transform()
                axis.text(0.02, y, "no run", va="center", transform=at_the_left, **NOTHING)
                continue
            actor, critics = look(variant)
            runs = _runs(results, task, baseline, variant)[metric]
            axis.plot(runs, np.full(len(runs), y + 0.25), "o", color=ACTORS[actor], **FAINT)
            axis.plot(rows.loc[variant, ["low", "high"]], [y, y], color=ACTORS[actor], lw=1.3)
            axis.plot(rows.iqm[variant], y, CRITICS[critics], ms=4, color=ACTORS[actor])
        axis.set_yticks(range(len(variants)), variants)
        axis.tick_params(axis="y", left=False, labelleft=axis.get_subplotspec().is_first_col())
        axis.set_ylim(len(variants) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if lowest[task, metric] == baseline:
            axis.set_xlabel(_name(metric, task, "← →"))
    actors, critics = (set(kinds) for kinds in zip(*map(look, variants), strict=True))
    keys = [Line2D([], [], color=ACTORS[kind], lw=3, label=kind) for kind in ACTORS if kind in actors]
    markers = [(CRITICS[kind], kind) for kind in CRITICS if kind in critics]
    keys += [Line2D([], [], color=BLACK, marker=m, ls="", ms=4, label=kind) for m, kind in markers]
    keys.append(Line2D([], [], color=BLACK, marker="o", label="single runs", **FAINT))
    fig.legend(handles=keys, loc="outside upper center", ncols=len(keys))
    return fig


def sweep(
    results: pd.DataFrame,
    comparison: pd.DataFrame,
    rho: Mapping[str, float],
    references: Sequence[str] = ("vanilla", "SHAPO Actor"),
) -> Figure:
    """Each metric over the radius ρ of the Euclidean perturbation: IQM, interval, single runs; references as bands.

    Args:
        results, comparison: as for `ablation`. rho: variant -> ρ. references: variants without a fixed ρ.

    Raises:
        ValueError: where there is no run to draw.
    """
    fig, panels = _panels(results, comparison, 1.75)
    for (task, baseline, metric), axis in panels.items():
        rows = _rows(comparison, task, baseline, metric)
        for variant in references:
            _band(rows, variant, axis.axhline, axis.axhspan)
        for variant, radius in rho.items():
            runs = _runs(results, task, baseline, variant)[metric]
            axis.plot(np.full(len(runs), 1.1 * radius), runs, "o", color=EUCLIDEAN, **FAINT)
        swept = rows.loc[[variant for variant in rho if variant in rows.index]]
        radii = [rho[variant] for variant in swept.index]
        axis.vlines(radii, swept.low, swept.high, color=EUCLIDEAN, lw=1.3)
        axis.plot(radii, swept.iqm, "o-", ms=4, lw=0.8, color=EUCLIDEAN, label=r"E-SAM, fixed $\rho$")
        axis.set_xscale("log")
        axis.set_xlim(min(rho.values()) / 1.5, 1.5 * max(rho.values()))
        plain_log(axis.xaxis)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticks(list(rho.values()))
        axis.set_xlabel(r"$\rho$, Euclidean in parameters")
        axis.set_ylabel(_name(metric, task, "↓ ↑"))
    one_legend(fig, 4)
    return fig


def _panels(
    results: pd.DataFrame, comparison: pd.DataFrame, height: float
) -> tuple[Figure, dict[tuple[str, str, str], Axes]]:
    """(task, baseline, metric) -> its panel: a row of them for each task and baseline that has runs."""
    if results.empty:
        raise ValueError("results must hold at least one run; got none")
    metrics = comparison.groupby("task", sort=False).metric.unique()
    groups = list(results.groupby(["task", "baseline"], sort=False).groups)
    use_style()
    size, columns = (PAGE, height * len(groups) + 0.3), max(map(len, metrics))
    fig, axes = plt.subplots(len(groups), columns, figsize=size, squeeze=False)
    panels = {}
    for (task, baseline), row in zip(groups, axes, strict=True):
        row[0].set_title(f"{task}, {baseline}", loc="left")
        panels |= {(task, baseline, metric): axis for metric, axis in zip(metrics[task], row, strict=True)}
    return fig, panels


def _rows(comparison: pd.DataFrame, task: str, baseline: str, metric: str) -> pd.DataFrame:
    """The comparison of one panel, by variant; without those that have no number there."""
    here = (comparison[["task", "baseline", "metric"]] == [task, baseline, metric]).all(axis=1)
    return comparison[here].set_index("variant").dropna(subset="iqm")


def _runs(results: pd.DataFrame, task: str, baseline: str, variant: str) -> pd.DataFrame:
    return results[(results[["task", "baseline", "variant"]] == [task, baseline, variant]).all(axis=1)]


def _band(rows: pd.DataFrame, variant: str, line: Callable, span: Callable) -> None:
    """A variant's IQM across a panel, and its interval where there is one."""
    if variant in rows.index:
        row, (actor, _) = rows.loc[variant], look(variant)
        line(row.iqm, color=ACTORS[actor], lw=0.8, ls="--", label=variant)
        if np.isfinite(row.low):
            span(row.low, row.high, color=ACTORS[actor], alpha=0.12, lw=0)


def _name(metric: str, task: str, arrows: str) -> str:
    """On two lines, with an arrow towards better. arrows: of less and of more."""
    name, more = METRICS[metric]
    if metric == "tail":
        name = f"episodic cost, {100 * tail_level(task):g} % quantile"
    name = name.replace(", ", ",\n")
    return f"{name} ({arrows[-1 if more else 0]} better)"
