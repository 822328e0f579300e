"""What the cells of notebook 11 define: SHAPO in sb3-contrib's TRPO, a perturbation, a baseline."""

import copy
import json
from pathlib import Path

import pytest
import torch
from small_problem import make_problem
from torch.distributions import Normal, kl_divergence
from torch.nn.utils import parameters_to_vector

import shapo
from shapo.algorithms.fisher import GaussianFisher
from shapo.algorithms.trust_region import standardised

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "11_extend.ipynb"


@pytest.fixture(scope="module")
def cells():
    """The names that the notebook's definitions define; it trains nothing here."""
    sources = {
        cell["id"]: "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    }
    names = {"__name__": "notebook_11"}
    for cell in ("parameters", "setup", "perturbation", "baseline", "trainer-imports", "trainer"):
        exec(sources[cell], names)
    return names


def learner(cells, kind, **kwargs):
    env = cells["make_vec_env"]("Pendulum-v1", 2, seed=0)
    return kind("MlpPolicy", env, n_steps=128, n_critic_updates=1, seed=0, device="cpu", **kwargs)


def test_without_a_radius_it_is_sb3_contribs_trpo_bit_for_bit(cells):
    def parameters(kind, **kwargs):
        return parameters_to_vector(learner(cells, kind, **kwargs).learn(3 * 256).policy.parameters())

    theirs = parameters(cells["TRPO"])
    for delta_down, same in ((0.0, True), (1e-30, True), (1e-4, False)):
        assert torch.equal(parameters(cells["ShapoTRPO"], delta_down=delta_down), theirs) is same


class Gaussian:
    """A copy of an sb3 policy's actor, and what the method needs of it written with torch's own distributions."""

    def __init__(self, policy):
        parts = policy.mlp_extractor.policy_net, policy.action_net, policy.log_std
        self.hidden, self.last, self.log_std = map(copy.deepcopy, parts)
        self.actor = [self.log_std, *self.hidden.parameters(), *self.last.parameters()]  # in sb3's order
        self.theta = parameters_to_vector(self.actor).detach()

    def __call__(self, observation):
        return Normal(self.last(self.hidden(observation)), self.log_std.exp())

    def surrogate(self, batch, policy0):
        log_prob = [p(batch.observations).log_prob(batch.actions).sum(-1) for p in (self, policy0)]
        return (torch.exp(log_prob[0] - log_prob[1].detach()) * standardised(batch.advantages)).mean()

    def gradient(self, batch, policy0):
        gradient = torch.autograd.grad(self.surrogate(batch, policy0), self.actor)
        return torch.cat([part.flatten() for part in gradient])


@pytest.mark.parametrize("damping, low, high", [(0.0, 0.97, 1.03), (0.1, 0.3, 0.999)])
def test_the_gradient_is_taken_at_the_pessimistic_neighbour(cells, damping, low, high):
    seen, delta_down = {}, 1e-4

    class Watched(cells["ShapoTRPO"]):
        def surrogate(self, batch):
            seen.update(batch=batch, neighbour=Gaussian(self.policy))
            return super().surrogate(batch)

        def _compute_actor_grad(self, kl_div, policy_objective):
            seen.update(policy0=Gaussian(self.policy))
            before = [p.data_ptr() for p in self.policy.parameters()]
            answer = super()._compute_actor_grad(kl_div, policy_objective)
            seen.update(answer=answer, restored=Gaussian(self.policy))
            assert [p.data_ptr() for p in self.policy.parameters()] == before
            return answer

    learner(cells, Watched, delta_down=delta_down, cg_damping=damping).learn(256)
    policy0, neighbour, batch = seen["policy0"], seen["neighbour"], seen["batch"]
    assert torch.equal(seen["restored"].theta, policy0.theta)
    kl = kl_divergence(policy0(batch.observations), neighbour(batch.observations)).sum(-1).mean()
    assert low * delta_down < kl.item() < high * delta_down
    fall = (neighbour.surrogate(batch, policy0) - policy0.surrogate(batch, policy0)).item()
    predicted = float(policy0.gradient(batch, policy0) @ (neighbour.theta - policy0.theta))
    assert predicted < 0 and fall == pytest.approx(predicted, rel=0.2)
    g_tilde = neighbour.gradient(batch, policy0)
    torch.testing.assert_close(seen["answer"][1], g_tilde, rtol=1e-3, atol=1e-5)
    turned = float((g_tilde - policy0.gradient(batch, policy0)).norm() / g_tilde.norm())
    assert turned > 0.01  # else the line before could not tell g̃ from g


def test_what_the_trainer_does_not_cover_is_refused(cells):
    with pytest.raises(AssertionError):
        learner(cells, cells["ShapoTRPO"], sub_sampling_factor=2).learn(256)


def test_the_random_direction_has_the_length_of_shapos(cells):
    actor, batch = make_problem()
    fisher = GaussianFisher(actor, batch.observation, damping=0.1, iterations=50)
    gradient = torch.linspace(-1, 1, len(actor.theta), dtype=torch.float64)
    worst = shapo.FisherSAM(0.01)(gradient, fisher, 1)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(cells["RandomDirection"](0.01)(gradient, fisher, 1))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    for epsilon in found:
        assert float(epsilon @ fisher.product(epsilon)) == pytest.approx(float(worst @ fisher.product(worst)))
    assert not cells["RandomDirection"](0.0)(gradient, fisher, 1).any()


def test_the_exact_penalty_switches_at_the_limit(cells):
    algorithm = cells["ExactPenalty"](kappa=3.0)
    state = algorithm.initial_state()
    assert state == {"lagrangian_multiplier": 0.001}
    for mean_cost, lam in ((50.0, 3.0), (10.0, 0.0), (10.1, 3.0), (0.0, 0.0)):
        state = algorithm.observe(state, mean_cost, 10.0)
        assert state == {"lagrangian_multiplier": lam}
    with pytest.raises(ValueError, match="kappa"):
        cells["ExactPenalty"](kappa=-1.0)


def test_both_are_named_by_their_fields_and_train(cells, tmp_path):
    def config(kappa, delta_down):
        return shapo.Config(
            algorithm=cells["ExactPenalty"](kappa=kappa), actor=cells["RandomDirection"](delta_down),
            total_steps=2_000, steps_per_epoch=1_000, num_envs=1, critic_passes=1,
        )  # fmt: skip

    assert len({config(*values).run_id for values in ((1.0, 0.1), (2.0, 0.1), (1.0, 0.2))}) == 3
    log = shapo.train(config(1.0, 0.001), runs=tmp_path, progress=False).progress
    assert (log.kl_down > 0).all() and log.lagrangian_multiplier.isin([0.001, 1.0, 0.0]).all()
