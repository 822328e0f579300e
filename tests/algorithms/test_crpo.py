"""CRPO switches where its definition says, and perturbs whichever objective is active."""

import math

import numpy as np
import pytest
import torch
from small_problem import BALL, Dense, make_problem, reward_and_cost_advantages, taken

import shapo
from shapo import CRPO, EuclideanSAM, FisherSAM
from shapo.algorithms import TrustRegion
from shapo.algorithms.trainer import Trainer

REWARD, COST = {"cost_active": 0.0}, {"cost_active": 1.0}


@pytest.mark.parametrize(
    "tolerance, mean_cost, cost_active",
    [
        (2.0, 0.0, False), (2.0, 10.0, False), (2.0, 12.0, False), (2.0, math.nextafter(12.0, 13.0), True),
        (2.0, 60.0, True), (0.0, 10.0, False), (0.0, math.nextafter(10.0, 11.0), True), (5.0, 14.9, False),
    ],
)  # fmt: skip
def test_the_cost_is_active_above_limit_and_tolerance(tolerance, mean_cost, cost_active):
    algorithm = CRPO(tolerance=tolerance)
    assert algorithm.observe(algorithm.initial_state(), mean_cost, 10.0) == {
        "cost_active": float(cost_active)
    }
    assert algorithm.observe({"cost_active": 1.0}, mean_cost, 10.0) == {"cost_active": float(cost_active)}
    assert algorithm.initial_state() == REWARD


def test_either_advantage_but_never_a_mixture():
    _, batch = make_problem()
    a_r, a_c = reward_and_cost_advantages(batch)
    assert torch.allclose(CRPO().advantage(REWARD, batch), a_r, rtol=1e-6)
    assert torch.equal(CRPO().advantage(COST, batch), -a_c)


@pytest.mark.parametrize("state", [REWARD, COST])
@pytest.mark.parametrize("delta_down", [None, 0.004])
def test_update_is_the_trust_region_step_of_the_active_objective(state, delta_down):
    actor, batch = make_problem()
    dense, (a_r, a_c) = Dense(actor, batch), reward_and_cost_advantages(batch)
    active = -a_c if state["cost_active"] else a_r
    theta0, g = dense.theta0, dense.gradient(dense.theta0, active)
    plain = dense.u(g, 0.01)
    at = theta0 if delta_down is None else theta0 + dense.u(-g, delta_down)
    step = dense.u(dense.gradient(at, active), 0.01)
    perturbation = None if delta_down is None else FisherSAM(delta_down)
    log = CRPO(cg_iterations=500, **BALL).update_actor(actor, batch, perturbation, 1, state)
    assert torch.allclose(actor.theta, theta0 + taken(log) * step, atol=1e-6, rtol=1e-5)
    assert log["cost_active"] == state["cost_active"]
    gain = float(dense.surrogate(actor.theta, a_c if state["cost_active"] else a_r))
    assert gain < 0 if state["cost_active"] else gain > 0
    if delta_down is not None:
        assert (step - plain).norm() > 0.01 * plain.norm()
        assert log["surrogate_down"] == pytest.approx(float(dense.surrogate(at, active)), rel=1e-5)


@pytest.mark.parametrize("state", [REWARD, COST])
@pytest.mark.parametrize("none", [FisherSAM(0.0), EuclideanSAM(0.0)])
def test_no_perturbation_is_crpo_exactly(state, none):
    (vanilla, batch), (other, _) = make_problem(), make_problem()
    before = vanilla.theta
    CRPO(**BALL).update_actor(vanilla, batch, None, 1, state)
    CRPO(**BALL).update_actor(other, batch, none, 1, state)
    assert torch.equal(vanilla.theta, other.theta) and not torch.equal(vanilla.theta, before)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf, "2"])
def test_tolerance_is_checked(bad):
    with pytest.raises(ValueError, match="tolerance must be"):
        CRPO(tolerance=bad)


def test_training_switches_by_the_mean_cost_of_finished_episodes():
    config = shapo.Config(
        algorithm="CRPO", total_steps=12_000, steps_per_epoch=2_000, num_envs=2, hidden_sizes=(8,), seed=3
    )
    trainer = Trainer(config)
    trainer.algorithm_state = trainer.algorithm.initial_state()
    for _ in range(3):
        row = trainer.run_epoch()
        assert (
            row["cost_active"]
            == float(np.mean([e["cost"] for e in trainer.episodes]) > 12.0)
            == (row["J_C"] > 12)
        )
    loose = shapo.Config(
        algorithm=CRPO(tolerance=1e6),
        total_steps=2_000,
        steps_per_epoch=2_000,
        num_envs=2,
        hidden_sizes=(8,),
        seed=3,
    )
    assert Trainer(loose).run_epoch()["cost_active"] == 0.0


def test_where_a_fall_costs_1_the_limit_of_0_is_kept():
    """A tolerance of 2 would let every fall pass: CRPO would be TRPO without a constraint, to the bit."""
    small = {"total_steps": 4_000, "steps_per_epoch": 2_000, "num_envs": 4, "hidden_sizes": (8,), "seed": 3}
    constrained, free = (
        Trainer(shapo.Config("Walker2d-v4", algorithm, **small)) for algorithm in ("CRPO", TrustRegion())
    )
    rows = [constrained.run_epoch() for _ in range(2)]
    for _ in range(2):
        free.run_epoch()
    assert all(row["J_C"] > 0 and row["cost_active"] == 1.0 for row in rows)
    assert not torch.equal(constrained.actor.theta, free.actor.theta)


@pytest.mark.parametrize(
    "limit, tolerance", [(0, 0.0), (0.5, 0.1), (1, 0.2), (10, 2.0), (25, 2.0), (None, 2.0)]
)
def test_the_tolerance_is_2_and_at_most_a_fifth_of_the_limit(limit, tolerance):
    config = shapo.Config("PointGoal1-v0", "CRPO", cost_limit=limit)
    assert config.resolved.algorithm.tolerance == tolerance
