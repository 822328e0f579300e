"""Notebooks 20 to 23: the differentiable robots."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from shapo.figures.style import BLACK, BLUE, COLUMN, PAGE, RED, canvas, say


def gradient_check(checks: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Gradients of the simulation over central differences, and how far apart they are by horizon.

    Args:
        checks: columns task, gradient, difference, converged (else hollow), of one horizon.
        errors: columns task, horizon, error.
    """
    fig, axes = canvas(PAGE, 2.5, 3)
    for axis, (task, rows), colour in zip(
        axes, checks.groupby("task", sort=False), (BLUE, RED), strict=False
    ):
        ends = np.array([rows.difference.min(), rows.difference.max()])
        axis.plot(ends, ends, color=BLACK, lw=0.7, ls=":")
        for converged, fill in ((True, colour), (False, "none")):
            part = rows[rows.converged == converged]
            axis.plot(part.difference, part.gradient, "o", ms=3, mec=colour, mfc=fill, mew=0.5, alpha=0.7)
        say(axis, task, "central difference", "gradient")
    for (task, rows), colour in zip(errors.groupby("task", sort=False), (BLUE, RED), strict=False):
        axes[2].loglog(rows.horizon, rows.error, color=colour, marker="o", ms=3, label=task)
    axes[2].set_xticks(errors.horizon.unique(), [f"{h}" for h in errors.horizon.unique()])
    axes[2].minorticks_off()
    axes[2].legend()
    say(axes[2], "error", "control steps $h$", "relative error")
    return fig


def tangent(steps: ArrayLike, losses: ArrayLike, slope: float) -> Figure:
    """A loss along a direction, and the line that its gradient draws through it at step 0.

    Args:
        steps: (k,), ascending, 0 among them. losses: (k,). slope: of the gradient along the direction.
    """
    steps, losses = np.asarray(steps, float), np.asarray(losses, float)
    fig, (axis,) = canvas(COLUMN, 2.4)
    axis.plot(steps, losses, color=BLUE, marker="o", ms=2.5, label="the loss")
    axis.plot(
        steps, losses[np.abs(steps).argmin()] + slope * steps, color=RED, lw=1, ls="--", label="its tangent"
    )
    axis.locator_params(axis="x", nbins=5)
    axis.legend()
    say(axis, "", "step along the gradient", r"$\mathcal{L}$")
    return fig


def robot_frames(
    ends: ArrayLike, radii: Sequence[float], times: Sequence[float], title: str = "", span: float = 2.4
) -> Figure:
    """Pictures of a robot from the side, one after the other, each where it stands at its time.

    Args:
        ends: (T, k, 2, 3) ends of its capsules, metres. radii: (k,). times: (T,) seconds. span: metres shown of each.
    """
    fig, axes = canvas(PAGE, 1.9, len(times))
    ends = np.asarray(ends, float)
    for axis, capsules, time in zip(axes, ends, times, strict=True):
        middle = capsules[..., 0].mean()
        _stage(axis, middle, span, ends)
        _robot(axis, radii).place(capsules)
        axis.set_title(f"{time:.1f} s, {middle:z.1f} m", loc="left")
    fig.suptitle(title, fontsize=8.5)
    return fig


def robot_animation(
    ends: ArrayLike, radii: Sequence[float], dt: float, title: str = "", span: float = 3.5, every: int = 2
) -> animation.FuncAnimation:
    """A robot moving, seen from the side by a camera that follows; show it with `HTML(result.to_jshtml())`.

    Args:
        ends: (T, k, 2, 3) ends of its capsules, metres. radii: (k,). dt: seconds between two of them. every: of
            which one is drawn.
    """
    ends = np.asarray(ends, float)
    fig, (axis,) = canvas(4.6, 2.6)
    _stage(axis, 0.0, span, ends)
    robot, caption = _robot(axis, radii), axis.set_title(" ", loc="left")
    fig.set_dpi(90)
    fig.canvas.draw()
    fig.set_layout_engine("none")  # the layout found by this first drawing serves all frames
    prefix = f"{title}: " if title else ""

    def draw(t: int):
        middle = ends[t, ..., 0].mean()
        axis.set_xlim(middle - span / 2, middle + span / 2)
        robot.place(ends[t])
        caption.set_text(f"{prefix}{t * dt:.1f} s, {middle:z.1f} m")
        return robot.lines, caption

    frames = range(0, len(ends), every)
    result = animation.FuncAnimation(fig, draw, frames=frames, interval=1e3 * dt * every, blit=False)
    plt.close(fig)  # a notebook would show the bare first picture beside the animation
    return result


def _stage(axis: Axes, middle: float, span: float, ends: np.ndarray) -> None:
    top = max(0.45 * span, ends[..., 2].max() + 0.2)
    axis.set(xlim=(middle - span / 2, middle + span / 2), ylim=(-0.15, top))
    axis.set_aspect("equal")
    axis.axhline(0, color=BLACK, lw=1.0)
    axis.grid(axis="y", visible=False)
    axis.set_yticks([])
    axis.set_xlabel("x [m]")


def _robot(axis: Axes, radii: Sequence[float]) -> _Robot:
    axis.figure.canvas.draw()  # lays out, so that a metre has a length
    (left, _), (right, _) = axis.transData.transform([(0, 0), (1, 0)])
    return _Robot(axis, 2 * np.asarray(radii, float) * (right - left) * 72 / axis.figure.dpi)


class _Robot:
    """Lines with round ends, as thick as its capsules; from far to near, and darker."""

    def __init__(self, axis: Axes, widths: np.ndarray):
        self.widths = widths
        self.lines = axis.add_collection(LineCollection([], capstyle="round"))

    def place(self, capsules: np.ndarray) -> None:
        depth = capsules[..., 1].mean(1)  # the camera looks along +y
        order = np.argsort(-depth)
        nearness = np.interp(depth, [depth.min(), depth.max() + 1e-9], [1.0, 0.3])[order, None]
        segments = capsules[order][..., [0, 2]]
        segments[:, 1, 0] += 0.02  # metres: of a sphere, whose ends are one pixel, nothing would be drawn
        colours = nearness * np.array(to_rgb(BLUE)) + (1 - nearness)
        self.lines.set(segments=list(segments), linewidths=self.widths[order], colors=colours)
