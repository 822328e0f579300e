"""The navigation tasks of Safety Gym: PointGoal1 and PointButton1, replayed step for step from safety_gymnasium.

safety_gymnasium builds each kind of world once (`arena`); from then on layouts are drawn here, from the same
generator in the same order, and bodies are moved instead of rebuilt. Lidar, reward and cost are computed for
all environments at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
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

    name: str
    body: str | None  # the name of its body in the lean model; decoration has none
    x0: float
    x1: float
    y0: float
    y1: float
    keepout: float

    def draw(self, random: np.random.RandomState) -> tuple[float, float]:
        # `random.uniform` does the same, in three times the time.
        x, y = random.random_sample(), random.random_sample()
        return self.x0 + (self.x1 - self.x0) * x, self.y0 + (self.y1 - self.y0) * y

    def is_free(self, xy: tuple[float, float], others: Iterable[tuple[float, float, float]]) -> bool:
        """Say whether `xy` keeps away from the others, each x, y and keepout."""
        for x, y, keepout in others:
            dx, dy = xy[0] - x, xy[1] - y
            if sqrt(dx * dx + dy * dy) < keepout + self.keepout:
                return False
        return True


@dataclass(frozen=True)
class Group:
    """Objects of one kind, e.g. the hazards. `members` are rows of the positions array."""

    name: str
    members: slice
    radius: float
    settings: Mapping[str, float]  # every number safety_gymnasium describes the kind with


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
    model = lean_model(task.world.xml_string, task.agent.sensor_conf.sensors)
    bodies = {model.body(b).name for b in range(1, model.nbody)}
    x0, y0, x1, y1 = task.placements_conf.extents
    placements = []
    for name, (rectangles, keepout) in task.placements_conf.placements.items():
        if rectangles is not None or task.placements_conf.margin:
            raise NotImplementedError(f"{reference} restricts where {name} is put; layouts here do not")
        # What a mocap body drags along is a body of its own.
        body = next((body for body in (name, f"{name}obj") if body in bodies), None)
        area = x0 + keepout, x1 - keepout, y0 + keepout, y1 - keepout
        placements.append(Placement(name, body, *area, keepout))
    groups, row = [], 1
    for obstacle in task._obstacles:
        count = getattr(obstacle, "num", 1)
        settings = {field.name: getattr(obstacle, field.name) for field in fields(obstacle)}
        numbers = {name: value for name, value in settings.items() if isinstance(value, int | float)}
        groups.append(Group(obstacle.name, slice(row, row + count), obstacle.size, numbers))
        row += count
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
        observation_space=env.observation_space,
        action_space=env.action_space,
    )


class PointNavigation(BatchedEnv):
    """The Point robot drives to one goal after another among objects that it should not touch.

    Reward: metres closer to the goal, plus 1 on reaching it. Cost: 1 in every step spent inside a hazard, or
    with what else the task forbids. `info["goal_met"]` (n,) says who reached a goal in this step. An episode is
    terminated only if there is no next goal.

    Observation: accelerometer, velocimeter, gyro, magnetometer, then one lidar of 16 bins per kind of object.
    """

    _state = ("_positions", "_undrawn", "_last_distance")
    _prize = "goal"  # the kind of object whose settings say what reaching a goal is worth

    def __init__(self, task: Task, num_envs: int, seed: int, threads: int = 1) -> None:
        self.arena = arena(task.reference)
        self._groups = {group.name: group for group in self.arena.groups}
        self._goal, self._hazards = self._groups["goal"], self._groups["hazards"]
        model = self.arena.model
        physics = Physics(model, num_envs, self.arena.frame_skip, drive=self._driver(task), threads=threads)
        super().__init__(task, physics, self.arena.observation_space, self.arena.action_space, seed)
        # Row k of an environment's positions (xy, metres) belongs to placement k; row 0 is the agent.
        self._positions = np.zeros((num_envs, len(self.arena.placements), 2))
        self._undrawn = np.zeros(num_envs, dtype=np.int64)  # see `_generator`
        self._last_distance = np.zeros(num_envs)  # to the goal, before the step
        names = [placement.body for placement in self.arena.placements]
        self._bodies = [(row, model.body(name).id) for row, name in enumerate(names) if name]
        self._body_rows = [row for row, _ in self._bodies]
        agent = self._bodies[0][1]
        self._read = physics.reader(
            lambda data: (
                data.sensordata,
                data.xmat[agent][:4],  # up to R₁₀, of which R₀₀ and R₁₀ are needed
                *(data.xpos[body][:2] for _, body in self._bodies),
            )
        )
        self._first_bins = self._first_lidar_bins()

    # What a task defines

    @abstractmethod
    def _draw_goal(self, index: int, random: np.random.RandomState) -> bool:
        """Move the goal of an environment to its next place; return False if there is none."""

    @abstractmethod
    def _reached(self) -> np.ndarray:
        """Return (n,) bool: who is at the goal."""

    def _forbidden(self) -> np.ndarray | bool:
        """Return (n,) bool: who does what costs, beside being inside a hazard."""
        return False

    def _driver(self, task: Task) -> Callable[[mujoco.MjData], None] | None:
        """Return what moves mocap bodies before every MuJoCo step."""
        return None

    # What they share

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

    def _begin(self, index: int) -> None:
        random = self._generator(index)
        layout = self._draw_layout(random)
        angles = [random.uniform(0, 2 * pi) for _ in layout]  # drawn after all positions, for every object
        for row, body in self._bodies:
            _place(self.physics.models[index], body, layout[row], angles[row])
        self.physics.restart(index)
        self._positions[index] = layout
        if not self._draw_goal(index, random):
            raise RuntimeError(f"no place for a goal in environment {index} after {_ATTEMPTS} draws")
        self._refresh()
        self._last_distance[index] = self._goal_distance()[index]

    def _draw_layout(self, random: np.random.RandomState) -> list[tuple[float, float]]:
        """Draw a place for every object, one after the other, rejecting overlaps."""
        for _ in range(_ATTEMPTS):
            layout: list[tuple[float, float, float]] = []  # x, y and keepout
            for placement in self.arena.placements:
                for _ in range(_ATTEMPTS_PER_OBJECT):
                    xy = placement.draw(random)
                    if placement.is_free(xy, layout):
                        layout.append((*xy, placement.keepout))
                        break
                else:
                    break
            else:
                return [(x, y) for x, y, _ in layout]
        raise RuntimeError(f"no layout of {self.task.name} found in {_ATTEMPTS} attempts")

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

    def _goal_distance(self) -> np.ndarray:
        return self._distance_to(self._goal)[:, 0]

    def _outcome(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        self._undrawn += 1
        self._refresh()
        distance, reached = self._goal_distance(), self._reached()
        closer, prize = self._last_distance - distance, self._groups[self._prize].settings
        reward = closer * prize["reward_distance"] + reached * prize["reward_goal"]
        inside = (self._distance_to(self._hazards) < self._hazards.radius).any(axis=1)
        cost = (inside | self._forbidden()).astype(np.float64)
        self._last_distance[:] = distance
        terminated = np.zeros(self.num_envs, dtype=bool)
        if reached.any():
            for i in np.flatnonzero(reached):
                terminated[i] = not self._draw_goal(i, self._generator(i))
            self._measure()
            self._last_distance[:] = self._goal_distance()
        return reward, cost, terminated, {"goal_met": reached}

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
    """The goals are discs to drive into, drawn anywhere free; a vase is in the way."""

    def _draw_goal(self, index: int, random: np.random.RandomState) -> bool:
        """Move the goal to a free place; return False, with the goal where it was, if none was found."""
        row = self._goal.members.start
        placement = self.arena.placements[row]
        places = zip(self._positions[index].tolist(), self.arena.placements, strict=True)
        others = [(*xy, other.keepout) for xy, other in places if other is not placement]
        for _ in range(_ATTEMPTS):
            xy = placement.draw(random)
            if placement.is_free(xy, others):
                self._positions[index, row] = xy
                return True
        return False

    def _reached(self) -> np.ndarray:
        return self._goal_distance() <= self._goal.radius


class PointButton(PointNavigation):
    """The goal is one of four buttons, to be touched; the others must not be, nor the circling gremlins.

    A wrong button costs 1 in every step it is touched, a gremlin too. For ten steps after the right one was
    pressed, the buttons are dark: their lidar reads 0, and wrong ones cost nothing. The next goal may be the
    same button, which then is pressed again at once.
    """

    _state = (*PointNavigation._state, "_target", "_dark")
    _prize = "buttons"

    def __init__(self, task: Task, num_envs: int, seed: int, threads: int = 1) -> None:
        super().__init__(task, num_envs, seed, threads)
        buttons, gremlins = self._groups["buttons"].members, self._groups["gremlins"].members
        self._buttons, self._delay = buttons, self._groups["buttons"].settings["resampling_delay"]
        self._target = np.zeros(num_envs, dtype=np.int64)  # which button is the goal
        self._dark = np.zeros(num_envs, dtype=np.int64)  # steps until the buttons light up again
        self._limits = {"target": buttons.stop - buttons.start - 1, "dark": self._delay}
        model = self.arena.model
        geoms = np.array([model.body_geomadr[body] for _, body in self._bodies])
        rows = np.array(self._body_rows)
        self._button_geoms = geoms[(buttons.start <= rows) & (rows < buttons.stop)]
        self._gremlin_geoms = geoms[(gremlins.start <= rows) & (rows < gremlins.stop)]
        self._agent_geoms = frozenset(np.flatnonzero(model.geom_bodyid == self._bodies[0][1]).tolist())
        self._each = np.arange(num_envs)
        first = self._first_bins[0, buttons.start - 1]
        self._button_lidar = slice(first, first + self.arena.lidar_bins)

    def _driver(self, task: Task) -> Callable[[mujoco.MjData], None]:
        """Lead all gremlins round, each about its place: where to, is a table over the steps of an episode."""
        settings, model = self._groups["gremlins"].settings, self.arena.model
        timestep, time = model.opt.timestep, 0.0
        path = np.empty((task.max_episode_steps * self.arena.frame_skip, model.nmocap, 3))
        for places in path:
            places[:] = np.sin(time) * settings["travel"], np.cos(time) * settings["travel"], settings["size"]
            time += timestep

        def drive(data: mujoco.MjData) -> None:
            data.mocap_pos[:] = path[round(data.time / timestep)]

        return drive

    def _begin(self, index: int) -> None:
        super()._begin(index)
        self._dark[index] = 0

    def _draw_goal(self, index: int, random: np.random.RandomState) -> bool:
        """Make a button the goal, perhaps the one that was; there always is one."""
        buttons = self._positions[index, self._buttons]
        self._target[index] = random.choice(len(buttons))
        self._positions[index, self._goal.members] = buttons[self._target[index]]
        return True

    def _outcome(
        self, action: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        self._touched = self._touches()
        *outcome, info = super()._outcome(action)
        self._dark[:] = np.where(info["goal_met"], self._delay, np.maximum(self._dark - 1, 0))
        return (*outcome, info)

    def _touches(self) -> np.ndarray:
        """Return (n, geoms) bool: what the agent touches."""
        touched = np.zeros((self.num_envs, self.arena.model.ngeom), dtype=bool)
        for row, data in zip(touched, self.physics.datas, strict=True):
            for first, second in data.contact.geom.tolist():
                if first in self._agent_geoms:
                    row[second] = True
                elif second in self._agent_geoms:
                    row[first] = True
        return touched

    def _reached(self) -> np.ndarray:
        return self._touched[self._each, self._button_geoms[self._target]]

    def _forbidden(self) -> np.ndarray:
        wrong = self._touched[:, self._button_geoms]
        wrong[self._each, self._target] = False
        lit = self._dark == 0
        return (lit & wrong.any(axis=1)) | self._touched[:, self._gremlin_geoms].any(axis=1)

    def observe(self) -> np.ndarray:
        observation = super().observe()
        observation[self._dark > 0, self._button_lidar] = 0
        return observation


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
