"""The vector interface: automatic resets, exact saving and restoring, memory, and what it refuses."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from goal_seeker import roll
from gymnasium.error import ResetNeeded

from shapo.envs import TASKS, make_env

TASK = "PointGoal1-v0"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def env():
    env = make_env(TASK, num_envs=3, seed=5)
    env.reset()
    return env


def run_python(code, *arguments):
    prelude = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
    result = subprocess.run(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def test_finished_environments_reset_themselves(env):
    env.reset(seed=5)
    actions = np.random.default_rng(0).uniform(-1, 1, (env.max_episode_steps, 3, 2))
    for action in actions[:400]:
        env.step(action)
    # Let environment 1 be 300 steps further than the others, through the state that is saved and restored.
    state = env.state_dict()
    state["steps"][1] += 300
    env.load_state_dict(state)
    for action in actions[400:699]:
        *_, truncated, info = env.step(action)
        assert not truncated.any() and "final_observation" not in info
    observation, _, _, terminated, truncated, info = env.step(actions[699])
    assert truncated.tolist() == [False, True, False] and not terminated.any()
    assert info["_final_observation"].tolist() == [False, True, False]
    assert info["final_observation"][0] is None and info["final_observation"][2] is None
    assert np.abs(observation[1] - info["final_observation"][1]).max() > 0.1
    np.testing.assert_array_equal(observation, env.observe())
    assert env.state_dict()["steps"].tolist() == [700, 0, 700]
    next_observation, *_, info = env.step(actions[700])
    assert "final_observation" not in info
    assert not np.shares_memory(observation, next_observation)


def test_resets_with_and_without_seed():
    env, other = make_env(TASK, num_envs=2, seed=9), make_env(TASK, num_envs=2, seed=0)
    first, info = env.reset()
    assert info == {} and first.dtype == np.float64 and first.shape == (2, 60)
    np.testing.assert_array_equal(first, other.reset(seed=9)[0])
    second = env.reset()[0]
    assert np.abs(first - second).max() > 0.1
    np.testing.assert_array_equal(second, other.reset()[0])
    np.testing.assert_array_equal(first, env.reset(seed=9)[0])
    np.testing.assert_array_equal(first[1], make_env(TASK, seed=10).reset()[0][0])


@pytest.mark.parametrize("task", [TASK, "PointButton1-v0", "CarGoal1-v0"])
def test_restored_environments_continue_bit_for_bit(task, tmp_path):
    """From the middle of an episode, in this process and another, across goals and the ends of episodes."""
    env = make_env(task, num_envs=3)
    observation, _ = roll(env, env.reset(seed=5)[0], steps=650, seed=1)
    state = env.state_dict()
    assert all(array.dtype.kind in "iuf" for array in state.values())
    np.savez(tmp_path / "state.npz", observation=observation, **state)
    _, expected = roll(env, observation, steps=500, seed=2)
    assert expected[:, :, -1].any() and expected[..., -4].max() > 0.9  # an episode ended, a goal was reached

    fresh = make_env(task, num_envs=3, seed=77)
    fresh.load_state_dict(state)
    np.testing.assert_array_equal(fresh.observe(), observation)
    np.testing.assert_array_equal(roll(fresh, observation, steps=500, seed=2)[1], expected)
    env.load_state_dict(state)  # into the environment that has gone on
    np.testing.assert_array_equal(roll(env, observation, steps=500, seed=2)[1], expected)

    digest = run_python(
        "import hashlib, numpy as np\n"
        "from goal_seeker import roll\n"
        "from shapo.envs import make_env\n"
        "state = dict(np.load(sys.argv[1])); observation = state.pop('observation')\n"
        "env = make_env(sys.argv[2], num_envs=3, seed=1); env.load_state_dict(state)\n"
        "print(hashlib.sha256(roll(env, observation, 500, 2)[1].tobytes()).hexdigest())",
        tmp_path / "state.npz",
        task,
    )
    assert digest.strip() == hashlib.sha256(expected.tobytes()).hexdigest()


def test_saved_state_is_a_copy(env):
    state = env.state_dict()
    frozen = {name: array.copy() for name, array in state.items()}
    env.step(np.ones((3, 2)))
    env.reset()
    assert all(np.array_equal(state[name], frozen[name]) for name in state)


def test_twenty_environments_fit_in_memory():
    added = run_python(
        "import numpy as np, psutil\n"
        "from shapo.envs import make_env\n"
        "process = psutil.Process(); before = process.memory_info().rss\n"
        "env = make_env('PointGoal1-v0', num_envs=20); env.reset()\n"
        "for _ in range(100): env.step(np.ones((20, 2)))\n"
        "print(process.memory_info().rss - before)"
    )
    assert int(added) < 100e6


def test_importing_and_building_is_silent():
    code = "from shapo.envs import make_env\nmake_env('PointGoal1-v0').reset()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"task": "PointGoal9-v0"},
            ValueError,
            "task must be one of PointGoal0-v0.*OwnTask.*got 'PointGoal9-v0'",
        ),
        ({"num_envs": 0}, ValueError, "num_envs must be a whole number, at least 1; got 0"),
        ({"num_envs": 2.5}, ValueError, "num_envs must be a whole number, at least 1; got 2.5"),
        ({"task": []}, ValueError, r"task must be one of .*got \[\]"),
        ({"threads": 0}, ValueError, "threads must be a whole number, at least 1; got 0"),
        ({"seed": -1}, ValueError, r"seed must lie in \[0, 2\*\*32 - 1\].*got -1"),
        ({"seed": 2**32 - 1, "num_envs": 2}, ValueError, "seed must lie in"),
        ({"seed": None}, TypeError, "seed must be an integer, got None"),
    ],
)
def test_refuses_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        make_env(**{"task": TASK, **arguments})


def test_every_task_names_its_numbers():
    numbers = {name: (task.cost_limit, task.failure_metric) for name, task in TASKS.items()}
    kinds = (f"{kind}{level}" for kind in ("Goal", "Button") for level in range(3))
    navigation = {f"{robot}{kind}-v0": (10, "cost rate") for kind in kinds for robot in ("Point", "Car")}
    falls = dict.fromkeys(("Ant-v4", "Walker2d-v4"), (0, "cumulative failures"))
    assert numbers == navigation | falls
    special = {
        name for name, task in TASKS.items() if (task.saute_gamma, task.unsafe_reward) != (0.999, -1.0)
    }
    assert special == {"PointGoal1-v0"}
    assert all(name == task.name and task.max_episode_steps == 1000 for name, task in TASKS.items())


@pytest.mark.parametrize("call", ["step", "state_dict", "observe", "scene"])
def test_needs_a_reset_first(call):
    env = make_env(TASK, num_envs=2)
    with pytest.raises(ResetNeeded, match=rf"call reset\(\) before {call}"):
        getattr(env, call)(*([np.zeros((2, 2))] if call == "step" else []))


def test_refuses_bad_actions(env):
    before = env.state_dict()
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got \(2,\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"finite; in environments \[1\]"):
        env.step(np.array([[0, 0], [np.nan, 0], [0, 0]]))
    after = env.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_actions_beyond_the_space_are_clipped(env):
    state = env.state_dict()
    far = env.step(np.full((3, 2), 7.0))[0]
    env.load_state_dict(state)
    np.testing.assert_array_equal(far, env.step(np.ones((3, 2)))[0])


def break_state(state, how):
    if how == "foreign":
        return {"weights": np.zeros(3)}
    if how == "task":
        return {**state, "task": np.frombuffer(b'"PointGoal9-v0"', dtype=np.uint8)}
    other = make_env("CarGoal1-v0" if how == "kind" else TASK, num_envs=2 if how == "count" else 3)
    other.reset()
    return other.state_dict()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("foreign", "integration, .*weights"),
        ("task", "task"),
        ("kind", "body_pos, .*integration"),
        ("count", "body_pos, .*steps"),
    ],
)
def test_refuses_foreign_states_and_stays_as_it_was(env, how, message):
    before = env.state_dict()
    with pytest.raises(
        ValueError, match=f"not a state of 3 environments of PointGoal1-v0; what differs: .*{message}"
    ):
        env.load_state_dict(break_state(before, how))
    after = env.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_reset_takes_gymnasiums_options_and_refuses_unknown_ones():
    env = make_env("PointGoal1-v0", num_envs=2, seed=3)
    observation, _ = env.reset(seed=5, options={})
    np.testing.assert_array_equal(observation, env.reset(seed=5, options=None)[0])
    with pytest.raises(ValueError, match=r"options must be empty.*'layout'"):
        env.reset(options={"layout": 1})


def test_numpy_s_whole_numbers_are_numbers():
    env = make_env(TASK, num_envs=np.int64(2), seed=np.int64(3), threads=np.int32(1))
    np.testing.assert_array_equal(env.reset()[0], make_env(TASK, num_envs=2, seed=3).reset()[0])
