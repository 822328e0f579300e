"""The report: tables per task, and sentences that say what the table says and no more."""

import numpy as np
import pandas as pd
import pytest

from shapo.experiments import safety as experiments
from shapo.experiments import statistics
from shapo.experiments.report import comparison, fronts_in_words, in_words

BASELINES = ("TRPOLag", "CPO", "PIDLag")


def runs(shift: dict[str, float], task: str = "PointGoal1-v0", seeds: int = 5) -> pd.DataFrame:
    """Runs of three baselines; SHAPO's return is higher, its costs lower, by the shift of the baseline."""
    rows = []
    for i, baseline in enumerate(shift):
        for variant in ("vanilla", "SHAPO"):
            gain = shift[baseline] * (variant == "SHAPO")
            for seed in range(seeds):
                noise = np.random.default_rng([i, seed, variant == "SHAPO"]).normal(scale=0.1)
                costs = dict.fromkeys(("cost", "cost_rate", "failures", "tail"), 10 + i - gain + noise)
                rows.append([task, baseline, variant, seed, 5 + i + gain + noise, *costs.values()])
    return pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", *experiments.METRICS])


def test_the_table_is_compares_with_the_measure_of_safety_of_the_task():
    goal, ant = runs(dict.fromkeys(BASELINES, 1.0)), runs({"CPO": 1.0}, "Ant-v4")
    table = comparison(pd.concat([goal, ant]), np.random.default_rng(3))
    assert list(table[table.task == "Ant-v4"].metric.unique()) == ["return", "cost", "failures", "tail"]
    assert list(table[table.task == "PointGoal1-v0"].metric.unique()) == [
        "return",
        "cost",
        "cost_rate",
        "tail",
    ]
    alone = comparison(ant, np.random.default_rng(3))
    pd.testing.assert_frame_equal(alone, table[table.task == "Ant-v4"].reset_index(drop=True))
    cell = ant[ant.variant == "SHAPO"].failures
    assert alone.set_index(["variant", "metric"]).iqm["SHAPO", "failures"] == statistics.iqm(cell)


def test_what_one_seed_lacks_is_not_compared():
    lacking = runs({"CPO": 1.0})
    lacking.loc[0, "return"] = np.nan
    table = comparison(lacking, np.random.default_rng(0)).set_index(["variant", "metric"])
    assert np.isnan(table.iqm["vanilla", "return"]) and np.isnan(table.better["SHAPO", "return"])
    assert table.better["SHAPO", "cost"] == 1


def test_no_runs_no_table_no_sentence():
    table = comparison(experiments.results({}), np.random.default_rng(0))
    assert table.empty and "iqm" in table
    assert in_words(table).startswith("**Nothing to say yet**")
    assert fronts_in_words(table) == ""
    assert statistics.readable(table).empty


def test_half_a_comparison_is_no_sentence():
    shapo_only = runs({"CPO": 1.0}).query("variant == 'SHAPO'")
    table = comparison(shapo_only, np.random.default_rng(0))
    assert in_words(table).startswith("**Nothing to say yet**")
    assert fronts_in_words(table) == ""


def test_the_sentences_count_what_the_table_holds():
    table = comparison(runs({"TRPOLag": 1.0, "CPO": -1.0, "PIDLag": 1.0}), np.random.default_rng(0))
    words = in_words(table)
    for metric in ("return", "cost", "cost_rate", "tail"):
        name = experiments.METRICS[metric][0]
        assert f"{name}: better in 2 of 3 (**TRPOLag**, **PIDLag**), worse in 1 (**CPO**)" in words
    assert "With 5 seeds a side" in words and "of the 12 below would by chance alone" in words


def test_what_is_not_clear_is_not_bold():
    same = runs({"CPO": 0.0})
    twin = same.assign(variant="SHAPO")
    table = comparison(pd.concat([same[same.variant == "vanilla"], twin[:5]]), np.random.default_rng(0))
    assert "return per episode, last quarter: level in 1 of 1 (CPO)" in in_words(table)


def test_a_cell_of_one_seed_does_not_silence_the_others():
    uneven = pd.concat([runs({"CPO": 1.0}), runs({"CPO": 1.0}).assign(baseline="CRPO")[4:6]])
    words = in_words(comparison(uneven, np.random.default_rng(0)))
    assert "With 5 seeds a side" in words and "better in 2 of 2 (**CPO**, CRPO)" in words


def test_one_seed_is_never_clear():
    words = in_words(comparison(runs({"CPO": 1.0}, seeds=1), np.random.default_rng(0)))
    assert "Of one seed there is no interval, and nothing is clear" in words
    assert "better in 1 of 1 (CPO)" in words


@pytest.mark.parametrize(("shift", "both", "theirs", "ours"), [(3.0, 3, 3, 0), (-3.0, 0, 0, 3)])
def test_fronts_say_who_dominates_whom(shift, both, theirs, ours):
    words = fronts_in_words(comparison(runs(dict.fromkeys(BASELINES, shift)), np.random.default_rng(0)))
    assert f"improves both return and cost per step in {both} of the 3 baselines" in words
    assert f"worsens both in {3 - both}" in words
    assert f"dominates {theirs} of the 3 points of vanilla, which dominates {ours} of its 3" in words


def test_what_is_the_same_in_every_run_is_not_called_a_comparison():
    flat = runs({"CPO": 1.0, "TRPOLag": 1.0}).assign(tail=1.0)
    words = in_words(comparison(flat, np.random.default_rng(0)))
    assert "tail quantile of the episodic cost: 1 in every run, so nothing is compared" in words
    assert "return per episode, last quarter: better in 2 of 2" in words
