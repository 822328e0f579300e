"""sb3-contrib's TRPO at our settings, on a budget that shows it runs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from shapo.algorithms.config import Config
from shapo.algorithms.trust_region import TrustRegion
from shapo.peers.sb3 import differences, train


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


def test_the_difference_is_that_of_last_quarters_with_welchs_interval():
    def runs(*ends):
        steps = [250, 500, 750, 1000]
        return [pd.DataFrame({"steps": steps, "episode_return": [0, 0, 0, end]}) for end in ends]

    found = differences({"A": {"ours": runs(10, 12, 15), "sb3-contrib": runs(9, 13)}, "B": {"ours": runs(1)}})
    low, high = ttest_ind([10, 12, 15], [9, 13], equal_var=False).confidence_interval()
    assert found.difference[0] == pytest.approx(37 / 3 - 11)
    assert (found.low[0], found.high[0]) == pytest.approx((low, high))
    assert found.ours[1] == 1 and found[["sb3-contrib", "difference", "low"]].loc[1].isna().all()
