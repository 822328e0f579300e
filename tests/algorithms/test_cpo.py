"""CPO's dual against a numerical solver, its update against the definition, and the scale of its constraint."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri
from small_problem import BALL, Dense, make_problem, reward_and_cost_advantages, taken

import shapo
from shapo import CPO, EuclideanSAM, FisherSAM
from shapo.algorithms import TrustRegion, cpo
from shapo.algorithms.advantages import Batch
from shapo.algorithms.cpo import BINDING, FREE, RECOVERY, solve_dual
from shapo.algorithms.networks import GaussianActor
from shapo.algorithms.trainer import Trainer
from shapo.sharpness import Fisher


def solved(g, b, fisher, c, delta):
    """(ε, λ*, ν*, case) by `solve_dual` and dense solves."""
    x_g, x_b = np.linalg.solve(fisher, g), np.linalg.solve(fisher, b)
    x, y, nu, case = solve_dual(g @ x_g, g @ x_b, b @ x_b, c, delta)
    return x * x_g + y * x_b, 1 / x if x else math.inf, nu, case


def by_slsqp(objective, fisher, delta, halfspace=None):
    """argmax of objectiveᵀε in the ball, and in the half-space c + bᵀε ≤ 0 where (c, b) is given."""
    n = np.sqrt(objective @ np.linalg.solve(fisher, objective))
    root = np.linalg.cholesky(fisher) / np.sqrt(2 * delta)  # ε = root⁻ᵀ u turns the ball into |u| ≤ 1
    back = np.linalg.inv(root).T
    goal = back.T @ objective / (n * np.sqrt(2 * delta))
    constraints = [{"type": "ineq", "fun": lambda u: 1 - u @ u, "jac": lambda u: -2 * u}]
    if halfspace is not None:
        c, b = halfspace
        normal = back.T @ b
        scale = np.linalg.norm(normal)
        constraints += [
            {"type": "ineq", "fun": lambda u: -(c + normal @ u) / scale, "jac": lambda u: -normal / scale}
        ]
    start = 0.1 * goal
    found = minimize(
        lambda u: -goal @ u, start, jac=lambda u: -goal, method="SLSQP", constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert found.success or found.status == 8, found.message  # 8: no descent left to the last digit
    return back @ found.x


def random_instance(rng):
    n = rng.integers(2, 9)
    root = rng.standard_normal((n, n))
    fisher = root @ root.T + 0.1 * np.eye(n)
    g, b = rng.standard_normal((2, n)) * 10.0 ** rng.uniform(-2, 2, (2, 1))
    delta = 10.0 ** rng.uniform(-4, -1)
    reach = math.sqrt(2 * delta * b @ np.linalg.solve(fisher, b))  # how far bᵀε can go within the ball
    return g, b, fisher, rng.uniform(-1.5, 1.5) * reach, delta, reach


def test_dual_agrees_with_a_numerical_solver():
    rng, cases = np.random.default_rng(0), []
    for _ in range(400):
        g, b, fisher, c, delta, reach = random_instance(rng)
        step, _, _, case = solved(g, b, fisher, c, delta)
        cases.append(case)
        assert case == RECOVERY if c > reach else case != RECOVERY
        if case == RECOVERY:
            expected = by_slsqp(-b, fisher, delta)
        else:
            expected = by_slsqp(g, fisher, delta, (c, b))
        size = math.sqrt(2 * delta)
        root = np.linalg.cholesky(fisher)
        assert np.linalg.norm(root.T @ (step - expected)) < 1e-4 * size  # SLSQP's own accuracy in u
        assert step @ fisher @ step <= size**2 * (1 + 1e-9)
        if case != RECOVERY:
            assert c + b @ step <= 1e-9 * reach
            assert g @ step >= g @ expected - 1e-7 * math.sqrt(g @ np.linalg.solve(fisher, g)) * size
    assert min(cases.count(case) for case in (FREE, BINDING, RECOVERY)) > 50


def test_multipliers_close_the_duality_gap():
    """Feasible ε, λ ≥ 0, ν ≥ 0 and dual value = primal value prove optimality, without a solver."""
    rng, cases = np.random.default_rng(1), []
    for _ in range(2000):
        g, b, fisher, c, delta, reach = random_instance(rng)
        step, lam, nu, case = solved(g, b, fisher, c, delta)
        cases.append(case)
        if case == RECOVERY:
            continue
        lagrangian = g - nu * b
        dual = lagrangian @ np.linalg.solve(fisher, lagrangian) / (2 * lam) - nu * c + lam * delta
        assert lam > 0 and nu >= 0
        scale = math.sqrt(2 * delta * g @ np.linalg.solve(fisher, g))
        assert dual == pytest.approx(g @ step, abs=1e-8 * (scale + nu * reach))
        if case == FREE:
            assert nu == 0
        else:
            assert c + b @ step == pytest.approx(0, abs=1e-9 * reach)
        assert step == pytest.approx(np.linalg.solve(fisher, lagrangian) / lam, rel=1e-6, abs=1e-12)
    assert cases.count(BINDING) > 300


FISHER = np.array([[2.0, 0.5], [0.5, 1.0]])
G = np.array([1.0, -0.3])
DELTA = 0.02


def u(v, delta=DELTA):
    x = np.linalg.solve(FISHER, v)
    return math.sqrt(2 * delta / (v @ x)) * x


@pytest.mark.parametrize("c", [-1.0, -1e-9, 0.0])
def test_without_a_cost_gradient_the_step_is_trpos(c):
    step, _, nu, case = solved(G, np.zeros(2), FISHER, c, DELTA)
    assert case == FREE and nu == 0
    np.testing.assert_allclose(step, u(G), rtol=1e-12)


def test_a_violation_that_nothing_can_mend_moves_nothing():
    step, _, _, case = solved(G, np.zeros(2), FISHER, 0.1, DELTA)
    assert case == RECOVERY and not step.any()


@pytest.mark.parametrize("k", [0.01, 1.0, 30.0])
def test_parallel_gradients(k):
    b = k * G
    reach = math.sqrt(2 * DELTA * b @ np.linalg.solve(FISHER, b))
    for c in (-0.7 * reach, 0.0, 0.4 * reach):  # all that is left of the problem is how far to go along F⁻¹b
        step, _, nu, case = solved(G, b, FISHER, c, DELTA)
        assert case == BINDING and nu == pytest.approx(1 / k)
        np.testing.assert_allclose(step, -c / reach * u(b), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(solved(G, b, FISHER, -1.1 * reach, DELTA)[0], u(G))
    np.testing.assert_allclose(solved(G, b, FISHER, 1.1 * reach, DELTA)[0], u(-b))
    for c in (-0.7 * reach, 0.0, 0.4 * reach):  # reward and cost agree
        step, _, nu, case = solved(G, -b, FISHER, c, DELTA)
        assert case == FREE and nu == 0
        np.testing.assert_allclose(step, u(G))


def test_nearly_parallel_gradients_stay_feasible():
    rng = np.random.default_rng(2)
    for tilt in 10.0 ** -np.arange(1, 17):
        b = G + tilt * rng.standard_normal(2)
        step, _, _, _ = solved(G, b, FISHER, -0.01, DELTA)
        assert 0.5 * step @ FISHER @ step <= DELTA * (1 + 1e-6) and -0.01 + b @ step <= 1e-7
        best = by_slsqp(G, FISHER, DELTA, (-0.01, b))
        assert G @ step >= G @ best - 2e-3 * G @ u(G)


def test_float32_noise_in_the_scalars_is_no_information():
    """Parallel g and b with r² a rounding error away from q s: neither a recovery nor a step across the constraint."""
    for noise in (-1e-7, -1e-8, 1e-8, 1e-7):
        assert solve_dual(1.0, 1 + noise, 1.0, -0.2 * (1 + 1e-9), DELTA) == (0.2, 0.0, 0.0, FREE)
        x, y, nu, case = solve_dual(1.0, 1 + noise, 1.0, -0.1, DELTA)
        assert (x, y, case) == (0.0, 0.1, BINDING) and nu == pytest.approx(1)


def test_on_the_edges_of_the_cases_the_step_is_continuous():
    b = np.array([0.4, 1.0])
    reach = math.sqrt(2 * DELTA * b @ np.linalg.solve(FISHER, b))
    alone = -(b @ u(G))  # c at which TRPO's step just meets the constraint
    for edge in (reach, alone):
        at, below, above = (solved(G, b, FISHER, c, DELTA)[0] for c in (edge, edge - 1e-10, edge + 1e-10))
        np.testing.assert_allclose(below, above, atol=2e-4)
        np.testing.assert_allclose(at, above, atol=2e-4)
    np.testing.assert_allclose(solved(G, b, FISHER, reach, DELTA)[0], u(-b), atol=1e-9)
    on_boundary, _, nu, case = solved(G, -b if G @ np.linalg.solve(FISHER, b) < 0 else b, FISHER, 0.0, DELTA)
    assert case == BINDING and nu > 0 and abs(on_boundary @ b) < 1e-12


def test_without_a_reward_gradient_the_constraint_is_met_and_no_more():
    b = np.array([0.4, 1.0])
    assert not solved(np.zeros(2), b, FISHER, -0.01, DELTA)[0].any()
    step = solved(np.zeros(2), b, FISHER, 0.02, DELTA)[0]
    assert b @ step == pytest.approx(-0.02) and 0.5 * step @ FISHER @ step < DELTA


def test_an_unknown_violation_is_refused():
    with pytest.raises(ValueError, match="violation c must be known; got nan"):
        solve_dual(1.0, 0.5, 1.0, math.nan, 0.01)
    actor, batch = make_problem()
    batch.episode_length = math.nan
    with pytest.raises(ValueError, match="episode_length"):
        CPO(**BALL).update_actor(actor, batch, None, 1, {"violation": 3.0})


# The update. violation / episode_length = c; the ball reaches bᵀε ≈ 0.04 in this problem.
VIOLATIONS = {
    "free": -9.0,
    "binding, feasible": -0.5,
    "close to the boundary": -0.1,
    "binding, violated": 1.0,
    "recovery": 9.0,
}


def constrained_step(dense, g, b, c, delta=0.01):
    """The solution (ε, ν) of CPO's problem in the plane of F⁻¹g and F⁻¹b, where it lies, by SLSQP."""
    basis = torch.linalg.solve(dense.fisher, torch.stack([g, b], 1)).numpy()
    plane = basis.T @ dense.fisher.numpy() @ basis
    g2, b2 = basis.T @ g.numpy(), basis.T @ b.numpy()
    if c > math.sqrt(2 * delta * b2 @ np.linalg.solve(plane, b2)):
        return dense.u(-b, delta), math.inf
    weights = by_slsqp(g2, plane, delta, (c, b2))
    nu = 0.0
    if c + b2 @ weights > -1e-8:  # active: g − ν b is parallel to F ε, so ν follows from two scalar products
        across = np.linalg.solve(plane, b2) - weights * (weights @ b2) / (weights @ plane @ weights)
        nu = (across @ g2) / (across @ b2)
    return torch.from_numpy(basis @ weights), nu


