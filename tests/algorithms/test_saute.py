"""Sauté's budget against its recursion solved by hand, its reward against the definition, and what a run keeps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from small_problem import BALL, Dense, make_problem, reward_and_cost_advantages, taken

import shapo
from shapo import EuclideanSAM, FisherSAM, SauteRL
from shapo.algorithms.advantages import collect
from shapo.algorithms.networks import GaussianActor, RunningNormalizer
from shapo.algorithms.saute import BudgetEnv
from shapo.algorithms.trainer import Trainer
from shapo.runs.store import load_checkpoint, save_checkpoint

SMALL = shapo.Config(
    algorithm="SauteRL", total_steps=8_800, steps_per_epoch=2_200, num_envs=2, hidden_sizes=(16,), seed=1,
    minibatch_size=100, cost_limit=4.0,
)  # fmt: skip


def discounted_budget(limit, gamma_s, horizon):
    """Sootla et al.'s d: what costs of limit/horizon at every step add up to, discounted."""
    return limit / horizon * sum(gamma_s**t for t in range(horizon))


def budget_left(costs, limit, gamma_s, horizon=1000):
    """z after each step of an episode: z_t = (1 − Σ_{k<t} γ_s^k c_k / d) / γ_s^t, the recursion solved."""
    powers = gamma_s ** np.arange(len(costs) + 1)
    spent = np.cumsum(powers[:-1] * costs) / discounted_budget(limit, gamma_s, horizon)
    return (1 - spent) / powers[1:]


@pytest.mark.parametrize("gamma_s, limit", [(0.9999, 10.0), (0.999, 3.0), (1.0, 25.0)])
def test_the_last_column_is_the_budget_left(gamma_s, limit):
    env = BudgetEnv(shapo.make_env("PointGoal1-v0", num_envs=3, seed=36), limit, gamma_s)
    bare = shapo.make_env("PointGoal1-v0", num_envs=3, seed=36)
    rng, episode, finished = np.random.default_rng(0), [[], [], []], []
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation[:, :-1], bare.reset()[0])
    assert observation.shape == (3, 61) == env.observation_space.shape and (observation[:, -1] == 1).all()
    assert env.single_observation_space.shape == (61,) and env.observation_space.contains(observation)
    for _ in range(1100):
        action = rng.normal(size=(3, 2))
        observation, *ours, info = env.step(action)
        inner, *theirs, inner_info = bare.step(action)
        np.testing.assert_array_equal(observation[:, :-1], inner)
        for mine, its in zip(ours, theirs, strict=True):  # reward and cost stay the task's own
            np.testing.assert_array_equal(mine, its)
        for i in range(3):
            episode[i].append(theirs[1][i])
            if theirs[2][i] or theirs[3][i]:
                last = info["final_observation"][i]
                np.testing.assert_array_equal(last[:-1], inner_info["final_observation"][i])
                assert last[-1] == pytest.approx(budget_left(episode[i], limit, gamma_s)[-1], rel=1e-9)
                assert observation[i, -1] == 1
                finished.append(sum(episode[i]))
                episode[i] = []
    for i in range(3):
        assert observation[i, -1] == pytest.approx(budget_left(episode[i], limit, gamma_s)[-1], rel=1e-9)
    assert len(finished) == 3 and max(finished) > 0


def test_a_cost_of_the_limit_spread_evenly_spends_the_budget():
    for gamma_s in (0.999, 0.9999):
        even = budget_left(np.full(1000, 10.0 / 1000), 10.0, gamma_s)
        assert abs(even[-1]) < 1e-9 and (even[:-1] > 0).all()
    bare = shapo.make_env("PointGoal1-v0")
    for gamma_s in (0.5, 0.999, 0.9999, 1.0):
        d = BudgetEnv(bare, 10.0, gamma_s).budget
        assert d == pytest.approx(discounted_budget(10.0, gamma_s, 1000))
    assert d == 10.0


class Bell:
    """Two environments: one terminates every third step, the other never; both cost 0.4 a step, reward 1."""

    num_envs, max_episode_steps = 2, 50
    single_observation_space, single_action_space = Box(-1, 1, (1,)), Box(-1, 1, (1,))

    def __init__(self):
        self.t = 0

    def reset(self, seed=None, options=None):
        self.t = 0
        return np.zeros((2, 1)), {}

    def step(self, action):
        self.t += 1
        terminated, info = np.array([self.t % 3 == 0, False]), {}
        if terminated.any():
            info["final_observation"] = np.array([np.full(1, 0.5), None], dtype=object)
            info["_final_observation"] = terminated
        return np.zeros((2, 1)), np.ones(2), np.full(2, 0.4), terminated, np.zeros(2, bool), info


