"""The differentiable robots: gradients (notebook 20), and what sharpness-aware training changes (21 and 22)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.scale import SymmetricalLogScale

from shapo.figures.curves import curves, grid, name_lines
from shapo.figures.style import COLUMN, PAGE, RED, canvas, label, legend, looks

CONDITIONS = {
    "noise": r"strength of action noise $\lambda$", "friction": r"contact friction $\mu$",
    "stiffness": "contact stiffness $k_e$ [10$^4$ N/m]", "damping": "contact damping $k_d$ [N·s/m²]",
}  # fmt: skip
QUANTITIES = {"return": "return per episode", "fallen": "mean share of falls"}
RISE = r"relative rise $\Delta\mathcal{L}/|\mathcal{L}|$"


def gradient_check(checks: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Gradients of the simulation over central differences, and the error between them by horizon.

    Axes are linear about 0 and logarithmic beyond, so that the largest gradient does not hide the others.
    checks: columns task, gradient, difference, converged (hollow marks where not), at one horizon.
    errors: columns task, horizon, error.
    """
    checks, errors = (table.assign(task=table.task.str.removeprefix("Diff")) for table in (checks, errors))
    fig, axes = canvas(PAGE, 2.5, 3)
    chosen = looks(dict.fromkeys(errors.task))
    for axis, (task, rows) in zip(axes, checks.groupby("task", sort=False), strict=False):
        look = chosen[task]
        for converged, fill in ((True, look.colour), (False, "none")):
            part = rows[rows.converged == converged]
            style = {"mec": look.colour, "mfc": fill, "mew": 0.5, "alpha": 0.7}
            axis.plot(part.difference, part.gradient, look.marker, ms=3, **style)
        decade = 10.0 ** np.floor(np.log10(rows.difference.abs().max()))
        linear = {"linthresh": float(rows.difference.abs().quantile(0.3)) or 1.0, "linscale": 0.5}
        axis.axline((0, 0), (decade / 10, decade / 10), color="k", lw=0.7, ls=":")
        axis.set(xscale=SymmetricalLogScale(axis, **linear), yscale=SymmetricalLogScale(axis, **linear))
        axis.set(xticks=(ticks := [-decade / 10, 0, decade / 10, decade]), yticks=ticks)
        for way in (axis.xaxis, axis.yaxis):
            way.set_major_formatter("{x:g}")
        label(axis, task, "central difference", "gradient")
    by_task = errors.groupby("task", sort=False)
    curves(axes[2], {task: [rows.set_index("horizon").error] for task, rows in by_task}, chosen)
    axes[2].set(xscale="log", yscale="log")
    axes[2].set_xticks(errors.horizon.unique(), [f"{h}" for h in errors.horizon.unique()])
    axes[2].minorticks_off()
    name_lines(axes[2])
    label(axes[2], "error", "control steps $h$", "relative error")
    return fig


def robustness(panels: Mapping[str, tuple[pd.DataFrame, str, float | None]]) -> Figure:
    """Median return with the middle half of policies, and mean falls with their standard error (Figures 2 to 4).

    panels: title -> (`policy_means` by one condition, the condition's column, its value in training). Of conditions in
    a row under which every episode falls, only the mildest is drawn.
    """
    drawn = {}
    for title, (table, column, _) in panels.items():
        lost = table.groupby(column).fallen.min() > 0.99
        beyond = lost & lost.shift(1, fill_value=True) & lost.shift(-1, fill_value=True)
        table = table if lost.all() else table[~table[column].map(beyond)]
        for quantity, words in QUANTITIES.items():
            drawn[f"{title}: {words}"] = _per(table, "policy", column, quantity)
    # Falls have a mean, because their median is 0 where two policies in five fall.
    fig, axes = grid(drawn, size=(PAGE, 0.6 + 2.1 * len(panels)), rows=len(panels), middle=("median", "mean"))
    for row, (_, column, trained) in zip(axes.reshape(-1, 2), panels.values(), strict=True):
        for axis in row:
            axis.set_xlabel(CONDITIONS.get(column, column))
            if trained is not None:
                axis.axvline(trained, color="k", lw=0.7, ls=":")
    return legend(fig)


