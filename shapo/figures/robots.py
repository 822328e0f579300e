"""Notebook 20: the differentiable robots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.scale import SymmetricalLogScale
from numpy.typing import ArrayLike

from shapo.figures.curves import curves
from shapo.figures.scenes import animated
from shapo.figures.style import BLUE, ORANGE, PAGE, SKY, canvas, looks, say


def gradient_check(checks: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Gradients of the simulation over central differences, and how far apart they are by horizon.

    Both axes are linear about 0 and logarithmic beyond, so that the largest does not hide the others.

    checks: columns task, gradient, difference, converged (else hollow), of one horizon.
    errors: columns task, horizon, error.
    """
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
        say(axis, task, "central difference", "gradient")
    by_task = errors.groupby("task", sort=False)
    curves(axes[2], {task: [rows.set_index("horizon").error] for task, rows in by_task}, chosen)
    axes[2].set(xscale="log", yscale="log")
    axes[2].set_xticks(errors.horizon.unique(), [f"{h}" for h in errors.horizon.unique()])
    axes[2].minorticks_off()
    axes[2].legend()
    say(axes[2], "error", "control steps $h$", "relative error")
    return fig


def robot_frames(
    ends: ArrayLike, radii: Sequence[float], times: Sequence[float], title: str = "", span: float = 2.4
) -> Figure:
    """Pictures of a robot from the side, one after the other, each where it stands at its time.

    Left limbs are blue, right ones orange, those at the back lighter; what is in the middle is grey.

    ends: (T, k, 2, 3) ends of its capsules, metres, the robot facing along +x in the first. radii: (k,).
    times: (T,) seconds. span: metres shown of each.
    """
    fig, axes = canvas(PAGE, 1.9, len(times))
    ends = np.asarray(ends, float)
    for axis, capsules, time in zip(axes, ends, times, strict=True):
        middle = capsules[..., 0].mean()
        _stage(axis, middle, span, ends)
        _robot(axis, radii, ends[0])(capsules)
        axis.set_title(f"{time:.1f} s, {middle:z.1f} m", loc="left")
    fig.suptitle(title, fontsize=8.5)
    return fig


def robot_animation(
    ends: ArrayLike, radii: Sequence[float], dt: float, title: str = "", span: float = 3.5, every: int = 2
) -> animation.FuncAnimation:
    """A robot moving, seen from the side by a camera that follows; show it with `HTML(result.to_jshtml())`.

    ends, radii: as for `robot_frames`. dt: seconds between two of them. every: of which one is drawn.
    """
    ends = np.asarray(ends, float)
    fig, (axis,) = canvas(4.6, 2.6)
    _stage(axis, 0.0, span, ends)
    place, caption = _robot(axis, radii, ends[0]), axis.set_title(" ", loc="left")
    prefix = f"{title}: " if title else ""

    def draw(t: int):
        middle = ends[t, ..., 0].mean()
        axis.set_xlim(middle - span / 2, middle + span / 2)
        caption.set_text(f"{prefix}{t * dt:.1f} s, {middle:z.1f} m")
        return place(ends[t]), caption

    return animated(fig, draw, range(0, len(ends), every), 1e3 * dt * every, dpi=90)


def _stage(axis: Axes, middle: float, span: float, ends: np.ndarray) -> None:
    top = max(0.45 * span, ends[..., 2].max() + 0.2)
    axis.set(xlim=(middle - span / 2, middle + span / 2), ylim=(-0.15, top), yticks=[], xlabel="x [m]")
    axis.set_aspect("equal")
    axis.axhline(0, color="k", lw=1.0)
    axis.grid(axis="y", visible=False)


def _robot(axis: Axes, radii: Sequence[float], first: np.ndarray) -> Callable[[np.ndarray], LineCollection]:
    """Draws capsules (k, 2, 3): lines with round ends, as thick as they are, from far to near. first: at t = 0."""
    axis.figure.canvas.draw()  # lays out, so that a metre has a length
    (left, _), (right, _) = axis.transData.transform([(0, 0), (1, 0)])
    widths = 2 * np.asarray(radii, float) * (right - left) * 72 / axis.figure.dpi
    robot = axis.add_collection(LineCollection([], capstyle="round"))
    along, across = (first.mean(1) - first.mean((0, 1)))[:, :2].T
    near, far = (np.where(along < -0.03, light, full) for full, light in ((ORANGE, "#F6CE79"), (BLUE, SKY)))
    colours = np.array(
        [to_rgb(side) for side in np.select([across < -0.03, across > 0.03], [near, far], "#555555")]
    )

    def place(capsules: np.ndarray) -> LineCollection:
        order = np.argsort(-capsules[..., 1].mean(1))  # the camera looks along +y
        segments = capsules[order][..., [0, 2]]
        segments[:, 1, 0] += 0.02  # metres: of a sphere, whose ends are one pixel, nothing would be drawn
        robot.set(segments=list(segments), linewidths=widths[order], colors=colours[order])
        return robot

    return place
