"""What a trained policy does with whatever observations it is given, for every algorithm."""

import numpy as np
import pytest
import torch

from shapo import PPO, SHAC, Config, RobotConfig
from shapo.algorithms.networks import GaussianActor
from shapo.robots.networks import SquashedActor

RNG = np.random.default_rng(4)
SMALL = {"actor_hidden_sizes": (8,), "critic_hidden_sizes": (8,)}
ANT = SquashedActor(37, (8,), 8).initialise(RNG).numpy()
WEIGHTS = {
    "mlp_extractor.policy_net.0.weight": (8, 37), "mlp_extractor.policy_net.0.bias": (8,),
    "action_net.weight": (8, 8), "action_net.bias": (8,), "log_std": (8,),
}  # fmt: skip


def moments(dim):
    return {f"normalizer/{name}": 1 + RNG.random(dim) for name in ("mean", "var", "sum_of_squares")} | {
        "normalizer/count": np.array(2.0)
    }


def gaussian(observations, actions):
    return {"actor/theta": GaussianActor(observations, actions, (8,), RNG).theta.numpy()}


CHECKPOINTS = {  # config, and what of its checkpoint makes the policy
    "safe RL": (Config("Walker2d-v4", hidden_sizes=(8,)), gaussian(17, 6) | moments(17)),
    "Sauté": (Config("PointGoal1-v0", "SauteRL", hidden_sizes=(8,)), gaussian(61, 2) | moments(60)),
    "SHAC": (RobotConfig("DiffAnt", SHAC(**SMALL)), {"theta": ANT} | moments(37)),
    "PPO": (
        RobotConfig("DiffAnt", PPO(**SMALL)),
        {f"policy/{name}": 0.3 * RNG.standard_normal(shape, np.float32) for name, shape in WEIGHTS.items()}
        | moments(37),
    ),
}


@pytest.fixture(params=CHECKPOINTS)
def policy(request):
    config, arrays = CHECKPOINTS[request.param]
    return config.policy(arrays)


@pytest.fixture
def observations(policy):
    return np.random.default_rng(0).standard_normal((3, policy.columns))


@pytest.mark.parametrize("sampled", [False, True])
def test_the_default_device_is_nothing_to_a_policy(policy, observations, sampled):
    def acts(kind):
        return policy(kind(observations), rng=np.random.default_rng(1) if sampled else None)

    expected = [acts(kind) for kind in (np.asarray, torch.from_numpy)]
    with torch.device("meta"):  # as of a user who works on a GPU
        for before, kind in zip(expected, (np.asarray, torch.from_numpy), strict=True):
            assert (acts(kind) == before).all()


def test_actions_are_of_the_observations_kind(policy, observations):
    expected = policy(observations)
    for dtype in ("float16", "float32", "float64"):
        for given in (observations.astype(dtype), torch.from_numpy(observations.astype(dtype))):
            for kind in (given, given[0], given[:1], given[:0]):
                action = policy(kind)
                assert type(action) is type(given) and action.dtype == given.dtype
                assert action.shape == (*kind.shape[:-1], expected.shape[1])
                right = expected[0] if kind.ndim == 1 else expected[: len(kind)]
                np.testing.assert_allclose(
                    np.asarray(action), right, atol=1e-2 if dtype == "float16" else 1e-5
                )
    assert policy(observations.tolist()).dtype == np.float64
    assert policy(np.zeros(policy.columns, np.int64)).dtype == np.float64
    assert policy(torch.zeros(policy.columns, dtype=torch.int64)).dtype == torch.float64


@pytest.mark.parametrize("policy", ["SHAC", "PPO"], indirect=True)
def test_the_users_switches_change_no_action_of_robots(policy, observations):
    expected = policy(observations)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(policy(observations), expected)


def test_samples_are_the_generators(policy, observations):
    def spread(**kwargs):
        return policy(np.repeat(observations[:1], 4000, 0), **kwargs)

    mode = policy(observations[0])
    assert (spread() == mode).all() or np.allclose(spread(), mode, atol=1e-6)
    assert np.array_equal(spread(rng=1), spread(deterministic=False, rng=np.random.default_rng(1)))
    assert not np.array_equal(spread(rng=1), spread(rng=2))
    assert np.allclose(spread(rng=1, deterministic=True), mode, atol=1e-6)
    assert spread(deterministic=False).std(0).min() > 0.1  # without a seed, fresh noise
    theirs = [spread(rng=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert np.array_equal(*theirs) and np.abs(theirs[0] - mode).max() > 0.1


def test_a_wrong_shape_names_the_right_one(policy, observations):
    columns = policy.columns
    for wrong in (observations[:, 1:], observations[0, 1:], observations[None], np.array(1.0)):
        for given in (wrong, torch.from_numpy(wrong)):
            with pytest.raises(ValueError, match=rf"shape \({columns},\) or \(n, {columns}\).*got \("):
                policy(given)


def test_a_robots_policy_is_differentiable_in_tensors():
    config, arrays = CHECKPOINTS["SHAC"]
    policy = config.policy(arrays)
    observation = torch.zeros(37, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(policy(observation).sum(), observation)
    assert gradient.dtype == torch.float64 and gradient.abs().max() > 0
