"""Curves over training or over a dial: the median over seeds, with the middle half of them as a band."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from shapo.experiments.safety import EPISODE
from shapo.figures.style import GREY, LIMIT, PAGE, Look, canvas, label, legend, looks, nothing, short_count
from shapo.sharpness import alpha_from_delta

PANELS = {
    "episode_return": "return per episode", "episode_cost": "cost per episode",
    "lagrangian_multiplier": r"multiplier $\lambda$",
}  # fmt: skip
STEPS = "environment steps"
POINTS = 150  # the most that a curve has
Series = Mapping[str, Sequence[pd.Series]]  # label -> a series over x per seed
Progress = Mapping[str, Sequence[pd.DataFrame]]  # label -> a table per seed


def curves(axis: Axes, series: Series, chosen: Mapping[str, Look], window: int = 1, middle="median") -> None:
    """Draws the median over seeds as a line with the middle half as a band, or the mean with its standard error.

    A seed's finite points are joined, averaged backwards over `window`. A curve spans only the x that all seeds cover.
    """
    for place, (name, seeds) in enumerate(series.items()):
        seeds = [seed[np.isfinite(seed)].rolling(window, 1).mean() for seed in seeds]
        if not (seeds := [seed for seed in seeds if len(seed)]):
            continue
        table = pd.concat(seeds, axis=1).sort_index()
        table = table.interpolate(method="index", limit_area="inside").dropna()
        table = table.iloc[np.unique(np.linspace(0, len(table) - 1, min(len(table), POINTS)).astype(int))]
        every = max(1, len(table) // 7)
        sns.lineplot(
            x=np.repeat(table.index.to_numpy(float), table.shape[1]), y=table.to_numpy().ravel(), ax=axis,
            estimator=middle, errorbar=("pi", 50) if middle == "median" else "se",
            err_kws={"alpha": 0.13, "lw": 0}, label=name, legend=False,
            marker=chosen[name].marker, ms=3.5, mew=0, markevery=(place * every // 5 % every, every),
            **chosen[name].line,
        )  # fmt: skip


def name_lines(axis: Axes) -> None:
    """Instead of a legend, writes the name of each line beside its last point in view, one above the other."""
    axis.autoscale_view()
    size = axis.get_window_extent().height * 72 / axis.figure.dpi  # points
    ends = []
    for line in axis.lines:
        if not line.get_label().startswith("_"):
            points = (axis.transData - axis.transAxes).transform(line.get_xydata())
            ends.append((*points[((points > -0.01) & (points < 1.01)).all(1)][-1], line.get_label()))
    free = 4 / size
    for x, y, name in sorted(ends, key=lambda end: end[1]):
        y, free = max(y, free), max(y, free) + 8.5 / size
        beside = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center", "fontsize": 7}
        axis.annotate(name, (x, y), (4, 0), annotation_clip=False, **beside)


def grid(
    drawn: Mapping[str, Series], x: str = "", y: Sequence[str] = ("",), like: Mapping[str, str] | None = None,
    size: tuple[float, float] = (PAGE, 2.4), rows: int = 1, window: int = 1, at: float | None = None,
    middle: Sequence[str] = ("median",), sharey: bool = False,
) -> tuple[Figure, np.ndarray]:  # fmt: skip
    """A panel of `curves` per title, in `rows` rows.

    x: label of the lowest row. y: labels of the panels, in turn. middle: "median" or "mean", in turn. like: label ->
    the name in `style.LOOKS` whose look it takes. at: an x to mark in all panels.
    """
    columns = len(drawn) // rows
    fig, axes = canvas(*size, columns, rows, sharey=sharey)
    chosen = looks(dict.fromkeys(name for series in drawn.values() for name in series), like)
    for place, (axis, (title, series)) in enumerate(zip(axes, drawn.items(), strict=True)):
        curves(axis, series, chosen, window, middle[place % len(middle)])
        label(axis, title, x if place >= len(drawn) - columns else "", y[place % len(y)])
        if at is not None:
            axis.axvline(at, color="k", lw=0.8, ls=":")
        if x == STEPS:
            axis.xaxis.set_major_locator(MaxNLocator(5 if columns < 3 else 4))
            axis.xaxis.set_major_formatter(short_count)
    return fig, axes


def over_steps(tables: Progress, column: str) -> Series:
    return {name: [table.set_index("steps")[column] for table in seeds] for name, seeds in tables.items()}


def learning_curves(
    progress_by_label: Progress, cost_limit: float | None = None, panels: Mapping[str, str] = PANELS,
    like: Mapping[str, str] | None = None, window: int = 1,
) -> Figure:  # fmt: skip
    """A panel per quantity over training, as `curves`; a quantity that never changes is left out.

    progress_by_label: label -> one progress table per seed. cost_limit: β, drawn in "episode_cost".
    panels: column -> title, one panel each. like: as in `grid`. window: rows of progress over which a curve is
    averaged, backwards. Raises ValueError when a table lacks a column.
    """
    every = [(name, table) for name, tables in progress_by_label.items() for table in tables]
    if not every:
        raise ValueError("progress_by_label must hold at least one table; got none")
    for name, table in every:
        if missing := {"steps", *panels} - set(table.columns):
            there = list(table.columns)
            raise ValueError(f"progress of {name!r} has no column {sorted(missing)}; it has {there}")
    together = pd.concat([table for _, table in every])
    shown = [column for column in panels if together[column].nunique() > 1] or list(panels)
    series = {panels[column]: over_steps(progress_by_label, column) for column in shown}
    fig, axes = grid(series, STEPS, like=like, window=window)
    if "episode_cost" in shown and cost_limit is not None:
        axes[shown.index("episode_cost")].axhline(cost_limit, **LIMIT | {"label": f"limit {cost_limit:g}"})
    return legend(fig)


def validation(table: pd.DataFrame, cost_limit: float) -> Figure:
    """Ours and a peer's learning curves: a column per baseline, a row each for return, cost and multiplier.

    table: a row per epoch of each run, with the columns baseline, side ("ours", "OmniSafe"), seed, steps and those of
    PANELS. cost_limit: β. A baseline without a multiplier in some epoch has a note in that panel instead.
    """
    drawn = {}
    for column, quantity in PANELS.items():
        for baseline, part in table.groupby("baseline", sort=False):
            if column == "lagrangian_multiplier" and part[column].isna().any():
                part = part[:0]
            sides = {side: [run for _, run in rows.groupby("seed")] for side, rows in part.groupby("side")}
            drawn[f"{baseline}: {quantity}"] = over_steps(sides, column)
    fig, axes = grid(drawn, STEPS, size=(PAGE, 4.9), rows=len(PANELS))
    for axis, (title, series) in zip(axes, drawn.items(), strict=True):
        if not series:
            nothing(axis, "solved for at every update,\nnone in recovery")
        elif PANELS["episode_cost"] in title:
            axis.axhline(cost_limit, **LIMIT | {"label": f"limit {cost_limit:g}"})
    return legend(fig)


def kl_of_perturbations(progress: Mapping[str, Progress], delta_down: Mapping[str, float]) -> Figure:
    """How far each perturbed policy is from π₀ over training, and how much it loses there per distance.

    The loss is divided by sqrt(2 KL), to which it is proportional while both are small. The radius drops out, and what
    is left tells how well the direction was chosen.
    progress: task -> variant -> `Run.progress` of each seed. Variants without a perturbed actor are left out.
    delta_down: task -> δ_Down, nats. Raises ValueError where no run perturbed its actor.
    """
    drawn = {}
    for task, variants in progress.items():
        tables = {
            name: [t.assign(loss=-t.surrogate_down / np.sqrt(2 * t.kl_down)) for t in seeds]
            for name, seeds in variants.items()
            if seeds and "kl_down" in seeds[0]
        }
        if tables:
            drawn[f"{task}: distance"] = over_steps(tables, "kl_down")
            drawn[f"{task}: loss per distance"] = over_steps(tables, "loss")
    if not drawn:
        raise ValueError("progress must hold runs with a perturbed actor; got none")
    per_distance = r"$-L(\theta_0+\varepsilon)/\sqrt{2\,{\rm KL}}$"
    labels = [r"KL$(\pi_0\,\|\,\pi_{\theta_0+\varepsilon})$ [nats]", per_distance]
    rows = len(drawn) // 2
    fig, axes = grid(drawn, STEPS, labels, size=(PAGE, 2.0 * rows + 0.6), rows=rows)
    for title, distance, loss in zip([*drawn][::2], axes[::2], axes[1::2], strict=True):
        radius = delta_down[title.removesuffix(": distance")]
        distance.axhline(radius, **LIMIT | {"label": r"$\delta_{\rm Down}$"})
        distance.set_yscale("log")
        loss.set_ylim(bottom=min(0, loss.get_ylim()[0]))
    return legend(fig)


def schedules(
    samples: ArrayLike, radii: Mapping[str, Callable[[float], float]], like: Mapping[str, str] | None = None,
    steps: int = EPISODE,
) -> Figure:  # fmt: skip
    """(a) δ_Down,t over training and (b) the confidence level it means if every `steps` were an independent sample.

    samples: n_t, environment steps. radii: label -> schedule n_t ↦ δ_Down,t. like: as in `grid`.
    """
    drawn: dict = {"radius": {}, f"confidence level, $n = n_t/{steps}$": {}}
    for name, radius in radii.items():
        delta = pd.Series([radius(n) for n in samples], samples)
        alpha = pd.Series([alpha_from_delta(d, n / steps) for n, d in delta.items()], samples)
        for series, curve in zip(drawn.values(), (delta, alpha), strict=True):
            series[name] = [curve]
    fig, axes = grid(drawn, STEPS, [r"$\delta_{\mathrm{Down},t}$ [nats]", r"$\alpha_t$"], like)
    for axis in axes:
        axis.set(xscale="log", yscale="log")
        axis.xaxis.set_major_formatter(short_count)
    axes[1].set_ylim(max(1e-4, 0.5 * axes[1].dataLim.ymin), 1)
    return legend(fig)


def autocorrelations(
    series: Mapping[str, ArrayLike], times: Mapping, terms: ArrayLike, shown: int = 300
) -> Figure:
    """(a) ρ_k of several quantities of one batch, τ in the legend; (b) the policy-gradient terms of one environment.

    series: label -> ρ_0, ρ_1, … times: label -> τ. terms: y_t (T,), of which the first `shown` are drawn.
    """
    named = {rf"{name}, $\tau$ = {times[name]:.1f}": [pd.Series(rho)] for name, rho in series.items()}
    labels = [r"$\rho_k$", r"$y_t = A_t \nabla\log\pi(a_t|s_t)^\top F^{-1}g$"]
    drawn = {"autocorrelation within episodes": named, "terms of one environment": {}}
    fig, (left, right) = grid(drawn, "lag $k$ [steps]", labels)
    left.axhline(0, color="k", lw=0.7)
    right.plot(np.asarray(terms)[:shown], color=GREY, lw=0.7)
    right.set_xlabel("step $t$")
    return legend(fig)


def effective_samples(progress: Progress) -> Figure:
    """(a) τ_t and (b) n_eff,t = n_t/τ_t over training.

    progress: label -> a table per seed with columns steps, autocorrelation_time, n_eff.
    """
    titles = {"autocorrelation_time": "autocorrelation time", "n_eff": "effective samples"}
    drawn = {title: over_steps(progress, column) for column, title in titles.items()}
    fig, (_, right) = grid(drawn, STEPS, [r"$\tau_t$ [steps]", r"$n_{\mathrm{eff},t}$"])
    steps = np.array(right.get_xlim())
    right.plot(steps, steps, color="k", ls=":", lw=0.9, label=r"$n_{\mathrm{eff}} = n_t$")
    right.yaxis.set_major_formatter(short_count)
    right.set_ylim(bottom=0)
    return legend(fig)
