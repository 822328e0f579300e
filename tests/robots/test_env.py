"""The robots' task: what is observed, rewarded, ended, saved and refused."""

import numpy as np
import pytest
import torch

from shapo.robots.env import DifferentiableEnv
from shapo.robots.simulator import ROBOTS
from shapo.runs.store import restore_rng, rng_state


@pytest.fixture(scope="module")
def ants() -> DifferentiableEnv:
    return DifferentiableEnv("DiffAnt", num_envs=3, seed=0)


@pytest.fixture
def env(ants) -> DifferentiableEnv:
    ants.simulator.dropped_gradients = 0
    ants.episode_length = 1000
    ants.rng = np.random.default_rng(0)
    ants.reset()
    return ants


def zeros(env) -> torch.Tensor:
    return torch.zeros(env.num_envs, env.robot.actions)


def test_the_default_device_is_nothing_to_the_robots(env):
    def walked() -> torch.Tensor:
        env.rng = np.random.default_rng(0)
        env.reset()
        action = torch.full((env.num_envs, env.robot.actions), 0.1, device="cpu", requires_grad=True)
        env.step(action)[1].sum().backward()
        return action.grad

    expected = walked()
    with torch.device("meta"):  # as of a user who works on a GPU
        assert torch.equal(walked(), expected) and expected.any()


@pytest.mark.parametrize(("task", "columns"), [("DiffAnt", 37), ("DiffHumanoid", 76)])
def test_observations_have_the_papers_columns(task, columns):
    robot = ROBOTS[task]
    n = robot.actions
    q, qd = torch.arange(7.0 + n)[None], 100 + torch.arange(6.0 + n)[None]
    half = np.deg2rad(20) / 2
    q[0, 3:7] = torch.tensor([0.0, 0, np.sin(half), np.cos(half)])  # turned left by 20°
    observation = robot.observe(q, qd, -torch.ones(1, n))[0]
    assert len(observation) == columns == robot.observations
    assert observation[0] == 2  # height
    assert observation[1:5].tolist() == q[0, 3:7].tolist()
    assert observation[5:11].tolist() == [100, 101, 102, 103, 104, 105]
    assert observation[11 : 11 + n].tolist() == q[0, 7:].tolist()
    torch.testing.assert_close(observation[11 + n : 11 + 2 * n], 0.1 * qd[0, 6:])
    assert observation[11 + 2 * n] == 1  # upright
    assert observation[12 + 2 * n] == pytest.approx(np.cos(np.deg2rad(20)))
    assert (observation[13 + 2 * n :] == -1).all()


def test_rewards_are_the_papers():
    ant, humanoid = ROBOTS["DiffAnt"], ROBOTS["DiffHumanoid"]
    observation = torch.zeros(1, 37)
    observation[0, [0, 5, 27, 28]] = torch.tensor([0.6, 1.5, 0.9, 0.8])
    assert float(ant.reward(observation, torch.ones(1, 8))) == pytest.approx(1.5 + 0.09 + 0.8 + 0.33)
    observation = torch.zeros(1, 76)
    observation[0, [5, 53, 54]] = torch.tensor([1.5, 0.9, 0.8])
    for height, rewarded in ((1.3, 1.0), (0.9, 0.6), (0.74, -2.0), (0.0, -141.12)):
        observation[0, 0] = height
        expected = 1.5 + 0.09 + 0.8 + rewarded - 0.002 * 21
        assert float(humanoid.reward(observation, torch.ones(1, 21))) == pytest.approx(expected, rel=1e-5)


def test_a_fall_ends_the_episode_and_starts_another(env):
    env.q[1, 2] = 0.1
    observation, _, terminated, truncated, info = env.step(zeros(env))
    assert terminated.tolist() == [False, True, False] and not truncated.any()
    assert info["final_observation"][1, 0] < 0.27 < 0.6 < observation[1, 0]
    assert torch.equal(info["final_observation"][::2], observation[::2])
    assert env.length.tolist() == [1, 0, 1]


