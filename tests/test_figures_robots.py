"""The figures of notebooks 20 to 23: that what is drawn are the numbers given, under the right names."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from shapo import figures
from shapo.figures.robustness import COLOURS
from shapo.robots.landscape import of_exact


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def policies(column: str, values: list[float]) -> pd.DataFrame:
    rows = [
        {
            "algorithm": name, "policy": f"{name}{offset}", column: value,
            "return": size * (1 - 0.1 * value) + offset, "fallen": value / 2,
        }
        for name, size in (("SHAC", 100.0), ("mine", 80.0), ("PPO", 50.0))
        for offset in (-5.0, 5.0)
        for value in values
    ]  # fmt: skip
    return pd.DataFrame(rows)


def lines(axis) -> dict:
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_robustness_draws_every_policy_and_their_mean():
    panels = {
        "noise": (policies("noise", [0.0, 0.5]), "noise", 0.0),
        "μ": (policies("friction", [0.5, 1.0]), "friction", None),
    }
    fig = figures.robustness(panels)
    noise, noise_falls, friction, _ = fig.axes
    drawn = lines(noise)
    assert set(drawn) == {"SHAC", "mine", "PPO"} and len({line.get_color() for line in drawn.values()}) == 3
    assert drawn["PPO"].get_color() == COLOURS["PPO"] == lines(friction)["PPO"].get_color()
    np.testing.assert_allclose(drawn["SHAC"].get_xydata(), [[0, 100], [0.5, 95]])
    np.testing.assert_allclose(lines(noise_falls)["SHAC"].get_xydata(), [[0, 0], [0.5, 0.25]])
    thin = [list(line.get_ydata()) for line in noise.get_lines() if line.get_color() == COLOURS["SHAC"]]
    assert [95, 90] in thin and [105, 100] in thin
    assert len(noise.get_lines()) == 1 + 3 * 3 and len(friction.get_lines()) == 3 * 3  # the line of training
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["SHAC", "mine", "PPO"]


def test_heatmaps_share_a_scale_and_frame_the_training():
    grid = [(k_e, k_d) for k_e in (1e4, 4e4) for k_d in (500.0, 1000.0)]
    rows = [
        {
            "algorithm": name,
            "policy": offset,
            "stiffness": k_e,
            "damping": k_d,
            "return": base + k_d / 100 + offset,
        }
        for name, base in (("SHAC", 10.0), ("PPO", 20.0))
        for k_e, k_d in grid
        for offset in (-1, 1)
    ]
    rows[0]["return"] = rows[1]["return"] = np.nan  # all rollouts of this condition broke down
    fig = figures.heatmaps(pd.DataFrame(rows), trained=(4e4, 1000.0))
    maps = [axis for axis in fig.axes if axis.images]
    assert [image.images[0].get_clim() for image in maps] == [(15, 30)] * 2
    assert [text.get_text() for text in maps[0].texts] == ["15", "20", "20"]
    assert [patch.get_xy() for patch in maps[1].patches] == [(0.5, 0.5)]
    assert [label.get_text() for label in maps[0].get_xticklabels()] == ["1", "4"]


def test_sharpness_keeps_directions_apart():
    rows = [
        {
            "algorithm": name,
            "seed": seed,
            "direction": way,
            "radius": radius,
            "rise": slope * size * radius + seed,
        }
        for name, slope in (("SHAC", 2.0), ("SHAC-ASAM, ρ = 0.75", 1.0))
        for seed in (0, 1)
        for way, size in (("worst", 1.0), ("random", 0.01))
        for radius in (0.0, 1.0)
    ]
    worst, random = figures.sharpness(pd.DataFrame(rows)).axes
    np.testing.assert_allclose(lines(worst)["SHAC"].get_ydata(), [0.5, 2.5])
    np.testing.assert_allclose(lines(random)["SHAC"].get_ydata(), [0.5, 0.52])
    assert lines(worst)["SHAC-ASAM, ρ = 0.75"].get_color() == COLOURS["SHAC-ASAM"]


def test_a_mark_per_policy_and_a_cross_per_method():
    table = pd.DataFrame(
        {
            "algorithm": ["SHAC"] * 3 + ["PPO"], "rise": [0.1, 0.2, 0.9, 0.01], "kept": [0.4, 0.6, 0.5, 0.8],
            "return": [3e3, 2e3, 1e3, 4e3],
        }
    )  # fmt: skip
    kept, returned = figures.flat_and_robust(table, 0.1).axes
    marks, cross = kept.lines[:2]
    np.testing.assert_allclose(marks.get_xydata(), table.loc[:2, ["rise", "kept"]])
    np.testing.assert_allclose(cross.get_xydata(), [[0.2, 0.5]])
    np.testing.assert_allclose(returned.lines[1].get_xydata(), [[0.2, 2e3]])
    assert kept.get_xscale() == "log" and kept.lines[2].get_color() == COLOURS["PPO"]


def test_ascents_are_shares_of_the_exact_one_around_the_same_policy():
    rows = [
        {"ascent": ascent, "share": share, "run": run, "rise": rise, "cosine": 0.5}
        for run, size in (("a", 1.0), ("b", 10.0), ("c", 2.0))
        for ascent, share, mean in (
            ("all", 1.0, 4.0),
            ("first robots", 0.5, 2.0),
            ("first steps", 0.25, 3.0),
            ("window before", 0.5, size),
        )
        for rise in (0.5 * mean * size, 1.5 * mean * size)  # two windows
    ]
    (axis,) = figures.ascents(of_exact(pd.DataFrame(rows))).axes
    drawn = lines(axis)
    np.testing.assert_allclose(drawn["first steps"].get_xydata(), [[0.25, 0.75]])
    np.testing.assert_allclose(
        drawn["window before"].get_xydata(), [[0.5, 0.5]]
    )  # the median of 1/4, 10/4, 2/4
    np.testing.assert_allclose(drawn["all"].get_ydata(), [1.0])


def test_training_time_shows_ratios_limits_and_the_papers():
    table = pd.DataFrame(
        [("DiffAnt", "SHAC-ASAM", 1.9, 1.8, 2.0), ("DiffAnt", "SHAC-ASAM, few robots", 1.2, 1.1, 1.3)],
        columns=["task", "side", "ratio", "low", "high"],
    )
    limits = {"SHAC-ASAM": 1.85, "SHAC-ASAM, few robots": 1.35}
    (axis,) = figures.training_time(table, {"DiffAnt": 1.71}, limits).axes
    assert [bar.get_width() for bar in axis.patches] == [1.9, 1.2]
    drawn = [tuple(line.get_xdata()) for line in axis.get_lines()]
    assert drawn == [(1.8, 2.0), (1.85, 1.85), (1.1, 1.3), (1.35, 1.35), (1.71, 1.71)]
    assert to_hex(axis.patches[0].get_facecolor()) == COLOURS["SHAC-ASAM"].lower()


def test_a_robot_is_drawn_where_it_is():
    ends = np.zeros((2, 3, 2, 3))
    ends[1, ..., 0] = 5.0
    ends[..., 1, 2] = 0.5
    fig = figures.robot_frames(ends, [0.1, 0.1, 0.2], [0.0, 1.5])
    first, second = fig.axes
    assert [axis.get_title(loc="left") for axis in (first, second)] == ["0.0 s, 0.0 m", "1.5 s, 5.0 m"]
    assert first.get_xlim()[0] < 0 < first.get_xlim()[1] < second.get_xlim()[0] < 5 < second.get_xlim()[1]
    capsules = second.collections[0].get_segments()
    assert len(capsules) == 3 and np.ptp([end[:, 1] for end in capsules]) == 0.5
    ends[0, 2, 1, 2] = 1.6  # taller than the picture is by itself: all of them grow
    assert all(axis.get_ylim()[1] > 1.6 for axis in figures.robot_frames(ends, [0.1] * 3, [0.0, 1.5]).axes)


def test_the_tangent_touches_the_loss_at_step_0_with_its_slope():
    (axis,) = figures.tangent([-0.1, 0.0, 0.2], [5.0, 4.0, 4.5], slope=3.0).axes
    drawn = lines(axis)
    np.testing.assert_allclose(drawn["the loss"].get_xydata(), [[-0.1, 5], [0, 4], [0.2, 4.5]])
    np.testing.assert_allclose(drawn["its tangent"].get_ydata(), [3.7, 4.0, 4.6])
