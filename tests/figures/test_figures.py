"""The figures: drawn from plain arrays, written as PNG and PDF, the same bytes every time."""

import io
import os
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from shapo import figures


def progress(seed: int) -> pd.DataFrame:
    rng, steps = np.random.default_rng(seed), 20_000 * np.arange(1, 31)
    return pd.DataFrame({
        "steps": steps, "episode_return": steps / 3e4 + rng.normal(size=30),
        "episode_cost": 50 - steps / 2e4 + rng.normal(size=30), "lagrangian_multiplier": steps / 1e6,
    })  # fmt: skip


def episode() -> dict[str, np.ndarray]:
    t = np.linspace(0, 1, 400)
    positions = np.stack([np.cos(9 * t), np.sin(7 * t)], axis=1)
    cost = np.zeros(400)
    cost[[37, 38, 201]] = 1
    return {
        "positions": positions,
        "goals": np.repeat([[0.0, 1.0], [1.0, 0.5], [-1.0, 0.2], [0.5, -1.0]], 100, axis=0),
        "hazards": np.array([[0.3, 0.3], [-0.6, -0.8], [1.2, 1.1]]),
        "cost": cost,
    }


def geometry():
    std = np.geomspace(1, 0.1, 9)
    return figures.geometry(
        [0, np.log(0.3)], {"Fisher": [-0.04, 0.09], "Euclidean": [-0.12, 0.05]},
        np.diag([1 / 0.09, 2.0]), 0.02, 0.14,
        pd.DataFrame({"std": std, "Fisher": np.full(9, 0.02), "Euclidean": 0.01 / std**2}),
    )  # fmt: skip


def theorem1():
    rng = np.random.default_rng(0)
    kl = 10 ** rng.uniform(-3, -1, 40)
    table = pd.DataFrame({"ball": ["Fisher", "Euclidean"] * 20, "kl_max": kl, "error": kl * rng.random(40)})
    sharpening = pd.DataFrame({"std": [1.0, 0.1] * 2, "ball": ["Fisher"] * 2 + ["Euclidean"] * 2})
    return figures.theorem1(
        table, 150, 15, sharpening.assign(bound=[1, 2, 1, 40], error=[1e-3, 1e-4, 1e-3, 5e-3])
    )


def quantile():
    samples = np.random.default_rng(1).standard_normal((500, 2))
    return figures.quantile(samples, [1.0, 0.0], -1.64, [-1.64, 0.0], [-1.64, 0.0])


def agreement():
    table = pd.DataFrame({"dimension": [2, 2, 5, 5], "distance": [0, 1e-15, 1e-9, 3e-9]})
    reached = pd.DataFrame({"n": [10, 1000], "reached": [0.06, 0.05], "standard_error": [0.003, 0.003]})
    return figures.agreement(table, reached, 0.05)


def dial():
    n, samples = np.geomspace(10, 1e4, 20), np.random.default_rng(0).normal(size=(100, 2))
    return figures.Dial(n, {0.001: 0.4 * np.exp(-n / 1e3)}, {0.05: 1 / n}, samples, [1.0, 0.0], np.eye(2))


def turned_dial():
    return dial().turn(0.05, 1e-3, 1e3)


def reweighting():
    a, turns = np.linspace(0.1, 3, 30), {"delta": [0.001, 0.1], "bad": [1.02, 1.2], "good": [0.98, 0.8]}
    return figures.reweighting(a, {0.001: a}, {0.001: 2 - a}, pd.DataFrame(turns))


def measured_weights():
    rng = np.random.default_rng(2)
    samples = pd.DataFrame({name: rng.normal(1, 0.1, 400) for name in ("weight", "predicted")})
    samples = samples.assign(
        advantage=rng.normal(size=400), towards=rng.normal(0, 0.03, 400), distance=rng.uniform(0, 3.3, 400)
    )
    a = np.linspace(0.1, 3.4, 20)
    return figures.measured_weights(samples, 0.001, {"distance": a, "bad": a, "good": 2 - a})


