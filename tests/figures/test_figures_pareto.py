"""Figures 3 to 5: what is drawn is what the runs say, and what is not there is not drawn."""

import numpy as np
import pandas as pd
import pytest

from shapo import figures
from shapo.experiments import safety as experiments
from shapo.experiments import statistics

X = {"PointGoal1-v0": "cost_rate", "Walker2d-v4": "failures"}
LABELS = {metric: label for metric, (label, _) in experiments.METRICS.items()}
LIMITS = {"PointGoal1-v0": 0.01}


def runs(seeds: int = 4, baselines=("TRPOLag", "CPO", "CRPO", "mine")) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for task in X:
        for baseline in baselines:
            for variant in ("vanilla", "SHAPO"):
                values = rng.uniform(0, 30, (seeds, len(LABELS)))
                rows += [[task, baseline, variant, seed, *values[seed]] for seed in range(seeds)]
    return pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", *LABELS])


def draw(table: pd.DataFrame, figure=figures.pareto, limits=None) -> tuple[list, pd.DataFrame]:
    """The panels, and the comparison that they draw."""
    comparison = experiments.comparison(table, np.random.default_rng(0))
    return figure(table, comparison, X, LABELS, limits).axes, comparison


def large_points(axis) -> dict[tuple[float, float], bool]:
    """(x, y) -> whether filled."""
    lines = [line for line in axis.lines if line.get_markersize() > 5 and line.get_marker() in "os^DvP"]
    return {
        (line.get_xdata()[0], line.get_ydata()[0]): line.get_markerfacecolor() != "white" for line in lines
    }


def arrows(axis) -> list[tuple]:
    """(tail, head) of each."""
    return sorted((*note.xyann, *note.xy) for note in axis.texts if getattr(note, "arrow_patch", None))


def middle(table: pd.DataFrame, task: str, baseline: str, variant: str) -> tuple[float, float]:
    cell = table[(table.task == task) & (table.baseline == baseline) & (table.variant == variant)]
    return statistics.iqm(cell[X[task]]), statistics.iqm(cell["return"])


@pytest.mark.parametrize("figure", [figures.pareto, figures.frontier])
def test_points_and_arrows_are_at_the_interquartile_means(figure):
    table = runs()
    axes, _ = draw(table, figure)
    for axis, task in zip(axes, X, strict=True):
        ends = {
            variant: [middle(table, task, baseline, variant) for baseline in table.baseline.unique()]
            for variant in ("vanilla", "SHAPO")
        }
        filled = {point: False for point in ends["vanilla"]} | {point: True for point in ends["SHAPO"]}
        assert large_points(axis) == filled
        assert arrows(axis) == sorted((*a, *b) for a, b in zip(ends["vanilla"], ends["SHAPO"], strict=True))


def test_every_seed_is_a_small_point_and_every_interval_a_bar():
    table = runs()
    (axis, _), comparison = draw(table)
    drawn = {tuple(point) for line in axis.lines if line.get_markersize() == 2 for point in line.get_xydata()}
    part = table[table.task == "PointGoal1-v0"]
    assert drawn == set(zip(part.cost_rate, part["return"], strict=True))
    bars = {tuple(line.get_ydata()) for line in axis.lines} | {tuple(line.get_xdata()) for line in axis.lines}
    intervals = comparison[
        (comparison.task == "PointGoal1-v0") & comparison.metric.isin(("return", "cost_rate"))
    ]
    assert set(zip(intervals.low, intervals.high, strict=True)) <= bars


def test_the_step_lines_are_the_pareto_fronts():
    table = runs()
    axes, _ = draw(table)
    for axis, task in zip(axes, X, strict=True):
        for variant in ("vanilla", "SHAPO"):
            points = np.array(
                [middle(table, task, baseline, variant) for baseline in table.baseline.unique()]
            )
            front = points[statistics.pareto_front(*points.T)]
            (line,) = (line for line in axis.lines if line.get_label() == f"front of {variant}")
            np.testing.assert_array_equal(line.get_xydata()[1:-1], front[front[:, 0].argsort()])
            assert line.get_drawstyle() == "steps-post"
            assert line.get_xdata()[-1] == axis.get_xlim()[1] and line.get_ydata()[0] == axis.get_ylim()[0]


