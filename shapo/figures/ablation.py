"""Figures 6 to 8: the variants of an experiment side by side; notebook 91: what a radius does."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shapo.envs import task_of
from shapo.experiments.safety import METRICS
from shapo.figures.style import LOOKS, PAGE, canvas, label, legend, looks, nothing, short_count

CELL = ["task", "baseline", "metric"]


def ablation(
    results: pd.DataFrame, comparison: pd.DataFrame, variants: Sequence[str] | None = None
) -> Figure:
    """A row of panels per task and baseline, a column per metric, a line per variant: IQM, interval, single runs.

    Vanilla goes through each panel as a line, with its interval as a band. Constant metrics are left out.
    results: `safety.results`. comparison: `safety.comparison` of them; its metrics are drawn, in order.
    variants: the lines, top to bottom; by default those in results. A variant without runs keeps an empty line.
    Raises ValueError where there is no run to draw.
    """
    variants = list(results.variant.unique() if variants is None else variants)
    fig, panels = _panels(results, comparison, 0.17 * len(variants) + 0.75)
    chosen = looks(variants)
    lowest = {(task, metric): baseline for task, baseline, metric in panels}
    for cell, axis in panels.items():
        rows, runs = _rows(comparison, cell), _rows(results.assign(metric=cell[2]), cell)
        for row in rows[rows.index == "vanilla"].itertuples():
            axis.axvline(row.iqm, lw=0.8, label="vanilla", **LOOKS["vanilla"].line)
            if np.isfinite(row.low):
                axis.axvspan(row.low, row.high, color=LOOKS["vanilla"].colour, alpha=0.12, lw=0)
        # Seaborn gets three points, whose median is the IQM and whose range is the interval: it estimates nothing.
        three = rows[["iqm", "low", "high"]].stack().rename("value").reset_index()
        style = {"y": "variant", "order": variants, "hue": "variant", "hue_order": variants, "ax": axis}
        style |= {"palette": {name: look.colour for name, look in chosen.items()}, "legend": False}
        markers = [look.marker for look in chosen.values()]
        interval = {"estimator": "median", "errorbar": ("pi", 100), "err_kws": {"lw": 1.2}}
        marks = {"markers": markers, "ms": 4.5, "mec": "white", "mew": 0.4, "ls": ""}
        sns.pointplot(three, x="value", **marks, **interval, **style)
        for y, variant in enumerate(variants):
            seeds = runs.loc[runs.index == variant, cell[2]]
            # The seeds are spread in order: random jitter would make every picture different.
            beside = y + np.linspace(-0.25, 0.25, len(seeds))
            axis.scatter(seeds, beside, s=2.2**2, color=chosen[variant].colour, alpha=0.45, lw=0)
            if variant not in rows.index:
                nothing(axis, "no run", 0.02, y, transform=axis.get_yaxis_transform(), ha="left")
        axis.set(ylabel="", ylim=(len(variants) - 0.4, -0.6), xlabel="")
        axis.tick_params(axis="y", left=False, labelleft=axis.get_subplotspec().is_first_col())
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if lowest[cell[0], cell[2]] == cell[1]:
            axis.set_xlabel(_name(cell[2], cell[0]))
    return fig


def dose_response(
    results: pd.DataFrame, symbol: str, metrics: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> Figure:
    """What a radius does: a row per task, a column per metric, a line of medians per baseline; dots are seeds.

    results: a row per run with task, baseline, variant and the metrics; variants are "vanilla", drawn on the left as
    radius 0, and "<symbol> = <radius>", where δ_Down is a share of δ_Up. symbol: "δ" or "ρ". metrics: task -> its
    metrics, left to right. names: metric -> label of its axes.
    """
    shown = results[results.variant.str.startswith((symbol, "vanilla"))]
    radius = shown.variant.str.extract(rf"{symbol} = (\S+)")[0].astype(float).fillna(0.0)
    steps = sorted(radius.unique())  # evenly spaced, because they grow by factors
    shown, tasks = shown.assign(step=radius.map(steps.index)), list(dict.fromkeys(shown.task))
    columns, chosen = max(len(metrics[task]) for task in tasks), looks(dict.fromkeys(results.baseline))
    fig, axes = canvas(PAGE, 1.8 * len(tasks) + 0.5, columns, len(tasks))
    unit = {"δ": r"$\delta_{\mathrm{Down}}/\delta_{\mathrm{Up}}$", "ρ": r"$\rho_{\mathrm{critic}}$"}[symbol]
    places = [(task, metric) for task in tasks for metric in [*metrics[task], *[""] * columns][:columns]]
    for axis, (task, metric) in zip(axes, places, strict=True):
        first = metric == metrics[task][0]
        if not first and (not metric or shown[shown.task == task][metric].nunique() < 2):
            axis.remove()  # nothing, or one number throughout
            continue
        for baseline, runs in shown[shown.task == task].groupby("baseline", sort=False):
            look, middle = chosen[baseline], runs.groupby("step")[metric].median()
            axis.plot(runs.step, runs[metric], look.marker, color=look.colour, ms=2.5, alpha=0.4, mew=0)
            axis.plot(middle.index, middle, marker=look.marker, ms=4, label=baseline, **look.line)
            if 0 in middle:
                axis.axhline(middle[0], color=look.colour, lw=0.8, ls=":", label=f"{baseline}, radius 0")
        axis.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        axis.yaxis.set_major_formatter(short_count)
        title = f"{task}: {names[metric]}" if first else names[metric]
        label(axis, title, unit if task == tasks[-1] else "")
    return legend(fig)


def _panels(results, comparison, height: float) -> tuple[Figure, dict[tuple[str, str, str], Axes]]:
    """The figure, and (task, baseline, metric) -> panel: a row per task and baseline; constant metrics have none."""
    if results.empty:
        raise ValueError("results must hold at least one run; got none")
    metrics = {}
    for task, runs in results.groupby("task", sort=False):
        names = comparison[comparison.task == task].metric.unique()
        metrics[task] = [name for name in names if runs[name].nunique() > 1]
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
    """The rows of a table that belong to one panel and have a number, indexed by variant."""
    here = table[(table[CELL] == list(cell)).all(axis=1)].set_index("variant")
    return here.dropna(subset="iqm" if "iqm" in here else cell[2])


def _name(metric: str, task: str) -> str:
    """The label of a metric, on two lines, with an arrow towards better."""
    name, more = METRICS[metric]
    if metric == "tail":
        name = f"episodic cost, {100 * task_of(task).tail_level:g} % quantile"
    return name.replace(", ", ",\n") + f" ({'→' if more else '←'} better)"
