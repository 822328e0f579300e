"""Environments: speed of steps and resets against safety_gymnasium, EnvPool and bare MuJoCo; memory."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import mujoco
import numpy as np
import pandas as pd
import psutil

from shapo.envs import TASKS, make_env
from shapo.envs.physics import Physics
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium
from shapo.peers import measuring
from shapo.peers.measuring import CORES, TASK, alternate, in_turn, run_apart, side_by_side, with_skipped

SINGLE, ASYNC = "safety_gymnasium", "safety_gymnasium async"
THREADS = {"one thread": 1, "two threads": 2}


def _make(maker: str, task: str, num_envs: int, threads: int = 1) -> Any:
    """`num_envs` environments after a reset: ours, EnvPool's, or safety_gymnasium's (asynchronous, or a single one)."""
    if maker == "shapo":
        env = make_env(task, num_envs=num_envs, threads=threads)
    elif maker == "EnvPool":
        import envpool  # an optional peer; it holds a MuJoCo of its own

        options = {"env_type": "gymnasium", "num_envs": num_envs, "num_threads": threads, "seed": 0}
        env = envpool.make(TASKS[task].reference, **options)
    elif maker == ASYNC:
        env = import_safety_gymnasium().vector.make(TASKS[task].reference, num_envs=num_envs)
    else:
        env = import_safety_gymnasium().make(TASKS[task].reference, autoreset=True)
    env.reset(**({"seed": 0} if maker in (SINGLE, ASYNC) else {}))
    return env


def _actions(steps: int, shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, *shape))


def run_env(maker: str, task: str, num_envs: int, steps: int, resets: int, env_threads: int = 1) -> dict:
    """Probe: steps per second, of whole episodes if steps ≥ 1000, and milliseconds of one reset."""
    env = _make(maker, task, num_envs, env_threads)
    actions = _actions(steps, env.action_space.shape)
    for action in actions[:20]:
        env.step(action)
    start = time.perf_counter()
    for _ in range(resets):
        env.reset()
    reset_ms = 1e3 * (time.perf_counter() - start) / (resets * num_envs)
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    rate = steps * num_envs / (time.perf_counter() - start)
    env.close()
    return {"steps": rate, "reset": reset_ms, "note": f"environments: {num_envs}, threads: {env_threads}"}


def environments(
    repeats: int, steps: int, resets: int, num_envs: int = 20, their_envs: int = 10, task: str = TASK,
    peers: Sequence[str] = (SINGLE, ASYNC),
) -> pd.DataFrame:  # fmt: skip
    """Speed of steps and resets: ours on one core and on two, safety_gymnasium's single and asynchronous."""
    probe = partial(partial, run_apart, run_env, task=task, steps=steps, resets=resets)
    sides = {
        "shapo": probe(maker="shapo", num_envs=num_envs),
        "shapo, two cores": probe(maker="shapo", num_envs=num_envs, cores=CORES, env_threads=CORES),
        SINGLE: probe(maker=SINGLE, num_envs=1),
        ASYNC: probe(maker=ASYNC, num_envs=their_envs, cores=CORES),
    }
    sides = {side: probe for side, probe in sides.items() if side.startswith("shapo") or side in peers}
    return alternate("environments", sides, repeats, {"steps": "steps/s", "reset": "ms"}, task)


def step_locomotion(task: str, makers: Sequence[str], num_envs: int, steps: int) -> dict:
    """Probe: steps per second of each maker's environments with each number of threads, side by side.

    EnvPool answers the action after an episode's end with a reset alone, which is not counted as a step. We reset in
    the step that ends the episode.
    """
    pairs = itertools.product(THREADS.items(), makers)
    envs = {f"{maker}, {name}": _make(maker, task, num_envs, threads) for (name, threads), maker in pairs}
    actions = _actions(steps, envs["shapo, one thread"].action_space.shape)
    counted: dict[str, list[int]] = {side: [] for side in envs}

    def walk(side: str) -> None:
        infos = [envs[side].step(action)[-1] for action in actions]
        only_reset = sum(np.count_nonzero(info.get("elapsed_step", 1) == 0) for info in infos)
        counted[side].append(steps * num_envs - int(only_reset))

    seconds = in_turn({side: partial(walk, side) for side in envs})
    rates = {side: np.mean(counted[side]) / seconds[side] for side in envs}
    return {**rates, "note": f"environments: {num_envs}"}


