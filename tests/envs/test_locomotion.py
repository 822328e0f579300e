"""Ant-v4 and Walker2d-v4 against gymnasium's own environments: seed for seed, step for step, to the last bit."""

import json

import gymnasium
import numpy as np
import pytest

from shapo.envs import TASKS, make_env
from shapo.envs.batched import _its_state, _restored

ROBOTS = ["Ant-v4", "Walker2d-v4"]


class Balance:
    """Actions that keep a robot up for a while: small ones for some environments, any for the others.

    Beyond the action space too: gymnasium clips what drives the motors, not what the controls cost.
    """

    def __init__(self, env, seed):
        self.rng = np.random.default_rng(seed)
        self.shape = env.action_space.shape
        self.scale = np.linspace(0.02, 1.3, env.num_envs)[:, None]

    def __call__(self):
        return self.scale * self.rng.standard_normal(self.shape)


def make_references(name, count):
    return [gymnasium.make(name) for _ in range(count)]


def both_reset(env, references, seed):
    ours, info = env.reset(seed=seed)
    theirs = np.array([reference.reset(seed=seed + i)[0] for i, reference in enumerate(references)])
    np.testing.assert_array_equal(ours, theirs)
    assert info == {}


def compare(env, references, policy, steps):
    """Drive both with the same actions; return how many episodes fell and how many reached their end."""
    falls = limits = 0
    for _ in range(steps):
        action = policy()
        ours, reward, cost, terminated, truncated, info = env.step(action)
        for i, reference in enumerate(references):
            row, its_reward, its_end, its_limit, its_info = reference.step(action[i])
            assert reward[i] == its_reward
            assert (terminated[i], truncated[i]) == (its_end, its_limit)
            assert cost[i] == float(not reference.unwrapped.is_healthy)
            assert info["x_position"][i] == its_info["x_position"]
            assert info["x_velocity"][i] == its_info["x_velocity"]
            if its_end or its_limit:
                np.testing.assert_array_equal(info["final_observation"][i], row)
                row, _ = reference.reset()
            falls, limits = falls + its_end, limits + its_limit
            np.testing.assert_array_equal(ours[i], row)
    return falls, limits


@pytest.mark.parametrize(("name", "seed"), [("Ant-v4", 3), ("Walker2d-v4", 40)])
def test_replays_whole_episodes_with_their_resets(name, seed):
    env, references = make_env(name, num_envs=4), make_references(name, 4)
    both_reset(env, references, seed)
    falls, limits = compare(env, references, Balance(env, seed=0), steps=1100)
    assert falls > 50 if name == "Walker2d-v4" else falls > 5 and limits > 0
    # A reset in the middle of episodes, without and with a seed.
    theirs = np.array([reference.reset()[0] for reference in references])
    np.testing.assert_array_equal(env.reset()[0], theirs)
    compare(env, references, Balance(env, seed=1), steps=20)
    both_reset(env, references, seed=2**31)
    compare(env, references, Balance(env, seed=2), steps=20)


def test_a_walker_that_stands_is_truncated_without_a_cost():
    """The random ones fall early; this one is put on its feet again before every step, in both simulators."""
    env, (reference,) = make_env("Walker2d-v4"), make_references("Walker2d-v4", 1)
    both_reset(env, [reference], seed=0)
    simulators = env.physics.datas[0], reference.unwrapped.data
    for step in range(1000):
        for data in simulators:
            data.qpos[1:], data.qvel[:] = reference.unwrapped.init_qpos[1:], 0
        observation, reward, cost, terminated, truncated, info = env.step(np.zeros((1, 6)))
        row, its_reward, its_end, its_limit, _ = reference.step(np.zeros(6))
        assert (reward[0], terminated[0], truncated[0]) == (its_reward, its_end, its_limit)
        assert cost[0] == 0 and truncated[0] == (step == 999)
    np.testing.assert_array_equal(info["final_observation"][0], row)
    np.testing.assert_array_equal(observation[0], reference.reset()[0])