def heatmaps(table: pd.DataFrame, trained: tuple[float, float]) -> Figure:
    """Mean return over contact stiffness × damping, one map per algorithm on one scale (Figure 1).

    table: `policy_means` by stiffness and damping. trained: stiffness and damping of training, framed.
    """
    means = table.groupby(["algorithm", "damping", "stiffness"])["return"].mean()
    names = list(dict.fromkeys(table.algorithm))
    columns = len(names) if len(names) < 4 else 2
    rows = -(-len(names) // columns)
    fig, axes = canvas(PAGE, 2.5 * rows, columns, rows, len(names))
    light = sns.color_palette("blend:#FFFFFF,#3A9BDC", as_cmap=True)  # black numbers are legible on all of it
    scale = {"vmin": means.min(), "vmax": means.max(), "cmap": light, "annot": True, "fmt": ".0f"}
    for axis, name in zip(axes, names, strict=True):
        returns = means[name].unstack().sort_index(ascending=False)
        sns.heatmap(returns, ax=axis, cbar=False, annot_kws={"size": 6.5, "color": "k"}, **scale)
        axis.set_xticklabels([f"{value / 1e4:g}" for value in returns.columns])
        axis.set_yticklabels([f"{value:g}" for value in returns.index], rotation=0)
        if trained[0] in returns.columns and trained[1] in returns.index:
            corner = returns.columns.get_loc(trained[0]), returns.index.get_loc(trained[1])
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, ec=RED, lw=2, clip_on=False))
        label(axis, name, CONDITIONS["stiffness"], CONDITIONS["damping"])
        axis.label_outer(remove_inner_ticks=True)
    bar = {"label": QUANTITIES["return"], "pad": 0.01, "aspect": 30}
    fig.colorbar(axes[0].collections[0], ax=axes, **bar)
    return fig


def sharpness(table: pd.DataFrame) -> Figure:
    """How the loss rises away from trained policies, along the worst direction and along random ones.

    table: columns algorithm, seed, direction, radius, rise (of |L|).
    """
    titles = {"worst": "worst direction", "random": "random directions"}
    away = {way: rows for way, rows in table[table.radius > 0].groupby("direction")}
    drawn = {title: _per(away[way], "seed", "radius", "rise") for way, title in titles.items()}
    fig, axes = grid(drawn, r"size $\|T^{-1}\varepsilon\|$", [RISE] * 2, size=(PAGE, 2.6))
    axes[0].set_yscale("log")
    for axis in axes:
        axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g} %")
    return legend(fig)


def flat_and_robust(table: pd.DataFrame, noise: float) -> Figure:
    """What policies keep under action noise, over their sharpness: a mark per policy, a large one per median.

    table: columns algorithm, rise (of |L|, along the gradient), kept (share of the return without noise), return.
    noise: λ at which kept and return were measured.
    """
    fig, axes = canvas(PAGE, 2.7, 2)
    titles = {"kept": "share of return kept", "return": "return per episode"}
    for axis, (quantity, title) in zip(axes, titles.items(), strict=True):
        for name, look in looks(dict.fromkeys(table.algorithm)).items():
            rows = table[table.algorithm == name]
            axis.plot(rows.rise, rows[quantity], look.marker, ms=3.5, alpha=0.75, mew=0, color=look.colour)
            middle = rows[["rise", quantity]].median()
            style = {"ms": 8, "mec": "white", "mew": 0.8, "color": look.colour, "label": name}
            axis.plot(*middle, look.marker, **style)
        axis.set_xscale("log")
        label(axis, rf"{title}, $\lambda$ = {noise:g}", RISE)
    return legend(fig)


def ascents(table: pd.DataFrame) -> Figure:
    """The rise of the loss after a cheaper ascent, as a share of the exact ascent's, over the cost of the ascent.

    table: `landscape.of_exact`. Points: medians over policies; bars: the middle half of them.
    """
    fig, (axis,) = canvas(COLUMN, 2.7)
    names = list(dict.fromkeys(table.index.unique("ascent")))
    for k, (name, look) in enumerate(looks(names, {"all": "vanilla"}).items()):
        found = table.of_exact.loc[name].unstack("run")
        low, middle, high = (found.quantile(q, axis=1) for q in (0.25, 0.5, 0.75))
        style = {"marker": look.marker, "ms": 5, "elinewidth": 1, "label": name} | look.line
        axis.errorbar(found.index + 0.02 * (k and k - 2), middle, [middle - low, high - middle], **style)
    axis.axhline(1, color="k", lw=0.7, ls=":")
    axis.set_xlim(-0.05, 1.05)
    axis.set_ylim(bottom=0)
    axis.legend()
    label(axis, "", "cost of the ascent (exact: 1)", "rise of the loss (after the exact ascent: 1)")
    return fig


def _per(table: pd.DataFrame, unit: str, x: str, y: str) -> dict[str, list[pd.Series]]:
    """algorithm -> the series of y over x for each of its units."""
    parts = table.groupby("algorithm", sort=False)
    return {name: [rows.set_index(x)[y] for _, rows in part.groupby(unit)] for name, part in parts}
