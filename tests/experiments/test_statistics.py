"""The statistics against rliable, against every resample of tiny samples, and against what they promise."""

import itertools
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from pandas.util import _decorators

from shapo.experiments.statistics import (
    compare,
    improvement_interval,
    interval,
    iqm,
    pareto_front,
    probability_of_improvement,
    readable,
)


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def rliable():
    """rliable 1.2 takes arch < 8, which calls a decorator of pandas as it was before pandas 3: no class of warning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_decorators, "deprecate_kwarg", partial(_decorators.deprecate_kwarg, FutureWarning))
        from rliable import library, metrics
    return SimpleNamespace(library=library, metrics=metrics)


def replay(monkeypatch, rng, repetitions, *groups):
    """Lets rliable, which draws from NumPy's global state, draw what shapo draws from `rng`."""
    draws = [rng.integers(len(scores), size=(repetitions, len(scores))) for scores in groups]
    queue = [drawn[repetition] for repetition in range(repetitions) for drawn in draws]

    def choice(runs, shape, replace):
        drawn = queue.pop(0)[:, None]  # one task
        assert drawn.shape == tuple(shape) and drawn.max() < runs and replace
        return drawn

    monkeypatch.setattr(np.random, "choice", choice)
    return queue


@pytest.mark.parametrize("seeds", [1, 2, 3, 5, 7, 10])
def test_interquartile_mean_is_rliables(rliable, seeds):
    scores = generator().gamma(2.0, 3.0, (seeds, 2))
    expected = [rliable.metrics.aggregate_iqm(task[:, None]) for task in scores.T]
    assert iqm(scores, axis=0) == pytest.approx(expected, rel=1e-13)
    assert [iqm(task) for task in scores.T] == pytest.approx(expected, rel=1e-13)


def test_interquartile_mean_drops_whole_runs():
    assert iqm([100, 1, 2, 3, -50]) == 2  # a quarter of 5 is one run
    assert iqm([100, 1, 2]) == pytest.approx(103 / 3)  # a quarter of 3 is none


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_are_rliables_on_the_same_resamples(rliable, monkeypatch, seeds, level):
    scores = generator(1).normal(10, 4, seeds)
    left = replay(monkeypatch, generator(7), 200, scores)
    points, intervals = rliable.library.get_interval_estimates(
        {"x": scores[:, None]}, lambda x: np.array([rliable.metrics.aggregate_iqm(x)]),
        reps=200, confidence_interval_size=level,
    )  # fmt: skip
    assert not left
    assert iqm(scores) == pytest.approx(points["x"][0], rel=1e-13)
    found = interval(scores, generator(7), level=level, repetitions=200)
    assert found == pytest.approx(intervals["x"][:, 0], rel=1e-12)


def test_probability_of_improvement_is_rliables(rliable):
    x, y = (generator(2).integers(0, 6, 5).astype(float), generator(3).integers(1, 7, 4).astype(float))
    estimate = rliable.metrics.probability_of_improvement
    assert probability_of_improvement(x, y) == pytest.approx(estimate(x[:, None], y[:, None]), rel=1e-13)
    assert probability_of_improvement(x, x) == 0.5


def exact(estimates, level, repetitions):
    """The quantiles of a finite distribution, where Monte Carlo cannot miss them: far from the steps of its CDF."""
    estimates = np.sort(estimates)
    bounds = []
    for tail_mass in ((1 - level) / 2, (1 + level) / 2):
        error = 5 * math.sqrt(tail_mass * (1 - tail_mass) / repetitions)
        inside = np.quantile(estimates, [tail_mass - error, tail_mass + error], method="inverted_cdf")
        assert inside[0] == pytest.approx(inside[1], abs=1e-9), "choose another level"
        bounds.append(inside[0])
    return tuple(bounds)


