"""The effective sample size against closed forms, against simulation, and inside an update."""

import numpy as np
import pytest
import torch
from small_problem import BALL, Dense, make_problem, reward_and_cost_advantages

from shapo.algorithms import TRPOLag
from shapo.algorithms.advantages import Batch
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.networks import GaussianActor
from shapo.algorithms.sample_size import Samples, autocorrelation, autocorrelation_time
from shapo.algorithms.trust_region import Surrogate
from shapo.sharpness import EffectiveAlpha, FisherSAM, FixedAlpha, KLMatchedSAM, delta_from_alpha

ONE_EPISODE = np.zeros((1000, 20), int)


def ar1(phi, rng, shape=(1000, 20)):
    """y_t = φ y_{t−1} + noise, stationary: τ = (1 + φ) / (1 − φ)."""
    y = np.empty(shape)
    y[0] = rng.standard_normal(shape[1]) / np.sqrt(1 - phi**2)
    for t in range(1, shape[0]):
        y[t] = phi * y[t - 1] + rng.standard_normal(shape[1])
    return y


@pytest.mark.parametrize(("phi", "tolerance"), [(0.0, 0.06), (0.5, 0.06), (0.9, 0.12), (0.97, 0.2)])
def test_autocorrelation_time_of_an_autoregression_is_its_closed_form(phi, tolerance):
    rng = np.random.default_rng(0)
    found = np.mean([autocorrelation_time(ar1(phi, rng), ONE_EPISODE) for _ in range(10)])
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=tolerance)


def test_autocorrelation_of_an_autoregression_falls_geometrically():
    y = ar1(0.8, np.random.default_rng(0), (4000, 50))
    found = autocorrelation(y, np.zeros(y.shape, int), 12)
    np.testing.assert_allclose(found, 0.8 ** np.arange(12), atol=0.03)


def test_anticorrelation_makes_no_more_samples():
    assert autocorrelation_time(ar1(-0.6, np.random.default_rng(0)), ONE_EPISODE) == 1.0
    assert autocorrelation_time(np.full((5, 2), 3.0), np.zeros((5, 2), int)) == 1.0
    with pytest.raises(ValueError, match=r"\(5, 2\) and \(5, 3\)"):
        autocorrelation_time(np.ones((5, 2)), np.ones((5, 3), int))


