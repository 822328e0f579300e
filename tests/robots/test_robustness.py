"""The robustness protocols: what noise does, what a condition changes, what is counted."""

import numpy as np
import pandas as pd
import pytest
import torch

from shapo.experiments.robots import against_shac, over_grounds, policy_means
from shapo.robots import SHAC, RobotConfig, robustness
from shapo.robots.env import DifferentiableEnv
from shapo.robots.policy import RobotPolicy
from shapo.robots.robustness import rollouts

CONFIG = RobotConfig(
    "DiffAnt", SHAC(horizon=2, actor_hidden_sizes=(8,), critic_hidden_sizes=(8,)), num_envs=2
)


@pytest.fixture(scope="module")
def policy() -> RobotPolicy:
    return CONFIG.policy(CONFIG.trainer().state()[0])


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    env = DifferentiableEnv("DiffAnt", 3, episode_length=12, gradients=False)
    monkeypatch.setattr(robustness, "_env", lambda task, count: env)
    return env


def test_a_rollout_is_one_episode_from_start_to_end(policy, short_episodes):
    table = rollouts(policy, "DiffAnt", 3)
    assert (table.length == 12).all() and not table.failed.any() and not table.diverged.any()
    env = DifferentiableEnv("DiffAnt", 3, gradients=False)
    env.rng = np.random.default_rng([0, 0])
    observation, total = env.reset(), torch.zeros(3, dtype=torch.float64)
    for _ in range(12):
        observation, reward, *_ = env.step(policy(observation).detach())
        total += reward
    np.testing.assert_array_equal(table["return"], total)


def test_the_noise_is_equation_12(policy, short_episodes, monkeypatch):
    given, step = [], short_episodes.step
    monkeypatch.setattr(short_episodes, "step", lambda action: given.append(action) or step(action))
    for noise in (0.0, 0.25, 1.0):
        rollouts(policy, "DiffAnt", 3, {"noise": noise})
    plain, mixed, pure = given[0], given[12], given[24]
    torch.testing.assert_close(mixed, 0.75 * plain + 0.25 * pure)
    assert pure.abs().max() <= 1 and not torch.allclose(pure, plain)
    assert torch.cat(given[24:]).mean().abs() < 0.1 and torch.cat(given[24:]).std() == pytest.approx(
        3**-0.5, abs=0.05
    )


def test_a_condition_holds_for_its_own_rollouts_only(policy):
    first = rollouts(policy, "DiffAnt", 3)
    slippery = rollouts(policy, "DiffAnt", 3, {"friction": 0.0, "stiffness": 1e4, "damping": 0.0})
    pd.testing.assert_frame_equal(first, rollouts(policy, "DiffAnt", 3))
    assert (first["return"] != slippery["return"]).all()


def test_what_ends_early_counts_until_then(policy, short_episodes, monkeypatch):
    step = short_episodes.step

    def breaking(action):
        if short_episodes.length[0] == 4:
            short_episodes.q[1, 2] = 0.0
            short_episodes.qd[2, 9] = 1e30
        return step(action)

    monkeypatch.setattr(short_episodes, "step", breaking)
    table = rollouts(policy, "DiffAnt", 3)
    assert table.length.tolist() == [12, 5, 5]
    assert table.failed.tolist() == [False, True, True] and table.diverged.tolist() == [False, False, True]
    assert (table["return"][1:] < table["return"][0]).all()
    (means,) = policy_means(table.assign(algorithm="SHAC", policy=0, noise=0.0), ["noise"]).to_dict("records")
    assert (means["rollouts"], means["fallen"], means["diverged"]) == (3, pytest.approx(2 / 3), 1)
    assert means["return"] == pytest.approx(table["return"][:2].mean())


def test_a_method_is_the_mean_of_its_policies():
    """However many rollouts each has: what differs between runs of a training is between policies."""
    returns = {"SHAC": ([9.0, 11.0], [20.0]), "mine": ([11.0] * 5, [40.0]), "worse": ([1.0], [2.0])}
    rollouts = [
        {
            "algorithm": name,
            "policy": f"{name}{index}",
            "noise": noise,
            "return": value - noise,
            "failed": False,
        }
        for name, policies in returns.items()
        for index, values in enumerate(policies)
        for noise in (0.0, 0.5)
        for value in values
    ]
    means = policy_means(pd.DataFrame(rollouts).assign(diverged=False), ["noise"])
    shown, better = against_shac(means, "noise")
    assert list(shown.columns) == [0.0, 0.5] and list(shown.index) == list(returns)
    assert shown.columns.name == "noise" and shown.index.name == "algorithm"
    assert shown.loc["SHAC"].tolist() == ["15.0 [10.0, 20.0]", "14.5 [9.5, 19.5]"]
    assert shown.loc["mine", 0.0] == "25.5 [11.0, 40.0]"
    assert list(better.index) == ["mine", "worse"]
    assert better.loc["mine", 0.0].startswith("0.75 ") and better.loc["worse", 0.5] == "0.00 [0.00, 0.61]"
    (alone,) = against_shac(means[means.policy.isin(["SHAC0"])], "noise")[0].to_numpy().tolist()
    assert alone == ["10.0", "9.50"]  # of one policy there is no interval


def test_over_all_grounds_a_policy_is_measured_by_its_own_return():
    grounds = [(k_e, k_d) for k_e in (1.0, 4.0) for k_d in (1.0, 2.0)]
    rows = [
        {
            "algorithm": "SHAC",
            "policy": name,
            "stiffness": k_e,
            "damping": k_d,
            "return": value,
            "fallen": 0.5,
        }
        for name, returns in (("b", [10.0, 1.0, 20.0, 12.0]), ("a", [5.0, 5.0, 10.0, 6.0]))
        for (k_e, k_d), value in zip(grounds, returns, strict=True)
    ]
    table = over_grounds(pd.DataFrame(rows).sample(frac=1, random_state=0), (4.0, 1.0))
    first, second = (table.loc["SHAC", name].to_dict() for name in "ba")
    assert first == {
        "of training": 20, "median": 11, "worst": 1, "worst, kept": 0.05, "above half": 2, "grounds": 4, "falls": 0.5
    }  # fmt: skip
    assert (second["of training"], second["worst, kept"], second["above half"]) == (10, 0.5, 2)


def test_mistakes_are_told(policy):
    for condition, message in (
        ({"gravity": 1.0}, "may name noise, stiffness, damping, friction; got gravity"),
        ({"noise": 1.5}, "noise must be a number from 0 to 1; got 1.5"),
        ({"friction": -1}, "friction must be a finite number, at least 0; got -1"),
        ({"stiffness": 0}, "stiffness must be a finite number above 0; got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            rollouts(policy, "DiffAnt", 3, condition)
    with pytest.raises(ValueError, match="count must be a whole number"):
        rollouts(policy, "DiffAnt", 0)