@pytest.mark.parametrize("name", VIOLATIONS)
def test_update_solves_the_constrained_problem(name):
    actor, batch = make_problem()
    dense, (a_r, a_c) = Dense(actor, batch), reward_and_cost_advantages(batch)
    g, b = (dense.gradient(dense.theta0, advantage) for advantage in (a_r, a_c))
    c = VIOLATIONS[name] / 100
    step, nu = constrained_step(dense, g, b, c)
    log = CPO(cg_iterations=500, **BALL).update_actor(actor, batch, None, 1, {"violation": VIOLATIONS[name]})
    assert torch.allclose(actor.theta, dense.theta0 + taken(log) * step, atol=2e-5, rtol=1e-4)
    assert log["case"] == {"free": FREE, "recovery": RECOVERY}.get(name, BINDING)
    if name == "recovery":
        assert math.isnan(log["lagrangian_multiplier"]) and math.isinf(nu)
    else:
        assert log["lagrangian_multiplier"] == pytest.approx(nu, rel=1e-3, abs=1e-9)
    changes = [float(dense.surrogate(actor.theta, a) - a.mean()) for a in (a_r, a_c)]
    assert [log["improvement"], log["cost_change"]] == pytest.approx(changes, rel=1e-6)
    assert 0 < dense.kl(actor.theta) <= 0.01 and changes[1] <= max(-c, 0) + 1e-12
    assert changes[0] >= 0 or c > 0


