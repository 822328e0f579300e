"""PointButton1 against safety_gymnasium's own environment: seed for seed, step for step."""

import mujoco
import numpy as np
import pytest
from goal_seeker import roll
from safety_reference import both_reset, compare, make_references

from shapo.envs import TASKS, make_env
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium, quick_worlds

TASK = "PointButton1-v0"
BUTTON_LIDAR = slice(12, 28)


def test_replays_whole_episodes_with_their_resets():
    """The policy rams everything: right buttons, wrong ones while lit and while dark, hazards, gremlins."""
    env = make_env(TASK, num_envs=3)
    with quick_worlds():
        references = make_references(TASKS[TASK], 3)
        observation = both_reset(env, references, seed=4)
        seen = compare(env, references, observation, steps=2050, noise_seed=0)
        assert seen["episodes"] == 6 and seen["goal_met"] > 60 and seen["at once"] > 5
        assert min(seen["cost_buttons"], seen["cost_gremlins"], seen["cost_hazards"]) > 50
        assert seen["no cost_buttons"] > 300
        # A reset in the middle of an episode, without and with a seed.
        theirs = np.array([reference.reset()[0] for reference in references])
        np.testing.assert_allclose(env.reset()[0], theirs, rtol=0, atol=1e-9)
        compare(env, references, theirs, steps=20, noise_seed=1)
        compare(env, references, both_reset(env, references, seed=2**31), steps=20, noise_seed=2)


def test_replays_the_package_as_installed():
    """Nothing that `quick_worlds` exchanges matters: here safety_gymnasium builds its worlds itself."""
    assert import_safety_gymnasium().world.mujoco is mujoco
    env, references = make_env(TASK), make_references(TASKS[TASK], 1)
    seen = compare(env, references, both_reset(env, references, seed=9), steps=300, noise_seed=3)
    assert seen["goal_met"] > 2 and seen["cost_sum"] > 0
    np.testing.assert_allclose(env.reset()[0][0], references[0].reset()[0], rtol=0, atol=1e-9)


def test_generator_and_timer_are_where_the_reference_has_them():
    env = make_env(TASK, num_envs=2)
    with quick_worlds():
        references = make_references(TASKS[TASK], 2)
        observation = both_reset(env, references, seed=8)
        for _ in range(100):
            compare(env, references, observation, steps=1, noise_seed=5)
            state = env.state_dict()
            for i, reference in enumerate(references):
                buttons = reference.unwrapped.task.buttons
                assert (state["dark"][i], state["target"][i]) == (buttons.timer, buttons.goal_button)
    for i, reference in enumerate(references):
        theirs = reference.unwrapped.task.random_generator.random_generator
        assert env._generator(i).random_sample() == theirs.random_sample()


def test_a_pressed_button_darkens_them_for_ten_steps():
    env = make_env(TASK, seed=4)
    observation, dark = env.reset()[0], []
    assert observation[0, BUTTON_LIDAR].any()
    for _ in range(600):
        observation, record = roll(env, observation, steps=1, seed=0)
        reward, shown = record[0, 0, -4], observation[0, BUTTON_LIDAR].any()
        dark.append(0 if shown else 10 if reward > 0.9 else dark[-1] - 1)
        assert shown == (dark[-1] == 0)
    assert 10 in dark and 1 in dark


def test_everything_the_agent_s_body_is_made_of_counts():
    env, (reference,) = make_env(TASK), make_references(TASKS[TASK], 1)
    with quick_worlds():
        reference.reset(seed=0)
    model, names = env.arena.model, reference.unwrapped.task.agent.body_info.geom_names
    assert {model.geom(geom).name for geom in env._agent_geoms} == set(names)
    assert [model.geom(geom).name for geom in env._button_geoms] == [f"button{i}" for i in range(4)]
    assert [model.geom(geom).name for geom in env._gremlin_geoms] == [f"gremlin{i}obj" for i in range(4)]


@pytest.mark.parametrize(("name", "limit"), [("target", 3), ("dark", 10)])
def test_refuses_states_out_of_range(name, limit):
    env = make_env(TASK, num_envs=2)
    env.reset()
    state = env.state_dict()
    state[name][1] = limit + 1
    with pytest.raises(ValueError, match=rf"'{name}'.*\[0, {limit}\]"):
        env.load_state_dict(state)


def test_spaces_are_the_reference_s():
    env, (reference,) = make_env(TASK, num_envs=4), make_references(TASKS[TASK], 1)
    assert env.single_observation_space == reference.observation_space
    assert env.single_action_space == reference.action_space
    assert env.observation_space.shape == (4, 76) and env.action_space.shape == (4, 2)
    assert env.max_episode_steps == reference.unwrapped.task.num_steps


def test_scene_is_the_reference_s():
    """After some steps too: gremlins walk."""
    env = make_env(TASK, num_envs=2)
    with quick_worlds():
        references = make_references(TASKS[TASK], 2)
        observation = both_reset(env, references, seed=11)
        for steps in (0, 30):
            compare(env, references, observation, steps, noise_seed=0)
            scene = env.scene()
            for i, reference in enumerate(references):
                task = reference.unwrapped.task
                np.testing.assert_allclose(scene["agent"][i], task.agent.pos[:2], atol=1e-12)
                np.testing.assert_allclose(scene["goal"][i], task.goal.pos[:2], atol=1e-12)
                for kind in ("buttons", "hazards", "gremlins"):
                    places = np.array(getattr(task, kind).pos)[:, :2]
                    np.testing.assert_allclose(scene[kind][i], places, atol=1e-12)
                    assert scene[f"{kind}_radius"] == getattr(task, kind).size
