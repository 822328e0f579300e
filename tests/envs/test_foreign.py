"""The user's own tasks: their environments' numbers, stepped together, with a cost and scaled actions."""

import random
from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.wrappers import TimeLimit

from shapo.envs import TASKS, OwnTask, make_env, task_of
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium

FALLS = OwnTask("Hopper-v4", cost_limit=0, cost="termination", failure_metric="cumulative failures")
PENDULUM = OwnTask("Pendulum-v1", cost_limit=5, cost=lambda info: 0.25)


class Line(gymnasium.Env):
    """A place in a grid of 2 × 2 observations, pushed by one bounded and one unbounded action."""

    observation_space = Box(-np.inf, np.inf, (2, 2), np.float32)
    action_space = Box(np.array([10.0, -np.inf]), np.array([30.0, np.inf]), dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(size=(2, 2)).astype(np.float32)
        return self.place, {}

    def step(self, action):
        self.pushed = action
        self.place += 1  # the array that was handed out before
        return self.place, 1.0, bool(action[1] > 100), False, {"cost": float(action[0])}


LINE = OwnTask(Line, cost_limit=1, max_episode_steps=5)


def replay(task, make, seed, steps, bound=1.0):
    """Steps both with the same actions, of the original's scale `bound`; (sum of our costs, sum of its, episodes)."""
    env, references = make_env(task, num_envs=2, seed=seed), [make() for _ in range(2)]
    its = np.array([reference.reset(seed=seed + i)[0] for i, reference in enumerate(references)])
    np.testing.assert_array_equal(env.reset()[0], its)
    rng, costs, own, episodes = np.random.default_rng(0), 0.0, 0.0, 0
    for _ in range(steps):
        action = rng.uniform(-1.2, 1.2, env.action_space.shape)  # beyond the bounds too
        ours, reward, cost, terminated, truncated, info = env.step(action)
        for i, reference in enumerate(references):
            sent = (bound * np.clip(action[i], -1, 1)).astype(reference.action_space.dtype)
            row, its_reward, *its_cost, its_end, its_limit, _ = reference.step(sent)
            assert (reward[i], terminated[i], truncated[i]) == (its_reward, its_end, its_limit)
            costs, own = costs + cost[i], own + sum(its_cost)
            if its_end or its_limit:
                np.testing.assert_array_equal(info["final_observation"][i], row)
                row, episodes = reference.reset()[0], episodes + 1
            np.testing.assert_array_equal(ours[i], row)
    return costs, own, episodes


@pytest.mark.parametrize(("name", "steps"), [("SafetyHopperVelocity-v1", 500), ("SafetyPointPush1-v0", 60)])
def test_safety_gymnasium_s_environments_as_they_are(name, steps):
    costs, own, episodes = replay(name, lambda: import_safety_gymnasium().make(name), 3, steps)
    assert costs == own and (episodes > 5 or "Push" in name)
    assert (task_of(name).cost_limit, str(task_of(name)), task_of(name).failure_metric) == (
        10,
        name,
        "cost rate",
    )


def test_gymnasium_s_environments_with_a_cost():
    costs, _, episodes = replay(FALLS, lambda: gymnasium.make("Hopper-v4"), 5, 500)
    assert costs == episodes > 10
    costs, _, episodes = replay(PENDULUM, lambda: gymnasium.make("Pendulum-v1"), 0, 450, bound=2.0)
    assert (costs, episodes) == (0.25 * 900, 4)


def test_the_limit_is_the_task_s():
    env = make_env(replace(FALLS, max_episode_steps=7), num_envs=2)
    env.reset()
    ends = [
        (terminated | truncated).tolist()
        for *_, terminated, truncated, _ in (env.step(np.zeros((2, 3))) for _ in range(21))
    ]
    assert ends == ([[False] * 2] * 6 + [[True] * 2]) * 3 and env.max_episode_steps == env.task.horizon == 7
    assert FALLS.horizon == 1000 and FALLS.action_dim == 3


def test_actions_reach_the_bounds_and_unbounded_ones_pass():
    env = make_env(LINE, num_envs=1)
    assert env.single_observation_space.shape == (4,)
    assert env.single_action_space == Box(np.array([-1, -np.inf]), np.array([1, np.inf]), dtype=np.float64)
    first, _ = env.reset()
    kept = first.copy()
    for given, pushed in (([-1, 7], [10, 7]), ([0, -7], [20, -7]), ([0.5, 0], [25, 0]), ([9, 0], [30, 0])):
        observation, _, cost, terminated, *_ = env.step(np.array([given]))
        assert env._envs[0].pushed.tolist() == pushed and cost[0] == pushed[0] and not terminated
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(observation, kept + 4)


def test_seeds_say_how_episodes_begin():
    env = make_env(PENDULUM, num_envs=2, seed=7)
    first = env.reset()[0]
    second = env.reset()[0]
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(env.reset(seed=7)[0], first)
    np.testing.assert_array_equal(env.reset()[0], second)
    np.testing.assert_array_equal(make_env(PENDULUM, seed=8).reset()[0][0], first[1])


def test_keeps_no_state():
    env = make_env(LINE)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((1, 2)))
    assert env.state_dict() == {} and not env.resumable and make_env("Walker2d-v4").resumable
    env.load_state_dict({})
    with pytest.raises(ValueError, match=r"not a state of Line, which keeps none; got steps"):
        env.load_state_dict({"steps": np.zeros(1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": 3}, "env must be an id or a function"),
        (
            {"env": partial(Line)},
            "env must be an id or a function .* a lambda or a class; got functools.partial",
        ),
        ({"cost": "falls"}, 'cost must be "own", "termination" or a function of info; got \'falls\''),
        ({"cost": lambda: 1.0}, 'cost must be "own", "termination" or a function of info; got <function'),
        ({"cost_limit": -1}, "cost_limit must be a finite number, at least 0"),
        ({"failure_metric": "falls"}, "failure_metric must be one of cost rate, cumulative failures"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a whole number, at least 1"),
        ({"label": ".."}, r"label must be None or a name"),
        ({"saute_gamma": 2}, r"saute_gamma must be in \(0, 1\]"),
    ],
)
def test_bad_fields_are_named(changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        OwnTask(**{"env": "Hopper-v4", "cost_limit": 1, **changes})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("Hopper-v4", "task must be one of .*OwnTask"),
        ("SafetyNowhere-v0", "task must be one of"),
        (
            "SafetySwimmerVelocity-v1",
            r"^SafetySwimmerVelocity-v1 of Safety-Gymnasium cannot be built with MuJoCo [\d.]+$",
        ),
        (
            OwnTask("Nowhere-v0", cost_limit=1),
            "env must be an id of Safety-Gymnasium or gymnasium; .*Nowhere",
        ),
        (
            OwnTask("CartPole-v1", cost_limit=1),
            r"action space of CartPole-v1 must be a Box .*got Discrete\(2\)",
        ),
        (OwnTask(Line, cost_limit=1), "max_episode_steps must be given: Line has no limit of its own"),
        (OwnTask(dict, cost_limit=1), "the observation space of dict must be a Box .*got None"),
    ],
)
def test_what_cannot_be_used_says_why(task, message):
    with pytest.raises(ValueError, match=message):
        make_env(task)


def test_other_spaces_are_refused_by_name():
    class Parts(Line):
        observation_space = Dict(a=Discrete(3))

    with pytest.raises(ValueError, match=r"observation space of Parts must be a Box .*got Dict\("):
        make_env(OwnTask(Parts, cost_limit=1, max_episode_steps=3))


def test_closing_closes_those_that_can_be_closed():
    class Bare:
        observation_space = action_space = Box(-1, 1, (1,))

    closed = []
    env = make_env(OwnTask(Bare, cost_limit=1, max_episode_steps=3), num_envs=3)
    env._envs[1].close = lambda: closed.append(1)
    env.close()
    assert closed == [1]


def test_an_environment_without_a_cost_asks_for_one():
    env = make_env(OwnTask("Hopper-v4", cost_limit=1))
    env.reset()
    with pytest.raises(
        ValueError, match=r"cost of Hopper-v4 must be .*function of info.*info has x_position, x_velocity"
    ):
        env.step(np.zeros((1, 3)))


@pytest.mark.parametrize("told", [None, "much", [1.0, 2.0]])
def test_a_cost_that_is_no_number_is_named(told):
    env = make_env(replace(PENDULUM, cost=lambda info: told))
    env.reset()
    with pytest.raises(TypeError, match=r"cost of Pendulum-v1 must give a number for every step; got"):
        env.step(np.zeros((1, 1)))


def test_actions_of_whole_numbers_are_refused():
    class Stairs(Line):
        action_space = Box(0, 3, (2,), np.int64)

    with pytest.raises(
        ValueError, match=r"action space of Stairs must be a Box of floating-point .*got Box\("
    ):
        make_env(OwnTask(Stairs, cost_limit=1, max_episode_steps=3))


@pytest.mark.parametrize("wrapped", [lambda env: env, lambda env: TimeLimit(env, 5)])
def test_one_environment_is_not_stepped_as_several(wrapped):
    only = Line()
    with pytest.raises(ValueError, match="env of own task must make a new environment at every call"):
        make_env(OwnTask(lambda: wrapped(only), 1, max_episode_steps=5), num_envs=2)


class Draws(Line):
    """An environment that draws from the process's generators, when it is made too."""

    def __init__(self):
        self.made = np.random.uniform()  # noqa: NPY002

    def step(self, action):
        drawn = self.made, np.random.uniform(), random.random(), float(torch.rand(()))  # noqa: NPY002
        return np.reshape(drawn, (2, 2)), 0.0, False, False, {"cost": 0.0}


def test_what_is_drawn_from_the_process_s_generators_is_the_seed_s():
    task, told = OwnTask(Draws, cost_limit=1, max_episode_steps=3), []
    for _ in range(2):
        env = make_env(task, num_envs=2, seed=4)
        env.reset()
        for _ in range(4):
            outside = np.random.get_state()[2], random.getstate(), torch.get_rng_state().tolist()  # noqa: NPY002
            told.append(env.step(np.zeros((2, 2)))[0])
            assert outside == (np.random.get_state()[2], random.getstate(), torch.get_rng_state().tolist())  # noqa: NPY002
            random.random(), np.random.uniform(), torch.rand(())  # noqa: NPY002
    np.testing.assert_array_equal(told[:4], told[4:])
    assert len(np.unique(told[:4])) == 2 + 4 * 2 * 3


def test_names_are_short_and_fit_for_folders():
    names = {
        OwnTask("Hopper-v4", 1): "Hopper-v4", OwnTask("space/Env-v0", 1): "space-Env-v0", LINE: "Line",
        OwnTask(lambda: Line(), 1): "own task", replace(LINE, label="line, short"): "line, short",
    }  # fmt: skip
    assert all(task.name == str(task) == name for task, name in names.items())
    assert all(str(task) == name for name, task in TASKS.items())
