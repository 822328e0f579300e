"""The figures of the ablation: what is drawn is what the data say, and what is not there is not drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from shapo import figures
from shapo.experiments import safety as experiments
from shapo.experiments.safety import comparison
from shapo.figures.style import LOOKS, looks

VARIANTS = ("vanilla", "SHAPO Actor", "SHAPO", "E-SAM", "E-SAM ρ = 0.1", "E-SAM ρ = 0.3")


def runs(
    task: str = "PointGoal1-v0", variants=VARIANTS, seeds: int = 5, baseline: str = "TRPOLag"
) -> pd.DataFrame:
    rows = []
    for k, variant in enumerate(variants):
        for seed in range(seeds):
            noise = np.random.default_rng([k, seed]).random(len(experiments.METRICS))
            rows.append([task, baseline, variant, seed, *(k + noise)])
    return pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", *experiments.METRICS])


def compared(table: pd.DataFrame) -> pd.DataFrame:
    return comparison(table, np.random.default_rng(0)).query("metric != 'cost'")


def panels(fig: plt.Figure) -> dict[tuple[int, int], plt.Axes]:
    places = {axis: axis.get_subplotspec() for axis in fig.axes}
    return {(place.rowspan.start, place.colspan.start): axis for axis, place in places.items()}


def lines(axis: plt.Axes, points: int) -> list[np.ndarray]:
    """The (points, 2) of the data lines with that many points."""
    drawn = [line.get_xydata() for line in axis.lines if line.get_transform() == axis.transData]
    drawn = [xy[np.isfinite(xy).all(axis=1)] for xy in drawn]
    return [xy for xy in drawn if len(xy) == points]


def test_a_line_of_the_ablation_is_a_row_of_the_table():
    table = runs()
    numbers = compared(table)
    fig = figures.ablation(table, numbers)
    for column, metric in enumerate(("return", "cost_rate", "tail")):
        axis = panels(fig)[0, column]
        rows = numbers[numbers.metric == metric].set_index("variant")
        points, intervals = (sorted(lines(axis, n), key=lambda xy: xy[0, 1]) for n in (1, 2))
        for y, variant in enumerate(VARIANTS):
            row = rows.loc[variant]
            np.testing.assert_allclose(points[y], [[row.iqm, y]])
            np.testing.assert_allclose(intervals[y], [[row.low, y], [row.high, y]])
        seeds = np.concatenate([dots.get_offsets() for dots in axis.collections])
        assert sorted(seeds[:, 0]) == sorted(table[metric])
        assert (abs(seeds[:, 1] - np.repeat(range(len(VARIANTS)), 5)) < 0.5).all()
        reference = axis.lines[0]
        assert reference.get_label() == "vanilla" and set(reference.get_xdata()) == {rows.iqm["vanilla"]}
        (band,) = axis.patches
        edges = axis.transData.inverted().transform(band.get_window_extent())[:, 0]
        np.testing.assert_allclose(edges, [rows.low["vanilla"], rows.high["vanilla"]])
    assert [text.get_text() for text in panels(fig)[0, 0].get_yticklabels()] == list(VARIANTS)


def test_what_is_one_number_throughout_has_no_panel():
    table = pd.concat([runs(), runs("Walker2d-v4").assign(tail=1.0)])
    shown = panels(figures.ablation(table, compared(table)))
    assert set(shown) == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}


def test_each_metric_says_which_way_is_better():
    table = pd.concat([runs(), runs("Walker2d-v4"), runs("Walker2d-v4", baseline="PIDLag")])
    shown = panels(figures.ablation(table, compared(table)))
    titles = [shown[row, 0].get_title(loc="left") for row in range(3)]
    assert titles == ["PointGoal1-v0, TRPOLag", "Walker2d-v4, TRPOLag", "Walker2d-v4, PIDLag"]
    names = {place: axis.get_xlabel().replace("\n", " ") for place, axis in shown.items()}
    assert names[0, 0] == "return per episode, last quarter (→ better)"
    assert names[0, 1] == "cost per step, all of training (← better)"
    assert names[0, 2] == "episodic cost, 95 % quantile (← better)"
    assert names[1, 1] == "" and names[2, 1] == "failures, all of training (← better)"
    assert names[2, 2] == "episodic cost, 80 % quantile (← better)"


def test_a_variant_without_runs_keeps_its_line_empty():
    here, there = runs(variants=("SHAPO", "E-SAM")), runs("Walker2d-v4", ("vanilla", "SHAPO"))
    table = pd.concat([here, there])
    shown = panels(figures.ablation(table, compared(table), ["vanilla", "SHAPO", "E-SAM", "SAM Critic"]))
    for row, empty in ((0, [0, 3]), (1, [2, 3])):
        axis = shown[row, 0]
        assert [text.get_position()[1] for text in axis.texts if text.get_text() == "no run"] == empty
        assert {xy[0, 1] for xy in lines(axis, 1)} == {0, 1, 2, 3} - set(empty)
    assert "vanilla" not in [line.get_label() for line in shown[0, 0].lines]  # no reference to compare with


def test_one_seed_has_no_interval():
    table = runs(seeds=1)
    axis = panels(figures.ablation(table, compared(table)))[0, 0]
    assert not axis.patches and all(len(np.unique(xy, axis=0)) == 1 for xy in lines(axis, 2))
    points = sorted(xy[0, 0] for xy in lines(axis, 1))
    np.testing.assert_allclose(points, sorted(table["return"]))


def test_the_ablation_is_written_with_the_same_bytes(tmp_path):
    table = runs(seeds=3)
    for name in "ab":
        figures.save(figures.ablation(table, compared(table)), name, folder=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_no_run_no_picture():
    none = experiments.results({})
    with pytest.raises(ValueError, match="at least one run"):
        figures.ablation(none, compared(none))


def perturbed(kl: float, loss: float) -> pd.DataFrame:
    steps = np.array([20_000, 40_000, 60_000])
    return pd.DataFrame({"steps": steps, "kl_down": kl * steps, "surrogate_down": -loss * np.sqrt(steps)})


def test_kl_is_drawn_as_measured_and_the_loss_without_the_radius():
    progress = {
        "PointGoal1-v0": {
            "vanilla": [perturbed(1, 1)[["steps"]]],
            "SHAPO Actor": [perturbed(1e-8, 3e-4), perturbed(3e-8, 3e-4)],
            "E-SAM": [],
            "E-SAM ρ = 0.1": [perturbed(2e-7, 4e-4)],
        },
        "Walker2d-v4": {"vanilla": [perturbed(1, 1)[["steps"]]]},
    }
    fig = figures.kl_of_perturbations(progress, {"PointGoal1-v0": 1e-3})
    kl, loss = (panels(fig)[0, column] for column in (0, 1))
    assert len(fig.axes) == 2 and kl.get_yscale() == "log"
    means = {line.get_label(): line.get_ydata() for line in kl.lines if not line.get_label().startswith("_")}
    delta = means.pop(r"$\delta_{\rm Down}$")
    assert set(delta) == {1e-3} and set(means) == {"SHAPO Actor", "E-SAM ρ = 0.1"}
    np.testing.assert_allclose(means["SHAPO Actor"], 2e-8 * np.array([2e4, 4e4, 6e4]))
    means = {line.get_label(): line.get_ydata() for line in loss.lines}
    np.testing.assert_allclose(means["E-SAM ρ = 0.1"], 4e-4 / np.sqrt(4e-7))  # the same at every KL
    with pytest.raises(ValueError, match="perturbed actor"):
        figures.kl_of_perturbations({"PointGoal1-v0": {"vanilla": [perturbed(1, 1)[["steps"]]]}}, {})


def test_every_variant_of_the_experiments_has_its_look():
    names = {name for build in experiments.FIGURES for _, _, name in build("smoke")}
    assert {name for name in names if "=" not in name} <= LOOKS.keys()  # the others are settings of a dial
    variants = experiments.variants("PointGoal1-v0")
    assert len({look[1:] for look in looks(variants).values()}) == len(variants)  # even without colour
    assert LOOKS["vanilla"].colour == "black" and LOOKS["vanilla"].dashes


def test_the_contrast_of_figure_6_survives_grey_print():
    grey = {name: to_rgb(look.colour) @ np.array([0.299, 0.587, 0.114]) for name, look in LOOKS.items()}
    assert abs(grey["SHAPO Actor"] - grey["E-SAM"]) > 0.1
    assert grey["TRPOLag"] > 0  # black is what a figure compares with


def test_names_that_are_not_known_get_looks_that_are_free():
    chosen = looks(["vanilla", "mine", "SHAPO", "yours", "PIDLag"], {"PIDLag": "vanilla"})
    assert len({look.colour for look in chosen.values()}) == 4 and chosen["PIDLag"] == chosen["vanilla"]
    assert len(looks(map(str, range(30)))) == 30
