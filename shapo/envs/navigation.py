"""The navigation tasks of Safety Gym: PointGoal1, replayed step for step from safety_gymnasium.

safety_gymnasium builds each kind of world once (`arena`); from then on layouts are drawn here, from the same
generator in the same order, and bodies are moved instead of rebuilt. Lidar, reward and cost are computed for
all environments at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import cos, pi, sin, sqrt

import mujoco
import numpy as np
from gymnasium.spaces import Box

from shapo.envs.batched import BatchedEnv, Task
from shapo.envs.physics import Physics, lean_model
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium, quick_worlds

_ATTEMPTS = 10_000  # safety_gymnasium gives up on a layout or a goal after so many draws ...
_ATTEMPTS_PER_OBJECT = 100  # ... and starts a layout again after so many for one object
_NEIGHBOURS = np.array([-1, 0, 1])[:, None, None]  # the lidar bins an object is seen in, relative to its own


@dataclass(frozen=True)
class Placement:
    """Where an object may be put: uniformly in [x0, x1] × [y0, y1], `keepout` away from others' keepouts."""

    name: str  # also the name of its body, if it has one in the lean model
    x0: float
    x1: float
    y0: float
    y1: float
    keepout: float

    def draw(self, random: np.random.RandomState) -> tuple[float, float]:
        return random.uniform(self.x0, self.x1), random.uniform(self.y0, self.y1)


@dataclass(frozen=True)
class Group:
    """Objects of one kind, e.g. the hazards. `members` are rows of the positions array."""

    name: str
    members: slice
    radius: float


@dataclass(frozen=True)
class Arena:
    """All that safety_gymnasium decides about a task before the first random number is drawn."""

    model: mujoco.MjModel
    sensors: int  # numbers read from the model's sensors, first in the observation
    placements: tuple[Placement, ...]  # in the order they are drawn: the agent, then the groups
    groups: tuple[Group, ...]  # in the order of their lidars in the observation
    extents: tuple[float, float, float, float]  # x0, y0, x1, y1 of the area where objects are put
    agent_radius: float
    frame_skip: int
    lidar_bins: int
    lidar_range: float  # metres
    reward_distance: float  # reward per metre closer to the goal
    reward_goal: float
    observation_space: Box
    action_space: Box


