"""Numbers of every type at the public doors, and what a perturbation may return."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from small_problem import BALL, make_problem

import shapo
from shapo.algorithms import CPO, TRPOLag
from shapo.algorithms.fisher import GaussianFisher
from shapo.checks import NonFiniteError, epsilon_of
from shapo.experiments.theory import crossover, pessimistic_weight, sample_posterior
from shapo.robots import SHAC, RobotConfig
from shapo.sharpness import (
    AdaptiveSAM,
    Euclidean,
    EuclideanSAM,
    Fisher,
    FisherSAM,
    FixedAlpha,
    KLMatchedSAM,
    alpha_from_delta,
    conjugate_gradient,
    delta_from_alpha,
    trust_region_step,
)

COUNTS = [
    np.int8(100),
    np.uint8(200),
    np.int16(30_000),
    np.int32(1_500_000_000),
    np.float16(60_000),
    np.float32(1e30),
]


@pytest.mark.parametrize("n", COUNTS, ids=lambda n: type(n).__name__)
def test_a_number_of_a_small_type_is_that_number(n):
    plain = float(n)
    assert delta_from_alpha(0.1, n) == delta_from_alpha(0.1, plain) > 0
    assert alpha_from_delta(0.001, n) == alpha_from_delta(0.001, plain)
    assert FixedAlpha(0.1, steps_per_sample=0.5)(n) == FixedAlpha(0.1, steps_per_sample=0.5)(plain)
    draws = [sample_posterior(np.eye(2), m, 3, np.random.default_rng(0)) for m in (n, plain)]
    assert np.array_equal(*draws)


def test_the_value_in_the_notes():
    assert delta_from_alpha(0.1, np.int8(100)) == pytest.approx(1.2815515655446004**2 / 200)


@pytest.mark.parametrize("delta", [np.int8(100), np.float16(3e-4), np.float32(1e-3)])
def test_radii_of_a_small_type(delta):
    gradient, plain = torch.tensor([1.0, 2.0], dtype=torch.float64), float(delta)
    assert torch.equal(*(trust_region_step(gradient, lambda v: v, d) for d in (delta, plain)))
    assert alpha_from_delta(delta, 3) == alpha_from_delta(plain, 3)
    assert pessimistic_weight(2.0, -1, delta) == pessimistic_weight(2.0, -1, plain)
    if plain < 0.5:
        assert crossover(-1, delta) == crossover(-1, plain)
        assert FisherSAM(lambda n: delta)(gradient, Fisher(lambda v: v), 1).dtype == torch.float64


@pytest.mark.parametrize("bad", [10**400, np.array(3.0), torch.tensor(3.0), Fraction(1, 2), np.True_, 1j])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="n must be a finite number above 0; got"):
        delta_from_alpha(0.1, bad)


@pytest.mark.parametrize(
    "wrong", [np.ones(3), np.ones((2, 3)), [1.0], torch.ones(3, 3), torch.ones(3, dtype=torch.int64), None]
)
def test_what_is_no_gradient_is_named(wrong):
    with pytest.raises(
        TypeError, match=r"gradient must be a tensor of floating-point numbers, of shape \(P,\); got"
    ):
        trust_region_step(wrong, lambda v: v, 0.1)
    with pytest.raises(TypeError, match="b must be a tensor"):
        conjugate_gradient(lambda v: v, wrong)
    fisher = Euclidean(torch.ones(3))
    for perturbation in (FisherSAM(0.1), KLMatchedSAM(0.1), AdaptiveSAM(0.1), EuclideanSAM(0.1)):
        if not isinstance(perturbation, EuclideanSAM) or not isinstance(wrong, torch.Tensor):
            with pytest.raises(TypeError, match="gradient must be a tensor"):
                perturbation(wrong, fisher, 1)
    with pytest.raises(TypeError, match=r"gradient must be a tensor .* of shape \(3,\); got"):
        AdaptiveSAM(0.1)(torch.ones(1), fisher, 1)
    with pytest.raises(ValueError, match=r"gradient must be \(2, P\), .*; got"):
        CPO(**BALL).step(wrong, fisher, {"c": 0.0})


@dataclass(frozen=True)
class Returns:
    what: str

    def __call__(self, gradient, fisher, samples):
        return {
            "nothing": lambda: None, "list": lambda: gradient.tolist(), "NumPy": lambda: gradient.numpy(),
            "other type": lambda: gradient.to(torch.float64 if gradient.dtype == torch.float32 else torch.float32),
            "number": lambda: 0.1, "one": lambda: gradient[:1], "row": lambda: gradient[None],
            "nan": lambda: gradient * math.nan,
        }[self.what]()  # fmt: skip


WRONG = ["nothing", "list", "NumPy", "other type", "number", "one", "row"]
SAYS = r"actor: ε that Returns returns must be a tensor of torch\.float\d\d, of shape \(\d+,\); got"


@pytest.mark.parametrize("what", WRONG)
def test_both_trainers_refuse_what_is_no_epsilon(what):
    with pytest.raises(TypeError, match=SAYS):
        shapo.Config("Walker2d-v4", actor=Returns(what), num_envs=1, hidden_sizes=(4,)).trainer()
    small = SHAC(horizon=1, actor_hidden_sizes=(4,), critic_hidden_sizes=(4,), critic_minibatches=1)
    if what not in ("number", "one"):  # those that PyTorch would broadcast
        return
    with pytest.raises(TypeError, match=SAYS):
        RobotConfig("DiffAnt", small, actor=Returns(what), num_envs=1).trainer()


@pytest.mark.parametrize("what", [*WRONG, "nan"])
def test_an_update_refuses_it_too(what):
    actor, batch = make_problem()
    error, says = (NonFiniteError, "ε of Returns") if what == "nan" else (TypeError, SAYS)
    with pytest.raises(error, match=says):
        TRPOLag(**BALL).update_actor(actor, batch, Returns(what), 1, {"lagrangian_multiplier": 0.0})
    with pytest.raises(error, match=says):
        epsilon_of(Returns(what), torch.ones(3), Fisher(lambda v: v), 1)


@dataclass(frozen=True)
class Scribbles:
    """A perturbation that writes into everything it is given, and gives what `inner` does."""

    inner: FisherSAM | AdaptiveSAM

    def __call__(self, gradient, fisher, samples):
        epsilon = self.inner(gradient, fisher, samples)
        solution, image = fisher.solve(gradient)
        fisher.damping, fisher.iterations, fisher.product = 1e3, 1, None
        for mine in (gradient, fisher.theta, solution, image):
            mine.fill_(7.0)
        return epsilon


@pytest.mark.parametrize("algorithm", [TRPOLag(**BALL), CPO(**BALL)])
def test_a_perturbation_may_write_into_what_it_is_given(algorithm):
    ends = []
    for perturbation in (FisherSAM(0.01), Scribbles(FisherSAM(0.01))):
        actor, batch = make_problem()
        state = algorithm.observe(algorithm.initial_state(), 12.0, 10.0)
        log = algorithm.update_actor(actor, batch, perturbation, 1, state)
        ends.append((actor.theta, log["surrogate_down_linear"]))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-6, atol=1e-9)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-9)


def test_so_may_one_on_robots():
    config = RobotConfig(
        "DiffAnt", SHAC(horizon=2, actor_hidden_sizes=(4,), critic_hidden_sizes=(4,), critic_minibatches=1), num_envs=1,
        actor=AdaptiveSAM(0.5),
    )  # fmt: skip
    ends = []
    for actor in (config.actor, Scribbles(config.actor)):
        trainer = replace(config, actor=actor).trainer()
        trainer.run_epoch()
        ends.append(trainer.theta.detach())
    assert torch.equal(*ends)


def test_a_batch_of_one_sample_says_so():
    actor, batch = make_problem(samples=1)
    with pytest.raises(ValueError, match="batch must have at least 2 samples"):
        TRPOLag(**BALL).update_actor(actor, batch, None, 1, {"lagrangian_multiplier": 0.0})
    with pytest.raises(ValueError, match=r"gradient must be \(2, P\)"):
        CPO(**BALL).step(actor.theta, GaussianFisher(actor, batch.observation, 0.1), {"c": 0.0})
