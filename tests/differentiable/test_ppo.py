# ruff: noqa: NPY002
"""PPO on the robots: that it is stable-baselines3's, and that our store keeps it to the last bit."""

import numpy as np
import pytest
import torch

from shapo.differentiable import PPO, RobotConfig
from shapo.differentiable.ppo import PPOTrainer
from shapo.sharpness import AdaptiveSAM
from shapo.training import train

CONFIG = RobotConfig("DiffAnt", PPO(horizon=8, passes=2, minibatches=2), iterations=4, num_envs=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(CONFIG, runs=tmp_path_factory.mktemp("whole"), progress=False)


def test_interrupted_and_resumed_to_the_last_bit(whole, tmp_path, monkeypatch):
    run_epoch = PPOTrainer.run_epoch

    def stopping(self):
        np.random.rand(3), torch.rand(3)  # the generators of everybody else move on meanwhile
        if self.epoch == 2:
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


def test_it_learns_from_every_step_and_accounts_for_each_once():
    trainer = CONFIG.trainer()
    trainer.robots.env.length[:] = trainer.env.episode_length - 3  # the clock runs out in the third step
    trainer.model._last_obs = trainer.scaled.normalize_obs(trainer.env.observation().numpy())
    trainer.model._last_episode_starts = np.zeros(4, bool)
    rewards, values = [], trainer.model.policy.predict_values
    monkey = trainer.robots.step_wait

    def spied():
        step = monkey()
        rewards.append(step)
        return step

    trainer.robots.step_wait = spied
    trainer.model.policy.predict_values = lambda observation: values(observation) * 0 + 5.0
    row = trainer.run_epoch()
    assert row["episodes"] == 4 and row["failures"] == 0 and row["steps"] == 32
    assert [e["length"] for e in trainer.episodes] == [3] * 4
    np.testing.assert_allclose(
        [e["return"] for e in trainer.episodes], np.sum([step[1] for step in rewards[:3]], axis=0), rtol=1e-6
    )
    assert all(info["TimeLimit.truncated"] for info in rewards[2][3])
    scale = np.sqrt(trainer.scaled.ret_rms.var + 1e-8)
    stored = trainer.model.rollout_buffer.rewards.reshape(8, 4)
    assert (stored[2] > 0.99 * 5.0 - 1).all(), "what the clock cut off is worth V"
    assert np.abs(stored[3:]).max() < 11 and scale > 0


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="actor must be None for PPO"):
        RobotConfig(algorithm=PPO(), actor=AdaptiveSAM(0.75))
    with pytest.raises(ValueError, match="2 samples cannot make 16 minibatches"):
        RobotConfig(algorithm=PPO(horizon=2), num_envs=1)
    for wrong in (
        {"clip_range": 0.0},
        {"learning_rate": -1.0},
        {"passes": 0},
        {"log_std_init": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PPO(**wrong)
