"""What a policy does: an episode seen from above, or a robot from the side, as a figure and as an animation."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import animation
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from shapo.figures.style import BLUE, COLUMN, GREEN, ORANGE, PAGE, RED, SKY, canvas, label

HAZARD, GOAL, AGENT = 0.2, 0.3, 0.1  # radii, metres
BELOW = dict(loc="outside lower center", ncols=4, columnspacing=1, handletextpad=0.3, handlelength=1.2)
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
    fig.legend(**BELOW)
    return fig


def trajectory_animation(
    positions: ArrayLike, goals: ArrayLike, hazards: ArrayLike, cost: ArrayLike, title: str = "", frames=100
) -> animation.FuncAnimation:
    """The episode of `trajectory` as an animation; show it with `HTML(result.to_jshtml())`.

    frames: number of pictures the T steps are thinned to. Cost between two pictures is not lost.
    """
    positions, goals, cost = (np.asarray(x, dtype=float) for x in (positions, goals, cost))
    fig, axis = _arena(positions, goals, hazards, title)
    (trail,) = axis.plot([], [], color=BLUE, lw=1.2, alpha=0.7)
    (paid,) = axis.plot([], [], label="cost paid", **PAID)
    goal = axis.add_patch(Circle(goals[0], GOAL, color=GREEN, alpha=0.5, lw=0))
    agent = axis.add_patch(Circle(positions[0], AGENT, color=BLUE, zorder=5, lw=0))
    caption = axis.set_title(" ", loc="left")
    fig.legend(**BELOW)
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


def robot_frames(
    ends: ArrayLike, radii: Sequence[float], times: Sequence[float], title: str = "", span: float = 2.4,
    rest: ArrayLike | None = None,
) -> Figure:  # fmt: skip
    """Pictures of a robot from the side, one beside the other, each centred on the robot at its time.

    Left limbs are blue and right limbs orange, lighter at the back of the robot; the middle of the body is grey.
    ends: (T, k, 2, 3) ends of its capsules, metres. radii: (k,), metres. times: (T,) seconds. span: width of each
    picture, metres. rest: (k, 2, 3) ends as it stands upright and faces along +x, which tell left from right; without
    it, those of the first picture do, where a leg in the middle of a robot that leans is grey.
    """
    fig, axes = canvas(PAGE, 1.9, len(times))
    ends = np.asarray(ends, float)
    for axis, capsules, time in zip(axes, ends, times, strict=True):
        middle = capsules[..., 0].mean()
        _stage(axis, middle, span, ends)
        _robot(axis, radii, ends[0] if rest is None else rest)(capsules)
        axis.set_title(f"{time:.1f} s, {middle:z.1f} m", loc="left")
    axes[0].set_ylabel(title)
    return fig


def robot_animation(
    ends: ArrayLike, radii: Sequence[float], dt: float, title: str = "", span: float = 3.5, every: int = 2,
    rest: ArrayLike | None = None,
) -> animation.FuncAnimation:  # fmt: skip
    """An animation of a robot from the side, with a camera that follows it; show it with `HTML(result.to_jshtml())`.

    ends, radii, rest: as in `robot_frames`. dt: seconds between two steps of ends. every: steps per picture.
    """
    ends = np.asarray(ends, float)
    fig, (axis,) = canvas(4.6, 2.6)
    _stage(axis, 0.0, span, ends)
    posed, caption = _robot(axis, radii, ends[0] if rest is None else rest), axis.set_title(" ", loc="left")
    prefix = f"{title}: " if title else ""

    def draw(t: int):
        middle = ends[t, ..., 0].mean()
        axis.set_xlim(middle - span / 2, middle + span / 2)
        caption.set_text(f"{prefix}{t * dt:.1f} s, {middle:z.1f} m")
        return posed(ends[t]), caption

    return animated(fig, draw, range(0, len(ends), every), 1e3 * dt * every, dpi=90)


def _stage(axis: Axes, middle: float, span: float, ends: np.ndarray) -> None:
    top = max(0.45 * span, ends[..., 2].max() + 0.2)
    axis.set(xlim=(middle - span / 2, middle + span / 2), ylim=(-0.15, top), yticks=[], xlabel="x [m]")
    axis.set_aspect("equal")
    axis.axhline(0, color="k", lw=1.0)
    axis.grid(axis="y", visible=False)


def _robot(axis: Axes, radii: Sequence[float], rest: np.ndarray) -> Callable[[np.ndarray], LineCollection]:
    """A function that draws capsules (k, 2, 3), far to near, as round-ended lines. rest: as in `robot_frames`."""
    axis.figure.canvas.draw()  # sets the layout, so that a metre has a length in pixels
    (left, _), (right, _) = axis.transData.transform([(0, 0), (1, 0)])
    widths = 2 * np.asarray(radii, float) * (right - left) * 72 / axis.figure.dpi
    robot = axis.add_collection(LineCollection([], capstyle="round"))
    along, across = (rest.mean(1) - rest.mean((0, 1)))[:, :2].T
    near, far = (np.where(along < -0.03, light, full) for full, light in ((ORANGE, "#F6CE79"), (BLUE, SKY)))
    sides = np.select([across < -0.03, across > 0.03], [near, far], "#555555")
    colours = np.array([to_rgb(side) for side in sides])

    def posed(capsules: np.ndarray) -> LineCollection:
        order = np.argsort(-capsules[..., 1].mean(1))  # the camera looks along +y
        segments = capsules[order][..., [0, 2]]
        segments[:, 1, 0] += 0.02  # metres: a sphere, whose ends coincide, would not be drawn
        robot.set(segments=list(segments), linewidths=widths[order], colors=colours[order])
        return robot

    return posed


def animated(fig: Figure, draw, frames, interval: float, dpi: float = 100) -> animation.FuncAnimation:
    """An animation of `draw(t)` for t in frames, `interval` milliseconds apart. The layout is computed only once."""
    fig.set_dpi(dpi)
    fig.canvas.draw()
    fig.set_layout_engine("none")
    result = animation.FuncAnimation(fig, draw, frames=frames, interval=interval, blit=False)
    plt.close(fig)  # a notebook would show the bare first picture beside the animation
    return result


def _arena(positions, goals, hazards, title) -> tuple[Figure, Axes]:
    if not (positions.shape == goals.shape and positions.ndim == 2 and positions.shape[1] == 2):
        shapes = f"{positions.shape} and {goals.shape}"
        raise ValueError(f"positions and goals must both be (T, 2); they are {shapes}")
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
    label(axis, title, "x [m]", "y [m]")
    return fig, axis