def learning_curves():
    return figures.learning_curves(
        {"PIDLag": [progress(0), progress(1)], "SHAPO": [progress(2)]}, cost_limit=10
    )


def trajectory():
    return figures.trajectory(**episode(), title="an episode")


def dilution():
    table = pd.DataFrame({"samples": [1, 1, 100, 100, 10_000], "share": [1.0, 0.8, 0.3, -0.1, 0.02]})
    return figures.dilution(table)


def pessimistic_step():
    delta = np.geomspace(1e-5, 1e-2, 7)
    kl, drop, degrees = 0.7 * delta, -np.sqrt(delta), 100 * np.sqrt(delta)
    sweep = {"delta": delta, "kl": kl, "quadratic": kl, "drop": drop, "linear": drop, "angle": degrees}
    return figures.pessimistic_step(pd.DataFrame(sweep | {"step angle": 2 * degrees}), 1e-3)


def conjugate_gradient_residuals():
    return figures.conjugate_gradient_residuals(
        {name: 0.5 ** np.arange(16) for name in ("g", "cold", "warm")}
    )


def line_search():
    path = pd.DataFrame({"surrogate": [0.0, 0.1, 0.15], "kl": [0.0, 0.01, 0.04]}, index=[0.0, 1.0, 2.0])
    return figures.line_search({"vanilla": path, "SHAPO": path / 2}, {"vanilla": 0.8, "SHAPO": 1.0}, 0.01)


def critic_sharpness():
    rise = np.linspace(0, 0.3, 5)[:, None] ** 2 * np.array([1.0, 30.0])
    return figures.critic_sharpness(np.linspace(0, 0.3, 5), {"plain": rise, "SAM": rise / 2}, 0.05)


FIGURES = (
    geometry, theorem1, quantile, agreement, turned_dial, reweighting, measured_weights, learning_curves, trajectory,
    dilution, pessimistic_step, conjugate_gradient_residuals, line_search, critic_sharpness,
)  # fmt: skip


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_every_figure_is_written_twice_with_the_same_bytes(draw, tmp_path):
    first = figures.save(draw(), "figure", folder=tmp_path / "first")
    second = figures.save(draw(), "figure", folder=tmp_path / "second")
    assert [path.suffix for path in first] == [".png", ".pdf"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    height, width, _ = plt.imread(first[0]).shape
    assert width / 200 > 2.5 and height / 200 > 1.5  # inches at 200 dots, at least
    assert b"CreationDate" not in first[1].read_bytes()


def test_the_bytes_do_not_depend_on_the_process(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_figures as t;"
        "t.figures.save(t.learning_curves(), 'figure', folder=Path(sys.argv[1]))"
    )
    environment = os.environ | {
        "PYTHONHASHSEED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "MPLBACKEND": "Agg",
    }
    arguments = [sys.executable, "-c", code, str(tmp_path / "there"), os.path.dirname(__file__)]
    subprocess.run(arguments, check=True, env=environment)
    for path in figures.save(learning_curves(), "figure", folder=tmp_path / "here"):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("profile", "batch", "folder"),
    [("smoke", "", "figures/smoke"), ("laptop", "", "runs/figures"), ("smoke", "figures", "figures/smoke"),
     ("laptop", "figures", "figures"), ("paper", "figures", "figures")],
)  # fmt: skip
def test_a_batch_alone_writes_the_shipped_figures_and_smoke_never(
    profile, batch, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("shapo.figures.style.ROOT", tmp_path)
    monkeypatch.setenv("SHAPO_FIGURES", batch and str(tmp_path / batch))
    for path in figures.save(dilution(), "dilution", profile):
        assert path.parent == tmp_path / folder and path.exists()
    command = ["git", "check-ignore", "--quiet", f"{folder}/dilution.png"]
    ignored = subprocess.run(command, cwd=figures.ROOT, capture_output=True).returncode
    assert ignored == 128 or (ignored == 0) == (folder != "figures"), "128: not a git checkout"


def drawn(axis) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for line in axis.lines}