def locomotion(repeats: int, steps: int, task: str, num_envs: int = 20) -> pd.DataFrame:
    """Our steps per second and EnvPool's with as many threads, on two cores, including the resets after falls."""
    makers = ["shapo", "EnvPool"] if measuring.is_installed("envpool") else ["shapo"]
    probe = partial(
        run_apart, step_locomotion, cores=CORES, task=task, makers=makers, num_envs=num_envs, steps=steps
    )
    rows = side_by_side("locomotion", {"steps": probe}, repeats, "steps/s", task)
    return with_skipped(rows, [f"EnvPool, {name}" for name in THREADS])


def step_physics(task: str, num_envs: int, steps: int) -> dict:
    """Probe: control steps per second of our environment, and of bare MuJoCo on copies of its worlds."""
    env = _make("shapo", task, num_envs)
    actions = _actions(steps, env.action_space.shape)

    def ours() -> None:
        env.reset(seed=0)
        for action in actions:
            env.step(action)

    def bare() -> None:
        env.reset(seed=0)
        bare_loop(env.physics, actions)

    seconds = in_turn({"shapo": ours, "bare MuJoCo": bare})
    return {side: steps * num_envs / value for side, value in seconds.items()}


def physics(repeats: int, steps: int, num_envs: int = 20, task: str = TASK) -> pd.DataFrame:
    """Our steps per second beside a loop of `mj_step(nstep)` + `mj_forward`: one core, one process."""
    probe = partial(run_apart, step_physics, task=task, num_envs=num_envs, steps=steps)
    return side_by_side("physics", {"steps": probe}, repeats, "steps/s", task)


def fill_memory(maker: str, task: str, num_envs: int) -> dict:
    """Probe: MB of resident memory that environments add to a process in which everything is imported."""
    import_safety_gymnasium()
    process = psutil.Process()
    before = process.memory_info().rss
    batches = [num_envs] if maker == "shapo" else [1] * num_envs
    envs = [_make(maker, task, batch) for batch in batches]
    added = process.memory_info().rss - before
    del envs
    return {"memory": added / 1e6, "note": f"environments: {num_envs}"}


def memory(repeats: int, num_envs: int = 20, task: str = TASK) -> pd.DataFrame:
    """Memory of environments in one process. One of theirs takes 0.2 GB; they are skipped where that is not free."""
    free, needed = psutil.virtual_memory().available / 1e9, 0.25 * num_envs
    makers = ["shapo", SINGLE][: 2 if free > needed else 1]
    probe = partial(partial, run_apart, fill_memory, task=task, num_envs=num_envs)
    rows = alternate("memory", {maker: probe(maker=maker) for maker in makers}, repeats, "MB", task)
    return with_skipped(rows, [SINGLE], f"skipped: {needed:.0f} GB of memory must be free, {free:.0f} GB are")


def bare_loop(physics: Physics, controls: np.ndarray) -> list[mujoco.MjData]:
    """Steps copies of the worlds by the plainest calls of MuJoCo from Python, and returns their data at the end.

    physics: environments to copy, which do not change. controls: (steps, n, nu).
    """
    models, datas = copy.deepcopy(physics.models), [copy.copy(data) for data in physics.datas]
    for control in controls:
        for model, data, row in zip(models, datas, control, strict=True):
            data.ctrl[:] = row
            for _ in range(physics.frame_skip if physics.drive else 0):
                physics.drive(data)
                mujoco.mj_step(model, data)
            if physics.drive is None:
                mujoco.mj_step(model, data, nstep=physics.frame_skip)
            if physics.settle:
                mujoco.mj_forward(model, data)
    return datas
