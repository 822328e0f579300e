"""sb3-contrib's TRPO at our settings, on a budget that shows it runs."""

import gymnasium
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from shapo.algorithms.config import Config
from shapo.algorithms.trust_region import TrustRegion
from shapo.peers.sb3 import SIDES, Unclipped, differences, train


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

    clipped, unclipped = SIDES.values()
    sides = {
        "A": {"ours": runs(10, 12, 15), clipped: runs(9, 13), unclipped: runs(12)},
        "B": {"ours": runs(1)},
    }
    found = differences(sides)
    assert list(zip(found.task, found.peer, strict=True)) == [
        (t, p) for t in "AB" for p in (clipped, unclipped)
    ]
    low, high = ttest_ind([10, 12, 15], [9, 13], equal_var=False).confidence_interval()
    assert found.difference[0] == pytest.approx(37 / 3 - 11)
    assert (found.low[0], found.high[0]) == pytest.approx((low, high))
    assert found.difference[1] == pytest.approx(37 / 3 - 12) and np.isnan(found.low[1])
    assert found.ours[2] == 1 and found[["theirs", "difference", "low"]].loc[2].isna().all()


def test_unclipped_the_robot_is_charged_for_the_whole_action_and_moves_as_if_clipped():
    action = np.full(8, 3.0, np.float32)
    ends = []
    for wrap, given in ((Unclipped, action), (lambda env: env, action.clip(-1, 1))):
        env = wrap(gymnasium.make("Ant-v4"))
        env.reset(seed=0)
        assert env.action_space.contains(given)  # so sb3 leaves it as it is
        ends.append(env.step(given))
    assert np.array_equal(ends[0][0], ends[1][0])
    assert ends[0][4]["reward_ctrl"] == pytest.approx(9 * ends[1][4]["reward_ctrl"])
