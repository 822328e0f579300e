"""An episode seen from above, still and moving."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from shapo.figures.style import BLUE, COLUMN, GREEN, ORANGE, RED, canvas, say

HAZARD, GOAL, AGENT = 0.2, 0.3, 0.1  # radii, metres
PAID = {"marker": "x", "ls": "", "ms": 5, "mew": 1.4, "color": RED, "zorder": 4}


def trajectory(
    positions: ArrayLike, goals: ArrayLike, hazards: ArrayLike, cost: ArrayLike, title: str = ""
) -> Figure:
    """An episode from above: the path, the goals reached in turn, the hazards, and a cross where cost was paid.

    positions, goals: (T, 2) metres. hazards: (k, 2). cost: (T,) per step.
    """
    positions, goals, cost = (np.asarray(x, dtype=float) for x in (positions, goals, cost))
    fig, axis = _arena(positions, goals, hazards, title)
    visited = goals[np.r_[True, np.any(np.diff(goals, axis=0) != 0, axis=1)]]
    for number, goal in enumerate(visited, 1):
        axis.add_patch(Circle(goal, GOAL, color=GREEN, alpha=0.25, lw=0))
        axis.annotate(str(number), goal, ha="center", va="center", fontsize=7, weight="bold", color="#00553F")
    segments = np.stack([positions[:-1], positions[1:]], axis=1)
    path = LineCollection(segments, cmap="cividis", array=np.arange(len(segments)), lw=1.2)
    axis.add_collection(path)
    axis.plot(*positions[cost > 0].T, label=f"cost paid ({cost.sum():.0f})", **PAID)
    axis.plot(*positions[0], "o", ms=6, mfc="white", mec="k", label="start", zorder=5)
    fig.colorbar(path, cax=axis.inset_axes([1.03, 0, 0.03, 1]), label="step")
    fig.legend(loc="outside lower center", ncols=4, columnspacing=1, handletextpad=0.3, handlelength=1.2)
    return fig


def trajectory_animation(
    positions: ArrayLike,
    goals: ArrayLike,
    hazards: ArrayLike,
    cost: ArrayLike,
    title: str = "",
    frames: int = 100,
) -> animation.FuncAnimation:
    """The same episode as `trajectory`, moving; show it with `HTML(result.to_jshtml())`.

    frames: number of pictures the T steps are thinned to. Cost between two pictures is not lost.
    """
    positions, goals, cost = (np.asarray(x, dtype=float) for x in (positions, goals, cost))
    fig, axis = _arena(positions, goals, hazards, title)
    (trail,) = axis.plot([], [], color=BLUE, lw=1.2, alpha=0.7)
    (paid,) = axis.plot([], [], label="cost paid", **PAID)
    goal = axis.add_patch(Circle(goals[0], GOAL, color=GREEN, alpha=0.5, lw=0))
    agent = axis.add_patch(Circle(positions[0], AGENT, color=BLUE, zorder=5, lw=0))
    caption = axis.set_title(" ", loc="left")
    fig.legend(loc="outside lower center", ncols=4, columnspacing=1, handletextpad=0.3, handlelength=1.2)
    prefix = f"{title}: " if title else ""

    def draw(t: int):
        trail.set_data(*positions[max(0, t - 150) : t + 1].T)
        paid.set_data(*positions[: t + 1][cost[: t + 1] > 0].T)
        goal.center, agent.center = goals[t], positions[t]
        agent.set_color(RED if cost[t] > 0 else BLUE)
        reached = np.any(np.diff(goals[: t + 1], axis=0) != 0, axis=1).sum()
        caption.set_text(f"{prefix}step {t + 1}, goals {reached}, cost {cost[: t + 1].sum():.0f}")
        return trail, paid, goal, agent, caption

    times = np.unique(np.linspace(0, len(positions) - 1, min(frames, len(positions))).astype(int))
    return animated(fig, draw, times.tolist(), interval=50)


def animated(fig: Figure, draw, frames, interval: float, dpi: float = 100) -> animation.FuncAnimation:
    """`draw(t)` for t in frames, `interval` milliseconds apart. The figure's layout is found once, for all of them."""
    fig.set_dpi(dpi)
    fig.canvas.draw()
    fig.set_layout_engine("none")
    result = animation.FuncAnimation(fig, draw, frames=frames, interval=interval, blit=False)
    plt.close(fig)  # a notebook would show the bare first picture beside the animation
    return result


def _arena(positions, goals, hazards, title) -> tuple[Figure, Axes]:
    if not (positions.shape == goals.shape and positions.ndim == 2 and positions.shape[1] == 2):
        raise ValueError(
            f"positions and goals must both be (T, 2); they are {positions.shape} and {goals.shape}"
        )
    fig, (axis,) = canvas(COLUMN, 3.5)
    hazards = np.asarray(hazards, dtype=float).reshape(-1, 2)
    circles = [Circle(hazard, HAZARD) for hazard in hazards]
    axis.add_collection(PatchCollection(circles, color=ORANGE, alpha=0.45, lw=0))
    axis.plot([], [], "o", color=ORANGE, alpha=0.45, mew=0, label="hazard")
    axis.plot([], [], "o", color=GREEN, alpha=0.4, mew=0, label="goal")
    everything = np.concatenate([positions, goals, hazards])
    centre, half = (everything.max(0) + everything.min(0)) / 2, np.ptp(everything, axis=0).max() / 2 + 0.4
    axis.set(xlim=centre[0] + half * np.array([-1, 1]), ylim=centre[1] + half * np.array([-1, 1]))
    axis.set_aspect("equal")
    say(axis, title, "x [m]", "y [m]")
    return fig, axis
