"""One style and one `save` for every figure.

Colours are Okabe and Ito's eight, which stay apart under the common colour-vision deficiencies. Widths are
those of a two-column paper: `COLUMN` for one column, `PAGE` for both.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

COLUMN, PAGE = 3.3, 7.0  # inches

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#8A8A8A"
CYCLE = (GREY, BLUE, RED, GREEN, ORANGE, PINK, SKY, BLACK)
SHAPO, EUCLIDEAN, PLAIN = BLUE, RED, GREY  # the same method has the same colour in every figure
BAD, GOOD = RED, BLUE  # advantages

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "mathtext.fontset": "cm",
    "axes.prop_cycle": plt.cycler(color=CYCLE),
    "figure.dpi": 130,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.07,
    "animation.embed_limit": 40,
}

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it remarks on the dates in the fonts of every PDF
ROOT = Path(__file__).resolve().parents[2]


def use_style() -> None:
    """Makes `STYLE` matplotlib's default. The figure functions call it themselves."""
    plt.rcParams.update(STYLE)


def save(fig: Figure, name: str, profile: str = "smoke", folder: Path | None = None) -> list[Path]:
    """Writes name.png and name.pdf to figures/; the smoke profile's go to figures/smoke/, which git ignores.

    The files carry no date and no version, so the same figure gives the same bytes.

    Returns:
        the two paths.
    """
    folder = folder or (ROOT / "figures" / "smoke" if profile == "smoke" else ROOT / "figures")
    folder.mkdir(parents=True, exist_ok=True)
    anonymous = {"png": {"Software": None}, "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate"))}
    paths = [folder / f"{name}.{kind}" for kind in anonymous]
    with plt.rc_context(STYLE):
        for path, metadata in zip(paths, anonymous.values(), strict=True):
            fig.savefig(path, metadata=metadata, dpi=220, bbox_inches="tight")
    return paths


def png(fig: Figure) -> bytes:
    """The figure as a PNG picture, for `ipywidgets.Image`; the figure is closed."""
    picture = io.BytesIO()
    fig.savefig(picture, format="png", dpi=110, bbox_inches="tight")
    plt.close(fig)
    return picture.getvalue()


def canvas(
    width: float, height: float, columns: int = 1, rows: int = 1, **kwargs
) -> tuple[Figure, np.ndarray]:
    """A figure in this style, and its axes in the order of reading."""
    use_style()
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **kwargs)
    for letter, axis in zip("abcdef", axes.flat, strict=False):
        if axes.size > 1:
            axis.set_title(f"({letter})  ", loc="left")
    return fig, axes.ravel()


def say(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(axis.get_title(loc="left") + title, loc="left")
    axis.set_xlabel(x)
    axis.set_ylabel(y)


def short_count(value: float, _=None) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def plain_log(axis) -> None:
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def one_legend(fig: Figure, columns: int) -> None:
    """One legend for all panels, each label once."""
    found = {}
    for axis in fig.axes:
        found |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    fig.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns)
