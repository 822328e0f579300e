"""sb3-contrib's TRPO at our settings, on a budget that shows it runs."""

import numpy as np

from shapo.algorithms.config import Config
from shapo.algorithms.trust_region import TrustRegion
from shapo.peers.sb3 import train


def test_a_row_per_epoch_with_the_mean_of_its_episodes():
    settings = {
        "total_steps": 1000,
        "steps_per_epoch": 500,
        "num_envs": 2,
        "minibatch_size": 50,
        "critic_passes": 1,
    }
    table = train(Config("Walker2d-v4", TrustRegion(), seed=3, **settings))
    assert (
        table.steps.tolist() == [500, 1000] and set(table.seed) == {3} and set(table.task) == {"Walker2d-v4"}
    )
    assert np.isfinite(table.episode_return).all()  # a policy of the beginning falls within 250 steps
    again = train(Config("Walker2d-v4", TrustRegion(), seed=3, **settings))
    assert table.equals(again)
