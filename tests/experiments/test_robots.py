"""What a robot's run came to, as notebooks show it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from shapo.experiments.robots import ends_of_training


def run(seed, seconds):
    epochs = np.arange(1, 31)
    progress = pd.DataFrame({name: 1.0 * epochs for name in ("episode_return", "episode_length")})
    more = {"forward_velocity": 0.1 * epochs, "std": 0.01 * epochs, "diverged": epochs // 10}
    progress = progress.assign(steps=64 * epochs, dropped_gradients=0, **more)
    return SimpleNamespace(
        progress=progress, timing=pd.DataFrame({"total": seconds}), config=SimpleNamespace(seed=seed)
    )


def test_the_end_of_training_is_its_last_tenth():
    table = ends_of_training({"SHAC": [run(0, [60.0] * 29 + [900.0]), run(1, [6.0])], "PPO": [run(0, [6.0])]})
    assert table.index.to_list() == [("SHAC", 0), ("SHAC", 1), ("PPO", 0)]
    row = table.loc["SHAC", 0]
    assert row.steps == 64 * 30 and row.episode_return == row.episode_length == 29  # of 28, 29, 30
    assert row.forward_velocity == pytest.approx(2.9) and row.diverged == 3
    assert row["std"] == pytest.approx(0.29)
    assert row.minutes == 30  # a slow iteration (a machine asleep) does not count
    assert table.loc["SHAC", 1].minutes == 3  # a shipped run has the median alone


def test_without_runs_there_are_no_rows():
    assert ends_of_training({}).empty
