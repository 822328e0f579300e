"""The navigation tasks of Safety Gym: Goal and Button at levels 0 to 2, with Point and Car, replayed step for step.

safety_gymnasium builds each kind of world once (`arena`); from then on layouts are drawn here, from the same generator
in the same order, and bodies are moved instead of rebuilt. Lidar, reward and cost are computed for all environments at
once. A world that has anything else in it is refused, and the error names it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from math import cos, pi, sin, sqrt
from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box

from shapo.envs.batched import BatchedEnv, Outcome, Task
from shapo.envs.physics import Physics, lean_model
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium, quick_worlds

_ATTEMPTS = 10_000  # safety_gymnasium gives up on a layout or a goal after so many draws ...
_ATTEMPTS_PER_OBJECT = 100  # ... and starts a layout again after so many for one object
_NEIGHBOURS = np.array([-1, 0, 1])[:, None, None]  # the lidar bins an object is seen in, relative to its own

_AGENTS = "Point", "Car"
_KINDS = "goal", "hazards", "vases", "buttons", "gremlins"
# Settings that are read here, that nothing here depends on, or that safety_gymnasium changes as it goes. All others
# must have safety_gymnasium's defaults, since what they change is not replayed.
_READ = {
    "num", "size", "keepout", "travel", "resampling_delay", "reward_goal", "reward_distance", "is_constrained",
    "velocity_threshold", "frameskip_binom_n", "num_bins", "max_dist", "alpha", "color", "engine", "agent",
    "random_generator", "goal_button", "timer",
}  # fmt: skip
_PLAIN = {"action_noise": 0, "observe_vision": False, "debug": False, "_is_load_static_geoms": False}


@dataclass(frozen=True)
class Placement:
    """Where an object may be put, in metres: uniformly in [x0, x1] × [y0, y1], with no overlap of keepout discs."""

    name: str
    body: str | None  # the name of its body in the lean model; decoration has none
    x0: float
    x1: float
    y0: float
    y1: float
    keepout: float

    def draw(self, random: np.random.RandomState) -> tuple[float, float]:
        # `random.uniform` draws the same numbers, but takes three times as long.
        x, y = random.random_sample(), random.random_sample()
        return self.x0 + (self.x1 - self.x0) * x, self.y0 + (self.y1 - self.y0) * y

    def is_free(self, xy: tuple[float, float], others: Iterable[tuple[float, float, float]]) -> bool:
        """Whether `xy` keeps away from the others, each a tuple (x, y, keepout)."""
        for x, y, keepout in others:
            dx, dy = xy[0] - x, xy[1] - y
            if sqrt(dx * dx + dy * dy) < keepout + self.keepout:
                return False
        return True


@dataclass(frozen=True)
class Group:
    """Objects of one kind, such as the hazards; `members` are their rows in the positions array."""

    name: str
    members: slice
    settings: Mapping[str, float]  # every numeric setting of this kind in safety_gymnasium

    @property
    def rows(self) -> range:
        return range(self.members.start, self.members.stop)


@dataclass(frozen=True)
class Arena:
    """Everything that safety_gymnasium decides about a task before the first random number is drawn."""

    model: mujoco.MjModel
    columns: list[int]  # columns of the model's sensordata, in the order of the observation
    quaternions: list[int]  # where they begin in sensordata; observed as rotation matrices, after columns
    placements: tuple[Placement, ...]  # in the order they are drawn: the agent, then the groups
    groups: tuple[Group, ...]  # in the order of their lidars in the observation
    extents: tuple[float, float, float, float]  # x0, y0, x1, y1 of the area where objects are put
    agent_radius: float  # metres
    frame_skip: int
    lidar_bins: int
    lidar_range: float  # metres
    spaces: tuple[Box, Box]  # of observations and actions


def _unpriced(its: Any, rules: str, max_episode_steps: int) -> list[str]:
    """Lists what safety_gymnasium's task `its` has that is not replayed here under the rules "Goal" or "Button"."""
    unknown = [] if type(its.agent).__name__ in _AGENTS else [f"the agent {type(its.agent).__name__}"]
    if type(its).__name__ not in {f"{rules}Level{level}" for level in range(3)}:
        unknown.append(f"the rules of {type(its).__name__}")
    unknown += [f"obstacles {part.name}" for part in its._obstacles if part.name not in _KINDS]
    plain = _PLAIN | {"num_steps": max_episode_steps}
    unknown += [f"{name} = {getattr(its, name)!r}" for name in plain if getattr(its, name) != plain[name]]
    parts = {part.name: part for part in its._obstacles if part.name in _KINDS}
    names = "lidar_conf", "reward_conf", "cost_conf", "mechanism_conf", "sim_conf"
    parts |= {name: getattr(its, name) for name in names} | {"sensor_conf": its.agent.sensor_conf}
    for name, part in parts.items():
        default = type(part)()
        for setting in {field.name for field in fields(part)} - _READ:
            if not np.array_equal(value := getattr(part, setting), getattr(default, setting)):
                unknown.append(f"{name}.{setting} = {value!r}")
    for name, (rectangles, _) in its.placements_conf.placements.items():
        if rectangles is not None or its.placements_conf.margin or its.agent.rot is not None:
            unknown.append(f"a place of its own for {name}")
    return unknown


