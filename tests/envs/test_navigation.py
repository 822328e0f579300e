"""Goal and Button at levels 0 to 2 with Point and Car against safety_gymnasium's own: seed for seed, step for step."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest
from goal_seeker import roll, seek_goal
from safety_reference import both_reset, compare, make_references

from shapo.envs import TASKS, Task, make_env
from shapo.envs.navigation import Button, Goal, arena
from shapo.envs.safety_gymnasium_compat import import_safety_gymnasium, quick_worlds

NAMES = [
    f"{robot}{kind}{level}-v0"
    for robot in ("Point", "Car")
    for kind in ("Goal", "Button")
    for level in range(3)
]
COSTS = {  # what must have been seen of each, beside the steps without any
    "Goal0": (), "Goal1": ("cost_hazards",), "Goal2": ("cost_hazards", "cost_vases_contact", "cost_vases_velocity"),
    "Button0": (), "Button1": ("cost_buttons", "cost_gremlins", "cost_hazards"),
    "Button2": ("cost_buttons", "cost_gremlins", "cost_hazards"),
}  # fmt: skip
every_task = pytest.mark.parametrize("name", NAMES)


@every_task
def test_replays_whole_episodes_with_their_resets(name):
    """The policy rams everything: right buttons, wrong ones while lit and while dark, hazards, vases, gremlins."""
    env = make_env(name, num_envs=2)
    with quick_worlds():
        references = make_references(TASKS[name], 2)
        observation = both_reset(env, references, seed=4)
        seen = compare(env, references, observation, steps=1050, noise_seed=0)
        assert seen["episodes"] == 2
        kinds = COSTS[name.removeprefix("Point").removeprefix("Car").removesuffix("-v0")]
        for noise_seed in range(1, 20):  # a processor's rounding decides where these paths lead
            if min(seen[kind] for kind in ("goal_met", *kinds)) > 5:
                break
            seen += compare(env, references, observation, steps=100, noise_seed=noise_seed)
        assert seen["goal_met"] > 5
        assert {kind for kind in seen if kind.startswith("cost_") and seen[kind] > 5} - {"cost_sum"} == set(
            kinds
        )
        # A reset in the middle of an episode, without and with a seed.
        theirs = np.array([reference.reset()[0] for reference in references])
        np.testing.assert_allclose(env.reset()[0], theirs, rtol=0, atol=1e-14)
        compare(env, references, theirs, steps=20, noise_seed=1)
        compare(env, references, both_reset(env, references, seed=2**31), steps=20, noise_seed=2)


@pytest.mark.parametrize("name", ["PointGoal1-v0", "PointButton1-v0", "CarGoal2-v0"])
def test_replays_the_package_as_installed(name):
    """Nothing that `quick_worlds` exchanges matters: here safety_gymnasium builds its worlds itself."""
    assert import_safety_gymnasium().world.mujoco is mujoco
    env, references = make_env(name), make_references(TASKS[name], 1)
    seen = compare(env, references, both_reset(env, references, seed=9), steps=300, noise_seed=3)
    assert seen["goal_met"] > 0
    np.testing.assert_allclose(env.reset()[0][0], references[0].reset()[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["PointGoal1-v0", "PointButton1-v0", "CarButton0-v0"])
def test_generator_and_timer_are_where_the_reference_has_them(name):
    env = make_env(name, num_envs=2)
    with quick_worlds():
        references = make_references(TASKS[name], 2)
        observation = both_reset(env, references, seed=8)
        for _ in range(137 if "Goal" in name else 80):
            compare(env, references, observation, steps=1, noise_seed=5)
            if "Button" in name:
                state, buttons = env.state_dict(), [its.unwrapped.task.buttons for its in references]
                assert state["dark"].tolist() == [its.timer for its in buttons]
                assert state["target"].tolist() == [its.goal_button for its in buttons]
    for i, reference in enumerate(references):
        theirs = reference.unwrapped.task.random_generator.random_generator
        assert env._generator(i).random_sample() == theirs.random_sample()


def test_episode_terminates_where_no_goal_fits():
    """With goals that need much room, a reached one can leave no place for the next: the episode ends."""
    keepout, name = 0.85, "PointGoal1-v0"
    env = make_env(name)
    x0, y0, x1, y1 = env.arena.extents
    sides = {"x0": x0 + keepout, "x1": x1 - keepout, "y0": y0 + keepout, "y1": y1 - keepout}
    placements = [
        replace(place, keepout=keepout, **sides) if place.name == "goal" else place
        for place in env.arena.placements
    ]
    env.arena = replace(env.arena, placements=tuple(placements))
    with quick_worlds():
        (reference,) = make_references(TASKS[name], 1)
        reference.unwrapped.task.goal.keepout = keepout
        observation = both_reset(env, [reference], seed=3)
        rng = np.random.default_rng(0)
        for _ in range(400):
            action = seek_goal(observation, 0.1 * rng.standard_normal((1, 2)))
            ours, reward, _, terminated, _, info = env.step(action)
            row, its_reward, _, its_end, _, _ = reference.step(action[0])
            assert (terminated[0], reward[0]) == (its_end, its_reward)
            if its_end:
                break
            observation = row[None]
            np.testing.assert_allclose(ours, observation, rtol=0, atol=1e-14)
        assert its_end
        np.testing.assert_allclose(info["final_observation"][0], row, rtol=0, atol=1e-14)
        np.testing.assert_allclose(ours[0], reference.reset()[0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["PointButton1-v0", "PointButton0-v0"])
def test_a_pressed_button_darkens_them_for_ten_steps(name):
    env = make_env(name, seed=4)
    observation, dark = env.reset()[0], []
    assert observation[0, 12:28].any()
    for _ in range(600):
        observation, record = roll(env, observation, steps=1, seed=0)
        reward, shown = record[0, 0, -4], observation[0, 12:28].any()
        dark.append(0 if shown else 10 if reward > 0.9 else dark[-1] - 1)
        assert shown == (dark[-1] == 0)
    assert 10 in dark and 1 in dark


@every_task
def test_everything_the_agent_s_body_is_made_of_counts(name):
    env, (reference,) = make_env(name), make_references(TASKS[name], 1)
    with quick_worlds():
        reference.reset(seed=0)
    task, geoms = reference.unwrapped.task, env.arena.model.geom
    assert {geoms(geom).name for geom in env._agent_geoms} == set(task.agent.body_info.geom_names)
    for kind, ours in env._geoms.items():
        ending = "obj" if kind == "gremlins" else ""
        assert [geoms(geom).name for geom in ours] == [
            f"{kind[:-1]}{i}{ending}" for i in range(getattr(task, kind).num)
        ]


@every_task
def test_spaces_are_the_reference_s(name):
    env, (reference,) = make_env(name, num_envs=4), make_references(TASKS[name], 1)
    assert env.single_observation_space == reference.observation_space
    assert env.single_action_space == reference.action_space
    assert env.observation_space.shape == (4, *reference.observation_space.shape)
    assert env.action_space.shape == (4, TASKS[name].action_dim)
    assert env.max_episode_steps == reference.unwrapped.task.num_steps


@every_task
def test_scene_is_the_reference_s(name):
    """After some steps too: gremlins walk, vases are pushed, the Car drives."""
    env = make_env(name, num_envs=2)
    with quick_worlds():
        references = make_references(TASKS[name], 2)
        observation = both_reset(env, references, seed=11)
        for steps in (0, 30):
            compare(env, references, observation, steps, noise_seed=0)
            scene = env.scene()
            for i, reference in enumerate(references):
                task = reference.unwrapped.task
                np.testing.assert_allclose(scene["agent"][i], task.agent.pos[:2], atol=1e-12)
                heading = np.arctan2(task.agent.mat[1, 0], task.agent.mat[0, 0])
                np.testing.assert_allclose(scene["heading"][i], heading, atol=1e-12)
                np.testing.assert_allclose(scene["goal"][i], task.goal.pos[:2], atol=1e-12)
                for kind in {part.name for part in task._obstacles} - {"goal"}:
                    places = np.array(getattr(task, kind).pos)[:, :2]
                    np.testing.assert_allclose(scene[kind][i], places, atol=1e-12)
                    assert scene[f"{kind}_radius"] == getattr(task, kind).size


def test_level_0_costs_nothing():
    """So no limit ever binds there, and Sauté's budget is never spent."""
    for name in ("PointGoal0-v0", "CarButton0-v0"):
        env = make_env(name, num_envs=4)
        _, record = roll(env, env.reset()[0], steps=200, seed=0)
        assert not record[..., -3].any() and TASKS[name].cost_limit == 10


