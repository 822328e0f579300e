"""The engine steps worlds exactly as MuJoCo and the reference packages do, stripped, shared out or placed."""

import gymnasium
import mujoco
import numpy as np
import pytest

from shapo.envs import TASKS, make_env
from shapo.envs.physics import Physics, lean_model
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium, quick_worlds
from shapo.peers.stepping import bare_loop

# What moves, and what the solver starts from. (The packed state counts bodies too; the lean model has fewer.)
STATE = ("qpos", "qvel", "qacc", "qacc_warmstart", "ctrl", "mocap_pos", "mocap_quat")
SENSORS = ("accelerometer", "velocimeter", "gyro", "magnetometer")


def start_like(model, data, other):
    data.time = other.time
    for name in STATE:
        getattr(data, name)[:] = getattr(other, name)
    mujoco.mj_forward(model, data)


def assert_same_state(data, other):
    assert data.time == other.time
    for name in STATE:
        np.testing.assert_array_equal(getattr(data, name), getattr(other, name), err_msg=name)


def navigation_world(name, seed):
    env = import_safety_gymnasium().make(name)
    with quick_worlds():
        env.reset(seed=seed)
    return env.unwrapped.task


def test_lean_model_steps_bit_for_bit_like_the_full_one():
    """The full model, skybox, sensors and all, under plain mj_step; the lean one under the engine."""
    xml = navigation_world("SafetyPointGoal1-v0", seed=2).world.xml_string
    full = mujoco.MjModel.from_xml_string(xml)
    full_data = mujoco.MjData(full)
    lean = Physics(lean_model(xml, SENSORS), 1, frame_skip=10)
    assert full.ntexdata > 100e6 and lean.models[0].nbuffer < 50e3
    start_like(lean.models[0], lean.datas[0], full_data)
    read = lean.reader(lambda data: (data.sensordata,))
    contacts = 0
    for control in np.random.default_rng(0).uniform(-1, 1, (300, 1, 2)):
        full_data.ctrl[:] = control[0]
        mujoco.mj_step(full, full_data, nstep=10)
        mujoco.mj_forward(full, full_data)
        lean.step(control)
        contacts = max(contacts, full_data.ncon)
        assert_same_state(lean.datas[0], full_data)
        np.testing.assert_array_equal(read()[0], full_data.sensordata[:12])
    assert contacts > 0


@pytest.mark.parametrize("name", [name for name in TASKS if "Goal" in name or "Button" in name])
@pytest.mark.parametrize("seed", [0, 5])
def test_placed_model_is_the_compiled_one(name, seed):
    """Moving bodies on reset gives every array of the model, also what welds hold, a compiled layout's values."""
    env = make_env(name, num_envs=2, seed=seed)
    env.reset()
    env.reset()  # the second layout of the generator, after the model was moved once
    task = navigation_world(TASKS[name].reference, seed=seed)
    with quick_worlds():
        task.reset()
    turning = ("ballangvel_rear", "ballquat_rear")
    compiled = lean_model(task.world.xml_string, SENSORS + turning * name.startswith("Car"))
    placed = env.physics.models[0]
    names = [name for name in dir(compiled) if isinstance(getattr(compiled, name), np.ndarray)]
    assert {"body_pos", "body_quat", "qpos0", "dof_invweight0", "dof_M0", "eq_data"} <= set(names)
    for name in names:
        np.testing.assert_array_equal(getattr(placed, name), getattr(compiled, name), err_msg=name)


@pytest.mark.parametrize(("name", "frame_skip"), [("Ant-v4", 5), ("Walker2d-v4", 4)])
def test_engine_fits_gymnasium_s_locomotion(name, frame_skip):
    """Runge-Kutta worlds whose positions lag behind qpos: the other mode of the engine, against gymnasium."""
    references = [gymnasium.make(name).unwrapped for _ in range(2)]
    physics = Physics(references[0].model, 2, frame_skip, settle=False)
    assert references[0].frame_skip == frame_skip
    for i, reference in enumerate(references):
        reference.reset(seed=i)
        start_like(physics.models[i], physics.datas[i], reference.data)
    read = physics.reader(lambda data: (data.qpos, data.qvel, data.xpos[1]))
    for control in np.random.default_rng(0).uniform(-1, 1, (60, 2, physics.models[0].nu)):
        physics.step(control)
        for i, reference in enumerate(references):
            reference.step(control[i])
            data = reference.data
            np.testing.assert_array_equal(read()[i], np.concatenate([data.qpos, data.qvel, data.xpos[1]]))


def test_engine_fits_moving_mocap_bodies():
    """PointButton1's gremlins are dragged by mocap bodies that move before every MuJoCo step."""
    task = navigation_world("SafetyPointButton1-v0", seed=3)
    travel, height = task.gremlins.travel, task.gremlins.size

    def drive(data):
        data.mocap_pos[:] = np.sin(data.time) * travel, np.cos(data.time) * travel, height

    physics = Physics(lean_model(task.world.xml_string, SENSORS), 1, frame_skip=10, drive=drive)
    start_like(physics.models[0], physics.datas[0], task.data)
    for control in np.random.default_rng(0).uniform(-1, 1, (100, 1, 2)):
        task.simulation_forward(control[0])
        physics.step(control)
        assert_same_state(physics.datas[0], task.data)


@pytest.mark.parametrize("name", ["PointGoal1-v0", "PointButton1-v0"])
def test_threads_do_not_change_the_numbers(name):
    controls = np.random.default_rng(0).uniform(-1, 1, (40, 5, 2))
    outcomes = []
    for threads in (1, 2, 3):
        env = make_env(name, num_envs=5, seed=1, threads=threads)
        env.reset()
        outcomes.append(np.array([env.step(control)[0] for control in controls]))
        env.close()
    np.testing.assert_array_equal(outcomes[0], outcomes[1])
    np.testing.assert_array_equal(outcomes[0], outcomes[2])


@pytest.mark.parametrize("name", list(TASKS))
def test_bare_loop_does_the_same_work_on_copies(name):
    env = make_env(name, num_envs=2, seed=1)
    env.reset()
    before = env.state_dict()
    controls = np.random.default_rng(0).uniform(-1, 1, (5, *env.action_space.shape))
    datas = bare_loop(env.physics, controls)
    after = env.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    for control in controls:
        env.physics.step(control)
    for data, copied in zip(env.physics.datas, datas, strict=True):
        np.testing.assert_array_equal(data.sensordata, copied.sensordata)
        np.testing.assert_array_equal(data.qpos, copied.qpos)