@cache
def arena(reference: str, rules: str, max_episode_steps: int) -> Arena:
    """Lets safety_gymnasium build the world of `reference` once, and records what it consists of.

    rules: kind of task, "Goal" or "Button".
    Raises NotImplementedError, which names everything that is not replayed exactly.
    """
    safety_gymnasium = import_safety_gymnasium()
    with quick_worlds():
        env = safety_gymnasium.make(reference)
        env.reset(seed=0)
    task = env.unwrapped.task
    if unknown := _unpriced(task, rules, max_episode_steps):
        raise NotImplementedError(
            f"{reference} has what is not replayed exactly: {', '.join(unknown)}. "
            f"Config(task={reference!r}) trains on safety_gymnasium's own environment"
        )
    direct = [*task.agent.sensor_conf.sensors, *task.agent.sensor_info.ballangvel_names]
    turned = task.agent.sensor_info.ballquat_names
    model = lean_model(task.world.xml_string, [*direct, *turned])
    sensors = map(model.sensor, range(model.nsensor))
    columns = {sensor.name: range(sensor.adr[0], sensor.adr[0] + sensor.dim[0]) for sensor in sensors}
    bodies = {model.body(b).name for b in range(1, model.nbody)}
    x0, y0, x1, y1 = task.placements_conf.extents
    placements = []
    for name, (_, keepout) in task.placements_conf.placements.items():
        # The object that a mocap body drags along is a body of its own.
        body = next((body for body in (name, f"{name}obj") if body in bodies), None)
        area = x0 + keepout, x1 - keepout, y0 + keepout, y1 - keepout
        placements.append(Placement(name, body, *area, keepout))
    groups, row = [], 1
    for obstacle in task._obstacles:
        count = getattr(obstacle, "num", 1)
        settings = {field.name: getattr(obstacle, field.name) for field in fields(obstacle)}
        numbers = {name: value for name, value in settings.items() if isinstance(value, int | float)}
        groups.append(Group(obstacle.name, slice(row, row + count), numbers))
        row += count
    return Arena(
        model=model,
        columns=[column for name in direct for column in columns[name]],
        quaternions=[columns[name][0] for name in turned],
        placements=tuple(placements),
        groups=tuple(groups),
        extents=(x0, y0, x1, y1),
        agent_radius=float(task.model.geom("agent").size[0]),
        frame_skip=task.sim_conf.frameskip_binom_n,
        lidar_bins=task.lidar_conf.num_bins,
        lidar_range=task.lidar_conf.max_dist,
        spaces=(env.observation_space, env.action_space),
    )


