"""One style, one table of looks and one `save` for every figure.

A look is a colour, dashes and a marker, so that a figure's contrasts survive deuteranopia and grey print: the reference
is black and dashed, and no two looks of one figure share a marker. Colours are Okabe and Ito's, or shades of one hue
where a radius grows. Widths are those of a two-column paper: `COLUMN` for one column, `PAGE` for both.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from itertools import chain, cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from shapo.runs.store import ROOT

COLUMN, PAGE = 3.3, 7.0  # inches
BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"
RED, GREY, BROWN = "#D55E00", "#8A8A8A", "#8A5A00"
DASHED, DOTTED, MIXED, LONG = (4, 1.5), (1, 1.2), (5, 1.2, 1, 1.2), (8, 1.5)
LIMIT = {"color": "k", "lw": 0.9, "ls": ":", "label": "cost limit"}


class Look(NamedTuple):
    colour: str
    dashes: tuple[float, ...] = ()  # lengths on and off, in line widths; none: a solid line
    marker: str = "o"

    @property
    def line(self) -> dict:
        """Matplotlib's arguments for a line of this look."""
        return {"color": self.colour, "linestyle": (0, self.dashes) if self.dashes else "-"}


COMPARED = Look("black", DASHED)  # what a figure compares with
LOOKS = {
    "vanilla": COMPARED, "SHAPO": Look(BLUE, (), "s"), "SHAPO Actor": Look(SKY, MIXED, "^"),
    "SAM Critic": Look(PINK, DOTTED, "v"), "E-SAM": Look(RED, LONG, "D"),
    "E-SAM + SAM Critic": Look(BROWN, MIXED, "P"), "random direction": Look(GREY, DOTTED, "X"),
    "optimistic": Look(GREEN, DASHED, "<"),
    "fixed δ": Look(BLUE, (), "s"), "fixed α, n in steps": Look(GREY, DOTTED, "v"),
    "fixed α, n in episodes": Look(ORANGE, LONG, "D"), "fixed α, n measured": Look(GREEN, MIXED, "^"),
    "TRPOLag": Look(BLUE), "PIDLag": Look(SKY, LONG, "s"), "CPO": Look(GREEN, MIXED, "^"),
    "CRPO": Look(RED, DASHED, "D"), "SauteRL": Look(PINK, DOTTED, "v"),
    "OmniSafe": COMPARED, "ours": Look(BLUE, (), "s"),
    "SHAC": COMPARED, "PPO": Look(BROWN, DOTTED, "v"),
    "SHAC-ASAM": Look(BLUE, (), "s"), "SHAC-ASAM, few robots": Look(GREEN, MIXED, "^"),
    "SHAC-ASAM, ρ = 0.25": Look(SKY, MIXED, "<"), "SHAC-ASAM, ρ = 0.75": Look(BLUE, (), "s"),
    "SHAC-ASAM, ρ = 1.5": Look("#00315C", LONG, "P"),
    "SHAC-ASAM, ρ = 0.25, along θ + ε": Look("#F6CE79", MIXED, "<"),
    "SHAC-ASAM, ρ = 0.75, along θ + ε": Look(ORANGE, LONG, "D"),
    "SHAC-ASAM, ρ = 1.5, along θ + ε": Look(BROWN, (), "P"),
    "SHAC-ASAM, ρ = 0.75, few robots": Look(GREEN, MIXED, "^"),
    "Fisher": Look(BLUE, (), "s"), "Euclidean": Look(ORANGE, LONG, "D"),
}  # fmt: skip
SPARE = (
    Look(BLUE, (), "s"), Look(ORANGE, LONG, "D"), Look(GREEN, MIXED, "^"), Look(PINK, DOTTED, "v"),
    Look(SKY, DASHED, "P"), Look(RED, MIXED, "X"), Look(GREY, LONG, "<"), Look(BROWN, (), "h"),
)  # fmt: skip

STYLE = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.6, "lines.linewidth": 1.5,
    "legend.fontsize": 7, "legend.frameon": False, "legend.handlelength": 2.6, "mathtext.fontset": "cm",
    "axes.prop_cycle": plt.cycler(color=[look.colour for look in SPARE]),
    "figure.dpi": 130, "figure.constrained_layout.use": True, "figure.constrained_layout.w_pad": 0.07,
    "pdf.fonttype": 42, "animation.embed_limit": 40,
}  # fmt: skip

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the dates in the fonts of every PDF
SMOKE = "smoke: proves the pipeline, claims nothing"


def use_style() -> None:
    """Makes `STYLE` matplotlib's default. The figure functions call it themselves."""
    plt.rcParams.update(STYLE)