def test_reward_is_taken_away_where_the_budget_is_spent():
    env = BudgetEnv(Bell(), 1.0, 1.0)  # z = 1, 0.6, 0.2, −0.2, …
    observation, _ = env.reset()
    rollout, after = collect(
        env, GaussianActor(2, 1, (4,)), RunningNormalizer(1), observation, 8, np.random.default_rng(0)
    )
    z = np.array([[1, 0.6, 0.2, 1, 0.6, 0.2, 1, 0.6], [1, 0.6, 0.2, -0.2, -0.6, -1.0, -1.4, -1.8]]).T
    np.testing.assert_allclose(rollout.observation[..., -1], z, rtol=1e-6, atol=1e-6)
    assert rollout.final_observation[2, 0][-1] == pytest.approx(-0.2)
    assert set(rollout.final_observation) == {(2, 0), (5, 0)}
    learned = SauteRL(unsafe_reward=-7.0).learned_reward(rollout)
    # The third step of an episode overspends, also where it ends the episode and the next state shows z = 1 again.
    np.testing.assert_array_equal(learned.T, [[1, 1, -7, 1, 1, -7, 1, 1], [1, 1, -7, -7, -7, -7, -7, -7]])
    assert (rollout.reward == 1).all() and after[:, -1] == pytest.approx([0.2, -2.2])


def test_reshaped_reward_on_the_real_task_follows_the_costs():
    env = SMALL.make_env(num_envs=4, seed=3)
    observation, _ = env.reset()
    actor = GaussianActor(61, 2, (8,), np.random.default_rng(0))
    rollout, _ = collect(env, actor, RunningNormalizer(60), observation, 1500, np.random.default_rng(0))
    learned = SMALL.resolved.algorithm.learned_reward(rollout)
    expected = rollout.reward.copy()
    for i in range(4):
        for part in (slice(0, 1000), slice(1000, 1500)):
            z = budget_left(rollout.cost[part, i], 4.0, 0.9999)
            expected[part, i][z <= 0] = -0.2
    np.testing.assert_array_equal(learned, expected)
    assert 0.1 < (learned == -0.2).mean() < 0.9
    assert float(rollout.observation[..., -1].max()) > 1  # z itself, neither normalised nor clipped


def test_the_settings_are_the_tasks_unless_given():
    field = {"target_kl": 0.02, "cg_damping": 0.2}
    assert SMALL.resolved.algorithm == SauteRL(saute_gamma=0.9999, unsafe_reward=-0.2, **field)
    button = replace(SMALL, task="PointButton1-v0")
    assert button.resolved.algorithm == SauteRL(saute_gamma=0.999, unsafe_reward=-1.0, **field)
    own = SauteRL(saute_gamma=0.99, unsafe_reward=0.0, **field)
    assert replace(SMALL, algorithm=own).resolved.algorithm == own
    by_name, by_instance = (shapo.Config(algorithm=a).run_id for a in ("SauteRL", SauteRL(0.01)))
    assert by_name == shapo.Config(algorithm=SauteRL(unsafe_reward=-0.2)).run_id
    assert by_name != by_instance or SauteRL(0.01).target_kl == 0.01


def test_without_a_budget_it_is_refused():
    with pytest.raises(
        ValueError, match=r"cost_limit must be positive for SauteRL, which divides .*; got 0.0"
    ):
        shapo.Config(algorithm="SauteRL", cost_limit=0.0)
    assert shapo.Config(algorithm="CPO", cost_limit=0.0).resolved.cost_limit == 0.0


@pytest.mark.parametrize(
    "field, bad",
    [("saute_gamma", 0.0), ("saute_gamma", 1.1), ("saute_gamma", math.nan), ("unsafe_reward", math.inf)],
)
def test_hyperparameters_are_checked(field, bad):
    with pytest.raises(ValueError, match=f"{field} must be"):
        SauteRL(**{field: bad})


@pytest.mark.parametrize("delta_down", [None, 0.004])
def test_update_is_the_trust_region_step_of_the_reshaped_reward(delta_down):
    actor, batch = make_problem()
    dense, (a_r, _) = Dense(actor, batch), reward_and_cost_advantages(batch)
    g = dense.gradient(dense.theta0, a_r)
    at = dense.theta0 if delta_down is None else dense.theta0 + dense.u(-g, delta_down)
    step = dense.u(dense.gradient(at, a_r), 0.01)
    perturbation = None if delta_down is None else FisherSAM(delta_down)
    log = SauteRL(cg_iterations=500, **BALL).update_actor(
        actor, batch, perturbation, 1, SauteRL().initial_state()
    )
    assert torch.allclose(actor.theta, dense.theta0 + taken(log) * step, atol=1e-6, rtol=1e-5)
    if delta_down is not None:
        assert (step - dense.u(g, 0.01)).norm() > 0.01 * step.norm()