@cache
def arena(reference: str) -> Arena:
    """Let safety_gymnasium build the world of `reference` once and note what it is made of."""
    safety_gymnasium = import_safety_gymnasium()
    with quick_worlds():
        env = safety_gymnasium.make(reference)
        env.reset(seed=0)
    task = env.unwrapped.task
    x0, y0, x1, y1 = task.placements_conf.extents
    placements = []
    for name, (rectangles, keepout) in task.placements_conf.placements.items():
        if rectangles is not None or task.placements_conf.margin:
            raise NotImplementedError(f"{reference} restricts where {name} is put; layouts here do not")
        placements.append(Placement(name, x0 + keepout, x1 - keepout, y0 + keepout, y1 - keepout, keepout))
    groups, row = [], 1
    for obstacle in task._obstacles:
        count = getattr(obstacle, "num", 1)
        groups.append(Group(obstacle.name, slice(row, row + count), obstacle.size))
        row += count
    sensors = task.agent.sensor_conf.sensors
    model = lean_model(task.world.xml_string, sensors)
    return Arena(
        model=model,
        sensors=model.nsensordata,
        placements=tuple(placements),
        groups=tuple(groups),
        extents=(x0, y0, x1, y1),
        agent_radius=float(task.model.geom("agent").size[0]),
        frame_skip=task.sim_conf.frameskip_binom_n,
        lidar_bins=task.lidar_conf.num_bins,
        lidar_range=task.lidar_conf.max_dist,
        reward_distance=task.goal.reward_distance,
        reward_goal=task.goal.reward_goal,
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


class PointNavigation(BatchedEnv):
    """The Point robot among objects: layouts, readings and lidars; what they are worth is the task's.

    Observation: accelerometer, velocimeter, gyro, magnetometer, then one lidar of 16 bins per kind of object.
    """

    _state = ("_positions", "_undrawn")

    def __init__(self, task: Task, num_envs: int, seed: int, threads: int = 1) -> None:
        self.arena = arena(task.reference)
        model = self.arena.model
        physics = Physics(model, num_envs, self.arena.frame_skip, threads=threads)
        super().__init__(task, physics, self.arena.observation_space, self.arena.action_space, seed)
        # Row k of an environment's positions (xy, metres) belongs to placement k; row 0 is the agent.
        self._positions = np.zeros((num_envs, len(self.arena.placements), 2))
        self._undrawn = np.zeros(num_envs, dtype=np.int64)  # see `_generator`
        self._groups = {group.name: group for group in self.arena.groups}
        names = [placement.name for placement in self.arena.placements]
        bodies = {model.body(b).name: b for b in range(1, model.nbody)}
        self._bodies = [(row, bodies[name]) for row, name in enumerate(names) if name in bodies]
        self._body_rows = [row for row, _ in self._bodies]
        self._read = physics.reader(
            lambda data: (
                data.sensordata,
                data.xmat[bodies["agent"]][:4],  # up to R₁₀, of which R₀₀ and R₁₀ are needed
                *(data.xpos[body][:2] for _, body in self._bodies),
            )
        )
        self._first_bins = self._first_lidar_bins()

    def _first_lidar_bins(self) -> np.ndarray:
        """Where in the flattened observations the lidar that sees an object begins, (n, objects)."""
        width, sensors, bins = self.observation_space.shape[1], self.arena.sensors, self.arena.lidar_bins
        counts = [group.members.stop - group.members.start for group in self.arena.groups]
        columns = np.repeat(sensors + bins * np.arange(len(counts)), counts)
        return np.arange(self.num_envs)[:, None] * width + columns

    def _generator(self, index: int) -> np.random.RandomState:
        """Return the generator of an environment, where safety_gymnasium's would be by now.

        The reference draws its number of MuJoCo steps from Binomial(10, 1) in every step: always 10, but it
        costs one uniform number. Nobody sees it until the next layout or goal is drawn, so they are drawn
        together here.
        """
        random = self._random[index]
        random.random_sample(self._undrawn[index])
        self._undrawn[index] = 0
        return random

    @abstractmethod
    def _begin_task(self, index: int, random: np.random.RandomState) -> None:
        """Set up what the task adds to a new layout: the goal."""

    def _begin(self, index: int) -> None:
        random = self._generator(index)
        layout = self._draw_layout(random)
        angles = [random.uniform(0, 2 * pi) for _ in layout]  # drawn after all positions, for every object
        for row, body in self._bodies:
            _place(self.physics.models[index], body, layout[row], angles[row])
        self.physics.restart(index)
        self._positions[index] = layout
        self._begin_task(index, random)

    def _draw_layout(self, random: np.random.RandomState) -> list[tuple[float, float]]:
        """Draw a place for every object, one after the other, rejecting overlaps."""
        for _ in range(_ATTEMPTS):
            layout: list[tuple[float, float]] = []
            for placement in self.arena.placements:
                for _ in range(_ATTEMPTS_PER_OBJECT):
                    xy = placement.draw(random)
                    if self._is_free(xy, placement, enumerate(layout)):
                        layout.append(xy)
                        break
                else:
                    break
            else:
                return layout
        raise RuntimeError(f"no layout of {self.task.name} found in {_ATTEMPTS} attempts")

    def _is_free(
        self, xy: tuple[float, float], placement: Placement, others: Iterable[tuple[int, Sequence[float]]]
    ) -> bool:
        for row, (x, y) in others:
            keepout = self.arena.placements[row].keepout + placement.keepout
            if sqrt((xy[0] - x) * (xy[0] - x) + (xy[1] - y) * (xy[1] - y)) < keepout:
                return False
        return True

    def _refresh(self) -> None:
        """Read the simulators and measure from the agent to every object."""
        read, sensors = self._read(), self.arena.sensors
        self._sensors = read[:, :sensors]
        self._heading = np.arctan2(read[:, sensors + 3], read[:, sensors])
        self._positions[:, self._body_rows] = read[:, sensors + 4 :].reshape(self.num_envs, -1, 2)
        self._measure()

    def _measure(self) -> None:
        offset = self._positions[:, 1:] - self._positions[:, :1]
        self._dx, self._dy = offset[..., 0], offset[..., 1]
        self._distance = np.sqrt(self._dx * self._dx + self._dy * self._dy)

    def _distance_to(self, group: Group) -> np.ndarray:
        """Return the agent's distances to the objects of a group, (n, members), a view."""
        return self._distance[:, group.members.start - 1 : group.members.stop - 1]

    def observe(self) -> np.ndarray:
        """Return sensors and lidars, a new array (n, obs_dim).

        An object at distance d in direction φ (counted in bins, φ = b + f with 0 ≤ f < 1) shows its closeness
        s = max(0, 1 − d/range) in bin b, f·s in bin b + 1 and (1 − f)·s in bin b − 1. Of several objects a
        bin shows the closest.
        """
        self._require_reset("observe")
        bins = self.arena.lidar_bins
        observation = np.zeros(self.observation_space.shape)
        observation[:, : self.arena.sensors] = self._sensors
        direction = (np.arctan2(self._dy, self._dx) - self._heading[:, None]) * (bins / (2 * pi))
        whole = np.floor(direction)
        fraction = direction - whole
        closeness = np.maximum(self.arena.lidar_range - self._distance, 0.0) / self.arena.lidar_range
        seen = (whole.astype(np.int64) + _NEIGHBOURS) % bins + self._first_bins
        shown = np.array((1 - fraction, np.ones_like(fraction), fraction)) * closeness
        np.maximum.at(observation.reshape(-1), seen.reshape(-1), shown.reshape(-1))
        return observation

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        super().load_state_dict(state)
        self._refresh()

    load_state_dict.__doc__ = BatchedEnv.load_state_dict.__doc__

    def scene(self) -> dict[str, np.ndarray]:
        """Return what a drawing from above needs, copied; metres and radians.

        `agent` (n, 2), `heading` (n,), and for every kind of object its places (n, k, 2), the goal's (n, 2);
        a `<kind>_radius` () each (for the vase: half its side), `agent_radius` (), and `extents` (4,): x0,
        y0, x1, y1 of the area where objects are put.
        """
        self._require_reset("scene")
        scene = {
            "agent": self._positions[:, 0].copy(),
            "heading": self._heading.copy(),
            "agent_radius": np.array(self.arena.agent_radius),
            "extents": np.array(self.arena.extents),
        }
        for group in self.arena.groups:
            scene[group.name] = self._positions[:, group.members].copy()
            scene[f"{group.name}_radius"] = np.array(group.radius)
        scene["goal"] = scene["goal"][:, 0]
        return scene


class PointGoal(PointNavigation):
    """Drive to one goal after another; hazards cost, a vase is in the way.

    Reward: metres closer to the goal, plus 1 on reaching it. Cost: 1 in every step spent inside a hazard.
    `info["goal_met"]` (n,) says who reached a goal in this step. An episode is terminated only if no place
    for a next goal was found.
    """

    _state = (*PointNavigation._state, "_last_distance")

    def __init__(self, task: Task, num_envs: int, seed: int, threads: int = 1) -> None:
        super().__init__(task, num_envs, seed, threads)
        self._goal, self._hazards = self._groups["goal"], self._groups["hazards"]
        self._last_distance = np.zeros(num_envs)  # to the goal, before the step

    def _begin_task(self, index: int, random: np.random.RandomState) -> None:
        if not self._draw_goal(index, random):
            raise RuntimeError(f"no place for a goal in environment {index} after {_ATTEMPTS} draws")
        self._refresh()
        self._last_distance[index] = self._distance_to(self._goal)[index, 0]

    def _draw_goal(self, index: int, random: np.random.RandomState) -> bool:
        """Move the goal to a free place; return False, with the goal where it was, if none was found."""
        row = self._goal.members.start
        placement = self.arena.placements[row]
        others = [(k, xy) for k, xy in enumerate(self._positions[index].tolist()) if k != row]
        for _ in range(_ATTEMPTS):
            xy = placement.draw(random)
            if self._is_free(xy, placement, others):
                self._positions[index, row] = xy
                return True
        return False

    def _outcome(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        self._undrawn += 1
        self._refresh()
        arena, distance = self.arena, self._distance_to(self._goal)[:, 0]
        reached = distance <= self._goal.radius
        closer = self._last_distance - distance
        reward = closer * arena.reward_distance + reached * arena.reward_goal
        depth = self._hazards.radius - self._distance_to(self._hazards)
        cost = (depth > 0).any(axis=1).astype(np.float64)
        self._last_distance[:] = distance
        terminated = np.zeros(self.num_envs, dtype=bool)
        if reached.any():
            for i in np.flatnonzero(reached):
                terminated[i] = not self._draw_goal(i, self._generator(i))
            self._measure()
            self._last_distance[:] = self._distance_to(self._goal)[:, 0]
        return reward, cost, terminated, {"goal_met": reached}


def _place(model: mujoco.MjModel, body: int, xy: tuple[float, float], angle: float) -> None:
    """Put a body where a compiled world would have it; its height stays."""
    quaternion = np.array([cos(angle / 2), 0.0, 0.0, sin(angle / 2)])
    mujoco.mju_normalize4(quaternion)
    model.body_pos[body, :2] = xy
    model.body_quat[body] = quaternion
    joint = model.body_jntadr[body]
    if joint >= 0 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
        start = model.jnt_qposadr[joint]
        model.qpos0[start : start + 3] = model.body_pos[body]
        model.qpos0[start + 3 : start + 7] = model.body_quat[body]
        model.qpos_spring[start : start + 7] = model.qpos0[start : start + 7]
