"""What one update sees, on cases with a known answer."""

import numpy as np
import pytest
import torch

import shapo
from shapo.experiments import uncertainty
from shapo.sharpness import FisherSAM, OptimisticSAM, RandomSAM


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = shapo.Config("Walker2d-v4", "TRPOLag", total_steps=4000, steps_per_epoch=2000, num_envs=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHAPO_RUNS", str(tmp_path_factory.mktemp("runs")))
        return shapo.train(config, progress=False)


def test_sharpness_is_signal_plus_the_variance():
    rng, signal, spread, dims = np.random.default_rng(0), np.array([3.0, 0, 0, 0]), 2.0, 4
    gradients = signal + spread * rng.standard_normal((2000, dims))
    table = uncertainty.noise(gradients @ gradients.T, [1, 4, 20], steps=10).set_index("n")
    for n, row in table.iterrows():
        size = n / 10
        assert row.variance == pytest.approx(spread**2 * dims / size, rel=0.15)
        assert row.sharpness == pytest.approx(9 + spread**2 * dims / size, rel=0.05)
        assert row.along == pytest.approx(spread**2 * 9 / size, rel=0.2)
        assert row.predicted == pytest.approx(9 / n, rel=0.1)
    assert np.isnan(uncertainty.noise(np.eye(3), [3]).variance[0])
    assert uncertainty.noise(np.eye(5), [2]).sharpness[0] == 0.5, "the odd one is left out"


def test_rarity_is_the_distance_to_the_kth_neighbour():
    among = np.arange(10.0)[:, None]
    assert uncertainty.rarity([[0.0], [4.5], [30.0]], among, 3).tolist() == [2, 1.5, 23]


def test_batches_are_independent_and_leave_the_policy_as_it_is(run):
    trainer = uncertainty.policy_of(run)
    before = {name: np.copy(value) for name, value in trainer.normalizer.state_dict().items()}
    theta, state = trainer.actor.theta.clone(), trainer.algorithm_state
    first, second = uncertainty.independent_batches(trainer, 2, seed=0)
    assert not torch.equal(first.action, second.action)
    again, _ = uncertainty.independent_batches(trainer, 2, seed=0)
    assert torch.equal(first.action, again.action) and torch.equal(first.observation, again.observation)
    assert torch.equal(theta, trainer.actor.theta) and trainer.algorithm_state is state
    assert all(np.array_equal(value, before[name]) for name, value in trainer.normalizer.state_dict().items())


def test_a_larger_radius_turns_the_step_further(run):
    trainer = uncertainty.policy_of(run)
    radii = {delta: FisherSAM(delta) for delta in (0.0, 1e-3, 1e-1)}
    found = uncertainty.turns(trainer, radii)
    assert found[0.0] == pytest.approx(0, abs=0.2) and found[0.0] < found[1e-3] < found[1e-1] < 90
    assert found[1e-3] < uncertainty.turn_of_batches(trainer) < 180
    assert torch.equal(trainer.actor.theta, uncertainty.policy_of(run).actor.theta)


def test_a_small_rho_raises_a_critics_loss_by_its_gradient(run):
    trainer = uncertainty.policy_of(run)
    table = uncertainty.critics_uphill(trainer, [1e-3, 2e-3])
    rises = table["rise of the loss"].unstack()
    assert (rises[2e-3] / rises[1e-3]).to_numpy() == pytest.approx(2, rel=0.05) and (rises > 0).all(axis=None)
    lengths = trainer.critics.theta.norm(dim=1).tolist()
    assert table.length.unstack()[1e-3][["reward", "cost"]].tolist() == lengths
    assert table["ρ / length"]["cost", 2e-3] == pytest.approx(2e-3 / lengths[1])


def test_where_a_perturbation_moves_the_policy_is_its_kl(run):
    trainer = uncertainty.policy_of(run)
    moves = {"ε": FisherSAM(1e-3), "random": RandomSAM(1e-3), "−ε": OptimisticSAM(1e-3)}
    table = uncertainty.moved_where_rare(trainer, moves, count=300)
    assert len(table) == 300 and (table > 0).all(axis=None)
    assert table[list(moves)].mean().to_list() == pytest.approx([1, 1, 1], rel=1e-6)
    assert np.corrcoef(table["ε"], table["−ε"])[0, 1] > 0.95 > np.corrcoef(table["ε"], table["random"])[0, 1]
    known = table.assign(**{"ε": table.rarity, "−ε": -table.rarity})
    assert uncertainty.follows_rarity(known)[["ε", "−ε"]].to_list() == pytest.approx([1, -1])


def test_gradients_of_environments_average_to_the_batchs(run):
    trainer = uncertainty.policy_of(run)
    gradients, fisher = uncertainty.episode_gradients(trainer, 1)
    (batch,) = uncertainty.independent_batches(trainer, 1, seed=0)
    advantage = trainer.algorithm.advantage(trainer.algorithm_state, batch)
    whole = uncertainty.Surrogate(trainer.actor, batch).gradient(trainer.actor.theta, advantage)
    assert gradients.shape == (4, len(trainer.actor.theta))
    np.testing.assert_allclose(gradients.mean(0), whole, atol=1e-5)
    table = uncertainty.products(gradients, fisher)
    x, _ = fisher.solve(torch.from_numpy(gradients[0]).float())
    np.testing.assert_allclose(
        table[:, 0], gradients @ x.double().numpy(), rtol=0.05, atol=1e-3 * table.max()
    )
