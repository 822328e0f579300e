"""The Fisher operator against the explicit Hessian of the KL, conjugate gradient against scipy."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from shapo.algorithms.fisher import GaussianFisher, kl_hessian_product
from shapo.algorithms.networks import GaussianActor, gaussian_kl
from shapo.sharpness import Fisher, conjugate_gradient


def small_actor(seed=0, observations=40, hidden=(5, 4)):
    rng = np.random.default_rng(seed)
    actor = GaussianActor(3, 2, hidden, rng)
    actor.theta = actor.theta.double() + 0.3 * torch.from_numpy(rng.standard_normal(len(actor.theta)))
    return actor, torch.from_numpy(rng.standard_normal((observations, 3)))


def positive_definite(size, seed=0, smallest=0.1):
    factor = np.random.default_rng(seed).standard_normal((size, size))
    return torch.from_numpy(factor @ factor.T / size + smallest * np.eye(size))


@pytest.mark.parametrize("hidden", [(5,), (5, 4), (3, 4, 5)])
@pytest.mark.parametrize("observations", [40, 4100])  # 4100: more than one chunk, the last one partial
def test_fisher_is_the_hessian_of_the_kl(hidden, observations):
    actor, obs = small_actor(hidden=hidden, observations=observations)
    theta0 = actor.theta

    def kl(theta):
        return gaussian_kl(
            actor.mean(obs, theta0), actor.log_std(theta0), actor.mean(obs, theta), actor.log_std(theta)
        ).mean()

    hessian = torch.autograd.functional.hessian(kl, theta0)
    fisher, twice = GaussianFisher(actor, obs, damping=0.0), kl_hessian_product(actor, obs)
    columns = torch.stack([fisher(v) for v in torch.eye(len(theta0), dtype=torch.float64)])
    assert (columns - hessian).norm() < 1e-8 * hessian.norm()
    v = torch.randn(len(theta0), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (twice(v) - hessian @ v).norm() < 1e-8 * (hessian @ v).norm()
    assert torch.allclose(GaussianFisher(actor, obs, damping=0.1)(v), fisher(v) + 0.1 * v, rtol=1e-12)


def test_fisher_stays_at_the_policy_it_was_made_for():
    actor, obs = small_actor()
    fisher, v = GaussianFisher(actor, obs, 0.1), torch.ones(len(actor.theta), dtype=torch.float64)
    before = fisher(v)
    actor.theta = actor.theta + 1.0
    assert torch.equal(fisher(v), before)


@pytest.mark.parametrize("iterations", [1, 4, 9])
def test_conjugate_gradient_makes_the_iterates_scipy_makes(iterations):
    matrix, b = positive_definite(30), torch.from_numpy(np.random.default_rng(1).standard_normal(30))
    x, residual, used = conjugate_gradient(lambda v: matrix @ v, b, iterations=iterations)
    reference, _ = scipy.sparse.linalg.cg(matrix.numpy(), b.numpy(), rtol=0.0, maxiter=iterations)
    assert used == iterations
    np.testing.assert_allclose(x.numpy(), reference, rtol=1e-9, atol=1e-12)
    assert torch.allclose(residual, b - matrix @ x, atol=1e-10)


def test_conjugate_gradient_solves_and_stops_at_its_tolerance():
    matrix, b = positive_definite(30), torch.ones(30, dtype=torch.float64)
    x, residual, used = conjugate_gradient(lambda v: matrix @ v, b, iterations=200, tolerance=1e-6)
    assert 1 < used < 40 and residual.norm() <= 1e-6 * b.norm()
    exact = torch.linalg.solve(matrix, b)
    assert (x - exact).norm() < 1e-5 * exact.norm()
    again, _, used = conjugate_gradient(
        lambda v: matrix @ v, b, iterations=200, tolerance=1e-6, start=(x, matrix @ x)
    )
    assert used == 0 and torch.equal(again, x)


def test_second_solve_reaches_equal_accuracy_with_fewer_products():
    matrix = positive_definite(200, smallest=0.02)
    rng = np.random.default_rng(2)
    g = torch.from_numpy(rng.standard_normal(200))
    g_tilde = -3.0 * (g + 0.02 * torch.from_numpy(rng.standard_normal(200)))  # sign and scale must not matter
    recycled, cold = Fisher(lambda v: matrix @ v, iterations=15), Fisher(lambda v: matrix @ v, iterations=15)
    first, _ = recycled.solve(g)
    x, image = recycled.solve(g_tilde)
    cold_x, _ = cold.solve(g_tilde)
    error = (matrix @ x - g_tilde).norm() / g_tilde.norm()
    assert error <= 1.001 * (matrix @ first - g).norm() / g.norm()
    assert error <= 1.2 * (matrix @ cold_x - g_tilde).norm() / g_tilde.norm()
    assert recycled.solves[0] == 15 and recycled.solves[1] < 12
    assert torch.allclose(image, matrix @ x, atol=1e-10)


def test_an_unrelated_solve_before_does_no_harm():
    rng = np.random.default_rng(3)
    spectrum = torch.from_numpy(np.geomspace(1e-4, 10, 60))  # too wide for 15 products
    z, g = torch.from_numpy(rng.standard_normal((2, 60)))
    fisher, cold = Fisher(lambda v: spectrum * v), Fisher(lambda v: spectrum * v)
    fisher.solve(z)
    (x, image), (cold_x, _) = fisher.solve(g), cold.solve(g)
    assert fisher.solves[1] > 0

    def energy(y):  # what conjugate gradient minimises
        return float(0.5 * y @ (spectrum * y) - g @ y)

    assert energy(x) <= 0.8 * energy(cold_x)  # both are negative
    assert torch.allclose(image, spectrum * x, atol=1e-8)