@pytest.mark.parametrize(
    ("kind", "reference", "named"),
    [
        (Goal, "SafetyPointPush1-v0", ["rules of PushLevel1", "obstacles push_box", "obstacles pillars"]),
        (Goal, "SafetyPointButton1-v0", ["rules of ButtonLevel1"]),
        (Goal, "SafetyPointFadingEasy1-v0", ["rules of FadingEasyLevel1"]),
        (Button, "SafetyDoggoButton1-v0", ["agent Doggo"]),
        (Goal, "SafetyPointCircle1-v0", ["rules of CircleLevel1", "obstacles circle", "num_steps = 500"]),
    ],
)
def test_refuses_what_it_does_not_price(kind, reference, named):
    task = Task("mine", reference, cost_limit=10, failure_metric="cost rate", action_dim=2)
    with pytest.raises(
        NotImplementedError, match=rf"{reference} has what is not replayed .*Config\(task="
    ) as error:
        kind(task, 1, 0)
    assert all(name in str(error.value) for name in named)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cost_conf.constrain_indicator", False), ("lidar_conf.alias", False), ("sim_conf.frameskip_binom_p", 0.9),
        ("hazards.cost", 0.0), ("vases.contact_cost", 0.0), ("goal.is_comp_observed", True), ("action_noise", 0.1),
        ("mechanism_conf.continue_goal", False), ("goal.placements", [(-1, -1, 1, 1)]),
    ],
)  # fmt: skip
def test_refuses_settings_that_it_does_not_read(setting, value, monkeypatch):
    package = import_safety_gymnasium()
    made = package.make("SafetyPointGoal2-v0")
    *part, name = setting.split(".")
    setattr(getattr(made.unwrapped.task, part[0]) if part else made.unwrapped.task, name, value)
    if name == "is_comp_observed":
        made.unwrapped.task.build_observation_space()
    monkeypatch.setattr(package, "make", lambda reference: made)
    named = "a place of its own for goal" if name == "placements" else rf"{setting} = "
    with pytest.raises(NotImplementedError, match=named):
        arena.__wrapped__("SafetyPointGoal2-v0", "Goal", 1000)
