"""Notebook 90: ratios of speed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shapo.figures.style import BLACK, ORANGE, PAGE, RED, SHAPO, SKY, canvas, plain_log, say


def benchmarks(table: pd.DataFrame, parts: pd.DataFrame, at_most: Mapping[str, float]) -> Figure:
    """How many times better than its peers the package is, with targets, and what sharpness costs an epoch.

    Args:
        table: `benchmarks.compare`. parts: `benchmarks.epoch_parts`, vanilla in its first row.
        at_most: variant -> the epochs of vanilla that its epoch may take.
    """
    fig, (ratios, shares) = canvas(PAGE, 4.0, 2, width_ratios=(1.5, 1))
    _ratio_bars(ratios, table[table["better"].isin(["more", "less"])].iloc[::-1])
    relative = parts / parts.iloc[0].sum()
    end = np.zeros(len(relative))
    for colour, part in zip((SKY, SHAPO, ORANGE), relative, strict=True):
        shares.barh(relative.index, relative[part], 0.55, end, color=colour, label=part)
        end += relative[part]
    for row, (variant, total) in enumerate(zip(relative.index, end, strict=True)):
        target = at_most.get(variant, np.nan)
        shares.plot([target] * 2, [row - 0.38, row + 0.38], color=BLACK, lw=1.8)
        _beside(shares, f"{total:.2f}", np.fmax(total, target), row)
    shares.invert_yaxis()
    shares.set_box_aspect(0.8)
    shares.set_anchor("N")
    shares.set_xlim(0, 1.25 * max(*end, *at_most.values()))
    shares.grid(axis="y", visible=False)
    shares.legend(loc="upper center", bbox_to_anchor=(0.4, -0.38), ncols=3, columnspacing=1, handlelength=1)
    say(shares, "an epoch of training", "time, in epochs of vanilla", "")
    return fig


def _ratio_bars(axis: Axes, table: pd.DataFrame) -> None:
    rows, measured = np.arange(len(table)), table["ratio"].notna()
    colours = [RED if reached is False else SHAPO for reached in table["reached"]]
    spread = [table["ratio"] - table["low"], table["high"] - table["ratio"]]
    style = {"color": colours, "xerr": spread, "error_kw": {"lw": 0.8, "capsize": 1.5}}
    axis.barh(rows, table["ratio"] - 1, 0.62, 1, **style)
    targets = table["target"].where(measured)
    axis.scatter(targets, rows, marker="|", s=110, lw=1.8, color=BLACK, label="target", zorder=3)
    for row, entry in enumerate(table.itertuples()):
        ratio = f"{entry.ratio:.2f}×" if entry.ratio < 10 else f"{entry.ratio:.0f}×"
        if np.isnan(entry.ratio):
            _beside(axis, entry.note, 1, row)
        else:
            _beside(axis, ratio, np.nanmax([entry.high, entry.target, 1]), row)
    axis.axvline(1, color=BLACK, lw=0.7)
    axis.set_xscale("log")
    plain_log(axis.xaxis)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlim(0.4, 6 * np.nanmax([*table["high"], *table["target"], 1]))
    axis.set_yticks(rows, table["comparison"])
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower right")
    say(axis, "against the peers", "times better", "")


def _beside(axis: Axes, text: str, x: float, y: float) -> None:
    axis.annotate(text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=6.5)