@pytest.mark.parametrize("length", [10, 25, 50])
def test_steps_of_different_episodes_count_as_independent(length):
    """Terms that never change within an episode: an episode is one sample, τ its length."""
    y = np.repeat([[1.0, -1.0, 2.0, -2.0]], 50, axis=0)
    episode = np.repeat(np.arange(50 // length), length)[:, None] + np.zeros((1, 4), int)
    assert autocorrelation_time(y, episode) == pytest.approx(length)


def test_it_predicts_the_variance_of_the_mean_over_short_episodes():
    """Steps of an episode share an offset: y = noise + offset. τ from one batch, the variance from 2 000."""
    rng, length = np.random.default_rng(1), 25
    episode = np.repeat(np.arange(16), length)[:, None] + np.zeros((1, 10), int)
    batch = lambda: (  # noqa: E731
        rng.standard_normal((400, 10)) + np.repeat(rng.standard_normal((16, 10)), length, axis=0) * 0.7
    )
    means = [batch().mean() for _ in range(2000)]
    predicted = np.mean([(y := batch()).var() / y.size * autocorrelation_time(y, episode) for _ in range(20)])
    assert predicted == pytest.approx(np.var(means), rel=0.12)


def test_terms_average_to_the_directional_derivative():
    actor, batch = make_problem()
    advantage, surrogate = reward_and_cost_advantages(batch)[0], Surrogate(actor, batch)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(len(actor.theta)))
    terms = surrogate.terms(advantage, x)
    assert float(terms.mean()) == pytest.approx(
        float(surrogate.gradient(actor.theta, advantage) @ x), rel=1e-10
    )
    h, policy = 1e-6, Dense(actor, batch).policy
    up, down = (policy(actor.theta + s * h * x).log_prob(batch.action).sum(-1) for s in (1, -1))
    torch.testing.assert_close(terms, advantage * (up - down) / (2 * h), rtol=1e-5, atol=1e-7)


def correlated_problem(phi, steps=200, envs=8):
    """States and advantages that remember, actions drawn independently: along a fixed direction, terms are white."""
    rng = np.random.default_rng(3)
    actor = GaussianActor(3, 2, (8, 8), rng)
    actor.theta = actor.theta.double()
    obs = torch.from_numpy(np.stack([ar1(phi, rng, (steps, envs)) for _ in range(3)], -1).reshape(-1, 3) / 4)
    action = torch.from_numpy(actor.sample(obs, rng))
    advantage = torch.from_numpy(ar1(phi, rng, (steps, envs)).reshape(-1))
    batch = Batch(obs, action, torch.stack([advantage, 0 * advantage]), torch.zeros(2, steps * envs))
    batch.episode = np.zeros((steps, envs), int)
    return actor, batch, advantage


def test_terms_of_independent_actions_are_white():
    actor, batch, advantage = correlated_problem(0.97)
    surrogate, fisher = Surrogate(actor, batch), GaussianFisher(actor, batch.observation, 0.1)
    x, _ = fisher.solve(surrogate.gradient(actor.theta, advantage))
    fitted = surrogate.terms(advantage, x).numpy().reshape(batch.episode.shape)
    shape = batch.episode.shape
    assert autocorrelation_time(advantage.numpy().reshape(shape), batch.episode) > 30
    assert autocorrelation_time(fitted, batch.episode) > 1.4  # the direction has learnt the noise
    honest = surrogate.cross_fitted_terms(advantage, fisher)
    assert autocorrelation_time(honest, batch.episode) < 1.15


@pytest.mark.parametrize("shape", [(40, 10), (400, 1)])
def test_each_half_is_seen_along_the_direction_of_the_other(shape):
    actor, batch = make_problem()
    batch.episode = np.zeros(shape, int)
    dense, a_r = Dense(actor, batch), reward_and_cost_advantages(batch)[0]
    y = Surrogate(actor, batch).cross_fitted_terms(
        a_r, GaussianFisher(actor, batch.observation, 0.1, iterations=300)
    )
    first = np.zeros(shape, bool)
    first[: shape[0] // 2 if shape[1] == 1 else None, : max(1, shape[1] // 2)] = True
    for mine in (first, ~first):
        others = torch.from_numpy(~mine.ravel()).double()
        x = torch.linalg.solve(dense.fisher, dense.gradient(actor.theta, a_r * others))
        terms = Surrogate(actor, batch).terms(a_r, x).numpy().reshape(shape)[mine]
        np.testing.assert_allclose(y[mine], (terms - terms.mean()) / terms.std(), rtol=1e-4, atol=1e-5)


def test_an_update_measures_n_and_its_radius_follows():
    actor, batch = make_problem()
    theta0, n_t = actor.theta.clone(), 5_000
    batch.episode = np.zeros((40, 10), int)
    dense, a_r = Dense(actor, batch), reward_and_cost_advantages(batch)[0]
    y = Surrogate(actor, batch).cross_fitted_terms(a_r, GaussianFisher(actor, batch.observation, 0.1))
    tau = autocorrelation_time(y, batch.episode)
    assert tau > 1.02  # or there would be nothing to see
    log = TRPOLag(lagrangian_multiplier_init=0.0, **BALL).update_actor(
        actor, batch, FisherSAM(EffectiveAlpha(0.05)), n_t, {"lagrangian_multiplier": 0.0}
    )
    assert log["autocorrelation_time"] == pytest.approx(tau, rel=1e-3)
    assert log["n_eff"] == pytest.approx(n_t / tau, rel=1e-3)
    worst = theta0 + dense.u(-dense.gradient(theta0, a_r), delta_from_alpha(0.05, n_t / tau))
    assert log["kl_down"] == pytest.approx(dense.kl(worst), rel=1e-2)


def test_other_schedules_do_not_ask_and_count_steps_as_told():
    def not_to_be_called():
        raise AssertionError("nobody asked")

    samples = Samples(6_000, not_to_be_called, None)
    assert FisherSAM(FixedAlpha(0.1)).radius(samples) == delta_from_alpha(0.1, 6_000)
    assert FisherSAM(FixedAlpha(0.1, steps_per_sample=1000)).radius(samples) == delta_from_alpha(0.1, 6)
    with pytest.raises(ValueError, match="steps_per_sample must be a finite number above 0; got 0"):
        FixedAlpha(0.1, steps_per_sample=0)
    with pytest.raises(ValueError, match=r"alpha must be a number between 0 and 0\.5; got 0\.7"):
        EffectiveAlpha(0.7)


def test_kl_matched_perturbation_has_shapos_kl():
    actor, batch = make_problem()
    dense, a_r = Dense(actor, batch), reward_and_cost_advantages(batch)[0]
    fisher = GaussianFisher(actor, batch.observation, 0.1, iterations=200)
    g = dense.gradient(actor.theta, a_r)
    epsilon, shapo = (kind(1e-4)(g, fisher, 1) for kind in (KLMatchedSAM, FisherSAM))
    assert torch.cosine_similarity(epsilon, -g, dim=0) == pytest.approx(1, abs=1e-9)
    assert torch.cosine_similarity(shapo, -g, dim=0) < 0.95
    assert dense.kl(actor.theta + epsilon) == pytest.approx(dense.kl(actor.theta + shapo), rel=0.02)
    assert not KLMatchedSAM(1e-4)(torch.zeros_like(g), fisher, 1).any()
