"""The figures of the dials draw what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from shapo import figures
from shapo.figures.curves import name_lines
from shapo.sharpness import FixedAlpha, FixedDelta, alpha_from_delta


def test_schedules_show_radius_and_confidence():
    samples = np.array([1e4, 1e5, 1e6])
    fig = figures.schedules(samples, {"fixed δ": FixedDelta(1e-4), "fixed α": FixedAlpha(0.05, 1000)})
    (delta, shrinking), (falling, level) = (axis.get_lines() for axis in fig.axes)
    np.testing.assert_allclose(delta.get_ydata(), 1e-4)
    np.testing.assert_allclose(shrinking.get_ydata() * samples, shrinking.get_ydata()[0] * 1e4)
    np.testing.assert_allclose(level.get_ydata(), 0.05)
    np.testing.assert_allclose(falling.get_ydata(), [alpha_from_delta(1e-4, n / 1000) for n in samples])


def test_effective_samples_are_medians_over_seeds():
    tables = [
        pd.DataFrame({"steps": [10, 20], "autocorrelation_time": tau, "n_eff": np.array([10, 20]) / tau})
        for tau in (1.0, 2.0, 10.0)
    ]
    left, right = figures.effective_samples({"a task": tables}).axes
    assert list(left.get_lines()[0].get_ydata()) == [2.0, 2.0]
    assert list(right.get_lines()[0].get_ydata()) == [5.0, 10.0]


def test_dose_response_puts_vanilla_at_zero_and_joins_medians():
    rows = [("T", "CPO", "vanilla", 100, 1.0), ("T", "CPO", "vanilla", 101, 3.0)]
    rows += [
        ("T", "CPO", f"δ = {d:g} δ_Up", s, 10 * i + s - 100)
        for i, d in enumerate((0.1, 0.3))
        for s in (100, 101)
    ]
    rows += [("T", "CPO", "ρ = 0.1", 100, 99.0)]
    results = pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", "return"]).assign(tail=1.0)
    fig = figures.dose_response(results, "δ", {"T": ["return", "tail"]}, {"return": "return", "tail": "tail"})
    (axis,) = fig.axes  # the tail is one number throughout
    dots, middle, vanilla = axis.get_lines()
    assert middle.get_ydata().tolist() == [2.0, 0.5, 10.5] and middle.get_xdata().tolist() == [0, 1, 2]
    assert set(vanilla.get_ydata()) == {2.0} and vanilla.get_label() == "CPO, radius 0"
    assert sorted(dots.get_ydata()) == [0.0, 1.0, 1.0, 3.0, 10.0, 11.0]
    fig.canvas.draw()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "0.1", "0.3"]


def test_dose_response_keeps_a_baselines_colour_across_tasks():
    rows = [(task, name, v, 100, 1.0) for task, names in (("T", ["A"]), ("U", ["B", "A"])) for name in names
            for v in ("vanilla", "δ = 0.1")]  # fmt: skip
    results = pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", "return"])
    results["return"] = range(len(results))
    fig = figures.dose_response(results, "δ", {"T": ["return"], "U": ["return"]}, {"return": "return"})
    colours = [
        {line.get_label(): line.get_color() for line in axis.get_lines()} for axis in fig.axes if axis.lines
    ]
    assert colours[0]["A"] == colours[1]["A"] != colours[1]["B"]
    names = {text.get_text() for text in fig.legends[0].get_texts()}
    assert names == {"A", "B", "A, radius 0", "B, radius 0"}
    assert [axis.get_title(loc="left") for axis in fig.axes] == ["(a)  T: return", "(b)  U: return"]


def test_names_beside_lines_keep_their_order_and_do_not_overlap():
    axis = plt.figure(figsize=(3, 2)).add_subplot()
    for name, end in (("low", 0.0), ("high", 1.0), ("middle", 0.01)):
        axis.plot([0, 1], [0.5, end], label=name)
    axis.axhline(0.7)
    name_lines(axis)
    heights = {text.get_text(): text.xy[1] for text in axis.texts}
    assert heights["low"] + 0.05 < heights["middle"] < heights["high"] - 0.05 and len(heights) == 3


def test_autocorrelations_name_their_times():
    fig = figures.autocorrelations({"y": [1.0, 0.5]}, {"y": 1.5}, np.arange(5.0), shown=3)
    left, right = fig.axes
    assert list(left.get_lines()[0].get_ydata()) == [1.0, 0.5]
    assert fig.legends[0].get_texts()[0].get_text() == r"y, $\tau$ = 1.5"
    assert list(right.get_lines()[0].get_ydata()) == [0.0, 1.0, 2.0]
    with pytest.raises(KeyError):
        figures.autocorrelations({"y": [1.0]}, {}, np.arange(5.0))
