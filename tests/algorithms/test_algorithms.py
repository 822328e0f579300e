"""Multipliers against their recursions written out, the trust-region update against its definition."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_problem import BALL, make_problem

import shapo
from shapo.algorithms import PIDLag, TRPOLag, TrustRegion
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.trust_region import Surrogate, centred, standardised
from shapo.checks import NonFiniteError
from shapo.sharpness import EuclideanSAM, FisherSAM

COSTS = [52.0, 80.0, 75.0, 20.0, 5.0, 0.0, 0.0, 30.0, 41.0, 12.0, 9.0, 60.0, 61.0, 62.0]


LONG = COSTS + [0.0] * 150 + [100.0] * 60


def multipliers(algorithm, costs=COSTS, limit=10.0):
    state, found = algorithm.initial_state(), []
    for cost in costs:
        state = algorithm.observe(state, cost, limit)
        found.append(state["lagrangian_multiplier"])
    return found


def test_trpolag_moves_its_multiplier_as_pytorchs_adam():
    lam = torch.tensor(0.001, dtype=torch.float64, requires_grad=True)
    adam, expected = torch.optim.Adam([lam], lr=0.035), []
    for cost in LONG:
        adam.zero_grad()
        (-lam * (cost - 10.0)).backward()
        adam.step()
        with torch.no_grad():
            lam.clamp_(min=0.0)
        expected.append(float(lam))
    assert 0.0 in expected and expected[-1] > 0
    np.testing.assert_allclose(multipliers(TRPOLag(), LONG), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("delay", [1, 3, 10, 12])
def test_pidlag_is_the_controller_written_out(delay):
    algorithm = PIDLag(pid_kp=0.1, pid_ki=0.02, pid_kd=0.3, pid_d_delay=delay, lagrangian_multiplier_init=0.5)
    expected, integral = [], 0.5
    smooth = [0.0]  # exponential average of the cost, from 0
    for k in range(len(COSTS)):
        integral = max(0.0, integral + 0.02 * (COSTS[k] - 10))
        weights = 0.05 * 0.95 ** np.arange(k, -1, -1)
        proportional = weights @ (np.array(COSTS[: k + 1]) - 10)
        smooth.append(weights @ np.array(COSTS[: k + 1]))
        rise = max(0.0, smooth[-1] - smooth[max(0, len(smooth) - 1 - delay)])
        expected.append(max(0.0, 0.1 * proportional + integral + 0.3 * rise))
    np.testing.assert_allclose(multipliers(algorithm), expected, rtol=1e-10)


def test_lagrangian_advantage_is_the_fields_convention():
    _, batch = make_problem()
    a_r, a_c = batch.advantage
    expected = ((a_r - a_r.mean()) / a_r.std() - 0.7 * (a_c - a_c.mean())) / 1.7
    assert torch.allclose(PIDLag().advantage({"lagrangian_multiplier": 0.7}, batch), expected, rtol=1e-6)


@pytest.mark.parametrize("target_kl", [0.01, 0.003])
def test_update_is_the_trust_region_step_of_the_surrogate(target_kl):
    actor, batch = make_problem()
    algorithm = TrustRegion(cg_iterations=400, target_kl=target_kl, cg_damping=0.1)
    surrogate, theta0 = Surrogate(actor, batch), actor.theta
    advantage = standardised(batch.advantage[0])
    g = surrogate.gradient(theta0, advantage)
    hessian = torch.autograd.functional.hessian(
        lambda t: torch.distributions.kl_divergence(
            torch.distributions.Normal(surrogate.mean0, surrogate.log_std0.exp()),
            torch.distributions.Normal(actor.mean(batch.observation, t), actor.log_std(t).exp()),
        ).sum(-1).mean(), theta0,
    )  # fmt: skip
    natural = torch.linalg.solve(hessian + 0.1 * torch.eye(len(g), dtype=torch.float64), g)
    step = math.sqrt(2 * target_kl / float(g @ natural)) * natural
    log = algorithm.update_actor(actor, batch, None, 1, {})
    trial = int(log["line_search_trials"]) - 1
    assert torch.allclose(actor.theta, theta0 + 0.8**trial * step, rtol=1e-5, atol=1e-7)
    value, kl = surrogate.value_and_kl(actor.theta, advantage)
    assert 0 < kl <= target_kl and value > 0
    assert log["kl"] == kl and log["improvement"] == pytest.approx(value, abs=1e-12)


def test_shapo_steps_along_the_gradient_at_the_worst_policy():
    actor, batch = make_problem()
    algorithm, state = TRPOLag(cg_iterations=400, **BALL), {"lagrangian_multiplier": 0.5}
    surrogate, theta0 = Surrogate(actor, batch), actor.theta
    advantage = algorithm.advantage(state, batch)
    fisher = GaussianFisher(actor, batch.observation, damping=0.1)
    fisher_columns = torch.stack([fisher(v) for v in torch.eye(len(theta0), dtype=torch.float64)])

    def u(g, delta):
        natural = torch.linalg.solve(fisher_columns, g)
        return math.sqrt(2 * delta / float(g @ natural)) * natural

    down = u(-surrogate.gradient(theta0, advantage), 0.005)
    up = u(surrogate.gradient(theta0 + down, advantage), 0.01)
    log = algorithm.update_actor(actor, batch, FisherSAM(0.005), 1, state)
    trial = int(log["line_search_trials"]) - 1
    assert torch.allclose(actor.theta, theta0 + 0.8**trial * up, rtol=1e-4, atol=1e-6)
    assert log["surrogate_down"] == pytest.approx(
        surrogate.value_and_kl(theta0 + down, advantage)[0], rel=1e-5
    )
    assert log["surrogate_down"] < 0 and 0 < log["kl_down"] < 0.01

    vanilla, _ = make_problem()
    algorithm.update_actor(vanilla, batch, None, 1, state)
    assert (vanilla.theta - actor.theta).norm() > 0.01 * (vanilla.theta - theta0).norm()


@pytest.mark.parametrize("algorithm", [TRPOLag(**BALL), PIDLag(**BALL)])
@pytest.mark.parametrize(
    "none", [FisherSAM(0.0), EuclideanSAM(0.0), lambda g, fisher, samples: torch.zeros_like(g)]
)
def test_no_perturbation_is_the_baseline_exactly(algorithm, none):
    (vanilla, batch), (shapo, _) = make_problem(), make_problem()
    state = algorithm.initial_state()
    algorithm.update_actor(vanilla, batch, None, 1, state)
    algorithm.update_actor(shapo, batch, none, 1, state)
    assert torch.equal(vanilla.theta, shapo.theta)


def test_small_radii_approach_the_baseline():
    distances = []
    for delta in (1e-3, 1e-5, 1e-7):
        (vanilla, batch), (shapo, _) = make_problem(), make_problem()
        for actor, perturbation in ((vanilla, None), (shapo, FisherSAM(delta))):
            TRPOLag(cg_iterations=200, **BALL).update_actor(
                actor, batch, perturbation, 1, {"lagrangian_multiplier": 0.2}
            )
        distances.append(float((vanilla.theta - shapo.theta).norm()))
    assert distances[0] > 5 * distances[1] > 25 * distances[2]


def test_line_search_keeps_the_policy_when_nothing_improves():
    actor, batch = make_problem()
    surrogate = Surrogate(actor, batch)
    advantage = standardised(batch.advantage[0])
    away = -0.1 * surrogate.gradient(actor.theta, advantage)
    theta, log = TrustRegion(**BALL).line_search(surrogate, advantage, away)
    assert torch.equal(theta, actor.theta) and log["kl"] == 0.0 and math.isnan(log["line_search_trials"])


def test_line_search_shrinks_a_step_that_is_too_long():
    actor, batch = make_problem()
    surrogate = Surrogate(actor, batch)
    advantage = standardised(batch.advantage[0])
    long = 0.3 * surrogate.gradient(actor.theta, advantage)
    assert surrogate.value_and_kl(actor.theta + long, advantage)[1] > 0.01
    _, log = TrustRegion(**BALL).line_search(surrogate, advantage, long)
    assert log["line_search_trials"] > 1 and 0 < log["kl"] <= 0.01 and log["improvement"] > 0


def test_a_baseline_written_outside_needs_no_edit():
    @dataclass(frozen=True)
    class CostOnly(TrustRegion):
        def advantage(self, state, batch):
            return -centred(batch.advantage[1])

    actor, batch = make_problem()
    surrogate = Surrogate(actor, batch)
    CostOnly(**BALL).update_actor(actor, batch, FisherSAM(0.001), 1, {})
    assert surrogate.value_and_kl(actor.theta, batch.advantage[1] - batch.advantage[1].mean())[0] < 0


def test_non_finite_gradient_is_named():
    actor, batch = make_problem()
    batch.advantage[0, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="gradient"):
        TRPOLag(**BALL).update_actor(actor, batch, None, 1, TRPOLag().initial_state())


BAD = {
    "target_kl": (0.0, math.nan, True, "0.01"), "cg_iterations": (0, 2.5), "cg_damping": (-0.1,),
    "line_search_steps": (0, 15.5), "line_search_decay": (1.0,), "lagrangian_multiplier_init": (-1.0,),
    "pid_kp": (-0.1,), "pid_ki": (math.inf,), "pid_delta_p_ema": (1.0,), "pid_d_delay": (0, 2.5),
    "lagrangian_multiplier_lr": (math.nan, -1.0, "fast"),
}  # fmt: skip


@pytest.mark.parametrize("field, bad", [(field, bad) for field, values in BAD.items() for bad in values])
def test_hyperparameters_are_checked(field, bad):
    algorithm = TRPOLag if field == "lagrangian_multiplier_lr" else PIDLag
    with pytest.raises(ValueError, match=f"{field} must be"):
        algorithm(**{field: bad})


def test_numpy_numbers_become_plain_ones():
    algorithm = PIDLag(target_kl=np.float32(0.5), cg_iterations=np.int64(7), pid_kp=1)
    assert algorithm == PIDLag(target_kl=0.5, cg_iterations=7, pid_kp=1.0)
    assert type(algorithm.cg_iterations) is int and type(algorithm.pid_kp) is float


@pytest.mark.parametrize("epsilon", [lambda g: g[:-1], lambda g: g * math.inf])
def test_a_bad_perturbation_is_named(epsilon):
    @dataclass(frozen=True)
    class Odd:
        def __call__(self, gradient, fisher, samples):
            return epsilon(gradient)

    actor, batch = make_problem()
    with pytest.raises((TypeError, NonFiniteError), match="Odd"):
        TRPOLag(**BALL).update_actor(actor, batch, Odd(), 1, TRPOLag().initial_state())


@pytest.mark.parametrize("algorithm", [TRPOLag, PIDLag])
def test_a_bounded_multiplier_comes_down_at_once(algorithm):
    """60 above the limit for 300 updates, then 10 below: without a bound it stays up for as long again."""
    costs = [70.0] * 300 + [0.0] * 60
    free, bounded = (multipliers(algorithm(lagrangian_multiplier_max=bound), costs) for bound in (None, 5.0))
    assert max(free) > 2 * max(bounded) and max(bounded) == 5.0
    assert bounded[-1] < 5.0 < free[-1]
    with pytest.raises(ValueError, match=r"lagrangian_multiplier_max must be at least .* 2.0; got 1.0"):
        algorithm(lagrangian_multiplier_init=2.0, lagrangian_multiplier_max=1.0)


@dataclass(frozen=True)
class Careless(TRPOLag):
    """A baseline of the user's that remembers and logs whatever NumPy and PyTorch gave it."""

    def observe(self, state, mean_cost, cost_limit):
        return {"lagrangian_multiplier": np.float32(0.5), "seen": [np.int64(3), 1.0]}

    def step(self, gradient, fisher, state):
        step, log = super().step(gradient, fisher, state)
        return step, log | {"norm": step.norm()}


@dataclass(frozen=True)
class Wordy(TRPOLag):
    def observe(self, state, mean_cost, cost_limit):
        return state | {"note": object()}


def test_what_a_users_baseline_logs_and_remembers_is_stored_as_plain_numbers(tmp_path):
    config = shapo.Config("Walker2d-v4", Careless(), total_steps=400, steps_per_epoch=200, num_envs=2)
    run = shapo.train(config, runs=tmp_path, progress=False)
    assert (run.progress.norm > 0).all() and run.progress.lagrangian_multiplier.tolist() == [0.5, 0.5]
    assert run.load()[1]["algorithm"]["seen"] == [3.0, 1.0]
    with pytest.raises(TypeError, match="algorithm: note, which it logs or remembers, must be a number"):
        shapo.train(dataclasses.replace(config, algorithm=Wordy()), runs=tmp_path, progress=False)
