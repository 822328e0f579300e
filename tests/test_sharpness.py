"""U_F and the perturbations against their definitions and a constrained optimiser, in float64 on small policies."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from shapo.algorithms.critics import Critics
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import GaussianActor
from shapo.algorithms.sample_size import Samples
from shapo.checks import NonFiniteError, try_out
from shapo.sharpness import (
    EuclideanSAM,
    Fisher,
    FisherSAM,
    FixedAlpha,
    FixedDelta,
    alpha_from_delta,
    delta_from_alpha,
    sharpness_aware_gradient,
    trust_region_step,
)


def problem(size=12, seed=0):
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((size, size))
    matrix = torch.from_numpy(factor @ factor.T / size + 0.05 * np.eye(size))
    return matrix, torch.from_numpy(rng.standard_normal(size))


@pytest.mark.parametrize("seed", range(5))
def test_trust_region_step_is_the_constrained_maximiser(seed):
    matrix, g = problem(seed=seed)
    delta = 0.03
    step = trust_region_step(g, lambda v: matrix @ v, delta)
    assert 0.5 * step @ matrix @ step == pytest.approx(delta, rel=1e-10)
    closed_form = math.sqrt(2 * delta / (g @ torch.linalg.solve(matrix, g))) * torch.linalg.solve(matrix, g)
    assert torch.allclose(step, closed_form, rtol=1e-7, atol=1e-10)
    found = scipy.optimize.minimize(
        lambda e: -g.numpy() @ e, np.zeros(len(g)) + 1e-3, jac=lambda e: -g.numpy(), method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda e: delta - 0.5 * e @ matrix.numpy() @ e,
            "jac": lambda e: -(matrix.numpy() @ e),
        },
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert found.success
    assert float(g @ step) == pytest.approx(-found.fun, rel=1e-6)
    np.testing.assert_allclose(step.numpy(), found.x, atol=1e-4)


def test_few_iterations_still_land_on_the_sphere():
    matrix, g = problem(size=40)
    step = trust_region_step(g, Fisher(lambda v: matrix @ v, iterations=4), 0.01)
    assert 0.5 * step @ matrix @ step == pytest.approx(0.01, rel=1e-9)


def test_trust_region_step_of_nothing_is_nothing():
    matrix, g = problem()
    assert not trust_region_step(torch.zeros_like(g), lambda v: matrix @ v, 0.01).any()
    assert not trust_region_step(g, lambda v: matrix @ v, 0.0).any()


def test_extreme_gradients_give_their_step_or_a_clear_error():
    matrix, g = problem()
    step = trust_region_step(g, lambda v: matrix @ v, 0.01)
    assert torch.allclose(trust_region_step(1e-200 * g, lambda v: matrix @ v, 0.01), step, rtol=1e-6)
    with pytest.raises(NonFiniteError, match="gradient"):
        trust_region_step(g * math.nan, lambda v: matrix @ v, 0.01)
    with pytest.raises(torch.linalg.LinAlgError, match="positive definite"):
        trust_region_step(g, lambda v: -(matrix @ v), 0.01)


@pytest.mark.parametrize("bad", [-1e-3, math.nan, math.inf, "0.1", True, None])
def test_radii_are_checked_before_anything_runs(bad):
    matrix, g = problem()
    with pytest.raises(ValueError, match=r"delta must be.*got"):
        trust_region_step(g, lambda v: matrix @ v, bad)
    with pytest.raises(ValueError, match="delta_down must be"):
        FisherSAM(bad)
    with pytest.raises(ValueError, match="delta_down must be"):
        FisherSAM(lambda samples: bad)(g, Fisher(lambda v: matrix @ v), 1)
    with pytest.raises(ValueError, match="delta_down must be"):
        FixedDelta(bad)
    with pytest.raises(ValueError, match="rho must be"):
        EuclideanSAM(bad)
    with pytest.raises(ValueError, match="alpha must be"):
        FixedAlpha(bad)


def test_perturbations_worsen_the_objective_at_their_radius():
    matrix, g = problem()
    fisher = Fisher(lambda v: matrix @ v, iterations=100)
    down = FisherSAM(0.002)(g, fisher, 1)
    assert torch.allclose(down, -trust_region_step(g, lambda v: matrix @ v, 0.002))
    euclidean = EuclideanSAM(0.05)(g, fisher, 1)
    assert torch.allclose(euclidean, -0.05 * g / g.norm(), rtol=1e-9)
    assert g @ down < 0 and g @ euclidean < 0
    # Of all steps of that KL, ε_Down worsens the first-order objective most.
    same_kl = euclidean * math.sqrt(0.002 / float(0.5 * euclidean @ matrix @ euclidean))
    assert g @ down < g @ same_kl


def test_a_bare_product_is_solved_however_ill_conditioned():
    generator = torch.Generator().manual_seed(0)
    directions, _ = torch.linalg.qr(torch.randn(50, 50, generator=generator, dtype=torch.float64))
    matrix = directions @ torch.diag(torch.logspace(-6, 0, 50, dtype=torch.float64)) @ directions.T
    g = torch.randn(50, generator=generator, dtype=torch.float64)
    step = trust_region_step(g, lambda v: matrix @ v, 0.01)
    assert g @ step == pytest.approx(math.sqrt(0.02 * g @ torch.linalg.solve(matrix, g)), rel=1e-6)


def test_a_schedule_of_the_users_gets_a_number():
    samples = Samples(5000, lambda: np.ones((1, 1)), None)
    assert FisherSAM(lambda n: 10 / n).radius(samples) == FisherSAM(lambda n: 10 / n).radius(5000) == 0.002
    with pytest.raises(ZeroDivisionError):
        try_out(FisherSAM(lambda n: 1 / (n - 5000)), None, samples)


def test_schedules_are_each_others_inverse_and_drive_the_radius():
    for n in (10, 1_000, 1e6):
        assert alpha_from_delta(delta_from_alpha(0.05, n), n) == pytest.approx(0.05, rel=1e-9)
    assert delta_from_alpha(0.05, 1000) == pytest.approx(1.6448536269514722**2 / 2000, rel=1e-12)
    assert [FixedDelta(0.01)(n) for n in (1, 100)] == [0.01, 0.01]
    assert FixedAlpha(0.05)(2000) == pytest.approx(FixedAlpha(0.05)(1000) / 2)
    assert (
        alpha_from_delta(0.001, 1e5) < alpha_from_delta(0.001, 1e3) < 0.5
    )  # a fixed radius grows more pessimistic
    matrix, g = problem()
    fisher = Fisher(lambda v: matrix @ v, iterations=100)
    step = FisherSAM(FixedAlpha(0.05))(g, fisher, samples=5000)
    assert 0.5 * step @ matrix @ step == pytest.approx(delta_from_alpha(0.05, 5000), rel=1e-9)


def policy_problem():
    """A real policy gradient and Fisher matrix: (gradient of L at θ, L, Fisher at θ₀, actor, observations)."""
    rng = np.random.default_rng(3)
    actor = GaussianActor(2, 1, (3,), rng)
    actor.theta = actor.theta.double() + 0.4 * torch.from_numpy(rng.standard_normal(len(actor.theta)))
    obs = torch.from_numpy(rng.standard_normal((300, 2)))
    action, advantage = (
        torch.from_numpy(rng.standard_normal((300, 1))),
        torch.from_numpy(rng.standard_normal(300)),
    )
    log_prob0 = actor.log_prob(obs, action)

    def surrogate(theta):
        return (torch.exp(actor.log_prob(obs, action, theta) - log_prob0) * advantage).mean()

    return actor, obs, surrogate


def gradient_of(function, theta):
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(function(theta), theta)[0]


def test_only_the_fisher_step_is_invariant_to_reparameterisation():
    actor, obs, surrogate = policy_problem()
    size = len(actor.theta)
    change = torch.from_numpy(
        np.random.default_rng(4).standard_normal((size, size)) / 3 + np.eye(size)
    )  # θ = M φ
    phi = torch.linalg.solve(change, actor.theta)
    exact = {"iterations": 50 * size, "tolerance": 1e-13}
    fisher = GaussianFisher(actor, obs, damping=0.0, **exact)
    g = gradient_of(surrogate, actor.theta)
    g_phi = gradient_of(lambda p: surrogate(change @ p), phi)
    fisher_phi = Fisher(lambda v: change.T @ fisher.product(change @ v), **exact)

    perturbation = FisherSAM(0.01)
    step, step_phi = perturbation(g, fisher, 1), perturbation(g_phi, fisher_phi, 1)
    np.testing.assert_allclose(change @ step_phi, step, rtol=1e-4, atol=1e-6)  # the same policy either way

    euclidean = EuclideanSAM(0.1)
    assert (change @ euclidean(g_phi) - euclidean(g)).norm() > 0.3 * euclidean(g).norm()


def test_sharpness_aware_gradient_is_the_gradient_at_the_worst_policy():
    actor, obs, surrogate = policy_problem()
    fisher = GaussianFisher(actor, obs, damping=0.1, iterations=100)
    perturbation = FisherSAM(0.01)
    found = sharpness_aware_gradient(
        lambda t: gradient_of(surrogate, t), actor.theta, lambda g: perturbation(g, fisher, 1)
    )
    g = gradient_of(surrogate, actor.theta)
    matrix = torch.stack([fisher(v) for v in torch.eye(len(g), dtype=torch.float64)])
    natural = torch.linalg.solve(matrix, g)
    worst = actor.theta - math.sqrt(2 * 0.01 / float(g @ natural)) * natural
    assert torch.allclose(found, gradient_of(surrogate, worst), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(found, g, rtol=1e-2)
    assert surrogate(worst) < surrogate(actor.theta)
    plain = sharpness_aware_gradient(lambda t: gradient_of(surrogate, t), actor.theta, None)
    assert torch.equal(plain, g)


def test_critic_sam_is_the_gradient_uphill_of_each_loss():
    rng = np.random.default_rng(5)
    critics = Critics(3, (4, 4), rng, l2=0.01)
    critics.theta = critics.theta.double()
    obs, target = (
        torch.from_numpy(rng.standard_normal((32, 3))),
        torch.from_numpy(rng.standard_normal((2, 32))),
    )
    x, y = obs.expand(2, 32, 3), target[..., None]
    rho, sam = 0.05, EuclideanSAM(0.05)
    found = sharpness_aware_gradient(
        lambda t: critics.loss_gradient(x, y, t), critics.theta, lambda g: sam(-g)
    )

    for k in range(2):  # each critic alone, from the definition

        def loss(phi, k=k):
            (w1, b1), (w2, b2), (w3, b3) = critics.mlp.layers(phi[None])
            h = torch.tanh(torch.tanh(obs @ w1[0].T + b1[0]) @ w2[0].T + b2[0])
            value = (h @ w3[0].T + b3[0])[:, 0]
            return ((value - target[k]) ** 2).mean() + 0.01 * (phi**2).sum()

        phi = critics.theta[k]
        g = gradient_of(loss, phi)
        expected = gradient_of(loss, phi + rho * g / g.norm())
        assert torch.allclose(found[k], expected, rtol=1e-8, atol=1e-10)
        assert not torch.allclose(g, expected, rtol=1e-2)