def looks(names: Iterable[str], like: Mapping[str, str] | None = None) -> dict[str, Look]:
    """A look for each name: that of `LOOKS`, or of the name that `like` gives it; all other names get spare looks."""
    known = {name: LOOKS.get((like or {}).get(name, name)) for name in names}
    taken = {look.colour for look in known.values() if look}
    grey = [Look(GREY, look.dashes, look.marker) for look in SPARE]
    free = chain([look for look in SPARE if look.colour not in taken], cycle(grey))
    return {name: look or next(free) for name, look in known.items()}


def ordered(names: Iterable[str]) -> dict[str, Look]:
    """Looks for the settings of one dial, in order from light to dark, each with its own marker."""
    names = list(names)
    shades = sns.color_palette("blend:#7DBCEB,#0072B2,#00264A", max(2, len(names)))
    rows = zip(names, shades, cycle(SPARE), strict=False)
    return {name: Look(to_hex(shade), look.dashes, look.marker) for name, shade, look in rows}


def home(profile: str) -> Path:
    """The folder of a profile's figures: figures/smoke/ for smoke, else runs/figures/; git ignores both. SHAPO_FIGURES
    replaces the latter: it is figures/ when the notebooks are executed in a batch."""
    if profile == "smoke":
        return ROOT / "figures" / "smoke"
    return Path(os.environ.get("SHAPO_FIGURES") or ROOT / "runs" / "figures")


def save(fig: Figure, name: str, profile: str = "smoke", folder: Path | None = None) -> list[Path]:
    """Writes name.png and name.pdf to the folder, by default `home(profile)`, and returns the two paths.

    A figure of the smoke profile has a note across it. The files carry no date and no version, so the same figure
    gives the same bytes. The PNG's text chunk `Description` holds its `series`.
    """
    folder = folder or home(profile)
    folder.mkdir(parents=True, exist_ok=True)
    if profile == "smoke" and SMOKE not in [text.get_text() for text in fig.texts]:
        across = {"ha": "center", "va": "center", "rotation": 12, "alpha": 0.35, "zorder": 9}
        fig.text(0.5, 0.5, SMOKE, size=2.4 * fig.get_figwidth(), color=RED, **across)
    anonymous = {
        "png": {"Software": None, "Description": series(fig)},
        "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
    }
    paths = {folder / f"{name}.{kind}": metadata for kind, metadata in anonymous.items()}
    with plt.rc_context(STYLE):
        for path, metadata in paths.items():
            fig.savefig(path, metadata=metadata, dpi=220, bbox_inches="tight")
    return list(paths)


def series(fig: Figure) -> str:
    """What the figure shows, a line a panel: its title and axes, then, after a dash, the names in its legend."""
    panels = []
    for axis in fig.axes:
        texts = filter(None, [axis.get_title("left"), axis.get_xlabel(), axis.get_ylabel()])
        names = ", ".join(dict.fromkeys(axis.get_legend_handles_labels()[1]))
        panels.append(" | ".join(texts) + (f" — {names}" if names else ""))
    return "\n".join(" ".join(panel.split()) for panel in panels if panel)


def canvas(width: float, height: float, columns=1, rows=1, used=None, **more) -> tuple[Figure, np.ndarray]:
    """A figure in this style, and its axes in the order of reading, of which only the first `used` are kept."""
    use_style()
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **more)
    for axis in axes.ravel()[used or axes.size :]:
        axis.remove()
    return fig, axes.ravel()[:used]


def label(axis: Axes, title: str, x: str = "", y: str = "") -> None:
    """Sets the title and the labels of the axes. In a figure of several panels, titles have letters."""
    panels = axis.figure.axes
    letter = f"({'abcdefghijkl'[panels.index(axis)]})  " if title and 1 < len(panels) < 13 else ""
    axis.set_title(letter + title, loc="left")
    axis.set(xlabel=x, ylabel=y)


def nothing(axis: Axes, text: str, x: float = 0.5, y: float = 0.5, **place) -> None:
    """Writes why there is nothing to draw, in the middle of a panel or at (x, y) in it."""
    place = {"transform": axis.transAxes, "ha": "center", "fontsize": 7} | place
    axis.text(x, y, text, va="center", color=GREY, **place)
    if (x, y) == (0.5, 0.5):
        axis.tick_params(left=False, bottom=False, which="both", labelleft=False, labelbottom=False)
        axis.grid(False)


def short_count(value: float, _=None) -> str:
    size, letter = next(((s, c) for s, c in ((1e6, " M"), (1e3, " k")) if abs(value) >= s), (1, ""))
    return f"{value / size:g}{letter}"


def legend(fig: Figure) -> Figure:
    """The figure, with one legend above all panels: each label once, in as many columns as fit."""
    found = {}
    for axis in fig.axes:
        found |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if found:
        fit = max(1, int(17 * fig.get_figwidth() // (max(map(len, found)) + 8)))
        columns = -(-len(found) // -(-len(found) // fit))  # rows of the same length
        fig.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns)
    return fig
