"""The figures of notebooks 20 to 23: that what is drawn are the numbers given, under the right names."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from shapo import figures
from shapo.figures.style import BLUE, LOOKS, ORANGE, SKY
from shapo.robots.landscape import of_exact


def policies(column: str, values: list[float]) -> pd.DataFrame:
    rows = [
        {
            "algorithm": name, "policy": f"{name}{offset}", column: value,
            "return": size * (1 - 0.1 * value) + offset, "fallen": value * (offset == 5.0),
        }
        for name, size in (("SHAC", 100.0), ("mine", 80.0), ("PPO", 50.0))
        for offset in (-5.0, 0.0, 5.0)
        for value in values
    ]  # fmt: skip
    return pd.DataFrame(rows)


def lines(axis) -> dict:
    return {line.get_label(): line for line in axis.get_lines() if not line.get_label().startswith("_")}


def test_robustness_draws_the_median_return_and_the_mean_of_falls():
    panels = {
        "noise": (policies("noise", [0.0, 0.5]), "noise", 0.0),
        "μ": (policies("friction", [0.5, 1.0]), "friction", None),
    }
    fig = figures.robustness(panels)
    noise, noise_falls, friction, _ = fig.axes
    drawn = lines(noise)
    assert set(drawn) == {"SHAC", "mine", "PPO"} and len({line.get_color() for line in drawn.values()}) == 3
    assert drawn["PPO"].get_color() == LOOKS["PPO"].colour == lines(friction)["PPO"].get_color()
    assert drawn["SHAC"].get_color() == "black" and drawn["SHAC"].is_dashed()
    np.testing.assert_allclose(drawn["SHAC"].get_xydata(), [[0, 100], [0.5, 95]])
    np.testing.assert_allclose(lines(noise_falls)["SHAC"].get_xydata(), [[0, 0], [0.5, 0.5 / 3]])
    band = noise.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == 102.5 and len(noise.collections) == 3
    falls = noise_falls.collections[0].get_paths()[0].vertices[:, 1]  # about a mean stands its standard error
    assert (falls.min(), falls.max()) == (pytest.approx(0), pytest.approx(1 / 3))
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["SHAC", "mine", "PPO"]
    assert noise.get_title(loc="left") == "(a)  noise: return per episode"


def test_conditions_under_which_everything_falls_are_drawn_once():
    table = policies("noise", [0.0, 0.1, 0.2, 0.3, 0.5])
    for first, shown in ((0.2, [0, 0.1, 0.2]), (0.0, [0, 0.1, 0.2, 0.3, 0.5])):
        fallen = (table.noise >= first).astype(float)
        returns, _ = figures.robustness({"noise": (table.assign(fallen=fallen), "noise", 0.0)}).axes
        assert lines(returns)["SHAC"].get_xdata().tolist() == shown


def test_heatmaps_share_a_scale_and_frame_the_training():
    grid = [(k_e, k_d) for k_e in (1e4, 4e4) for k_d in (500.0, 1000.0)]
    values = {"SHAC": 10.0, "PPO": 20.0}
    rows = [
        (name, offset, *pair, base + pair[1] / 100 + offset)
        for name, base in values.items() for pair in grid for offset in (-1, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["algorithm", "policy", "stiffness", "damping", "return"])
    table.loc[:1, "return"] = np.nan  # all rollouts of this condition broke down
    fig = figures.heatmaps(table, trained=(4e4, 1000.0))
    shac, ppo, _ = fig.axes
    assert [axis.collections[0].get_clim() for axis in (shac, ppo)] == [(15, 30)] * 2
    assert [text.get_text() for text in shac.texts] == ["20", "20", "15"]  # stiff damping above
    assert [patch.get_xy() for patch in ppo.patches] == [(1, 0)]
    assert [label.get_text() for label in shac.get_xticklabels()] == ["1", "4"]
    assert [label.get_text() for label in shac.get_yticklabels()] == ["1000", "500"]


def test_sharpness_keeps_directions_apart():
    rows = [
        (name, seed, way, radius, slope * size * radius * (1 + seed))
        for name, slope in (("SHAC", 2.0), ("SHAC-ASAM, ρ = 0.75", 1.0))
        for seed in (0, 1)
        for way, size in (("worst", 1.0), ("random", 0.01))
        for radius in (0.0, 1.0, 2.0)
    ]
    table = pd.DataFrame(rows, columns=["algorithm", "seed", "direction", "radius", "rise"])
    worst, random = figures.sharpness(table).axes
    np.testing.assert_allclose(lines(worst)["SHAC"].get_xydata(), [[1, 3], [2, 6]])
    np.testing.assert_allclose(lines(random)["SHAC"].get_ydata(), [0.03, 0.06])
    assert lines(worst)["SHAC-ASAM, ρ = 0.75"].get_color() == BLUE and worst.get_yscale() == "log"
    assert worst.get_ylabel() == r"relative rise $\Delta\mathcal{L}/|\mathcal{L}|$"
    assert random.yaxis.get_major_formatter()(5e-5, None) == "0.005 %"


def test_a_mark_per_policy_and_a_large_one_per_median():
    table = pd.DataFrame(
        {
            "algorithm": ["SHAC"] * 3 + ["PPO"], "rise": [0.1, 0.2, 0.9, 0.01], "kept": [0.4, 0.6, 0.5, 0.8],
            "return": [3e3, 2e3, 1e3, 4e3],
        }
    )  # fmt: skip
    kept, returned = figures.flat_and_robust(table, 0.1).axes
    marks, middle = kept.lines[:2]
    np.testing.assert_allclose(marks.get_xydata(), table.loc[:2, ["rise", "kept"]])
    np.testing.assert_allclose(middle.get_xydata(), [[0.2, 0.5]])
    np.testing.assert_allclose(returned.lines[1].get_xydata(), [[0.2, 2e3]])
    assert kept.get_xscale() == "log" and kept.lines[2].get_color() == LOOKS["PPO"].colour


def test_ascents_are_shares_of_the_same_policys_exact_one():
    cases = [
        ("all", 1.0, 4.0),
        ("first robots", 0.5, 2.0),
        ("first steps", 0.25, 3.0),
        ("window before", 0.5, None),
    ]
    rows = [
        {"ascent": ascent, "share": share, "run": run, "rise": rise * (mean or size) * size, "cosine": 0.5}
        for run, size in (("a", 1.0), ("b", 10.0), ("c", 2.0))
        for ascent, share, mean in cases
        for rise in (0.5, 1.5)  # two windows
    ]
    (axis,) = figures.ascents(of_exact(pd.DataFrame(rows))).axes
    drawn = {bars.get_label(): bars.lines[0].get_ydata() for bars in axis.containers}
    # The last: of 1/4, 10/4 and 2/4.
    expected = {"all": 1.0, "first robots": 0.5, "first steps": 0.75, "window before": 0.5}
    assert {name: pytest.approx([value]) for name, value in expected.items()} == drawn


def test_training_time_shows_ratios_and_the_papers_in_words():
    table = pd.DataFrame(
        [("DiffAnt", "SHAC-ASAM", 1.9, 1.8, 2.0), ("DiffAnt", "SHAC-ASAM, few robots", 1.2, 1.1, 1.3)],
        columns=["task", "side", "ratio", "low", "high"],
    )
    (axis,) = figures.training_time(table, {"DiffAnt": 1.71}, {"SHAC-ASAM": "on all robots"}).axes
    assert [bar.get_width() for bar in axis.patches] == [1.9, 1.2]
    assert lines(axis)["SHAC-ASAM in the paper"].get_xdata() == [1.71, 1.71]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["on all robots", "SHAC-ASAM, few robots"]
    assert [(text.get_text(), text.xy[0]) for text in axis.texts] == [
        ("1.90×", 0),
        ("1.20×", 0),
    ]  # in the bars
    assert axis.get_title(loc="left") == "Ant"


def test_an_outlier_does_not_hide_the_other_gradients():
    difference = np.array([-0.004, -0.002, 0.001, 0.003, 0.12])
    checks = pd.DataFrame(
        {"task": "DiffAnt", "gradient": 1.01 * difference, "difference": difference, "converged": True}
    )
    errors = pd.DataFrame({"task": "DiffAnt", "horizon": [1, 8], "error": [1e-4, 1e-3]})
    fig = figures.gradient_check(pd.DataFrame(checks), errors)
    fig.canvas.draw()
    axis = fig.axes[0]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), np.c_[difference, 1.01 * difference])
    left, *_, second, last = axis.transData.transform(axis.lines[0].get_xydata())[:, 0]
    assert second - left > 0.4 * (last - left)  # linearly, it would be a seventeenth


def test_a_robot_is_drawn_where_it_is():
    ends = np.zeros((2, 3, 2, 3))
    ends[1, ..., 0] = 5.0
    ends[..., 1, 2] = 0.5
    ends[:, 1, :, 1], ends[:, 2, :, 1] = 0.4, -0.4  # the second is left, the third right
    ends[0, 1, :, 0] -= 0.3
    ends[0, 2, :, 0] += 0.3
    fig = figures.robot_frames(ends, [0.1, 0.1, 0.2], [0.0, 1.5])
    first, second = fig.axes
    assert [axis.get_title(loc="left") for axis in (first, second)] == ["0.0 s, 0.0 m", "1.5 s, 5.0 m"]
    assert first.get_xlim()[0] < 0 < first.get_xlim()[1] < second.get_xlim()[0] < 5 < second.get_xlim()[1]
    capsules = second.collections[0].get_segments()
    assert len(capsules) == 3 and np.ptp([end[:, 1] for end in capsules]) == 0.5
    colours = [matplotlib.colors.to_hex(colour).upper() for colour in second.collections[0].get_colors()]
    assert colours == [SKY, "#555555", ORANGE]  # far, which is left and behind, to near
    ends[0, 2, 1, 2] = 1.6  # taller than the picture is by itself: all of them grow
    assert all(axis.get_ylim()[1] > 1.6 for axis in figures.robot_frames(ends, [0.1] * 3, [0.0, 1.5]).axes)


def test_a_robot_that_leans_keeps_its_sides():
    rest = np.zeros((5, 2, 3))
    rest[..., 1], rest[..., 2] = [[0], [0.1], [-0.1], [0.1], [-0.1]], [[1.5], [0.8], [0.8], [0.2], [0.2]]
    ends = rest[None] + 0.1 * rest[None, ..., [0, 2, 0]] * [0, 1, 0]
    (axis,) = figures.robot_frames(ends, [0.1] * 5, [0.0], "a robot", rest=rest).axes
    colours = [matplotlib.colors.to_hex(colour).upper() for colour in axis.collections[0].get_colors()]
    assert sorted(colours) == sorted([BLUE, BLUE, ORANGE, ORANGE, "#555555"])
    assert axis.get_ylabel() == "a robot"


def test_the_tangent_touches_the_loss_at_step_0_with_its_slope():
    (axis,) = figures.tangent([-0.1, 0.0, 0.2], [5.0, 4.0, 4.5], slope=3.0).axes
    drawn = lines(axis)
    np.testing.assert_allclose(drawn["the loss"].get_xydata(), [[-0.1, 5], [0, 4], [0.2, 4.5]])
    np.testing.assert_allclose(drawn["its tangent"].get_ydata(), [3.7, 4.0, 4.6])