def test_learning_curves_show_median_middle_half_and_limit():
    seeds = [progress(seed) for seed in range(5)]
    fig = figures.learning_curves({"PIDLag": seeds, "SHAPO": [progress(5)]}, cost_limit=10)
    _, cost, _ = fig.axes
    values = np.array([table["episode_cost"] for table in seeds])
    np.testing.assert_allclose(drawn(cost)["PIDLag"][:, 1], np.median(values, axis=0))
    band = cost.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(np.quantile(values, 0.25, axis=0).min())
    assert band.max() == pytest.approx(np.quantile(values, 0.75, axis=0).max())
    np.testing.assert_array_equal(drawn(cost)["SHAPO"][:, 1], progress(5)["episode_cost"])
    assert set(drawn(cost)["limit 10"][:, 1]) == {10}
    assert cost.get_title(loc="left") == "(b)  cost per episode"


def test_learning_curves_join_the_finite_points_of_every_seed():
    gaps, whole = progress(0), progress(1)
    gaps.loc[1::2, "episode_return"] = np.nan  # no episode ended in these epochs
    axis = figures.learning_curves({"gaps": [gaps], "both": [gaps, whole]}).axes[0]
    finite = gaps.dropna()
    np.testing.assert_allclose(drawn(axis)["gaps"], finite[["steps", "episode_return"]])
    joined = np.interp(whole.steps, finite.steps, finite.episode_return)[:29]  # nothing ends after the last
    np.testing.assert_allclose(drawn(axis)["both"][:, 1], (joined + whole.episode_return[:29]) / 2)


def test_what_is_one_number_throughout_is_left_out():
    tables = [progress(0).assign(lagrangian_multiplier=1.0)]
    assert len(figures.learning_curves({"SHAPO": tables}).axes) == 2
    assert len(figures.learning_curves({"SHAPO": tables}, panels={"lagrangian_multiplier": "λ"}).axes) == 1


def test_every_contour_that_a_title_names_is_in_its_panel():
    (contours,) = (drawn for drawn in geometry().axes[0].collections if hasattr(drawn, "levels"))
    assert all(len(path.vertices) for path in contours.get_paths())


def test_an_expansion_does_not_look_like_a_radius():
    a = np.linspace(0.1, 3, 5)
    turns = pd.DataFrame({"delta": [0.001, 0.1], "bad": [1.02, 1.2], "good": [0.98, 0.8]})
    weights, zones = figures.reweighting(a, *[{d: a for d in (0.001, 0.01, 0.1)}] * 2, turns).axes
    radii = {line.get_linestyle() for line in weights.lines if line.get_label().startswith(r"$\delta")}
    assert len(radii) == 3 and radii.isdisjoint({zones.lines[-1].get_linestyle()})


def test_the_histogram_ends_where_the_draws_end():
    bars = quantile().axes[1].patches
    last = np.random.default_rng(1).standard_normal((500, 2))[:, 0].max()  # the gradient is (1, 0)
    assert last <= bars[-1].get_x() + bars[-1].get_width() < last + 1.01 * bars[-1].get_width()


def test_what_was_measured_is_not_hidden_by_what_was_expected():
    distance, fall, _ = (fig := pessimistic_step()).axes
    for axis in (distance, fall):
        expected, measured = axis.lines[:2]
        assert (expected.get_marker(), measured.get_linestyle()) == ("", "None")
    assert "the radius in training" in [text.get_text() for text in fig.legends[0].get_texts()]


def test_a_smoke_figure_says_what_it_is(tmp_path):
    for profile, expected in (
        ("smoke", ["smoke: proves the pipeline, claims nothing"]),
        ("laptop", []),
        ("paper", []),
    ):
        fig = dilution()
        for name in "ab":  # saved twice, said once
            figures.save(fig, name, profile, folder=tmp_path)
        assert [text.get_text() for text in fig.texts] == expected


