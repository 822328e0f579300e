"""The dials: radii and confidence over training (Figure 8), what a step is worth as a sample, dose and response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from shapo.figures.style import BLACK, CYCLE, PAGE, canvas, one_legend, say, short_count, use_style
from shapo.sharpness import alpha_from_delta


def schedules(samples: ArrayLike, radii: Mapping[str, Callable[[float], float]]) -> Figure:
    """(a) δ_Down,t over training and (b) the confidence level it means if every step were an independent sample.

    Args:
        samples: n_t, environment steps. radii: label -> schedule n_t ↦ δ_Down,t.
    """
    samples = np.asarray(samples, dtype=float)
    fig, (left, right) = canvas(PAGE, 2.3, 2)
    for colour, (label, radius) in zip(CYCLE[1:], radii.items(), strict=False):
        delta = np.array([radius(n) for n in samples])
        alpha = np.array([alpha_from_delta(d, n) for d, n in zip(delta, samples, strict=True)])
        left.loglog(samples, delta, color=colour, label=label)
        right.loglog(samples, np.where(alpha > 1e-30, alpha, np.nan), color=colour)
    say(left, "radius", "environment steps $n_t$", r"$\delta_{\mathrm{Down},t}$ [nats]")
    say(right, "confidence level, $n = n_t$", "environment steps $n_t$", r"$\alpha_t$")
    right.set_ylim(1e-30, 1)
    for axis in (left, right):
        axis.xaxis.set_major_formatter(short_count)
    fig.legend(loc="outside upper center", ncols=4)
    return fig


def autocorrelations(
    series: Mapping[str, ArrayLike], times: Mapping[str, float], terms: ArrayLike, shown: int = 300
) -> Figure:
    """(a) ρ_k of several quantities of one batch, τ in the legend; (b) the policy-gradient terms of one environment.

    Args:
        series: label -> ρ_0, ρ_1, … times: label -> τ. terms: (T,) y_t; the first `shown` are drawn.
    """
    fig, (left, right) = canvas(PAGE, 2.3, 2)
    for colour, (label, rho) in zip(CYCLE[1:], series.items(), strict=False):
        left.plot(np.arange(len(rho)), rho, color=colour, label=rf"{label}, $\tau$ = {times[label]:.1f}")
    left.axhline(0, color=BLACK, lw=0.7)
    fig.legend(loc="outside upper center", ncols=3)
    say(left, "autocorrelation within episodes", "lag $k$ [steps]", r"$\rho_k$")
    right.plot(np.asarray(terms)[:shown], color=CYCLE[1], lw=0.7)
    say(right, "terms of one environment", "step $t$", r"$y_t = A_t \nabla\log\pi(a_t|s_t)^\top F^{-1}g$")
    return fig


def effective_samples(progress: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """(a) τ_t and (b) n_eff,t = n_t/τ_t over training, per label each seed (thin) and their mean (thick).

    Args:
        progress: label -> progress tables with columns steps, autocorrelation_time, n_eff.
    """
    fig, (left, right) = canvas(PAGE, 2.3, 2)
    for colour, (label, tables) in zip(CYCLE[1:], progress.items(), strict=False):
        for axis, column in ((left, "autocorrelation_time"), (right, "n_eff")):
            curves = pd.concat([table.set_index("steps")[column] for table in tables], axis=1)
            axis.plot(curves.index, curves, color=colour, lw=0.5, alpha=0.5)
            axis.plot(curves.index, curves.mean(axis=1), color=colour, label=label)
    steps = np.array(right.get_xlim())
    right.plot(steps, steps, color=BLACK, ls="--", lw=0.9, label=r"$n_{\mathrm{eff}} = n_t$")
    say(left, "autocorrelation time", "environment steps", r"$\tau_t$ [steps]")
    say(right, "effective samples", "environment steps", r"$n_{\mathrm{eff},t}$")
    for axis in (left, right):
        axis.xaxis.set_major_formatter(short_count)
    right.yaxis.set_major_formatter(short_count)
    right.set_ylim(bottom=0)
    fig.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return fig


def dose_response(
    results: pd.DataFrame, symbol: str, metrics: Mapping[str, Sequence[str]], names: Mapping[str, str]
) -> Figure:
    """What a radius does: a row per task, a column per metric, a colour per baseline; dots are seeds, lines means.

    Args:
        results: a row per run with task, baseline, variant and the metrics; variants are "vanilla", drawn on the left
            as radius 0, and "<symbol> = <radius>". symbol: "δ" or "ρ". metrics: of each task, left to right.
        names: of the metrics, for the axes.
    """
    tasks = list(dict.fromkeys(results.task))
    columns = max(len(metrics[task]) for task in tasks)
    use_style()
    fig, axes = plt.subplots(len(tasks), columns, figsize=(PAGE, 1.9 * len(tasks) + 0.4), squeeze=False)
    shown = results[results.variant.str.startswith((symbol, "vanilla"))]
    radius = shown.variant.str.extract(rf"{symbol} = (\S+)")[0].astype(float)
    shown = shown.assign(radius=radius.fillna(radius.min() / 4))
    colours = dict(zip(dict.fromkeys(results.baseline), CYCLE[1:], strict=False))
    for row, task in zip(axes, tasks, strict=True):
        for axis, metric in zip(row, metrics[task], strict=False):
            of_task = shown[shown.task == task]
            for baseline, runs in of_task.groupby("baseline", sort=False):
                colour = colours[baseline]
                mean = runs.groupby("radius")[metric].mean()
                swept = mean[mean.index >= radius.min()]
                axis.plot(swept.index, swept, color=colour, label=baseline, marker="o", ms=3)
                axis.plot(mean.index[:2], mean.iloc[:2], color=colour, ls=":", lw=1)
                axis.plot(runs.radius, runs[metric], "o", color=colour, ms=2.5, alpha=0.45, mew=0)
            axis.set_xscale("log")
            axis.set_xticks(sorted(shown.radius.unique()))
            axis.xaxis.set_major_formatter(lambda x, _: "0" if x < radius.min() else f"{x:g}")
            axis.minorticks_off()
            axis.yaxis.set_major_formatter(short_count)
            axis.set_ylabel(names[metric])
        row[0].set_title(task, loc="left")
    for axis in axes[-1]:
        axis.set_xlabel({"δ": r"$\delta_{\mathrm{Down}}$ [nats]", "ρ": r"$\rho_{\mathrm{critic}}$"}[symbol])
    one_legend(fig, 4)
    return fig
