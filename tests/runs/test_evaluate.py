"""Episodes of a trained policy: on the task it was trained on, and on the same task as gymnasium has it."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv

import shapo
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium
from shapo.robots.env import DifferentiableEnv
from shapo.runs.evaluate import evaluate

WALKER = shapo.Config(
    "Walker2d-v4", "TRPOLag", hidden_sizes=(8,), total_steps=2_000, steps_per_epoch=1_000, num_envs=4
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return shapo.train(WALKER, runs=tmp_path_factory.mktemp("runs"), progress=False)


def test_the_replayed_task_and_gymnasiums_own_agree(run):
    ours = run.evaluate(episodes=3, seed=5)
    theirs = run.evaluate(episodes=3, seed=5, env=gymnasium.make("Walker2d-v4"))
    assert list(ours) == ["env", "return", "cost", "length", "failed"]
    assert (ours.length == theirs.length).all() and ours.failed.all() and theirs.failed.all()
    assert (ours.cost == 1).all() and (theirs.cost == 1).all()  # the fall
    np.testing.assert_allclose(ours["return"], theirs["return"], rtol=1e-4)
    assert ours.length.nunique() > 1


def test_several_environments_agree_with_one(run):
    one = run.evaluate(episodes=3, seed=5, env=gymnasium.make("Walker2d-v4"))
    several = SyncVectorEnv([lambda: gymnasium.make("Walker2d-v4")] * 3)
    for _ in range(2):  # the second time too, it begins with the seeds
        theirs = run.evaluate(episodes=3, seed=5, env=several)
        assert theirs.env.tolist() == [0, 1, 2] and theirs.iloc[:, 2:].equals(one.iloc[:, 2:])
        np.testing.assert_allclose(theirs["return"], one["return"], rtol=1e-4)
    env = WALKER.make_env(3, 8)
    assert run.evaluate(3, seed=5, env=env).equals(run.evaluate(3, seed=5, env=env))


def test_samples_are_the_seeds(run):
    mode, sampled = run.evaluate(4), run.evaluate(4, deterministic=False)
    assert not np.array_equal(mode["return"], sampled["return"])
    assert sampled.equals(run.evaluate(4, deterministic=False)) and mode.equals(run.evaluate(4))
    assert not sampled.equals(run.evaluate(4, deterministic=False, seed=1))


class Countdown:
    """Environment i ends its episodes after 1 + i steps, cost 1 a step."""

    num_envs = 3

    def reset(self):
        self.left = 1 + np.arange(3)
        return np.zeros((3, 2)), {}

    def step(self, action):
        self.left -= 1
        done = self.left == 0
        self.left[done] = 1 + np.flatnonzero(done)
        return np.zeros((3, 2)), action[:, 0], np.ones(3), done & (np.arange(3) == 2), done, {}


def test_short_episodes_are_not_counted_more_often():
    table = evaluate(WALKER, lambda observation, rng, deterministic: np.full((3, 1), 2.0), 5, env=Countdown())
    assert table.env.tolist() == [0, 0, 1, 1, 2] and table.length.tolist() == [1, 1, 2, 2, 3]
    assert (table.cost == table.length).all() and (table["return"] == 2 * table.length).all()
    assert table.failed.tolist() == [False] * 4 + [True]


def test_robots_are_evaluated_too(monkeypatch):
    made = []

    def make_env(self, num_envs, seed, gradients):
        made.append(gradients)
        return DifferentiableEnv(self.task, num_envs, seed, episode_length=4, gradients=gradients)

    monkeypatch.setattr(shapo.RobotConfig, "make_env", make_env)
    config = shapo.RobotConfig(num_envs=2)
    table = evaluate(config, lambda observation, rng, deterministic: torch.zeros(2, 8), episodes=3)
    assert made == [False] and table.env.tolist() == [0, 0, 1]
    assert (table.length == 4).all() and (table.cost == 0).all() and not table.failed.any()
    env = DifferentiableEnv("DiffAnt", 2, 0, gradients=False)
    env.reset()
    own = sum(env.step(torch.zeros(2, 8))[1].double() for _ in range(4))
    np.testing.assert_allclose(table["return"][[0, 2]], own, rtol=1e-6)


@pytest.mark.parametrize("arguments", [{"episodes": 0}, {"episodes": 1.5}, {"seed": -1}])
def test_what_cannot_be_is_named(run, arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be a whole number"):
        run.evaluate(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deterministic": "no"}, "deterministic must be True or False; got 'no'"),
        (
            {"env": "Walker2d-v4"},
            r"env must be None or an environment, such as .*; got 'Walker2d-v4'",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        evaluate(shapo.Config(), None, **arguments)


def test_another_environment_is_refused_by_its_shape(run):
    with pytest.raises(ValueError, match=r"observation must have shape \(17,\)"):
        run.evaluate(1, env=gymnasium.make("Pendulum-v1"))


class Lever(gymnasium.Env):
    """One step, whose reward is the action; bounds −3 and 1."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-3, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {"cost": 100.0, "push": 100.0}  # no step's

    def step(self, action):
        return (
            np.zeros(2, np.float32),
            float(action[0]),
            True,
            False,
            {"cost": 7.0, "push": abs(float(action[0]))},
        )


class SafeLever(Lever):
    """The same, whose step returns its cost as in Safety-Gymnasium."""

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward, 7.0, *rest[:-1], rest[-1] | {"cost": 50.0}


@pytest.mark.parametrize("lever", [Lever, SafeLever])
@pytest.mark.parametrize(
    "cost, expected", [("own", 7.0), ("termination", 1.0), (lambda info: info["push"], 3.0)]
)
def test_a_task_of_the_users_has_its_bounds_and_cost(lever, cost, expected):
    task = shapo.OwnTask(lever, cost_limit=1, cost=cost, max_episode_steps=1)
    config = shapo.Config(task, num_envs=2)
    kind = SyncVectorEnv if lever is Lever else import_safety_gymnasium().vector.SafetySyncVectorEnv
    for env in (None, lever(), kind([lever] * 2)):
        table = evaluate(config, lambda o, rng, deterministic: np.full((len(o), 1), -2.0), 3, env=env)
        assert (table["return"] == -3).all() and (table.cost == expected).all() and table.failed.all()


def test_a_cost_that_one_of_several_tells_is_its_own():
    class Stairs(Lever):
        """Three steps; every second seed costs, and only in the second step."""

        def reset(self, *, seed=None, options=None):
            self.costs, self.left = (seed or 0) % 2, 3
            return super().reset()

        def step(self, action):
            self.left -= 1
            told = {"cost": 7.0} if self.left == 1 and self.costs else {}
            return np.zeros(2, np.float32), 1.0, self.left == 0, False, told

    config = shapo.Config(shapo.OwnTask(Stairs, cost_limit=1, max_episode_steps=3), num_envs=2)
    env = SyncVectorEnv([Stairs] * 4)
    table = evaluate(config, lambda o, rng, deterministic: np.zeros((len(o), 1)), 4, env=env)
    assert table.cost.tolist() == [0, 7, 0, 7] and (table.length == 3).all()
