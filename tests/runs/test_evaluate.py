"""Episodes of a trained policy: on the task it was trained on, and on the same task as gymnasium has it."""

import gymnasium
import numpy as np
import pytest
import torch

import shapo
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


def test_another_environment_is_refused_by_its_shape(run):
    with pytest.raises(ValueError, match=r"observation must have shape \(17,\)"):
        run.evaluate(1, env=gymnasium.make("Pendulum-v1"))


class Lever(gymnasium.Env):
    """One step, whose reward is the action; bounds −3 and 1."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-3, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return (
            np.zeros(2, np.float32),
            float(action[0]),
            True,
            False,
            {"cost": 7.0, "push": abs(float(action[0]))},
        )


@pytest.mark.parametrize(
    "cost, expected", [("own", 7.0), ("termination", 1.0), (lambda info: info["push"], 3.0)]
)
def test_a_task_of_the_users_has_its_bounds_and_cost(cost, expected):
    task = shapo.OwnTask(Lever, cost_limit=1, cost=cost, max_episode_steps=1)
    config = shapo.Config(task, num_envs=2)
    for env in (None, Lever()):
        table = evaluate(config, lambda o, rng, deterministic: np.full((len(o), 1), -2.0), 3, env=env)
        assert (table["return"] == -3).all() and (table.cost == expected).all() and table.failed.all()