@pytest.mark.parametrize("none", [FisherSAM(0.0), EuclideanSAM(0.0)])
def test_no_perturbation_is_saute_exactly(none):
    (vanilla, batch), (other, _) = make_problem(), make_problem()
    for actor, perturbation in ((vanilla, None), (other, none)):
        SauteRL(**BALL).update_actor(actor, batch, perturbation, 1, {})
    assert torch.equal(vanilla.theta, other.theta)


def test_a_run_learns_from_the_reshaped_reward_and_records_the_tasks():
    harsh = shapo.Config(
        algorithm=SauteRL(unsafe_reward=-1000.0), total_steps=6_000, steps_per_epoch=2_000, num_envs=2,
        hidden_sizes=(16,), seed=1, minibatch_size=100, cost_limit=0.1,
    )  # fmt: skip
    trainer, targets = Trainer(harsh), []
    fit = trainer.critics.fit

    def noting_targets(observation, target, *rest, **settings):
        targets.append(target)
        fit(observation, target, *rest, **settings)

    trainer.critics.fit = noting_targets
    mirror = Trainer(harsh)  # the same first rollout
    row = trainer.run_epoch()
    rollout, _ = collect(
        mirror.env, mirror.actor, mirror.normalizer, mirror.observation, 1000, mirror.rngs["action"]
    )
    assert [e["return"] for e in trainer.episodes] == pytest.approx(list(rollout.reward.sum(0)))
    assert [e["cost"] for e in trainer.episodes] == pytest.approx(list(rollout.cost.sum(0)))
    assert row["episode_return"] == pytest.approx(rollout.reward.sum(0).mean()) and row["J_C"] > 0.1
    assert float(targets[0][0].min()) < -1000 and float(targets[0][1].min()) > -10


@pytest.mark.parametrize("algorithm", ["SauteRL", "CPO", "CRPO"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, algorithm):
    config = shapo.Config(
        algorithm=algorithm, actor=FisherSAM(0.001), total_steps=4_800, steps_per_epoch=1_200, num_envs=2,
        hidden_sizes=(16,), seed=6, minibatch_size=100, cost_limit=4.0,
    )  # fmt: skip
    straight, first = Trainer(config), Trainer(config)
    rows = [straight.run_epoch() for _ in range(3)]
    first.run_epoch()
    save_checkpoint(tmp_path / "checkpoint", *first.state())  # in the middle of an episode, 600 steps in
    resumed = Trainer(config)
    resumed.restore(*load_checkpoint(tmp_path / "checkpoint"))
    again = [resumed.run_epoch() for _ in range(2)]
    for ours, theirs in zip(again, rows[1:], strict=True):
        np.testing.assert_equal(ours, theirs)
    arrays, others = resumed.state()[0], straight.state()[0]
    for name in arrays.keys() - {key for key in arrays if key.startswith("timing:")}:
        assert arrays[name].tobytes() == others[name].tobytes(), name
    assert rows[1]["J_C"] > 0


def test_a_state_without_the_budget_is_refused():
    env = SMALL.make_env(num_envs=2)
    env.reset()
    state = env.state_dict()
    for bad in ({**state, "budget_left": np.ones(3)}, {**state, "budget_left": np.array([1.0, np.nan])}):
        with pytest.raises(ValueError, match="budget_left"):
            env.load_state_dict(bad)
    del state["budget_left"]
    with pytest.raises(ValueError, match="budget_left"):
        env.load_state_dict(state)


def test_the_trained_policy_rolls_out_where_the_budget_is_kept(tmp_path):
    run = shapo.train(SMALL, runs=tmp_path, progress=False)
    env = run.config.make_env(num_envs=3, seed=5)
    observation, _ = env.reset()
    action = run.actor(observation)
    assert action.shape == (3, 2) and np.isfinite(env.step(action)[0]).all()
    poor = observation.copy()
    poor[:, -1] = -1.0
    assert np.abs(run.actor(poor) - action).max() > 1e-4  # the policy looks at what is left
    with pytest.raises(ValueError, match=r"shape \(61,\) or \(n, 61\).*config\.make_env.*got \(3, 60\)"):
        run.actor(observation[:, :-1])
    assert len(run.episodes) == 8 and (run.episodes.length == 1000).all()
