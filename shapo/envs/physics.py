"""Many MuJoCo worlds stepped together, exactly as each would step alone.

A task decides what a world looks like, what is read from it and what that is worth; this engine advances all worlds by
one control step, and saves and restores them bit for bit.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import mujoco
import numpy as np

# What a simulation needs to continue exactly: time, qpos, qvel, act, warm start, ctrl, mocap poses, ...
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# The model fields a task may give another value in each world (see `Physics.restart`).
_PLACED = ("body_pos", "body_quat", "qpos0", "qpos_spring")
_WELDED_POSE = slice(3, 10)  # where a weld's `eq_data` holds the pose of one body relative to the other


def without_textures(xml: str) -> mujoco.MjSpec:
    """Reads a world and drops what only a renderer sees: textures (up to 191 MB a world) and materials."""
    spec = mujoco.MjSpec.from_string(xml)
    for asset in (*spec.textures, *spec.materials):
        spec.delete(asset)
    for geom in spec.geoms:
        geom.material = ""
    spec.njmax = spec.nconmax = -1  # the old fixed sizes would reserve 472 MB of address space per world
    return spec


def lean_model(xml: str, sensors: Collection[str]) -> mujoco.MjModel:
    """Compiles a world reduced to what its dynamics and the named sensors need; trajectories stay equal bit for bit.

    Besides textures, it drops cameras, lights, other sensors, and decoration, which the task handles itself: bodies
    fixed to the world whose geoms collide with nothing (goals, hazards), and geoms of mocap bodies that do not either.
    """
    spec = without_textures(xml)
    unread = [sensor for sensor in spec.sensors if sensor.name not in sensors]
    decoration = [body for body in spec.worldbody.bodies if _is_decoration(body)]
    shells = [geom for body in spec.worldbody.bodies if body.mocap for geom in body.geoms if _is_thin(geom)]
    for element in (*spec.cameras, *spec.lights, *unread, *decoration, *shells):
        spec.delete(element)
    return spec.compile()


def _is_decoration(body: mujoco.MjsBody) -> bool:
    fixed = not (len(body.joints) or len(body.bodies) or body.mocap)
    return fixed and all(_is_thin(geom) for geom in body.geoms)


def _is_thin(geom: mujoco.MjsGeom) -> bool:
    return geom.contype == geom.conaffinity == 0


@cache
def _stop_the_clock() -> None:
    """Keeps MuJoCo from timing its own stages, which takes a seventh of a Walker2d step.

    The C library times them if `mjcb_time` is set. The Python package sets it and cannot unset it. No number but
    `MjData.timer` depends on it.
    """
    for library in Path(mujoco.__file__).parent.glob("libmujoco*"):
        ctypes.c_void_p.in_dll(ctypes.CDLL(str(library)), "mjcb_time").value = None


class Physics:
    """`num_envs` copies of one model; a step is `frame_skip` MuJoCo steps of each.

    model: the world that all copies start as; their fields named in `_PLACED` may differ afterwards. settle: whether to
    bring positions, contacts and sensors up to date (`mj_forward`) after a control step; otherwise they lag one MuJoCo
    step behind `qpos`, as in gymnasium's locomotion tasks. drive: function called with a world's MjData before each of
    its MuJoCo steps, to move mocap bodies. threads: number of threads; results do not depend on it.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        frame_skip: int,
        *,
        settle: bool = True,
        drive: Callable[[mujoco.MjData], None] | None = None,
        threads: int = 1,
    ) -> None:
        _stop_the_clock()
        self.models = [copy.deepcopy(model) for _ in range(num_envs)]
        self.datas = [mujoco.MjData(model) for model in self.models]
        self.frame_skip, self.settle, self.drive = frame_skip, settle, drive
        # mj_step would repeat what mj_forward just did, except for the controls, so mj_step2 continues from there.
        # mj_step2 integrates by Euler or implicitly only, and a moved mocap body makes the kinematics stale.
        runge_kutta = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
        self._continues = settle and drive is None and not runge_kutta
        # Sensors are read only after mj_forward, so leaving them out during the steps changes nothing else.
        self._flags = model.opt.disableflags
        self._quiet = self._flags | mujoco.mjtDisableBit.mjDSBL_SENSOR if settle else self._flags
        # Arrays of MjData are views that stay valid, so they are looked up once.
        both = enumerate(zip(self.models, self.datas, strict=True))
        worlds = [(model.opt, model, data, data.ctrl, i) for i, (model, data) in both]
        self._shares = [worlds[k::threads] for k in range(threads)]
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        self._fresh = np.empty(mujoco.mj_stateSize(model, _STATE))
        mujoco.mj_getState(model, mujoco.MjData(model), self._fresh, _STATE)
        self._welds = np.flatnonzero(model.eq_type == mujoco.mjtEq.mjEQ_WELD)

    def step(self, control: np.ndarray) -> None:
        """Advances every world by one control step under `control`, (n, nu), within the actuators' ranges."""
        others = [self._pool.submit(self._advance, share, control) for share in self._shares[1:]]
        self._advance(self._shares[0], control)
        for other in others:
            other.result()

    def _advance(self, worlds: Sequence[tuple], control: np.ndarray) -> None:
        for option, model, data, controls, index in worlds:
            controls[:] = control[index]
            option.disableflags = self._quiet
            if self._continues:
                mujoco.mj_step2(model, data)
                if self.frame_skip > 1:
                    mujoco.mj_step(model, data, nstep=self.frame_skip - 1)
            elif self.drive is None:
                mujoco.mj_step(model, data, nstep=self.frame_skip)
            else:
                for _ in range(self.frame_skip):
                    self.drive(data)
                    mujoco.mj_step(model, data)
            option.disableflags = self._flags
            if self.settle:
                mujoco.mj_forward(model, data)

    def close(self) -> None:
        """Releases the threads; the worlds stay readable."""
        if self._pool is not None:
            self._pool.shutdown()

    def restart(self, index: int) -> None:
        """Restarts world `index` from its model's `qpos0`, after the fields named in `_PLACED` were set.

        `mj_setConst` recomputes what the compiler derives from these fields, so the world equals one compiled with
        them. It recomputes the poses of welds only where none is set (a zero quaternion), so they are zeroed before.
        """
        model, data = self.models[index], self.datas[index]
        model.eq_data[self._welds, _WELDED_POSE] = 0
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        mujoco.mj_forward(model, data)

    def start(self, index: int, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Restarts world `index` from positions (nq,) and velocities (nv,); its model stays as it is.

        Only the state that a MuJoCo step begins with is set. Derived quantities (`xpos`, ...) follow in the next step.
        """
        data = self.datas[index]
        mujoco.mj_setState(self.models[index], data, self._fresh, _STATE)
        data.qpos[:], data.qvel[:] = qpos, qvel

    def reader(self, select: Callable[[mujoco.MjData], Sequence[np.ndarray]]) -> Callable[..., np.ndarray]:
        """Returns a function that gathers the 1-D views `select(data)` of every world into one (n, k) array.

        It fills the same array at each call, with one numpy call for all worlds. Given an index, it updates that row.
        """
        views = [[np.atleast_1d(view) for view in select(data)] for data in self.datas]
        gathered = np.empty((len(views), sum(view.size for view in views[0])))
        together, flat = [view for row in views for view in row], gathered.reshape(-1)

        def read(index: int | None = None) -> np.ndarray:
            if index is None:
                np.concatenate(together, out=flat)
            else:
                np.concatenate(views[index], out=gathered[index])
            return gathered

        return read

    def save(self) -> dict[str, np.ndarray]:
        """Returns everything that the worlds need to continue bit for bit, one row per world."""
        state = np.empty((len(self.models), mujoco.mj_stateSize(self.models[0], _STATE)))
        for row, model, data in zip(state, self.models, self.datas, strict=True):
            mujoco.mj_getState(model, data, row, _STATE)
        placed = {name: np.stack([getattr(model, name) for model in self.models]) for name in _PLACED}
        return {"integration": state, **placed}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Puts every world back into the state that `save` returned."""
        for i, (model, data) in enumerate(zip(self.models, self.datas, strict=True)):
            for name in _PLACED:
                getattr(model, name)[:] = state[name][i]
            self.restart(i)
            mujoco.mj_setState(model, data, state["integration"][i], _STATE)
            mujoco.mj_forward(model, data)  # the derived quantities, which mj_step2 builds on
