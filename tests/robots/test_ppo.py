# ruff: noqa: NPY002
"""PPO on the robots: that it is stable-baselines3's, and that our store keeps it to the last bit."""

import shutil

import numpy as np
import pytest
import torch

from shapo.checks import NonFiniteError
from shapo.robots import PPO, RobotConfig
from shapo.robots.ppo import PPOTrainer
from shapo.runs.run import Run
from shapo.runs.store import CorruptCheckpointError, load_checkpoint, save_checkpoint
from shapo.runs.train import train
from shapo.sharpness import AdaptiveSAM

CONFIG = RobotConfig("DiffAnt", PPO(horizon=8, passes=2, minibatches=2), iterations=4, num_envs=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(CONFIG, runs=tmp_path_factory.mktemp("whole"), progress=False)


@pytest.mark.parametrize("epoch", [0, 2])
def test_interrupted_and_resumed_to_the_last_bit(whole, tmp_path, monkeypatch, epoch):
    monkeypatch.setattr(RobotConfig, "checkpoint_seconds", 0.0)
    run_epoch = PPOTrainer.run_epoch

    def stopping(self):
        np.random.rand(3), torch.rand(3)  # the generators of everybody else move on meanwhile
        if self.epoch == epoch:
            raise KeyboardInterrupt
        return run_epoch(self)

    monkeypatch.setattr(PPOTrainer, "run_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, runs=tmp_path, progress=False)
    monkeypatch.undo()
    cut = train(CONFIG, runs=tmp_path, progress=False)
    assert cut.progress.to_csv() == whole.progress.to_csv()
    assert cut.episodes.to_csv() == whole.episodes.to_csv()
    (arrays, _), (expected, _) = cut.load(), whole.load()
    for name in expected:
        if not name.startswith("timing"):
            np.testing.assert_array_equal(arrays[name], expected[name], err_msg=name)


def test_moments_of_another_shape_are_a_corrupt_checkpoint(whole, tmp_path):
    run = Run(CONFIG, tmp_path)
    shutil.copytree(whole.path, run.path)
    arrays, meta = load_checkpoint(run.checkpoint)
    save_checkpoint(run.checkpoint, arrays | {"adam/0/exp_avg": np.zeros(3, np.float32)}, meta)
    with pytest.raises(CorruptCheckpointError, match="was not loaded"):
        run.restore(CONFIG.trainer())


def test_training_leaves_the_generators_of_others_alone(tmp_path):
    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(3)
    torch.manual_seed(3)
    CONFIG.trainer().run_epoch()
    assert (np.random.rand(), torch.rand(1)) == expected


def test_the_policy_is_the_one_that_was_trained(whole):
    trainer = CONFIG.trainer()
    trainer.restore(*whole.load())
    observation = trainer.env.observation()
    trainer.scaled.training = False
    theirs, _ = trainer.model.predict(trainer.scaled.normalize_obs(observation.numpy()), deterministic=True)
    torch.testing.assert_close(whole.actor(observation), torch.from_numpy(theirs), rtol=1e-5, atol=1e-5)
    far = whole.actor(1e6 * torch.ones_like(observation))
    assert (far.abs() <= 1).all()


def test_ppo_values_what_the_clock_cut_off_and_no_fall(monkeypatch):
    """A robot that falls is worth nothing more; one whose time is up is worth V of the state it reached."""
    trainer, scaled = CONFIG.trainer(), []
    trainer.robots.env.length[:] = trainer.env.episode_length - 3  # the clock runs out in the third step
    trainer.robots.env.q[1, 2] = 0.1  # falls in the first
    trainer.model._last_obs = trainer.scaled.normalize_obs(trainer.env.observation().numpy())
    trainer.model._last_episode_starts = np.zeros(4, bool)
    step_wait = trainer.scaled.step_wait
    monkeypatch.setattr(trainer.scaled, "step_wait", lambda: scaled.append(step_wait()) or scaled[-1])
    rewards = []  # as they come out, before the algorithm adds to them
    monkeypatch.setattr(
        trainer.scaled,
        "normalize_reward",
        lambda reward: rewards.append(0.1 * reward) or (0.1 * reward).copy(),
    )
    monkeypatch.setattr(
        trainer.model.policy, "predict_values", lambda observation: observation.sum(1, keepdim=True)
    )
    row = trainer.run_epoch()

    assert row["steps"] == 32 and row["failures"] == sum(e["failed"] for e in trainer.episodes)
    first = [e for e in trainer.episodes if e["steps"] <= 12]
    assert [(e["env"], e["length"], e["failed"]) for e in first if e["failed"]] == [(1, 1, True)]
    assert [(e["env"], e["length"]) for e in first if not e["failed"]] == [(0, 3), (2, 3), (3, 3)]
    raw = 10 * np.array(rewards)
    np.testing.assert_allclose(
        [e["return"] for e in first if not e["failed"]], raw[:3, [0, 2, 3]].sum(0), rtol=1e-5
    )
    stored = unflattened(trainer)
    assert stored[0, 1] == pytest.approx(rewards[0][1])  # a fall
    reached = np.stack([info["terminal_observation"] for info in np.array(scaled[2][3])[[0, 2, 3]]])
    restarted = scaled[2][0][[0, 2, 3]]
    assert not np.allclose(reached, restarted)
    np.testing.assert_allclose(stored[2, [0, 2, 3]], rewards[2][[0, 2, 3]] + 0.99 * reached.sum(1), rtol=1e-4)


def unflattened(trainer) -> np.ndarray:
    """Rewards of the buffer, (steps, robots); stable-baselines3 lays them out robot by robot once it has trained."""
    rewards = trainer.model.rollout_buffer.rewards
    return rewards if rewards.shape == (8, 4) else rewards.reshape(4, 8).T


def test_parameters_that_become_nan_are_told():
    trainer = CONFIG.trainer()
    trainer.run_epoch()
    with torch.no_grad():
        trainer.model.policy.action_net.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="parameters of the actor or the critic"):
        trainer.run_epoch()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="actor must be None for PPO"):
        RobotConfig(algorithm=PPO(), actor=AdaptiveSAM(0.75))
    with pytest.raises(ValueError, match="minibatches must divide num_envs × horizon = 16 samples"):
        RobotConfig(algorithm=PPO(horizon=16), num_envs=1)
    with pytest.raises(ValueError, match="= 2 samples into equal parts of 2 or more; got 16"):
        RobotConfig(algorithm=PPO(horizon=2), num_envs=1)
    for wrong in (
        {"clip_range": 0.0},
        {"learning_rate": -1.0},
        {"passes": 0},
        {"log_std_init": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PPO(**wrong)