def test_on_the_boundary_the_step_turns_a_tenth_of_the_way_inside():
    actor, batch = make_problem()
    dense, (a_r, a_c) = Dense(actor, batch), reward_and_cost_advantages(batch)
    g, b = (dense.gradient(dense.theta0, advantage) for advantage in (a_r, a_c))
    fisher = Fisher(lambda v: dense.fisher @ v, iterations=500)
    step, log = CPO(**BALL).step(torch.stack([g, b]), fisher, {"c": 0.0})
    inside = 0.1 * math.sqrt(2 * 0.01 * float(b @ torch.linalg.solve(dense.fisher, b)))
    assert log["case"] == BINDING and float(b @ step) == pytest.approx(-inside) and g @ step > 0
    assert torch.allclose(step, constrained_step(dense, g, b, inside)[0], atol=1e-5)


@pytest.mark.parametrize("name", VIOLATIONS)
def test_shapo_takes_both_gradients_at_the_worst_policy(name):
    actor, batch = make_problem()
    dense, (a_r, a_c) = Dense(actor, batch), reward_and_cost_advantages(batch)
    theta0, c = dense.theta0, VIOLATIONS[name] / 100
    g, b = (dense.gradient(theta0, advantage) for advantage in (a_r, a_c))
    _, nu = constrained_step(dense, g, b, c)
    ascended, advantage = (-b, -a_c) if math.isinf(nu) else (g - nu * b, a_r - nu * a_c)
    down = dense.u(-ascended, 0.004)
    g_down, b_down = (dense.gradient(theta0 + down, advantage) for advantage in (a_r, a_c))
    up, _ = constrained_step(dense, g_down, b_down, c)
    log = CPO(cg_iterations=500, **BALL).update_actor(
        actor, batch, FisherSAM(0.004), 1, {"violation": VIOLATIONS[name]}
    )
    factor = taken(log)
    assert torch.allclose(actor.theta, theta0 + factor * up, atol=5e-5, rtol=1e-3)
    assert log["surrogate_down"] == pytest.approx(float(dense.surrogate(theta0 + down, advantage)), rel=1e-3)
    assert log["surrogate_down"] < float(dense.surrogate(theta0, advantage)) and 0 < log["kl_down"] < 0.004
    needless = {"free": "b", "recovery": "g"}.get(name)  # the gradient that the step does not depend on
    for kept in {"b", "g", "gb"} - {needless}:  # had these gradients not been taken anew
        step, _ = constrained_step(dense, g if "g" in kept else g_down, b if "b" in kept else b_down, c)
        assert (actor.theta - theta0 - factor * step).norm() > 0.01 * step.norm()


