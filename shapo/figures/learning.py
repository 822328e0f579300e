"""Learning curves, and an episode seen from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from shapo.figures.style import (
    BLACK,
    COLUMN,
    CYCLE,
    GREEN,
    ORANGE,
    PAGE,
    RED,
    SHAPO,
    canvas,
    one_legend,
    say,
    short_count,
)

PANELS = {
    "episode_return": "return per episode",
    "episode_cost": "cost per episode",
    "lagrangian_multiplier": r"multiplier $\lambda$",
}


def learning_curves(
    progress_by_label: Mapping[str, Sequence[pd.DataFrame]],
    cost_limit: float | None = None,
    panels: Mapping[str, str] = PANELS,
    steps: str = "steps",
    colours: Mapping[str, str] | None = None,
    window: int = 1,
) -> Figure:
    """Learning curves: per label the mean over seeds (thick) and each seed (thin).

    Args:
        progress_by_label: label -> one progress table per seed. cost_limit: β, drawn in "episode_cost".
        panels: column -> axis label, one panel each. steps: the column of environment steps. colours: label -> colour.
        window: rows of progress over which a curve is averaged, backwards.

    Raises:
        ValueError: when a table lacks a column.
    """
    fig, axes = canvas(PAGE, 2.2, len(panels))
    for axis, (column, name) in zip(axes, panels.items(), strict=True):
        for free, (label, tables) in zip(CYCLE, progress_by_label.items(), strict=False):
            colour = (colours or {}).get(label, free)
            for table in tables:
                if missing := {steps, column} - set(table.columns):
                    raise ValueError(
                        f"progress of {label!r} has no column {sorted(missing)}; it has {list(table.columns)}"
                    )
            columns = [table.set_index(steps)[column] for table in tables]
            curves = pd.concat(columns, axis=1).rolling(window, 1).mean()
            if len(tables) > 1:
                axis.plot(curves.index, curves, color=colour, lw=0.6, alpha=0.5)
            axis.plot(
                curves.index,
                curves.mean(axis=1),
                color=colour,
                label=label,
                marker="o" if len(curves) < 12 else "",
                ms=2.5,
            )
        if column == "episode_cost" and cost_limit is not None:
            axis.axhline(cost_limit, color=BLACK, lw=0.9, ls="--", label=f"limit {cost_limit:g}")
        axis.xaxis.set_major_formatter(short_count)
        axis.set_xlabel("environment steps")
        axis.set_ylabel(name)
    one_legend(fig, 4)
    return fig


def trajectory(
    positions: ArrayLike,
    goals: ArrayLike,
    hazards: ArrayLike,
    cost: ArrayLike,
    hazard_radius: float = 0.2,
    goal_radius: float = 0.3,
    title: str = "",
) -> Figure:
    """An episode from above: the path, the goals reached in turn, the hazards, and where cost was paid.

    Args:
        positions, goals: (T, 2) metres. hazards: (k, 2). cost: (T,) per step.
    """
    positions, goals, cost = (np.asarray(x, dtype=float) for x in (positions, goals, cost))
    fig, axis = _arena(positions, goals, hazards, hazard_radius, title)
    visited = goals[np.r_[True, np.any(np.diff(goals, axis=0) != 0, axis=1)]]
    for number, goal in enumerate(visited, 1):
        axis.add_patch(Circle(goal, goal_radius, color=GREEN, alpha=0.25, lw=0))
        axis.annotate(str(number), goal, ha="center", va="center", fontsize=7, color=GREEN)
    segments = np.stack([positions[:-1], positions[1:]], axis=1)
    path = LineCollection(segments, cmap="cividis", array=np.arange(len(segments)), lw=1.2)
    axis.add_collection(path)
    paid = cost > 0
    axis.plot(*positions[paid].T, "o", ms=2.4, color=RED, label=f"cost paid ({cost.sum():.0f})", zorder=4)
    axis.plot(*positions[0], "o", ms=6, mfc="white", mec=BLACK, label="start", zorder=5)
    fig.colorbar(path, cax=axis.inset_axes([1.03, 0, 0.03, 1]), label="step")
    fig.legend(loc="outside lower center", ncols=4, columnspacing=1, handletextpad=0.3)
    return fig


def trajectory_animation(
    positions: ArrayLike,
    goals: ArrayLike,
    hazards: ArrayLike,
    cost: ArrayLike,
    hazard_radius: float = 0.2,
    goal_radius: float = 0.3,
    agent_radius: float = 0.1,
    frames: int = 100,
    title: str = "",
) -> animation.FuncAnimation:
    """The same episode as `trajectory`, moving; show it with `HTML(result.to_jshtml())`.

    Args:
        frames: number of pictures the T steps are thinned to. Cost between two pictures is not lost.
    """
    positions, goals, cost = (np.asarray(x, dtype=float) for x in (positions, goals, cost))
    fig, axis = _arena(positions, goals, hazards, hazard_radius, title)
    (trail,) = axis.plot([], [], color=SHAPO, lw=1.2, alpha=0.7)
    (paid,) = axis.plot([], [], "o", ms=2.4, color=RED, label="cost paid", zorder=4)
    goal = axis.add_patch(Circle(goals[0], goal_radius, color=GREEN, alpha=0.5, lw=0))
    agent = axis.add_patch(Circle(positions[0], agent_radius, color=SHAPO, zorder=5, lw=0))
    caption = axis.set_title(" ", loc="left")
    fig.legend(loc="outside lower center", ncols=4, columnspacing=1, handletextpad=0.3)
    fig.set_dpi(100)
    fig.canvas.draw()
    fig.set_layout_engine("none")  # the layout found by this first drawing serves all frames

    prefix = f"{title}: " if title else ""

    def draw(t: int):
        trail.set_data(*positions[max(0, t - 150) : t + 1].T)
        paid.set_data(*positions[: t + 1][cost[: t + 1] > 0].T)
        goal.center, agent.center = goals[t], positions[t]
        agent.set_color(RED if cost[t] > 0 else SHAPO)
        caption.set_text(f"{prefix}step {t + 1}, goals {_reached(goals, t)}, cost {cost[: t + 1].sum():.0f}")
        return trail, paid, goal, agent, caption

    times = np.unique(np.linspace(0, len(positions) - 1, min(frames, len(positions))).astype(int))
    result = animation.FuncAnimation(fig, draw, frames=[int(t) for t in times], interval=50, blit=False)
    plt.close(fig)  # a notebook would show the bare first picture beside the animation
    return result


def _reached(goals: np.ndarray, t: int) -> int:
    return int(np.any(np.diff(goals[: t + 1], axis=0) != 0, axis=1).sum())


def _arena(positions, goals, hazards, hazard_radius, title) -> tuple[Figure, Axes]:
    if not (positions.shape == goals.shape and positions.ndim == 2 and positions.shape[1] == 2):
        raise ValueError(
            f"positions and goals must both be (T, 2); they are {positions.shape} and {goals.shape}"
        )
    fig, (axis,) = canvas(COLUMN, 3.5)
    hazards = np.asarray(hazards, dtype=float).reshape(-1, 2)
    axis.add_collection(
        PatchCollection([Circle(h, hazard_radius) for h in hazards], color=ORANGE, alpha=0.45, lw=0)
    )
    axis.plot([], [], "o", color=ORANGE, alpha=0.45, mew=0, label="hazard")
    axis.plot([], [], "o", color=GREEN, alpha=0.4, mew=0, label="goal")
    everything = np.concatenate([positions, goals, hazards])
    centre, half = (everything.max(0) + everything.min(0)) / 2, np.ptp(everything, axis=0).max() / 2 + 0.4
    axis.set(xlim=centre[0] + half * np.array([-1, 1]), ylim=centre[1] + half * np.array([-1, 1]))
    axis.set_aspect("equal")
    say(axis, title, "x [m]", "y [m]")
    return fig, axis