def test_the_clock_ends_an_episode_without_a_fall(env):
    env.episode_length = 2
    assert not env.step(zeros(env))[3].any()
    *_, terminated, truncated, _ = env.step(zeros(env))
    assert truncated.all() and not terminated.any() and env.length.tolist() == [0, 0, 0]


def test_no_gradient_passes_a_new_start(env):
    action = zeros(env).requires_grad_()
    env.q[1, 2] = 0.1
    env.step(action)
    observation = env.step(zeros(env))[0]
    (gradient,) = torch.autograd.grad(observation[:, :13].sum(), action)
    assert (gradient[1] == 0).all() and (gradient[0] != 0).any()


def test_what_diverged_starts_anew_is_reported_and_earns_nothing(env):
    action = (0.1 * torch.ones_like(zeros(env))).requires_grad_()
    env.qd[2, 8] = 1e30
    observation, reward, terminated, _, info = env.step(action)
    assert info["diverged"].tolist() == terminated.tolist() == [False, False, True]
    assert reward[2] == 0 and torch.isfinite(observation).all()
    assert torch.isfinite(torch.autograd.grad(reward.sum(), action)[0]).all()


def test_saved_and_restored_to_the_last_bit(env):
    action = 0.5 * torch.ones_like(zeros(env))
    env.step(action)
    env.q[0, 2] = 0.1  # the next step draws a fresh start
    state, rng = env.state_dict(), rng_state(env.rng)
    first = [env.step(action)[0].detach() for _ in range(3)]
    env.load_state_dict(state)
    env.rng = restore_rng(rng)
    again = [env.step(action)[0].detach() for _ in range(3)]
    assert all(map(torch.equal, first, again))


def test_starts_stand_and_differ(env):
    robot = env.robot
    starts = env._start(1000)[0]
    assert (starts[:, 2] - robot.start_height).abs().max() <= 0.1 + 1e-6
    torch.testing.assert_close(starts[:, 3:7].norm(dim=1), torch.ones(1000))
    upright = 1 - 2 * (starts[:, 3] ** 2 + starts[:, 4] ** 2)
    assert np.cos(np.pi / 24) - 1e-5 <= float(upright.min()) < 1
    assert (starts[:, 7:] - torch.tensor(robot.start_joints)).abs().max() <= 0.2 + 1e-6
    assert starts[:, 7:].std(0).min() > 0.1


def test_mistakes_are_told(env):
    with pytest.raises(ValueError, match=r"task must be one of DiffAnt, DiffHumanoid; got 'Ant-v4'"):
        DifferentiableEnv("Ant-v4")
    for name in ("num_envs", "episode_length"):
        for wrong in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match=name):
                DifferentiableEnv("DiffAnt", **{name: wrong})
    with pytest.raises(ValueError, match=r"action must have shape \(3, 8\); got \(8,\)"):
        env.step(torch.zeros(8))
    with pytest.raises(ValueError, match="action must be finite"):
        env.step(torch.full((3, 8), torch.nan))
    state = env.state_dict()
    state["q"][0, 0] = np.nan
    before = env.state_dict()
    with pytest.raises(ValueError, match="qd must be finite"):
        env.load_state_dict(state | {"qd": state["q"], "q": before["q"] + 1})
    assert np.array_equal(env.state_dict()["q"], before["q"])  # nothing was half loaded
    with pytest.raises(ValueError, match="q must be finite"):
        env.load_state_dict(state)


def test_actions_are_clipped_and_scaled_by_each_joints_own_torque():
    env = DifferentiableEnv("DiffHumanoid", num_envs=2, gradients=False)
    action = torch.linspace(-1.5, 1.5, 21).repeat(2, 1)
    q, qd = env.q.clone(), env.qd.clone()
    torque = action.clamp(-1, 1) * torch.tensor(env.robot.torque)
    expected = torch.cat(env.simulator.step(q, qd, torque), 1)
    env.step(action)
    assert torch.equal(torch.cat([env.q, env.qd], 1), expected)
    assert len(set(env.robot.torque)) == 4 and not torch.equal(env.action, action)