def test_the_limit_stands_where_it_is_and_nowhere_else():
    axes, _ = draw(runs(), limits=LIMITS)
    limits = [[line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"] for axis in axes]
    assert limits == [[0.01], []]


def test_half_a_baseline_is_a_point_without_an_arrow():
    table = runs().query("baseline != 'CPO' or variant == 'SHAPO'")
    (axis, _), _ = draw(table)
    assert len(large_points(axis)) == 7 and len(arrows(axis)) == 3
    assert large_points(axis)[middle(table, "PointGoal1-v0", "CPO", "SHAPO")]


@pytest.mark.parametrize("figure", [figures.pareto, figures.frontier])
def test_a_panel_without_runs_says_so(figure):
    (goal, walker), _ = draw(runs().query("task == 'PointGoal1-v0'"), figure)
    assert large_points(goal) and not walker.lines
    assert [text.get_text() for text in walker.texts] == ["no run of Walker2d-v4 is there yet"]
    axes, _ = draw(experiments.results({}), figure, LIMITS)
    assert [axis.texts[0].get_text() for axis in axes] == [f"no run of {task} is there yet" for task in X]


def test_one_seed_is_one_point():
    (axis, _), _ = draw(runs(seeds=1))
    assert len(large_points(axis)) == 8
    assert not [line for line in axis.lines if line.get_markersize() == 2]
    bars = [line for line in axis.lines if line.get_linewidth() == 0.5]
    assert all(np.isnan(line.get_xydata()).any() for line in bars)


def test_frontier_tells_its_settings_apart():
    settings = [f"λ₀ = {value:g}" for value in experiments.LAMBDA_INIT]
    axes, _ = draw(runs(baselines=settings), figures.frontier)
    keys = axes[0].figure.legends[0].legend_handles[: len(settings)]
    assert [key.get_label() for key in keys] == settings
    assert len({key.get_marker() for key in keys}) == len({key.get_color() for key in keys}) == len(settings)


def episodes(seed: int, number: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"steps": 1000 * np.arange(1, number + 1), "cost": rng.integers(0, 200, number)})


def costs() -> dict[tuple[str, str, str], list[pd.DataFrame]]:
    return {
        ("PointGoal1-v0", "CPO", "vanilla"): [episodes(seed) for seed in range(3)],
        ("PointGoal1-v0", "CPO", "SHAPO"): [episodes(3)],
        ("PointGoal1-v0", "SauteRL", "vanilla"): [],
        ("PointGoal1-v0", "SauteRL", "SHAPO"): [],
        ("Walker2d-v4", "CPO", "vanilla"): [],
        ("Walker2d-v4", "CPO", "SHAPO"): [],
    }


LEVELS = {"PointGoal1-v0": 0.95, "Walker2d-v4": 0.8}


def test_a_window_holds_its_upper_end_and_not_its_lower():
    steps, values = np.arange(10), np.arange(10) ** 2
    found = figures.moving_quantile(steps, values, 0.7, ends=[2, 9, 20], width=3)
    np.testing.assert_array_equal(
        found, [np.quantile([0, 1, 4], 0.7), np.quantile([49, 64, 81], 0.7), np.nan]
    )


def test_tails_are_the_quantiles_of_moving_windows():
    given = costs()
    axis = figures.tails(given, LEVELS, {"PointGoal1-v0": 10}).axes[0]
    middle, shapo, limit = axis.lines
    ends = middle.get_xdata()
    assert ends[0] == 30_000 and ends[-1] == 300_000
    quantiles = {
        name: [
            [table.cost[(table.steps > end - 30_000) & (table.steps <= end)].quantile(0.95) for end in ends]
            for table in given["PointGoal1-v0", "CPO", name]
        ]
        for name in ("vanilla", "SHAPO")
    }
    np.testing.assert_allclose(middle.get_ydata(), np.median(quantiles["vanilla"], axis=0))
    np.testing.assert_allclose(shapo.get_ydata(), quantiles["SHAPO"][0])
    assert set(limit.get_ydata()) == {10}


def test_tails_begin_where_every_seed_has_and_join_over_gaps():
    late, gap = episodes(1)[200:], episodes(0).drop(range(50, 100))
    axis = figures.tails({("Ant-v4", "CPO", "SHAPO"): [gap, late]}, {"Ant-v4": 0.95}).axes[0]
    assert axis.lines[0].get_xdata()[0] > 200_000
    axis = figures.tails({("Ant-v4", "CPO", "SHAPO"): [gap]}, {"Ant-v4": 0.95}).axes[0]
    assert np.isfinite(axis.lines[0].get_ydata()).all()


def test_a_task_that_always_costs_the_same_drops_out():
    same = [episodes(0).assign(cost=1.0)]
    given = costs() | {("Walker2d-v4", "CPO", "vanilla"): same, ("Walker2d-v4", "CPO", "SHAPO"): same}
    assert len(figures.tails(given, LEVELS).axes) == 2
    only = {key: tables for key, tables in given.items() if key[0] == "Walker2d-v4"}
    assert len(figures.tails(only, LEVELS).axes) == 1


def test_a_window_is_a_share_of_its_baselines_own_training():
    short, long = (
        pd.DataFrame({"steps": np.arange(1, n + 1), "cost": np.arange(n) % 7}) for n in (2000, 5000)
    )
    keys = ("PointGoal1-v0", "CPO", "vanilla"), ("PointGoal1-v0", "PIDLag", "vanilla")
    first, second = figures.tails(dict(zip(keys, ([short], [long]), strict=True)), LEVELS).axes[:2]
    for axis, n in ((first, 2000), (second, 5000)):
        x = axis.lines[0].get_xdata()
        assert (x[0], x[-1]) == (n / 10, n) and axis.get_xlim()[1] < 1.2 * n


def test_exceedance_is_the_share_of_episodes_that_cost_more():
    given = costs()
    axis = figures.exceedance(given).axes[0]
    cost, curve = given["PointGoal1-v0", "CPO", "SHAPO"][0].cost, axis.lines[1]
    np.testing.assert_allclose(curve.get_ydata(), [(cost > c).mean() for c in curve.get_xdata()])
    assert axis.get_yscale() == "log"
    bands = [path.vertices for drawn in axis.collections for path in drawn.get_paths()]
    assert any((band[:, 1] == 0).any() for band in bands), "beyond the costliest episode"
    assert all(np.isfinite(axis.transData.transform(band)).all() for band in bands)


@pytest.mark.parametrize("draw_costs", [lambda c: figures.tails(c, LEVELS), figures.exceedance])
def test_panels_of_costs_say_what_is_missing(draw_costs):
    drawn, missing, walker, not_asked = draw_costs(costs()).axes
    assert drawn.lines and not missing.lines and not walker.lines
    assert [axis.texts[0].get_text() for axis in (missing, walker)] == ["no run yet"] * 2
    assert not not_asked.axison and drawn.axison
    nothing = draw_costs({key: [] for key in costs()})
    assert all(axis.texts[0].get_text() == "no run yet" for axis in nothing.axes if axis.axison)


def test_the_figures_are_written_with_the_same_bytes(tmp_path):
    comparison = experiments.comparison(runs(), np.random.default_rng(0))
    drawings = {
        "pareto": lambda: figures.pareto(runs(), comparison, X, LABELS, LIMITS),
        "tails": lambda: figures.tails(costs(), LEVELS),
    }
    for name, again in drawings.items():
        first, second = (figures.save(again(), name, folder=tmp_path / which) for which in ("one", "two"))
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes()
