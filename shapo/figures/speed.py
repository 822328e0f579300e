"""Notebooks 23 and 90: how fast the package is, compared with what."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shapo.figures.style import BLUE, COLUMN, ORANGE, PAGE, canvas, label


def benchmarks(table: pd.DataFrame, parts: pd.DataFrame) -> Figure:
    """How many times better than its peers the package is, and what sharpness costs an epoch.

    table: `peers.compare`. parts: `peers.epoch_parts`, with vanilla in the first row.
    """
    rows = table[table["better"].isin(["more", "less"])].reset_index(drop=True)
    heights = len(rows), len(parts) + 1
    fig, (ratios, shares) = canvas(PAGE, 0.23 * sum(heights) + 1, 1, 2, height_ratios=heights)
    _bars(ratios, rows.ratio - 1, rows, rows["comparison"], left=1)
    for row, note in rows[rows.ratio.isna()].note.items():
        _beside(ratios, note, 1, row)
    ratios.set_xscale("log")
    ratios.xaxis.set_major_formatter("{x:g}")
    ratios.set_xlim(0.7, 6 * np.nanmax([*rows.high, 1]))
    ratios.axvline(1, color="k", lw=0.7)
    label(ratios, "speed and memory", "times better")
    relative = parts / parts.iloc[0].sum()
    relative.plot.barh(ax=shares, stacked=True, color=["#CFCFCF", BLUE, ORANGE], width=0.5, legend=False)
    for row, total in enumerate(relative.sum(axis=1)):
        _beside(shares, f"{total:.2f}", total, row)
    shares.invert_yaxis()
    shares.set_xlim(0, 1.6 * relative.sum(axis=1).max())
    shares.grid(axis="y", visible=False)
    shares.legend(loc="center right", handlelength=1)
    label(shares, "an epoch of training", "time, in epochs of vanilla")
    return fig


def training_time(table: pd.DataFrame, paper: Mapping[str, float], words: Mapping[str, str]) -> Figure:
    """Time of an iteration with an ascent over that of one without, per robot (Table 1).

    table: columns task, side, ratio, low, high. paper: task -> the paper's ratio. words: side -> its label.
    """
    tasks = list(dict.fromkeys(table.task))
    fig, axes = canvas(COLUMN * max(1.0, 0.95 * len(tasks)), 1.8, len(tasks), sharey=True)
    for axis, task in zip(axes, tasks, strict=True):
        rows = table[table.task == task].reset_index(drop=True)
        if task in paper:
            axis.axvline(paper[task], color="k", lw=1, ls="--", label="SHAC-ASAM in the paper")
        axis.axvline(1, color="k", lw=0.7)
        _bars(axis, rows.ratio, rows, [words.get(side, side) for side in rows.side], inside=True)
        axis.set_xlim(0, 1.25 * max(paper.get(task, 1), *rows.high))
        label(axis, task.removeprefix("Diff"), "times an iteration of SHAC")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center")
    return fig


def _bars(axis: Axes, lengths: pd.Series, rows: pd.DataFrame, words, left=0.0, inside=False) -> None:
    """Thin bars from the top down, with extremes, labels `words`, and ratios as numbers, beside or inside the bars."""
    style = {"xerr": [rows.ratio - rows.low, rows.high - rows.ratio], "error_kw": {"lw": 0.8, "capsize": 1.5}}
    axis.barh(rows.index, lengths, 0.4, left, color=BLUE, **style)
    for row, entry in rows.dropna(subset="ratio").iterrows():
        digits = 2 if entry.ratio < 2 else 1 if entry.ratio < 10 else 0
        style = {"color": "w", "bbox": None} if inside else {}
        _beside(axis, f"{entry.ratio:.{digits}f}×", left if inside else entry.high, row, **style)
    axis.set_yticks(rows.index, words)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def _beside(axis: Axes, text: str, x: float, y: float, **style) -> None:
    style = {"va": "center", "fontsize": 6.5, "bbox": {"fc": "white", "ec": "none", "pad": 0.4}} | style
    axis.annotate(text, (x, y), (5, 0), textcoords="offset points", **style)