def test_the_dial_turns_without_being_drawn_anew():
    turning, pictures = dial(), []
    for mark in ((0.05, 1e-3, 1e3), (0.01, 1e-2, 1e3), (0.05, 1e-3, 1e3)):
        turning.turn(*mark)
        pictures.append(plt.imread(io.BytesIO(turning.png())))
    assert not plt.get_fignums()
    assert (pictures[0] == pictures[2]).all()  # the rest is as it was
    changed = (pictures[0] != pictures[1]).any(axis=(0, 2))
    assert all(panel.any() for panel in np.array_split(changed, 3)) and changed.mean() < 0.5
    assert pictures[0].shape[1] > 1800  # sharp at half its size
    np.testing.assert_allclose(turning.step.get_xydata()[1], [-np.sqrt(2), 0])  # √(2 n δ) against g


def test_learning_curves_average_over_a_window():
    fig = figures.learning_curves({"PIDLag": [progress(0)]}, panels={"episode_cost": "cost"}, window=3)
    values = progress(0)["episode_cost"].to_numpy()
    expected = [values[max(0, t - 2) : t + 1].mean() for t in range(len(values))]
    np.testing.assert_allclose(fig.axes[0].lines[-1].get_ydata(), expected)


def test_learning_curves_name_a_missing_column():
    with pytest.raises(ValueError, match=r"'SHAPO' has no column.*episode_cost"):
        figures.learning_curves({"SHAPO": [progress(0).drop(columns="episode_cost")]})


def test_the_trajectory_marks_where_cost_was_paid():
    (axis, *_) = trajectory().axes
    (paid,) = (line for line in axis.lines if line.get_label().startswith("cost paid"))
    np.testing.assert_array_equal(np.stack(paid.get_data(), 1), episode()["positions"][[37, 38, 201]])
    assert "(3)" in paid.get_label()


def test_the_animation_loses_no_cost_between_its_frames():
    result = figures.trajectory_animation(**episode(), frames=9)
    times = list(result.new_frame_seq())
    assert len(times) == 9 and times[0] == 0 and times[-1] == 399
    _, paid, goal, agent, caption = result._func(399)
    assert len(paid.get_xdata()) == 3
    np.testing.assert_array_equal([goal.center, agent.center], [[0.5, -1.0], episode()["positions"][-1]])
    assert caption.get_text() == "step 400, goals 3, cost 3"
    assert "<img" in result.to_jshtml()
    assert not plt.get_fignums()  # a notebook would show the still picture too


def test_shapes_that_do_not_match_are_refused():
    wrong = episode() | {"goals": np.zeros((3, 2))}
    for draw in (figures.trajectory, figures.trajectory_animation):
        with pytest.raises(ValueError, match=r"\(400, 2\) and \(3, 2\)"):
            draw(**wrong)


def test_the_line_search_marks_the_fraction_that_was_taken():
    value, kl = line_search().axes
    marks = {name: xy.tolist()[0] for name, xy in drawn(kl).items() if name.startswith("taken")}
    taken = [("vanilla", 0.8, 0.008), ("SHAPO", 1.0, 0.005)]
    assert marks == {f"taken, {name}": [fraction, pytest.approx(kl)] for name, fraction, kl in taken}
    assert len(value.lines) == 4


def test_critic_symmetry_draws_what_it_is_given():
    distance = pd.Index([0.0, 0.05, 0.1])
    curves = {
        "optimist": pd.DataFrame({"rise": [0, 1, 3], "change": [0, -1, -2]}, distance),
        "pessimist": pd.DataFrame({"rise": [0, 1, 4], "change": [0, 1, 2]}, distance),
    }
    rise, change = figures.critic_symmetry(curves, 0.05).axes
    for name, table in curves.items():
        np.testing.assert_array_equal(drawn(rise)[name], np.c_[distance, table.rise])
        np.testing.assert_array_equal(drawn(change)[name], np.c_[distance, table.change])
