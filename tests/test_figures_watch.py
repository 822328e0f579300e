"""Every task can be watched, wherever a picture comes from, and no driver ends the process."""

import gymnasium
import imageio.v3 as iio
import numpy as np
import pytest

import shapo
from shapo.envs.episode import record_episode
from shapo.figures import watch as filming
from shapo.figures.watch import watch
from shapo.robots.env import DifferentiableEnv

SAFE = ("PointGoal0-v0", "CarButton2-v0", "Ant-v4", "Walker2d-v4")


class Untrained:
    """A run whose policy pushes a little."""

    def __init__(self, config):
        self.config = config
        env = config.make_env(1, 0, **config.undifferentiated)
        self.push = np.full((1, env.single_action_space.shape[0]), 0.2)

    def actor(self, observation, rng=None):
        return self.push if isinstance(observation, np.ndarray) else observation.new_tensor(self.push)


class Blind(gymnasium.Env):
    """Nothing of it can be seen."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {"cost": 0.5}


CONFIGS = [
    *(shapo.Config(task, num_envs=1) for task in SAFE),
    shapo.Config(shapo.OwnTask("Hopper-v4", cost_limit=0, cost="termination"), num_envs=1),
    shapo.Config(shapo.OwnTask(Blind, cost_limit=1, max_episode_steps=9), num_envs=1),
    shapo.RobotConfig("DiffAnt"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.task))
def test_every_task_can_be_drawn(config, tmp_path):
    film = watch(Untrained(config), tmp_path / "film.gif", steps=6, frames=3, render=False)
    assert film.made_by == "drawing" and len(film.episode["reward"]) == len(film.episode["cost"]) == 6
    pictures = iio.imread(tmp_path / "film.gif")
    assert len(pictures) == 3 and pictures[0].std() > 5 and (pictures[0] != pictures[2]).any()
    assert "<script" in film._repr_html_()


@pytest.mark.parametrize("config", [CONFIGS[1], CONFIGS[2], CONFIGS[-1]], ids=lambda config: str(config.task))
def test_mujoco_makes_the_pictures_where_it_can(config, tmp_path):
    film = watch(Untrained(config), tmp_path / "film.gif", steps=4, frames=2)
    if film.made_by == "drawing":
        pytest.skip("no library here draws without a screen")
    pictures = iio.imread(tmp_path / "film.gif")
    assert len(pictures) == 2 and pictures.shape[2] == filming.SIZE[1] and pictures[0].std() > 5


def test_a_driver_that_dies_takes_nobody_with_it(tmp_path, monkeypatch):
    (tmp_path / "render.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(filming, "PROGRAM", tmp_path / "render.py")
    assert watch(Untrained(CONFIGS[3]), steps=2).made_by == "drawing"


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("Hopper-v4", 0.008), ("SafetyHopperVelocity-v1", 0.008), ("SafetyPointPush1-v0", 0.02)],
)
def test_a_step_has_the_environments_own_seconds(name, seconds):
    env = shapo.make_env(shapo.OwnTask(name, cost_limit=1, cost="termination"))
    push = np.zeros(env.action_space.shape)
    assert record_episode(lambda observation, rng: push, env, steps=1)["dt"] == pytest.approx(seconds)


def test_what_was_watched_is_closed(monkeypatch):
    closed = []
    monkeypatch.setattr(Blind, "close", lambda self: closed.append(self))
    run = Untrained(CONFIGS[5])
    closed.clear()
    filming.watch(run, steps=2)
    with pytest.raises(ValueError, match="steps must be"):
        filming.watch(run, steps=0)
    assert len(closed) == 2


def test_files_of_other_kinds_are_refused(tmp_path):
    film = shapo.watch(Untrained(CONFIGS[5]), steps=2)
    for name in ("film.avi", "film"):
        with pytest.raises(ValueError, match=r"path must end in \.gif"):
            film.save(tmp_path / name)


def test_looking_on_changes_nothing():
    """The simulators' own derived quantities, which the next step builds on, are not touched."""
    for task in SAFE:
        env, unseen = shapo.make_env(task, seed=3), shapo.make_env(task, seed=3)
        push = np.full((1, env.single_action_space.shape[0]), 0.3)
        episode = record_episode(lambda observation, rng, push=push: push, env, steps=40)
        unseen.reset()
        steps = [unseen.step(push)[1:3] for _ in range(len(episode["reward"]))]
        assert np.array_equal(np.array(steps)[..., 0].T, [episode["reward"], episode["cost"]])
        assert np.array_equal(env.observe(), unseen.observe())


def test_the_worlds_geoms_are_where_the_simulator_has_them():
    env = shapo.make_env("Walker2d-v4", seed=3)
    push = np.full((1, 6), 0.3)
    episode = record_episode(lambda observation, rng: push, env, steps=5)
    theirs = gymnasium.make("Walker2d-v4").unwrapped
    theirs.reset(seed=3)
    np.testing.assert_allclose(episode["geom_xpos"][0], theirs.data.geom_xpos, atol=1e-12)
    assert episode["dt"] == pytest.approx(theirs.dt) and episode["world"].ntex > 0
    robots = DifferentiableEnv("DiffAnt", 1, 4, gradients=False)
    episode = record_episode(lambda observation, rng: observation.new_zeros(1, 8), robots, steps=2)
    again = DifferentiableEnv("DiffAnt", 1, 4, gradients=False)
    again.reset()
    np.testing.assert_array_equal(episode["limbs"][0], again.simulator.skeleton(again.q)[0][0])
    across = episode["rest"].mean(1)[:, 1]
    assert abs(across.sum()) < 1e-3 < abs(across).max(), "upright, its left is its right"


def test_what_is_no_run_is_told():
    for wrong in ({}, shapo.Config()):
        with pytest.raises(
            TypeError, match=r"run\.config must be a shapo\.Config or a shapo\.RobotConfig; got None"
        ):
            watch(wrong)