@pytest.mark.parametrize("violation", VIOLATIONS.values())
@pytest.mark.parametrize(
    "none", [FisherSAM(0.0), EuclideanSAM(0.0), lambda g, fisher, n: torch.zeros_like(g)]
)
def test_no_perturbation_is_cpo_exactly(violation, none):
    (vanilla, batch), (shapo_actor, _) = make_problem(), make_problem()
    for actor, perturbation in ((vanilla, None), (shapo_actor, none)):
        before = actor.theta
        CPO(**BALL).update_actor(actor, batch, perturbation, 1, {"violation": violation})
        assert not torch.equal(actor.theta, before)
    assert torch.equal(vanilla.theta, shapo_actor.theta)


@pytest.mark.parametrize("violation", [-0.5, 1.0, 9.0])
def test_small_radii_approach_cpo(violation):
    distances = []
    for delta in (1e-3, 1e-5, 1e-7):
        (vanilla, batch), (shapo_actor, _) = make_problem(), make_problem()
        for actor, perturbation in ((vanilla, None), (shapo_actor, FisherSAM(delta))):
            CPO(cg_iterations=300, **BALL).update_actor(
                actor, batch, perturbation, 1, {"violation": violation}
            )
        distances.append(float((vanilla.theta - shapo_actor.theta).norm()))
    assert distances[0] > 5 * distances[1] > 25 * distances[2] > 0


