"""Hand-written differentiation against autograd, densities against torch.distributions, moments against NumPy."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from shapo.algorithms.critics import Critics
from shapo.algorithms.networks import MLP, GaussianActor, RunningNormalizer, gaussian_kl
from shapo.sharpness import EuclideanSAM


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (3, 5, 4, 2)])
def test_tangent_and_cotangent_are_the_jacobian(networks, sizes):
    mlp, rng = MLP(sizes), np.random.default_rng(0)
    theta = mlp.initialise(networks, rng).double() * 2
    x = torch.from_numpy(rng.standard_normal((networks, 7, 3)))
    v = torch.from_numpy(rng.standard_normal(theta.shape))
    u = torch.from_numpy(rng.standard_normal((networks, 7, 2)))

    def output(t):
        return mlp.activations(x, mlp.layers(t))[-1]

    layers = mlp.layers(theta)
    hidden = mlp.activations(x, layers)
    _, jv = torch.func.jvp(output, (theta,), (v,))
    assert torch.allclose(mlp.tangent(hidden, layers, mlp.layers(v)), jv, rtol=1e-10)
    _, vjp = torch.func.vjp(output, theta)
    out = torch.empty_like(theta)
    mlp.cotangent(u, hidden, layers, mlp.layers(out))
    assert torch.allclose(out, vjp(u)[0], rtol=1e-10)


def test_initialisation_has_pytorchs_bounds():
    theta = MLP((16, 400, 1)).initialise(2, np.random.default_rng(0))
    (w1, b1), (w2, _) = MLP((16, 400, 1)).layers(theta)
    reference = torch.nn.Linear(16, 400)
    for ours, theirs in ((w1, reference.weight), (b1, reference.bias)):
        assert ours.abs().max() <= 0.25 and theirs.detach().abs().max() <= 0.25
        assert float(ours.std()) == pytest.approx(float(theirs.detach().std()), rel=0.1)
    assert 0.045 < w2.abs().max() <= 0.05


def test_log_prob_and_kl_are_those_of_torch_distributions():
    rng = np.random.default_rng(1)
    actor = GaussianActor(3, 2, (5,), rng, log_std=-0.3)
    other = actor.theta + 0.2 * torch.from_numpy(rng.standard_normal(len(actor.theta))).float()
    obs = torch.from_numpy(rng.standard_normal((9, 3))).float()
    action = torch.from_numpy(rng.standard_normal((9, 2))).float()
    p = Independent(Normal(actor.mean(obs), actor.log_std().exp()), 1)
    q = Independent(Normal(actor.mean(obs, other), actor.log_std(other).exp()), 1)
    assert torch.allclose(actor.log_prob(obs, action, other), q.log_prob(action), rtol=1e-5, atol=1e-5)
    kl = gaussian_kl(actor.mean(obs), actor.log_std(), actor.mean(obs, other), actor.log_std(other))
    assert torch.allclose(kl, kl_divergence(p, q), rtol=1e-4, atol=1e-6)


def test_samples_have_the_policys_mean_and_spread():
    actor = GaussianActor(3, 2, (5,), np.random.default_rng(2), log_std=-1.0)
    obs = torch.ones(200_000, 3)
    sample = actor.sample(obs, np.random.default_rng(3))
    np.testing.assert_allclose(sample.mean(0), actor.mean(obs[:1])[0], atol=4e-3)
    np.testing.assert_allclose(sample.std(0), np.exp(-1.0), rtol=1e-2)


def test_normalizer_keeps_the_moments_of_everything_it_saw():
    rng = np.random.default_rng(4)
    batches = [rng.normal(3.0, [0.001, 2.0, 50.0], (n, 3)) for n in (4, 1, 7, 20)]
    normalizer = RunningNormalizer(3)
    for batch in batches:
        normalizer.update(batch)
    seen = np.concatenate(batches)
    np.testing.assert_allclose(normalizer.mean, seen.mean(0), rtol=1e-12)
    expected = (seen - seen.mean(0)) / np.maximum(seen.std(0, ddof=1), 1e-2)
    np.testing.assert_allclose(normalizer(seen), expected.clip(-5, 5), rtol=1e-5, atol=1e-6)
    assert float(normalizer(np.array([[1e9, 0.0, 0.0]])).max()) == 5.0
    copy = RunningNormalizer(3)
    copy.load_state_dict(normalizer.state_dict())
    assert torch.equal(copy(seen), normalizer(seen))


def reference_fit(theta0, obs, target, order, batch, lr, l2, clip, rho):
    """A critic trained the usual way: torch.nn, autograd, clip_grad_norm_, Adam, and SAM as Foret et al. write it."""
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)
    )
    torch.nn.utils.vector_to_parameters(theta0.clone(), net.parameters())
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for permutation in order:
        for start in range(0, len(obs) - batch + 1, batch):
            index = permutation[start : start + batch]

            def backward(index=index):
                loss = (net(obs[index])[:, 0] - target[index]).square().mean()
                optimizer.zero_grad()
                (loss + l2 * sum(p.square().sum() for p in net.parameters())).backward()

            backward()
            if rho:
                before = [p.detach().clone() for p in net.parameters()]
                norm = torch.sqrt(sum(p.grad.square().sum() for p in net.parameters()))
                with torch.no_grad():
                    for p in net.parameters():
                        p += rho * p.grad / norm
                backward()
                with torch.no_grad():
                    for p, old in zip(net.parameters(), before, strict=True):
                        p.copy_(old)
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach()


@pytest.mark.parametrize("clip", [40.0, 0.5])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_critics_learn_as_two_ordinary_networks_do(clip, rho):
    rng = np.random.default_rng(5)
    critics = Critics(3, (4, 4), rng, learning_rate=1e-2, l2=1e-3, max_grad_norm=clip)
    start = critics.theta.clone()
    obs = torch.from_numpy(rng.standard_normal((70, 3))).float()
    target = 3 * torch.from_numpy(rng.standard_normal((2, 70))).float()
    again = np.random.default_rng(6)
    order = [again.permutation(70) for _ in range(3)]
    sam = EuclideanSAM(rho) if rho else None
    critics.fit(obs, target, np.random.default_rng(6), passes=3, minibatch_size=32, sam=sam)
    for k in range(2):
        expected = reference_fit(start[k], obs, target[k], order, 32, 1e-2, 1e-3, clip, rho)
        assert torch.allclose(critics.theta[k], expected, atol=2e-5)
        assert (critics.theta[k] - start[k]).norm() > 0.05


def test_critics_fit_their_own_targets_and_resume_exactly():
    rng = np.random.default_rng(7)
    obs = torch.from_numpy(rng.standard_normal((512, 3))).float()
    target = torch.stack([obs[:, 0], obs[:, 1].sin()])
    for sam in (None, EuclideanSAM(0.05)):
        critics = Critics(3, (16, 16), np.random.default_rng(8), learning_rate=1e-2)
        critics.fit(obs, target, np.random.default_rng(9), passes=20, minibatch_size=64, sam=sam)
        assert (critics.values(obs) - target).square().mean() < 0.03
        resumed = Critics(3, (16, 16), np.random.default_rng(0), learning_rate=1e-2)
        resumed.load_state_dict({name: value.copy() for name, value in critics.state_dict().items()})
        for one in (critics, resumed):
            one.fit(obs, target, np.random.default_rng(10), passes=2, minibatch_size=64, sam=sam)
        assert torch.equal(critics.theta, resumed.theta)


def test_fits_flush_subnormal_numbers_and_only_fits_do():
    tiny = torch.tensor([1e-39])
    critics = Critics(2, (4,), np.random.default_rng(11))
    critics.adam_m[:] = tiny  # the momentum of a weight that has faded
    obs = torch.zeros(64, 2)  # whose input never changes
    critics.fit(obs, torch.zeros(2, 64), np.random.default_rng(12), passes=1, minibatch_size=64)
    moments = critics.adam_m[critics.adam_m != 0].abs()
    assert len(moments) and moments.min() > 1e-38
    assert (tiny * 1.0 != 0).all()