class Navigation(BatchedEnv):
    """Robots that drive to one goal after another among objects that they should not touch.

    Reward: metres closer to the goal, plus 1 on reaching it. Cost: 1 in every step inside a hazard or with anything
    else that the task forbids; level 0 has no cost. `info["goal_met"]` (n,) says which robots reached a goal in this
    step. An episode is terminated only if there is no next goal.

    Observation: accelerometer, velocimeter, gyro and magnetometer; for the Car also the angular velocity and the
    orientation of its rear wheel; then one lidar of 16 bins per kind of object.
    """

    _state = ("_positions", "_undrawn", "_last_distance")
    _rules: str  # kind of safety_gymnasium's tasks: "Goal" or "Button"
    _prize = "goal"  # the kind of object whose settings say what reaching a goal is worth

    def __init__(self, task: Task, num_envs: int, seed: int, threads: int = 1) -> None:
        self.arena = its = arena(task.reference, self._rules, task.max_episode_steps)
        self._groups = {group.name: group for group in its.groups}
        self._costly = {name for name, group in self._groups.items() if group.settings["is_constrained"]}
        self._goal, model = self._groups["goal"], its.model
        physics = Physics(model, num_envs, its.frame_skip, drive=self._driver(task), threads=threads)
        super().__init__(task, physics, its.spaces, seed)
        # Row k of an environment's positions (xy, metres) belongs to placement k; row 0 is the agent.
        self._positions = np.zeros((num_envs, len(its.placements), 2))
        self._undrawn = np.zeros(num_envs, dtype=np.int64)  # steps not drawn yet: see `_generator`
        self._last_distance = np.zeros(num_envs)  # to the goal before the step, metres
        bodies = {row: model.body(place.body).id for row, place in enumerate(its.placements) if place.body}
        self._bodies, self._body_rows = list(bodies.items()), list(bodies)
        agent = bodies[0]
        self._planar = model.jnt_type[model.body_jntadr[agent]] != mujoco.mjtJoint.mjJNT_FREE
        self._agent_geoms = frozenset(np.flatnonzero(model.body_rootid[model.geom_bodyid] == agent).tolist())
        solid = [group for group in its.groups if group.members.start in bodies]
        self._geoms = {group.name: model.body_geomadr[[bodies[row] for row in group.rows]] for group in solid}
        vases = self._groups["vases"].rows if "vases" in self._costly else ()
        slides = [model.jnt_dofadr[model.body_jntadr[bodies[row]]] for row in vases]
        self._parts = np.cumsum([model.nsensordata, 9, 1, 2 * len(bodies)])
        self._read = physics.reader(
            lambda data: (
                *(data.sensordata, data.xmat[agent], data.xpos[agent][2:]),
                *(data.xpos[body][:2] for body in bodies.values()),
                *(data.qvel[dof : dof + 3] for dof in slides),
            )
        )
        # Where in the flattened observations the lidar that sees an object begins, (n, objects).
        (width,), counts = its.spaces[0].shape, [len(group.rows) for group in its.groups]
        columns = np.repeat(width - its.lidar_bins * np.arange(len(counts), 0, -1), counts)
        self._first_bins = np.arange(num_envs)[:, None] * width + columns

    # What a task defines

    @abstractmethod
    def _draw_goal(self, index: int, random: np.random.RandomState) -> bool:
        """Moves the goal of an environment to its next place; returns False if there is none."""

    @abstractmethod
    def _reached(self) -> np.ndarray:
        """Returns which robots are at the goal, (n,) bool."""

    @abstractmethod
    def _forbidden(self) -> np.ndarray | bool:
        """Returns which robots do something that costs, other than being inside a hazard, (n,) bool."""

    def _driver(self, task: Task) -> Callable[[mujoco.MjData], None] | None:
        """Returns the function that moves mocap bodies before every MuJoCo step, if there is one."""
        return None

    # What they share

    def _generator(self, index: int) -> np.random.RandomState:
        """Returns the generator of an environment, in the state that safety_gymnasium's would have by now.

        In every step the reference draws its number of MuJoCo steps from Binomial(10, 1), which is always 10 but uses
        up one uniform number. That matters only when the next layout or goal is drawn, so all are drawn together here.
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
        """Draws a place for every object, one after the other, rejecting overlaps."""
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
        """Reads the simulators and measures the distance from the agent to every object."""
        self._sensors, turned, height, places, slides = np.split(self._read(), self._parts, axis=1)
        self._turned, self._height = turned.reshape(-1, 3, 3), height
        self._heading = np.arctan2(turned[:, 3], turned[:, 0])
        self._positions[:, self._body_rows] = places.reshape(self.num_envs, -1, 2)
        self._vase_velocity = slides.reshape(self.num_envs, -1, 3)
        self._measure()

    def _measure(self) -> None:
        offset = self._positions[:, 1:] - self._positions[:, :1]
        self._dx, self._dy = offset[..., 0], offset[..., 1]
        self._distance = np.sqrt(self._dx * self._dx + self._dy * self._dy)

    def _distance_to(self, group: Group) -> np.ndarray:
        """Returns the agent's distances to the objects of a group, in metres, as a view (n, members)."""
        return self._distance[:, group.members.start - 1 : group.members.stop - 1]

    def _goal_distance(self) -> np.ndarray:
        return self._distance_to(self._goal)[:, 0]

    def _touches(self) -> np.ndarray:
        """Returns which geoms the agent touches, (n, geoms) bool."""
        touched = np.zeros((self.num_envs, self.arena.model.ngeom), dtype=bool)
        for row, data in zip(touched, self.physics.datas, strict=True):
            for first, second in data.contact.geom.tolist():
                if first in self._agent_geoms:
                    row[second] = True
                elif second in self._agent_geoms:
                    row[first] = True
        return touched

    def _outcome(self, action: np.ndarray) -> Outcome:
        self._undrawn += 1
        self._refresh()
        distance, reached = self._goal_distance(), self._reached()
        closer, prize = self._last_distance - distance, self._groups[self._prize].settings
        reward = closer * prize["reward_distance"] + reached * prize["reward_goal"]
        offends = np.zeros(self.num_envs, dtype=bool) | self._forbidden()
        if "hazards" in self._costly:
            hazards = self._groups["hazards"]
            offends |= (self._distance_to(hazards) < hazards.settings["size"]).any(axis=1)
        self._last_distance[:] = distance
        terminated = np.zeros(self.num_envs, dtype=bool)
        if reached.any():
            for i in np.flatnonzero(reached):
                terminated[i] = not self._draw_goal(i, self._generator(i))
            self._measure()
            self._last_distance[:] = self._goal_distance()
        return reward, offends.astype(np.float64), terminated, {"goal_met": reached}

    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the agent sees objects: direction (radians, anticlockwise) and distance (metres), (n, objects).

        The Point stays upright. The Car tilts a little, and its lidar tilts with it: it sees the objects' places on the
        ground in its own frame, without their height in that frame.
        """
        if self._planar:
            return np.arctan2(self._dy, self._dx) - self._heading[:, None], self._distance
        forward, left = (
            self._turned[:, :1, k] * self._dx
            + self._turned[:, 1:2, k] * self._dy
            - self._turned[:, 2:, k] * self._height
            for k in range(2)
        )
        return np.arctan2(left, forward), np.sqrt(forward * forward + left * left)

    def observe(self) -> np.ndarray:
        """Returns the current observations, sensors and then lidars, as a new array (n, obs_dim).

        An object at distance d in direction φ (counted in bins, φ = b + f with 0 ≤ f < 1) shows its closeness
        s = max(0, 1 − d/range) in bin b, f·s in bin b + 1 and (1 − f)·s in bin b − 1. If a bin sees several objects, it
        shows the largest of their values.
        """
        self._require_reset("observe")
        its, observation = self.arena, np.zeros(self.observation_space.shape)
        observation[:, : len(its.columns)] = self._sensors[:, its.columns]
        for k, start in enumerate(its.quaternions):
            rotation = observation[:, len(its.columns) + 9 * k :]
            for i in range(self.num_envs):
                mujoco.mju_quat2Mat(rotation[i, :9], self._sensors[i, start : start + 4])
        direction, distance = self._seen()
        direction = direction * (its.lidar_bins / (2 * pi))
        whole = np.floor(direction)
        fraction = direction - whole
        closeness = np.maximum(its.lidar_range - distance, 0.0) / its.lidar_range
        seen = (whole.astype(np.int64) + _NEIGHBOURS) % its.lidar_bins + self._first_bins
        shown = np.array((1 - fraction, np.ones_like(fraction), fraction)) * closeness
        np.maximum.at(observation.reshape(-1), seen.reshape(-1), shown.reshape(-1))
        return observation

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        super().load_state_dict(state)
        self._refresh()

    def scene(self) -> dict[str, np.ndarray]:
        """Returns copies of what a drawing from above needs, in metres and radians.

        The keys are `agent` (n, 2), `heading` (n,), `agent_radius` (), and `extents` (4,): x0, y0, x1, y1 of the area
        where objects are put. Every kind of object has its places (n, k, 2) under its name, `goal` has (n, 2), and
        `<kind>_radius` () is its radius (for the vase: half its side).
        """
        self._require_reset("scene")
        scene = {
            "agent": self._positions[:, 0].copy(), "heading": self._heading.copy(),
            "agent_radius": np.array(self.arena.agent_radius), "extents": np.array(self.arena.extents),
        }  # fmt: skip
        for group in self.arena.groups:
            scene[group.name] = self._positions[:, group.members].copy()
            scene[f"{group.name}_radius"] = np.array(group.settings["size"])
        scene["goal"] = scene["goal"][:, 0]
        return scene


class Goal(Navigation):
    """Tasks whose goals are discs to drive into, drawn at any free place.

    At level 1 there is one vase, which costs nothing. At level 2 there are ten: it costs to touch one, or if one moves.
    """

    _rules = "Goal"

    def _draw_goal(self, index: int, random: np.random.RandomState) -> bool:
        """Moves the goal to a free place; returns False, and leaves the goal where it was, if none was found."""
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
        return self._goal_distance() <= self._goal.settings["size"]

    def _forbidden(self) -> np.ndarray | bool:
        if "vases" not in self._costly:
            return False
        speed = np.sqrt(np.square(self._vase_velocity).sum(axis=2))
        moving = (speed >= self._groups["vases"].settings["velocity_threshold"]).any(axis=1)
        return moving | self._touches()[:, self._geoms["vases"]].any(axis=1)


class Button(Navigation):
    """Tasks whose goal is one of four buttons, which the robot must touch.

    From level 1 on, touching a wrong button or a circling gremlin costs 1 in every step. For ten steps after the right
    button was pressed, the buttons are dark: their lidar reads 0, and wrong buttons cost nothing. The next goal may be
    the same button, which then is pressed again at once.
    """

    _rules, _prize = "Button", "buttons"
    _state = (*Navigation._state, "_target", "_dark")

    def __init__(self, task: Task, num_envs: int, seed: int, threads: int = 1) -> None:
        super().__init__(task, num_envs, seed, threads)
        buttons = self._groups["buttons"]
        self._buttons, self._delay = buttons.members, buttons.settings["resampling_delay"]
        self._target = np.zeros(num_envs, dtype=np.int64)  # which button is the goal
        self._dark = np.zeros(num_envs, dtype=np.int64)  # steps until the buttons light up again
        self._each = np.arange(num_envs)
        first = self._first_bins[0, self._buttons.start - 1]
        self._button_lidar = slice(first, first + self.arena.lidar_bins)

    def _driver(self, task: Task) -> Callable[[mujoco.MjData], None] | None:
        """Returns the function that moves the gremlins, each in a circle about its place, by a table of all steps."""
        if "gremlins" not in self._groups:
            return None
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
        """Makes a random button the goal, perhaps the same one again; returns True, since there always is one."""
        buttons = self._positions[index, self._buttons]
        self._target[index] = random.choice(len(buttons))
        self._positions[index, self._goal.members] = buttons[self._target[index]]
        return True

    def _outcome(self, action: np.ndarray) -> Outcome:
        self._touched = self._touches()
        *outcome, info = super()._outcome(action)
        self._dark[:] = np.where(info["goal_met"], self._delay, np.maximum(self._dark - 1, 0))
        return (*outcome, info)

    def _reached(self) -> np.ndarray:
        return self._touched[self._each, self._geoms["buttons"][self._target]]

    def _forbidden(self) -> np.ndarray | bool:
        if "buttons" not in self._costly:
            return False
        wrong = self._touched[:, self._geoms["buttons"]]
        wrong[self._each, self._target] = False
        lit = self._dark == 0
        return (lit & wrong.any(axis=1)) | self._touched[:, self._geoms["gremlins"]].any(axis=1)

    def observe(self) -> np.ndarray:
        observation = super().observe()
        observation[self._dark > 0, self._button_lidar] = 0
        return observation


def _place(model: mujoco.MjModel, body: int, xy: tuple[float, float], angle: float) -> None:
    """Puts a body where a compiled world would have it; its height does not change."""
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