@pytest.mark.parametrize("statistic, level", [(np.mean, 0.72), (np.median, 0.7), (iqm, 0.95)])
def test_interval_is_that_of_all_resamples(statistic, level):
    scores = np.array([0.0, 1.0, 3.0, 10.0, 20.0])
    everything = statistic(np.array([*itertools.product(scores, repeat=5)]), axis=-1)
    found = interval(scores, generator(), statistic, level, repetitions=100_000)
    assert found == pytest.approx(exact(everything, level, 100_000), abs=1e-9)


@pytest.mark.parametrize("runs, low", [(5, 0.643), (10, 0.800)])
def test_the_interval_of_separated_runs_has_a_width(runs, low):
    better, worse = np.arange(runs) + runs, np.arange(runs)
    assert improvement_interval(better, worse) == pytest.approx((low, 1.0), abs=0.001)
    assert improvement_interval(worse, better) == pytest.approx((0.0, 1 - low), abs=0.001)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("runs", [5, 10])
def test_improvement_intervals_cover_the_truth(runs, shift):
    truth, rng = scipy.stats.norm.cdf(shift / math.sqrt(2)), generator(6)
    samples = rng.standard_normal((1000, 2, runs)) + np.array([shift, 0.0])[:, None]
    bounds = [improvement_interval(x, y) for x, y in samples]
    covered = np.mean([low <= truth <= high for low, high in bounds])
    assert 0.925 < covered < 0.99


def test_intervals_cover_a_gaussian_mean_as_theory_says():
    n, level, trials, rng = 30, 0.9, 800, generator(4)
    # Large n: the resampled mean is N(x̄, s²(n−1)/n²), so the truth is covered when |t| < z sqrt((n−1)/n).
    z = scipy.stats.norm.ppf((1 + level) / 2)
    expected = 1 - 2 * scipy.stats.t.sf(z * math.sqrt((n - 1) / n), n - 1)
    bounds = [
        interval(5 + rng.standard_normal(n), rng, np.mean, level, repetitions=500) for _ in range(trials)
    ]
    covered = np.mean([low <= 5 <= high for low, high in bounds])
    # Four standard deviations of the count, and half a percent for the 500 repetitions.
    assert abs(covered - expected) < 4 * math.sqrt(expected * (1 - expected) / trials) + 0.005


@pytest.mark.parametrize("seeds, promised", [(3, 0.75), (5, 0.91), (10, 0.94)])
def test_intervals_of_few_seeds_cover_as_the_docstring_says(seeds, promised):
    rng = generator(5)
    bounds = [interval(rng.standard_normal(seeds), rng, repetitions=500) for _ in range(1000)]
    covered = np.mean([low <= 0 <= high for low, high in bounds])
    assert abs(covered - promised) < 4 * math.sqrt(promised * (1 - promised) / 1000) + 0.005


def test_one_seed_has_no_interval():
    assert iqm([3.0]) == 3.0
    assert np.isnan(interval([3.0], generator())).all()
    assert np.isnan(improvement_interval([1.0, 2.0], [3.0])).all()
    assert interval([2.0, 2.0], generator()) == (2.0, 2.0)


