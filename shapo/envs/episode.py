"""Recording of one episode."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import mujoco
import numpy as np


def record_episode(
    policy: Callable, env: Any, rng: np.random.Generator | None = None, steps: int | None = None
) -> dict[str, Any]:
    """Records one episode of a one-environment `env` from a fresh reset, or its first `steps` steps.

    Returns reward and cost (T,), and what can be drawn before each step. Navigation, from above, in metres: positions
    and goals (T, 2), hazards (k, 2). Worlds of MuJoCo: geom_xpos (T, geoms, 3), geom_xmat (T, geoms, 9), their model
    `world`, and dt, the seconds of a step. Differentiable robots: limbs (T, k, 2, 3), radii (k,), dt, and
    rest (k, 2, 3), the limbs of the upright robot: an episode begins at a random angle.
    """
    observation = env.reset()
    observation, rows, done = observation[0] if isinstance(observation, tuple) else observation, [], False
    look = _Sight(env)
    while not done and len(rows) != steps:
        seen = look()
        observation, reward, *cost, terminated, truncated, _ = env.step(policy(observation, rng))
        rows.append(seen | {"reward": float(reward[0]), "cost": float(cost[0][0]) if cost else 0.0})
        done = terminated[0] or truncated[0]
    return look.still | {name: np.array([row[name] for row in rows]) for name in rows[0]}


class _Sight:
    """What can be drawn of an environment: `still` holds what does not change, a call returns copies of the rest."""

    def __init__(self, env: Any):
        self.env, self.still, self._body = env, {}, None
        if hasattr(env, "scene"):
            self.still["hazards"] = env.scene().get("hazards", np.empty((1, 0, 2)))[0]
        if hasattr(env, "simulator"):
            (rest,), radii = env.simulator.skeleton(env.simulator.q0[None])
            self.still |= {"rest": rest, "radii": radii, "dt": 1 / 60}
        elif (world := self._world()) is not None:
            model, dt = world[0], self._seconds(world[0].opt.timestep)
            # gymnasium's own model has the textures that our lean one lacks
            full = getattr(getattr(env, "_its", None), "model", model)
            self.still |= {"world": full if full.ngeom == model.ngeom else model, "dt": dt}

    def __call__(self) -> dict[str, np.ndarray]:
        seen, env = {}, self.env
        if hasattr(env, "scene"):
            scene = env.scene()
            seen |= {"positions": scene["agent"][0].copy(), "goals": scene["goal"][0].copy()}
        if hasattr(env, "simulator"):
            seen["limbs"] = env.simulator.skeleton(env.q)[0][0]
        elif "world" in self.still:
            model, data = self._world()
            body = mujoco.MjData(model)  # a copy, since the environment's own data must not change
            body.qpos[:], body.mocap_pos[:], body.mocap_quat[:] = data.qpos, data.mocap_pos, data.mocap_quat
            mujoco.mj_kinematics(model, body)
            seen |= {"geom_xpos": body.geom_xpos.copy(), "geom_xmat": body.geom_xmat.copy()}
        return seen

    def _world(self) -> tuple[mujoco.MjModel, mujoco.MjData] | None:
        if hasattr(self.env, "physics"):
            return self.env.physics.models[0], self.env.physics.datas[0]
        env = self._single()
        found = getattr(env, "model", None), getattr(env, "data", None)
        return found if isinstance(found[0], mujoco.MjModel) else None

    def _seconds(self, timestep: float) -> float:
        """The seconds of a control step, of an environment whose MuJoCo steps take `timestep`."""
        env = getattr(self.env, "physics", None) or self._single()
        if isinstance(dt := getattr(env, "dt", None), Real):
            return float(dt)
        if hasattr(env, "sim_conf"):  # Safety-Gymnasium, which draws the number of MuJoCo steps
            return env.sim_conf.frameskip_binom_n * env.sim_conf.frameskip_binom_p * timestep
        return getattr(env, "frame_skip", 1) * timestep

    def _single(self) -> Any:
        """The environment, without wrappers; of Safety-Gymnasium its task, where the model is."""
        env = getattr(self.env, "_envs", [self.env])[0]
        env = getattr(env, "unwrapped", env)
        return getattr(env, "task", env)
