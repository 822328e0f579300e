"""GAE against the sum that defines it, with episodes that terminate, run out of time and stay open."""

import numpy as np
import pytest
import torch

from shapo.algorithms.advantages import Rollout, collect, gae, make_batch
from shapo.algorithms.critics import Critics
from shapo.algorithms.networks import GaussianActor, RunningNormalizer
from shapo.checks import NonFiniteError


def direct_gae(reward, value, next_value, terminated, done, gamma, lam):
    advantage = np.zeros_like(reward)
    for t in range(len(reward)):
        weight = 1.0
        for k in range(t, len(reward)):
            advantage[t] += weight * (reward[k] + gamma * next_value[k] * (not terminated[k]) - value[k])
            if done[k]:
                break
            weight *= gamma * lam
    return advantage


@pytest.mark.parametrize("gamma, lam", [(0.99, 0.95), (0.9, 1.0), (0.9, 0.0)])
def test_gae_is_its_definition(gamma, lam):
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.standard_normal((3, 30))
    terminated = rng.random(30) < 0.1
    done = terminated | (rng.random(30) < 0.1)
    found = gae(reward, value, next_value, terminated, done, gamma, lam)
    np.testing.assert_allclose(
        found, direct_gae(reward, value, next_value, terminated, done, gamma, lam), rtol=1e-12
    )


def test_batch_bootstraps_from_the_episodes_own_last_state():
    rng = np.random.default_rng(1)
    steps, n = 6, 2
    critics = Critics(3, (4,), rng)
    final = {(2, 0): torch.ones(3), (3, 1): -torch.ones(3)}
    terminated, truncated = np.zeros((2, steps, n), bool)
    truncated[2, 0], terminated[3, 1] = True, True
    rollout = Rollout(
        observation=torch.from_numpy(rng.standard_normal((steps, n, 3))).float(),
        action=rng.standard_normal((steps, n, 1)),
        reward=rng.standard_normal((steps, n)), cost=rng.random((steps, n)), terminated=terminated, truncated=truncated,
        next_observation=torch.zeros(n, 3), final_observation=final,
    )  # fmt: skip
    batch = make_batch(rollout, critics, (0.99, 0.9), (0.95, 0.8))
    advantage = batch.advantage.numpy().reshape(2, steps, n)
    values = critics.values(rollout.observation.reshape(-1, 3)).numpy().reshape(2, steps, n)
    last = critics.values(rollout.next_observation).numpy()
    for k, (signal, gamma, lam) in enumerate([(rollout.reward, 0.99, 0.95), (rollout.cost, 0.9, 0.8)]):
        for i in range(n):
            following = np.append(values[k, 1:, i], last[k, i])
            for (t, env), state in final.items():
                if env == i:
                    following[t] = critics.values(state[None])[k, 0]
            done = terminated[:, i] | truncated[:, i]
            expected = direct_gae(
                signal[:, i], values[k, :, i], following, terminated[:, i], done, gamma, lam
            )
            np.testing.assert_allclose(advantage[k, :, i], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        batch.target.numpy().reshape(2, steps, n), advantage + values, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(batch.observation.reshape(steps, n, 3), rollout.observation)


class CountingEnv:
    """Two environments whose state counts steps; episodes of 3 and 5 steps; reward is what `signal` says."""

    num_envs, single_action_space = 2, type("Space", (), {"shape": (1,)})

    def __init__(self, signal=float):
        self.signal, self.count = signal, np.zeros(2)

    def step(self, action):
        self.count += 1
        truncated = self.count >= [3, 5]
        observation = self.count[:, None].copy()
        info = {}
        if truncated.any():
            final = np.full(2, None, object)
            for i in np.flatnonzero(truncated):
                final[i] = observation[i].copy()
            info = {"final_observation": final, "_final_observation": truncated}
            self.count[truncated] = 0
            observation[truncated] = 0
        reward = np.array([self.signal(c) for c in self.count])
        return observation, reward, np.ones(2), np.zeros(2, bool), truncated, info


def test_collect_keeps_states_actions_and_final_states_in_step():
    actor = GaussianActor(1, 1, (4,), np.random.default_rng(2))
    normalizer = RunningNormalizer(1)
    rollout, observation = collect(
        CountingEnv(), actor, normalizer, np.zeros((2, 1)), 7, np.random.default_rng(3)
    )
    assert sorted(rollout.final_observation) == [(2, 0), (4, 1), (5, 0)]
    assert normalizer.count == 14
    np.testing.assert_array_equal(observation[:, 0], [1, 2])
    assert rollout.truncated.sum() == 3 and rollout.observation.shape == (7, 2, 1)


def test_collect_stops_at_the_first_non_finite_value():
    actor = GaussianActor(1, 1, (4,), np.random.default_rng(2))
    env = CountingEnv(signal=lambda count: np.nan if count == 4 else 0.0)
    with pytest.raises(NonFiniteError, match="reward became non-finite at step 3"):
        collect(env, actor, RunningNormalizer(1), np.zeros((2, 1)), 7, np.random.default_rng(3))