@pytest.mark.parametrize(
    "c, change, accepted",
    [
        (-0.2, (0.1, 0.1), True), (-0.2, (0.1, 0.2), True), (-0.2, (0.1, 0.21), False),
        (-0.2, (-1e-9, 0.0), False), (-0.2, (0.0, 0.0), True), (0.0, (0.1, 1e-9), False),
        (0.0, (-1e-9, -0.1), False), (0.3, (-0.1, -0.1), True), (0.3, (0.1, 1e-9), False),
        (0.3, (math.nan, -0.1), True), (0.3, (0.1, math.nan), False),
    ],
)  # fmt: skip
def test_line_search_conditions(c, change, accepted):
    assert CPO().accepts(np.array(change), {"c": c}) is accepted


def bandit(algorithm, updates):
    """J_C after each update of CPO where episodes are 100 draws a ~ N(θ, σ²), reward a, and cost 1 for a > 1.

    The batch holds quantiles, not samples, so J_C = 100 P(a > 1) and nothing is random.
    """
    actor = GaussianActor(1, 1, (4,), np.random.default_rng(0))
    actor.theta = actor.theta.double()
    obs = torch.zeros(2000, 1, dtype=torch.float64)
    z = torch.from_numpy(ndtri((np.arange(2000) + 0.5) / 2000)).unsqueeze(1)
    state, found, cases = algorithm.initial_state(), [], []
    for _ in range(updates):
        mean, std = actor.mean(obs), actor.log_std().exp()
        action = mean + std * z
        cost = (action[:, 0] > 1.0).double()
        found.append(100 * ndtr(float((mean[0, 0] - 1.0) / std[0])))
        batch = Batch(obs, action, torch.stack([action[:, 0], cost]), torch.zeros(2, 2000), 100.0)
        state = algorithm.observe(state, found[-1], 20.0)
        cases.append(algorithm.update_actor(actor, batch, None, 1, state)["case"])
    return np.array(found), cases


def test_with_c_per_step_the_limit_is_reached_and_held():
    found, cases = bandit(CPO(**BALL), 60)
    assert np.abs(found[30:] - 20).max() < 0.5 and set(cases[30:]) == {BINDING}
    found, cases = bandit(
        CPO(cost_per_step=False, **BALL), 60
    )  # c a hundred times too large: it switches to and fro
    assert np.abs(found[30:] - 20).max() > 1 and {FREE, RECOVERY} <= set(cases[30:])


SEEN = []


@dataclass(frozen=True)
class Watched(CPO):
    """CPO that notes the violation its line search was given."""

    def accepts(self, change, state):
        SEEN.append(state["c"])
        return super().accepts(change, state)


def test_training_hands_over_the_violation_per_step():
    config = shapo.Config(
        algorithm=Watched(), total_steps=4_400, steps_per_epoch=2_200, num_envs=2, hidden_sizes=(8,), seed=2
    )
    SEEN.clear()
    trainer = Trainer(config)
    first = trainer.run_epoch()
    assert set(SEEN) == {(first["J_C"] - 10.0) / 1000} and first["J_C"] > 0
    assert {"case", "cost_change", "improvement"} <= set(first)


def test_before_an_episode_has_ended_nothing_binds():
    (actor, batch), (unconstrained, _) = make_problem(), make_problem()
    batch.episode_length = math.nan
    log = CPO(**BALL).update_actor(actor, batch, None, 1, CPO().initial_state())
    TrustRegion(**BALL).update_actor(unconstrained, batch, None, 1, {})
    assert log["case"] == FREE and log["cost_change"] > 0
    assert torch.allclose(actor.theta, unconstrained.theta, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_at_the_limit_itself_it_still_moves(monkeypatch, seed):
    """c = 0: the published step follows the boundary, and the second order has the line search reject every trial."""
    rows = {}
    for margin in (0.0, cpo.MARGIN):
        monkeypatch.setattr(cpo, "MARGIN", margin)
        actor, batch = make_problem(seed)
        rows[margin] = CPO(target_kl=0.02, cg_damping=0.1).update_actor(
            actor, batch, None, 1, {"violation": 0.0}
        )
    published, ours = rows.values()
    assert math.isnan(published["line_search_trials"]) and published["kl"] == 0
    assert ours["kl"] > 0.005 and ours["improvement"] > 0 > ours["cost_change"]
