"""A filmed episode is the policy's own."""

import numpy as np
import pytest
import torch

from shapo.robots.env import DifferentiableEnv
from shapo.robots.policy import film


def push(observation):
    return torch.full((len(observation), 8), 0.3)


def test_limbs_are_where_the_policy_takes_them_from_the_seeds_start():
    limbs, radii = film(push, "DiffAnt", steps=5, seed=3)
    assert limbs.shape == (5, len(radii), 2, 3)
    env = DifferentiableEnv("DiffAnt", num_envs=1, seed=3, gradients=False)
    observation = env.reset()
    for frame in limbs:
        np.testing.assert_array_equal(frame, env.simulator.skeleton(env.q)[0][0])
        observation, *_ = env.step(push(observation))


def test_a_film_ends_with_the_episode():
    limbs, _ = film(lambda observation: torch.zeros(1, 21), "DiffHumanoid")
    assert 1 < len(limbs) < 300  # it sinks to the ground


def test_a_film_has_a_whole_number_of_steps():
    with pytest.raises(ValueError, match="steps"):
        film(push, "DiffAnt", steps=0)
