"""SHAC and SHAC-ASAM: the loss against its formula, its gradient against differences, the perturbation, the store."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import shapo
from shapo.robots import SHAC, RobotConfig
from shapo.robots.networks import NormedMLP
from shapo.robots.shac import SHACTrainer, td_lambda_targets
from shapo.runs.train import train
from shapo.sharpness import AdaptiveSAM, EffectiveAlpha, Euclidean, EuclideanSAM, FisherSAM

SMALL = SHAC(horizon=4, actor_hidden_sizes=(16,), critic_hidden_sizes=(16,), critic_passes=2)
CONFIG = RobotConfig("DiffAnt", SMALL, iterations=4, num_envs=4)


@pytest.fixture
def trainer() -> SHACTrainer:
    made = CONFIG.trainer()
    made._mean, made._scale = torch.full((37,), 0.1), torch.full((37,), 0.7)
    return made


def noise(trainer: SHACTrainer, horizon: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(horizon, trainer.config.num_envs, 8, generator=generator)


def test_the_network_is_torchs(trainer):
    mlp = NormedMLP((5, 7, 3, 2))
    theta = mlp.initialise(np.random.default_rng(0)) + 0.1
    layers = []
    for inputs, outputs in ((5, 7), (7, 3)):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ELU(), torch.nn.LayerNorm(outputs)]
    reference = torch.nn.Sequential(*layers, torch.nn.Linear(3, 2))
    torch.nn.utils.vector_to_parameters(theta, reference.parameters())
    x = torch.randn(11, 5)
    torch.testing.assert_close(mlp(theta, x), reference(x))


def test_td_lambda_targets_are_the_weighted_returns():
    """(1 − λ) Σ_k λ^(k−1) G^(k) + λ^(K−1) G^(K), by the definition, with an episode that ends on the way."""
    rng, gamma, lam = np.random.default_rng(0), 0.9, 0.8
    reward, value = rng.normal(size=(6, 1)), rng.normal(size=(6, 1))
    ends = np.zeros((6, 1), bool)
    ends[2] = True
    value[2] = 0.0  # a fall
    expected = []
    for t in range(6):
        last = next(s for s in range(t, 6) if ends[s, 0] or s == 5)
        returns = [
            sum(gamma ** (s - t) * reward[s, 0] for s in range(t, k + 1)) + gamma ** (k - t + 1) * value[k, 0]
            for k in range(t, last + 1)
        ]
        weights = [(1 - lam) * lam**k for k in range(len(returns) - 1)] + [lam ** (len(returns) - 1)]
        expected.append(np.dot(weights, returns))
    targets = td_lambda_targets(*map(torch.from_numpy, (reward, value, ends)), gamma, lam)
    np.testing.assert_allclose(targets[:, 0], expected)


def test_the_loss_is_equation_2(trainer):
    """Also where an environment falls (worth nothing more) and where the clock runs out (worth V)."""
    trainer.env.q[1, 2] = 0.1
    trainer.env.length[2] = trainer.env.episode_length - 2
    window = trainer.rollout(trainer.theta.detach(), noise(trainer, 4))
    gamma, total = trainer.algorithm.gamma, 0.0
    assert window.terminated[0].tolist() == [False, True, False, False] and window.truncated[1][2]
    for i in range(4):
        discount = 1.0
        for t in range(4):
            total += discount * float(window.reward[t][i])
            discount *= gamma
            if not window.terminated[t][i] and (window.truncated[t][i] or t == 3):
                total += discount * float(trainer.value(trainer.target_phi, window.final[t][i : i + 1]))
            if window.terminated[t][i] or window.truncated[t][i]:
                discount = 1.0
    assert float(window.loss) == pytest.approx(-total / 16, rel=1e-5)


def test_the_gradient_is_that_of_central_differences(trainer):
    theta, place, xi = trainer.theta.detach(), trainer.snapshot(), noise(trainer, 4)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        trainer.restore_envs(place)
        return trainer.rollout(theta, xi).loss

    (gradient,) = torch.autograd.grad(loss(leaf := theta.clone().requires_grad_()), leaf)
    directions = torch.randn(6, len(theta), generator=torch.Generator().manual_seed(0))
    directions = torch.cat(
        [directions / directions.norm(dim=1, keepdim=True), gradient[None] / gradient.norm()]
    )
    with torch.no_grad():
        differences = (
            torch.stack([loss(theta + 0.02 * d) - loss(theta - 0.02 * d) for d in directions]) / 0.04
        )
    torch.testing.assert_close(
        directions @ gradient, differences, rtol=0.02, atol=0.01 * float(gradient.norm())
    )


def test_adaptive_sam_is_equation_8():
    theta = torch.tensor([2.0, -0.5, 0.0, 1.0], dtype=torch.float64)
    gradient = torch.tensor([0.3, 4.0, 9.0, -1.0], dtype=torch.float64)  # of the objective −L
    epsilon = AdaptiveSAM(0.75)(gradient, Euclidean(theta), 1)
    t = np.diag(np.abs(theta.numpy()))
    loss_gradient = -gradient.numpy()
    expected = 0.75 * t @ t @ loss_gradient / np.linalg.norm(t @ loss_gradient)
    np.testing.assert_allclose(epsilon, expected)
    # The maximiser of ∇Lᵀε over ‖T⁻¹ε‖ ≤ ρ, which does not depend on the parameters' scale.
    moved = theta != 0
    assert np.linalg.norm(epsilon[moved] / theta[moved]) == pytest.approx(0.75)
    scale = torch.tensor([3.0, 0.1, 1.0, 7.0], dtype=torch.float64)
    torch.testing.assert_close(
        AdaptiveSAM(0.75)(gradient / scale, Euclidean(theta * scale), 1), scale * epsilon
    )
    assert (AdaptiveSAM(0.75)(torch.zeros(4), Euclidean(torch.ones(4)), 1) == 0).all()
    with pytest.raises(ValueError, match="rho"):
        AdaptiveSAM(-1)


def test_sam_is_asam_with_t_the_identity():
    gradient = torch.randn(9)
    torch.testing.assert_close(
        AdaptiveSAM(0.3)(gradient, Euclidean(torch.ones(9)), 1),
        EuclideanSAM(0.3)(gradient, Euclidean(torch.ones(9)), 1),
    )


def test_both_rollouts_share_start_states_and_noise(trainer, monkeypatch):
    seen = []
    rollout = trainer.rollout

    def spied(theta, xi, **options):
        seen.append(((theta.detach().clone(), xi), rollout(theta, xi, **options)))
        return seen[-1][1]

    monkeypatch.setattr(trainer, "rollout", spied)
    trainer.config = replace(CONFIG, actor=AdaptiveSAM(0.5))
    trainer.env.q[1, 2] = 0.1  # falls, so that a fresh start is drawn
    theta = trainer.theta.detach().clone()
    window, log = trainer.update_actor()
    (first, plain), (second, perturbed) = seen
    assert window is plain
    assert torch.equal(first[0], theta) and not torch.equal(second[0], theta)
    assert torch.equal(first[1], second[1])
    assert torch.equal(plain.observation[0], perturbed.observation[0])
    assert torch.equal(plain.observation[1][1], perturbed.observation[1][1])
    assert not torch.equal(plain.observation[3], perturbed.observation[3])
    assert log["loss_perturbed"] > log["loss"]
    # training goes on where the unperturbed policy got to
    torch.testing.assert_close(trainer.env.observation()[::2], plain.final[-1][::2], rtol=0, atol=0)


def test_few_robots_ascending_are_the_first_ones(monkeypatch):
    """ε is that of `ascent_envs` robots; the update and all that follows come from all robots at θ + ε."""
    trainer = replace(CONFIG, actor=AdaptiveSAM(0.5), ascent_envs=2).trainer()
    trainer._freeze_normaliser()
    trainer.env.q[1, 2] = 0.1  # falls, so that a fresh start is drawn, in the ascent too
    place, theta, xi = trainer.snapshot(), trainer.theta.detach().clone(), noise(trainer, 4)
    leaf = theta.clone().requires_grad_()
    of_two = trainer.rollout(leaf, xi, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    (gradient,) = torch.autograd.grad(-of_two.loss, leaf)
    perturbed = theta + AdaptiveSAM(0.5)(gradient, Euclidean(theta), 1)
    trainer.restore_envs(place)
    expected = trainer.rollout(perturbed, xi)
    reached = trainer.env.observation()

    trainer.restore_envs(place)
    monkeypatch.setitem(trainer.rngs, "noise", SameNoise(xi.numpy()))
    window, log = trainer.update_actor()
    torch.testing.assert_close(torch.stack(window.reward), torch.stack(expected.reward))
    torch.testing.assert_close(trainer.env.observation(), reached)
    assert log["loss_perturbed"] == pytest.approx(float(expected.loss)) and np.isnan(log["loss"])
    assert len(window.reward[0]) == 4 and trainer.ascent_env.num_envs == 2


def test_gradients_that_either_simulator_drops_are_counted(monkeypatch):
    trainer = replace(CONFIG, actor=AdaptiveSAM(0.5), ascent_envs=2).trainer()
    rollout = trainer.rollout

    def dropping(theta, xi, **options):
        trainer.ascent_env.simulator.dropped_gradients += 1
        trainer.env.simulator.dropped_gradients += 10
        return rollout(theta, xi, **options)

    monkeypatch.setattr(trainer, "rollout", dropping)
    assert [trainer.run_epoch()["dropped_gradients"] for _ in range(2)] == [22, 44]


class SameNoise:
    def __init__(self, noise: np.ndarray):
        self.standard_normal = lambda shape, dtype: noise


def test_a_robot_that_diverges_is_counted_and_spoils_nothing(trainer, monkeypatch):
    step, breaks = trainer.env.simulator.step, torch.tensor([[False], [True], [False], [False]])

    def breaking(*inputs):
        q, qd = step(*inputs)
        monkeypatch.undo()  # only once
        return torch.where(breaks, torch.nan, q), qd

    monkeypatch.setattr(trainer.env.simulator, "step", breaking)
    row = trainer.run_epoch()
    assert row["diverged"] == row["failures"] == row["episodes"] == 1
    assert [(e["env"], e["length"], e["diverged"]) for e in trainer.episodes] == [(1, 1, True)]
    assert np.isfinite([row["loss"], row["critic_loss"], row["gradient_norm"], row["reward"]]).all()
    assert torch.isfinite(trainer.theta).all() and torch.isfinite(trainer.env.observation()).all()


def test_rho_to_0_is_shac_to_the_last_bit(tmp_path):
    runs = [
        train(replace(CONFIG, actor=actor), runs=tmp_path, progress=False)
        for actor in (None, AdaptiveSAM(0.0))
    ]
    assert runs[0].config.run_id != runs[1].config.run_id
    plain, asam = (run.progress for run in runs)
    assert (asam.pop("loss_perturbed") == asam.loss).all()
    assert plain.to_csv() == asam.to_csv()


def test_along_perturbed_changes_the_trajectory_alone(monkeypatch):
    """The same step of the actor; next states, critic and scale of observations from the rollout at θ + ε."""
    made = {
        way: replace(CONFIG, actor=AdaptiveSAM(0.5), along_perturbed=way).trainer() for way in (False, True)
    }
    windows = {}
    for way, trainer in made.items():
        trainer._freeze_normaliser()
        rollouts, rollout = [], trainer.rollout
        monkeypatch.setattr(
            trainer,
            "rollout",
            lambda *a, made=rollouts, old=rollout, **o: made.append(old(*a, **o)) or made[-1],
        )
        kept, _ = trainer.update_actor()
        assert kept is rollouts[way]
        torch.testing.assert_close(trainer.env.observation(), kept.final[-1], rtol=0, atol=0)
        windows[way] = rollouts
    assert torch.equal(made[False].theta, made[True].theta)
    for one, other in zip(*windows.values(), strict=True):
        assert torch.equal(torch.stack(one.reward), torch.stack(other.reward))
    assert not torch.equal(made[False].env.q, made[True].env.q)


def test_few_robots_mean_along_perturbed():
    config = replace(CONFIG, actor=AdaptiveSAM(0.5), ascent_envs=2)
    assert config.resolved.along_perturbed and config.run_id == replace(config, along_perturbed=True).run_id
    assert replace(config, ascent_envs=None).run_id == replace(CONFIG, actor=AdaptiveSAM(0.5)).run_id
    with pytest.raises(ValueError, match="along_perturbed"):
        replace(config, along_perturbed="no")


@pytest.mark.parametrize(("epoch", "few"), [(0, None), (2, None), (2, 2)])
def test_interrupted_and_resumed_to_the_last_bit(tmp_path, monkeypatch, epoch, few):
    monkeypatch.setattr(RobotConfig, "checkpoint_seconds", 0.0)
    config = replace(CONFIG, actor=AdaptiveSAM(0.5), ascent_envs=few)
    whole = train(config, runs=tmp_path / "whole", progress=False)
    run_epoch = SHACTrainer.run_epoch

    def stopping(self):
        if self.epoch == epoch:
            raise KeyboardInterrupt
        return run_epoch(self)

    monkeypatch.setattr(SHACTrainer, "run_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config, runs=tmp_path / "cut", progress=False)
    assert shapo.Run(config, tmp_path / "cut").epoch == epoch
    monkeypatch.undo()
    cut = train(config, runs=tmp_path / "cut", progress=False)
    assert cut.progress.to_csv() == whole.progress.to_csv()
    assert cut.episodes.to_csv() == whole.episodes.to_csv()
    observation = torch.randn(3, 37)
    assert torch.equal(cut.actor(observation), whole.actor(observation))


def test_a_study_takes_it(tmp_path):
    configs = [
        replace(CONFIG, actor=actor, seed=seed) for actor in (None, EuclideanSAM(0.1)) for seed in (0, 1)
    ]
    study = shapo.Study("robots", configs, runs=tmp_path).run(progress=False)
    assert not len(study.missing) and study.progress.groupby("run").size().tolist() == [4] * 4
    again = train(configs[3], runs=tmp_path / "alone", progress=False)
    assert again.progress.to_csv() == study.runs[3].progress.to_csv()


def test_steps_along_the_gradient_lower_the_loss_of_their_window(trainer):
    place, losses = trainer.snapshot(), []
    for _ in range(8):
        trainer.restore_envs(place)
        trainer.rngs["noise"] = np.random.default_rng(0)
        losses.append(trainer.update_actor()[1]["loss"])
    assert np.all(np.diff(losses) < 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "Ant-v4"}, "task must be one of DiffAnt, DiffHumanoid; got 'Ant-v4'"),
        ({"algorithm": "SHAC"}, "algorithm must be an instance of SHAC or PPO"),
        ({"num_envs": 0}, "num_envs must be a whole number, at least 1; got 0"),
        ({"iterations": 0.5}, "iterations must be a whole number"),
        ({"actor": AdaptiveSAM}, "actor must be None or a perturbation"),
        ({"actor": FisherSAM(EffectiveAlpha(0.05))}, "must not have the schedule EffectiveAlpha"),
        ({"ascent_envs": 8}, "ascent_envs must be None, or below .* beside a perturbation"),
        ({"ascent_envs": 64, "actor": AdaptiveSAM(1)}, "below num_envs = 64"),
        ({"along_perturbed": True}, "along_perturbed must be False, or True beside a perturbation"),
        ({"along_perturbed": 1, "actor": AdaptiveSAM(1)}, "along_perturbed must be False, or True"),
        ({"ascent_envs": 0, "actor": AdaptiveSAM(1)}, "ascent_envs must be a whole number"),
        ({"num_envs": 1, "algorithm": SHAC(horizon=2)}, "2 samples cannot make 4 minibatches"),
    ],
)
def test_mistakes_in_a_config_are_told(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RobotConfig(**arguments)


def test_mistakes_in_the_algorithm_are_told():
    for wrong in (
        {"horizon": 0}, {"actor_lr": 0.0}, {"betas": (0.7,)}, {"betas": (0.7, 1.0)}, {"gamma": 1.1},
        {"actor_hidden_sizes": ()}, {"critic_lr": -1.0}, {"target_critic_alpha": 2},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SHAC(**wrong)


def test_published_settings_stand_in_for_none():
    assert RobotConfig().resolved.algorithm.actor_hidden_sizes == (128, 64, 32)
    humanoid = RobotConfig("DiffHumanoid", SHAC(critic_lr=1e-3)).resolved.algorithm
    assert (humanoid.actor_hidden_sizes, humanoid.critic_lr, humanoid.target_critic_alpha) == (
        (256, 128),
        1e-3,
        0.995,
    )
    assert RobotConfig().run_id == RobotConfig().resolved.run_id