@pytest.mark.parametrize("name", ROBOTS)
def test_the_fall_costs_once_and_ends_the_episode(name):
    env = make_env(name, num_envs=6, seed=1)
    env.reset()
    policy, failures = Balance(env, seed=3), 0
    for _ in range(400):
        _, _, cost, terminated, _, info = env.step(policy())
        np.testing.assert_array_equal(cost, terminated)
        failures += terminated.sum()
        for i in np.flatnonzero(terminated):
            height = info["final_observation"][i][0]
            angle = info["final_observation"][i][1] if name == "Walker2d-v4" else 0
            low, high = (0.8, 2.0) if name == "Walker2d-v4" else (0.2, 1.0)
            assert not (low < height < high and abs(angle) < 1)
    assert failures > 0


@pytest.mark.parametrize("name", ROBOTS)
def test_restored_environments_continue_bit_for_bit(name, tmp_path):
    """Also gymnasium's reading of the Ant's position, which lags behind the state that MuJoCo saves."""
    env = make_env(name, num_envs=3, seed=5)
    env.reset()
    policy = Balance(env, seed=0)
    for _ in range(150):
        observation = env.step(policy())[0]
    state = env.state_dict()
    assert (state["steps"] > 0).any() and all(array.dtype.kind in "iuf" for array in state.values())
    np.savez(tmp_path / "state.npz", **state)
    actions = [policy() for _ in range(300)]
    expected = [env.step(action) for action in actions]
    assert np.any([outcome[3] for outcome in expected])  # an episode ended: its generator was needed

    fresh = make_env(name, num_envs=3, seed=77)
    for other in (fresh, env):  # one that never was reset, one that has gone on
        other.load_state_dict(dict(np.load(tmp_path / "state.npz")))
        np.testing.assert_array_equal(other.observe(), observation)
        for action, outcome in zip(actions, expected, strict=True):
            for value, its_value in zip(other.step(action)[:5], outcome[:5], strict=True):
                np.testing.assert_array_equal(value, its_value)


def test_generators_continue_from_any_state():
    """Also from one with half a word or a normal number to spare."""
    for seeded in (np.random.RandomState, np.random.default_rng):
        for random in map(seeded, (0, 2**32 - 1)):
            random.standard_normal(7)
            (random.randint if seeded is np.random.RandomState else random.integers)(0, 9, dtype=np.int32)
            saved = json.loads(json.dumps(_its_state(random), default=np.ndarray.tolist))
            assert saved["has_gauss"] if seeded is np.random.RandomState else saved["has_uint32"]
            restored = _restored(saved)
            for draw in ("standard_normal", "uniform", "standard_normal"):
                assert getattr(random, draw)() == getattr(restored, draw)()
            np.testing.assert_array_equal(random.bytes(6), restored.bytes(6))
            np.testing.assert_array_equal(random.permutation(50), restored.permutation(50))


@pytest.mark.parametrize("name", ROBOTS)
def test_refuses_a_state_of_another_task(name):
    env = make_env(name, num_envs=2)
    env.reset()
    other = make_env("PointGoal1-v0", num_envs=2)
    other.reset()
    with pytest.raises(ValueError, match=f"not a state of 2 environments of {name}; what differs"):
        env.load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", ROBOTS)
def test_spaces_and_numbers_are_the_reference_s(name):
    env, (reference,) = make_env(name, num_envs=4), make_references(name, 1)
    assert env.single_observation_space == reference.observation_space
    assert env.single_action_space == reference.action_space
    assert env.observation_space.shape == (4, 27 if name == "Ant-v4" else 17)
    assert env.max_episode_steps == reference.spec.max_episode_steps == TASKS[name].max_episode_steps
    assert (TASKS[name].cost_limit, TASKS[name].failure_metric) == (0, "cumulative failures")


def test_threads_do_not_change_the_numbers():
    outcomes = []
    for threads in (1, 3):
        env = make_env("Ant-v4", num_envs=5, seed=1, threads=threads)
        env.reset()
        policy = Balance(env, seed=4)
        outcomes.append(np.array([env.step(policy())[0] for _ in range(60)]))
        env.close()
    np.testing.assert_array_equal(outcomes[0], outcomes[1])


def test_mujoco_does_not_time_itself():
    env = make_env("Walker2d-v4")
    env.reset()
    env.step(np.zeros((1, 6)))
    assert env.physics.datas[0].timer.duration.sum() == 0