def test_improvement_counts_ties_half_and_turns_for_costs():
    assert probability_of_improvement([1, 2, 3], [2]) == 0.5
    assert probability_of_improvement([2, 2], [2, 1]) == 0.75
    assert probability_of_improvement([2, 2], [2, 1], lower_is_better=True) == 0.25
    x, y = generator(1).normal(size=5), generator(2).normal(size=4)
    u = scipy.stats.mannwhitneyu(x, y).statistic / 20
    assert probability_of_improvement(x, y) == pytest.approx(u)
    assert probability_of_improvement(x, y, lower_is_better=True) == pytest.approx(1 - u)
    low, high = improvement_interval(x, y)
    assert low < u < high
    assert improvement_interval(x, y, lower_is_better=True) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("values", [3, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_pareto_front_is_what_nothing_dominates(values, seed):
    cost, return_ = generator(seed).integers(values, size=(2, 40))
    front = [
        not any(
            c <= cost[i] and r >= return_[i] and (c < cost[i] or r > return_[i])
            for c, r in zip(cost, return_, strict=True)
        )
        for i in range(40)
    ]
    assert pareto_front(cost, return_).tolist() == front


def test_pareto_front_with_ties():
    cost, return_ = [1, 1, 1, 2, 2, 0], [5, 5, 4, 5, 6, -1]
    assert pareto_front(cost, return_).tolist() == [True, True, False, False, True, True]
    assert pareto_front([3], [1]).tolist() == [True]


def runs():
    rng = generator(6)
    rows = [
        {
            "task": task, "baseline": baseline, "variant": variant, "seed": seed,
            "return": rng.normal(20 if task == "Point" else 3000, 3),
            "cost_rate": rng.gamma(2, 0.02) if task == "Point" else np.nan,
        }
        for task in ("Point", "Ant")
        for baseline in ("PIDLag", "CPO")
        for variant in ("vanilla", "SHAPO")
        for seed in range(5)
    ]  # fmt: skip
    return pd.DataFrame(rows)


ARGUMENTS = {"higher": ["return"], "lower": ["cost_rate"], "repetitions": 200}


def test_compare_is_the_functions_above_cell_by_cell():
    table = compare(runs(), generator(), **ARGUMENTS)
    assert len(table) == 2 * 2 * 2 * 2
    assert table.variant.unique().tolist() == ["vanilla", "SHAPO"] and table.task[0] == "Point"
    assert (table.seeds == 5).all()
    cells = runs().groupby(["task", "baseline", "variant"])
    rng = np.random.default_rng(generator().integers(2**63))
    x, y = (cells.get_group(("Point", "CPO", variant)).cost_rate for variant in ("SHAPO", "vanilla"))
    row = table.set_index(["task", "baseline", "variant", "metric"]).loc[
        ("Point", "CPO", "SHAPO", "cost_rate")
    ]
    assert row.iqm == iqm(x)
    assert (row.low, row.high) == interval(x, rng, repetitions=200)
    assert row.better == probability_of_improvement(x, y, lower_is_better=True)
    bounds = improvement_interval(x, y, lower_is_better=True)
    assert (row.better_low, row.better_high) == bounds
    undefined = table[(table.task == "Ant") & (table.metric == "cost_rate")]
    assert undefined[["iqm", "low", "high", "better"]].isna().all(axis=None)
    assert table[table.variant == "vanilla"].better.isna().all()


def test_compare_depends_on_the_cell_and_the_generator_only():
    table = compare(runs(), generator(), **ARGUMENTS)
    pd.testing.assert_frame_equal(table, compare(runs(), generator(), **ARGUMENTS))
    assert not table.low.equals(compare(runs(), generator(1), **ARGUMENTS).low)

    keys = ["task", "baseline", "variant", "metric"]
    shuffled = compare(runs().sample(frac=1, random_state=0), generator(), **ARGUMENTS)
    order = pd.MultiIndex.from_frame(table[keys])
    pd.testing.assert_frame_equal(shuffled.set_index(keys).loc[order].reset_index(), table)

    point = compare(runs().query("task == 'Point'"), generator(), **ARGUMENTS)
    pd.testing.assert_frame_equal(point, table[table.task == "Point"])


def test_compare_with_runs_missing():
    without_reference = runs().query("not (baseline == 'CPO' and variant == 'vanilla')")
    one_seed = without_reference.query("not (task == 'Point' and baseline == 'PIDLag' and seed > 0)")
    table = compare(one_seed, generator(), **ARGUMENTS)
    assert table[table.baseline == "CPO"].better.isna().all()
    single = table[(table.task == "Point") & (table.baseline == "PIDLag")]
    assert (single.seeds == 1).all() and single.iqm.notna().all() and single.low.isna().all()
    assert single[single.variant == "SHAPO"].better.isin([0.0, 1.0]).all()
    assert single.better_low.isna().all()
    alone = compare(runs(), generator(), **ARGUMENTS, reference=None)
    assert "better" not in alone
    pd.testing.assert_frame_equal(alone, compare(runs(), generator(), **ARGUMENTS)[alone.columns])


def test_readable_shows_each_number_once():
    point = pd.DataFrame(
        {"task": "T", "baseline": "B", "variant": ["vanilla"] * 2 + ["SHAPO"] * 2, "seed": [0, 1, 0, 1]}
    ).assign(**{"return": [12.3, 12.3, 14.06, 14.06], "failures": [1234, 1234, 7, 7], "cost_rate": np.nan})
    shown = readable(
        compare(point, generator(), higher=["return"], lower=["failures", "cost_rate"], repetitions=10)
    )
    assert shown.index.tolist() == [("T", "B", "vanilla"), ("T", "B", "SHAPO")]
    assert shown.to_dict("list") == {
        "seeds": [2, 2],
        "return": ["12.3 [12.3, 12.3]", "14.1 [14.1, 14.1]"], "P(better return)": ["", "1.00 [0.39, 1.00]"],
        "failures": ["1234 [1234, 1234]", "7 [7, 7]"], "P(better failures)": ["", "1.00 [0.39, 1.00]"],
        "cost_rate": ["", ""], "P(better cost_rate)": ["", ""],
    }  # fmt: skip
    single = compare(point.query("seed == 0"), generator(), lower=["failures"], reference=None)
    assert readable(single).failures.tolist() == ["1234", "7"]
    assert readable(single.iloc[1:], digits=2).failures.tolist() == ["7.0"]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda t: t.iloc[:0], "at least one run"),
        (lambda t: t.drop(columns=["seed", "cost_rate"]), r"columns \['seed', 'cost_rate'\]"),
        (lambda t: pd.concat([t, t.iloc[3:4]]), r"seed 3 of \('Point', 'PIDLag', 'vanilla'\) appears again"),
        (lambda t: t.assign(seed=t.seed.where(t.index != 2)), "got missing ones"),
        (lambda t: t.replace({"return": {t["return"][2]: np.inf}}), "return of .*'vanilla'.* must be finite"),
        (lambda t: t.replace({"return": {t["return"][2]: np.nan}}), "return of .* NaN in every seed"),
        (lambda t: t.assign(cost_rate="low"), r"numbers; \['cost_rate'\] are not"),
    ],
)
def test_compare_refuses_what_it_cannot_compare(spoil, message):
    with pytest.raises(ValueError, match=message):
        compare(spoil(runs()), generator(), **ARGUMENTS)


def test_bad_input_is_refused():
    x, rng = [1.0, 2.0], generator()
    refused = [
        ("rng must be a numpy.random.Generator; got 0", lambda: interval(x, 0)),
        ("level must be", lambda: interval(x, rng, level=1.0)),
        ("repetitions must be", lambda: interval(x, rng, repetitions=0)),
        ("level must be", lambda: improvement_interval(x, x, level=1.0)),
        ("scores must be one or more finite", lambda: iqm([1.0, math.nan])),
        ("scores must be one or more", lambda: interval([], rng)),
        ("x must be one or more", lambda: probability_of_improvement([[1.0]], x)),
        ("as long; got 2 and 1", lambda: pareto_front([1, 2], [1])),
        ("return_ must be", lambda: pareto_front([1], [math.inf])),
        ("name at least one metric", lambda: compare(runs(), rng)),
        ("each once", lambda: compare(runs(), rng, higher=["return"], lower=["return"])),
        ("rng must be", lambda: compare(runs(), None, higher=["return"])),
        ("digits must be", lambda: readable(compare(runs(), rng, higher=["return"], repetitions=9), 0)),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()
