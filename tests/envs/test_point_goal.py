"""PointGoal1 against safety_gymnasium's own environment: seed for seed, step for step."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from goal_seeker import seek_goal
from safety_reference import both_reset, compare, make_references

from shapo.envs import TASKS, make_env
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium, quick_worlds

TASK = "PointGoal1-v0"


def test_replays_whole_episodes_with_their_resets():
    env = make_env(TASK, num_envs=3, seed=17)
    with quick_worlds():
        references = make_references(TASKS[TASK], 3)
        observation = both_reset(env, references, seed=17)
        seen = compare(env, references, observation, steps=2050, noise_seed=0)
        assert seen["episodes"] == 6 and seen["goal_met"] > 30 and seen["cost_hazards"] > 50
        # A reset in the middle of an episode, without and with a seed.
        theirs = np.array([reference.reset()[0] for reference in references])
        np.testing.assert_allclose(env.reset()[0], theirs, rtol=0, atol=1e-9)
        compare(env, references, theirs, steps=20, noise_seed=1)
        compare(env, references, both_reset(env, references, seed=2**31), steps=20, noise_seed=2)


def test_replays_the_package_as_installed():
    """Nothing that `quick_worlds` exchanges matters: here safety_gymnasium builds its worlds itself."""
    assert import_safety_gymnasium().world.mujoco is mujoco
    env, references = make_env(TASK), make_references(TASKS[TASK], 1)
    observation = both_reset(env, references, seed=4)
    seen = compare(env, references, observation, steps=300, noise_seed=3)
    assert seen["goal_met"] > 2
    np.testing.assert_allclose(env.reset()[0][0], references[0].reset()[0], rtol=0, atol=1e-9)


def test_generator_is_where_the_reference_has_it():
    env = make_env(TASK)
    with quick_worlds():
        (reference,) = make_references(TASKS[TASK], 1)
        observation = both_reset(env, [reference], seed=8)
        compare(env, [reference], observation, steps=137, noise_seed=5)
    theirs = reference.unwrapped.task.random_generator.random_generator
    assert env._generator(0).random_sample() == theirs.random_sample()


def test_episode_terminates_where_no_goal_fits():
    """With goals that need much room, a reached one can leave no place for the next: the episode ends."""
    keepout = 0.85
    env = make_env(TASK)
    placements = []
    for placement in env.arena.placements:
        if placement.name == "goal":
            x0, y0, x1, y1 = env.arena.extents
            sides = {"x0": x0 + keepout, "x1": x1 - keepout, "y0": y0 + keepout, "y1": y1 - keepout}
            placement = replace(placement, keepout=keepout, **sides)
        placements.append(placement)
    env.arena = replace(env.arena, placements=tuple(placements))
    with quick_worlds():
        (reference,) = make_references(TASKS[TASK], 1)
        reference.unwrapped.task.goal.keepout = keepout
        observation = both_reset(env, [reference], seed=3)
        ended = False
        rng = np.random.default_rng(0)
        for _ in range(400):
            action = seek_goal(observation, 0.1 * rng.standard_normal((1, 2)))
            ours, reward, _, terminated, _, info = env.step(action)
            row, its_reward, _, its_end, _, _ = reference.step(action[0])
            assert (terminated[0], reward[0]) == (its_end, pytest.approx(its_reward, rel=0, abs=1e-12))
            if its_end:
                np.testing.assert_allclose(info["final_observation"][0], row, rtol=0, atol=1e-9)
                row, _ = reference.reset()
                ended = True
            observation = row[None]
            np.testing.assert_allclose(ours, observation, rtol=0, atol=1e-9)
            if ended:
                break
        assert ended


def test_spaces_are_the_reference_s():
    env = make_env(TASK, num_envs=4)
    (reference,) = make_references(TASKS[TASK], 1)
    assert env.single_observation_space == reference.observation_space
    assert env.single_action_space == reference.action_space
    assert env.observation_space.shape == (4, 60) and env.action_space.shape == (4, 2)
    assert env.max_episode_steps == reference.unwrapped.task.num_steps


def test_scene_is_the_reference_s():
    env = make_env(TASK, num_envs=2, seed=11)
    env.reset()
    scene = env.scene()
    with quick_worlds():
        references = make_references(TASKS[TASK], 2)
        for i, reference in enumerate(references):
            reference.reset(seed=11 + i)
            task = reference.unwrapped.task
            np.testing.assert_allclose(scene["agent"][i], task.agent.pos[:2], atol=1e-12)
            np.testing.assert_allclose(np.cos(scene["heading"][i]), task.agent.mat[0, 0], atol=1e-12)
            np.testing.assert_allclose(np.sin(scene["heading"][i]), task.agent.mat[1, 0], atol=1e-12)
            np.testing.assert_allclose(scene["goal"][i], task.goal.pos[:2], atol=1e-12)
            np.testing.assert_allclose(scene["hazards"][i], np.array(task.hazards.pos)[:, :2], atol=1e-12)
            np.testing.assert_allclose(scene["vases"][i], np.array(task.vases.pos)[:, :2], atol=1e-12)
    assert scene["hazards_radius"] == task.hazards.size and scene["goal_radius"] == task.goal.size
