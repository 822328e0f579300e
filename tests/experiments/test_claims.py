"""The verdicts, on runs whose truth is known; and the pieces of them against definitions."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test, ttest_ind

from shapo.experiments import claims
from shapo.experiments.claims import CLAIMS, Claim, cell_means, dominated, effect, exchanged, holm, welch
from shapo.figures import ROOT

LESS = Claim("less", "primary", "04", "pareto", "SHAPO")
BASELINES = ("TRPOLag", "CPO", "CRPO", "SauteRL")


ONE = np.array(["PointGoal1-v0"])  # the task of a single stratum


def runs(cost=0.0, kept=0.0, seed=0, seeds=10, spread=0.06, baselines=BASELINES, tasks=("PointGoal1-v0",)):
    """Log costs change by `cost`, returns by the share `kept`; both spread over seeds as in the pilot."""
    rng = np.random.default_rng(seed)
    rows = [
        [task, baseline, s, side, -3 + i + side * cost + spread * rng.normal(), 20 * (1 + side * kept) + rng.normal()]
        for task in tasks
        for i, baseline in enumerate(baselines)
        for side in (False, True)
        for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["task", "baseline", "seed", "treated", "value", "return"])


def judged(claim, table, planned=None):
    row = effect(claim, table, planned or len(table))
    return claims.verdict(claim, SimpleNamespace(**row)), row


def test_a_tenth_less_at_equal_return_holds():
    said, row = judged(LESS, runs(np.log(0.9)))
    assert said == "holds" and row["p"] < 0.001
    assert row["low"] < -0.1 < row["high"] < -0.05 and row["value"] == pytest.approx(-0.1, abs=0.03)
    assert row["kept"] == pytest.approx(0, abs=0.03)


def test_no_effect_does_not_hold_where_it_would_be_seen():
    assert judged(LESS, runs())[0] == "does not hold"
    assert judged(LESS, runs(seeds=5, spread=0.2))[0] == "undecided"
    assert judged(LESS, runs(np.log(1.1)))[0] == "does not hold"


def test_less_cost_at_a_worse_return_does_not_hold():
    said, row = judged(LESS, runs(np.log(0.9), kept=-0.2))
    assert said == "does not hold: less cost, but the return is lower by more than 5%"
    assert judged(LESS, runs(np.log(1.1), kept=-0.2))[0] == "does not hold"
    said, row = judged(LESS, runs(np.log(0.9), kept=-0.05))
    assert said == "undecided: less cost, but the return may be lower by more than 5%"
    assert row["kept_low"] < -0.05 < row["kept_high"]
    assert judged(replace(LESS, keeps_return=False), runs(np.log(0.9), kept=-0.2))[0] == "holds"


def test_nothing_is_decided_before_all_runs_are_there():
    table = runs(np.log(0.7))
    assert judged(LESS, table, planned=90)[0] == "undecided: 10 of 90 runs missing"
    one_sided, row = judged(LESS, table[table.treated], planned=80)
    assert one_sided == "undecided: 40 of 80 runs missing" and np.isnan(row["p"])
    assert np.isnan(effect(LESS, table[:0], 80)["value"])
    single = effect(LESS, table[table.seed == 0], 80)
    assert np.isnan(single["low"]) and single["value"] < 0


@pytest.mark.parametrize(
    ("kind", "metric", "cost", "kept", "said"),
    [
        ("kept", "return", 0, 0.02, "holds"),
        ("kept", "return", 0, -0.2, "does not hold"),
        ("kept", "return", 0, -0.05, "undecided"),
        ("no lower", "safety", 0, 0, "holds"),
        ("no lower", "safety", np.log(1.2), 0, "holds"),
        ("no lower", "safety", np.log(0.9), 0, "does not hold"),
        ("higher", "return", 0, 0.2, "holds"),
        ("higher", "return", 0, -0.2, "does not hold"),
        ("front", "safety", np.log(0.8), 0.1, "holds"),
        ("front", "safety", np.log(1.3), -0.1, "does not hold"),
    ],
)
def test_each_kind_of_claim_has_its_own_rule(kind, metric, cost, kept, said):
    table = runs(cost, kept)
    if metric == "return":
        table["value"] = table["return"]
    assert judged(replace(LESS, kind=kind, metric=metric), table)[0] == said


def test_what_is_sure_but_small_is_no_failure_and_no_absence():
    table = runs(np.log(0.97), seeds=10, spread=0.01)
    said, row = judged(LESS, table)
    assert said == "holds" and row["low"] > -0.05
    assert judged(replace(LESS, kind="no lower"), table)[0] == "does not hold"
    table["return"] = np.random.default_rng(0).normal(20, 6, len(table))  # which says nothing of the return
    assert judged(LESS, table)[0].startswith("undecided: less cost")


def test_a_front_fails_only_by_moving_inward():
    """Its unit is a share of a box: less cost by 5 % in every baseline may move it by less than MATTERS."""
    small = {"there": 80, "planned": 80, "value": 0.01, "low": -0.01, "high": 0.03, "p": 0.4}
    said = {
        kind: claims.verdict(replace(LESS, kind=kind), SimpleNamespace(**small))
        for kind in ("front", "higher")
    }
    assert said == {"front": "undecided", "higher": "does not hold"}
    inward = SimpleNamespace(**small | {"value": -0.02, "high": -0.01, "low": -0.03, "p": 0.01})
    assert claims.verdict(replace(LESS, kind="front"), inward) == "does not hold"


def test_no_task_outweighs_another_by_the_size_of_its_returns():
    large, small = runs(kept=0.04), runs(kept=-0.5, tasks=("PointButton1-v0",))
    large["return"] *= 60
    table = pd.concat([large, small], ignore_index=True)
    table["value"] = table["return"]
    said, row = judged(replace(LESS, kind="kept", metric="return"), table)
    assert said == "does not hold" and row["value"] == pytest.approx((0.04 - 0.5) / 2, abs=0.03)


def test_a_run_without_the_number_is_missing():
    table = runs(np.log(0.9), baselines=("CPO",))
    table.loc[table.treated, "value"] = np.nan
    said, row = judged(LESS, table)
    assert said == "undecided: 10 of 20 runs missing" and np.isnan(row["p"])


def test_a_stratum_at_its_ceiling_does_not_dilute_the_effect():
    falls = runs(np.log(0.9))
    ceiling = runs(spread=0, baselines=["PIDLag"]).assign(value=0.0)
    said, row = judged(LESS, pd.concat([falls, ceiling], ignore_index=True))
    alone = effect(LESS, falls, len(falls))
    assert said == "holds" and row["value"] == alone["value"] and row["there"] == len(falls) + len(ceiling)
    assert judged(LESS, ceiling)[0] == "undecided"


def test_claims_that_lack_runs_correct_as_if_they_showed_nothing(monkeypatch):
    few, all_ = runs(np.log(0.8), seeds=5), runs(np.log(0.8))
    monkeypatch.setattr(claims, "_table", lambda *_: (None, None))
    monkeypatch.setattr(claims, "_of_claim", lambda claim, *_: (all_ if claim.task == "Ant-v4" else few, 80))
    table = claims.judge("laptop", "04")
    primary = table.loc[[claim.text for claim in CLAIMS if claim.family == "primary"]]
    assert (primary.p[primary.there < 80] == 1).all() and primary.p.min() == pytest.approx(4e-4, rel=0.01)


def test_cells_can_be_left_out_to_see_what_rests_on_them(monkeypatch):
    table = runs(np.log(0.8)).assign(variant=lambda t: np.where(t.treated, "SHAPO", "vanilla"))
    table["cost_rate"] = np.exp(table.value.where(table.baseline != "CRPO", 3.0 * table.treated))
    plan = {
        (t, b, v): range(10) for t, b, v in set(zip(table.task, table.baseline, table.variant, strict=True))
    }
    monkeypatch.setitem(claims.safety.EXPERIMENTS, "pareto", lambda profile: plan)

    def there(built):
        return table[[cell in built for cell in zip(table.task, table.baseline, table.variant, strict=True)]]

    monkeypatch.setattr(claims.safety, "results", there)
    monkeypatch.setattr(claims.safety, "TASK_ORDER", ("PointGoal1-v0",))
    text = "SHAPO costs less in training: PointGoal1-v0"
    whole, part = (
        claims.judge("laptop", "04", without=cells).loc[text] for cells in ((), {("PointGoal1-v0", "CRPO")})
    )
    assert (whole.planned, part.planned) == (80, 60)
    assert whole.value > 0 and part.value == pytest.approx(-0.2, abs=0.03)


def test_three_against_three_cannot_be_decided():
    table = runs(kept=0.9, seeds=3, baselines=("",))
    table["value"] = table["return"]
    said, row = judged(replace(LESS, kind="higher", metric="noise"), table)
    assert said == "undecided" and row["p"] == pytest.approx(0.1, abs=0.01)


def test_power_and_false_alarms_are_those_of_the_plan(monkeypatch):
    """Ten seeds of four baselines with a spread of 6 % see 5 % most of the time; of no effect, 5 % look like one."""
    monkeypatch.setattr(claims, "DRAWS", 399)
    seen = [effect(LESS, runs(np.log(0.95), seed=seed), 80)["p"] < 0.05 for seed in range(40)]
    assert np.mean(seen) > 0.8
    alarms = [effect(LESS, runs(seed=seed), 80)["p"] < 0.05 for seed in range(100)]
    assert np.mean(alarms) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)


def test_the_exchange_is_scipys_permutation_test_in_one_stratum():
    table = runs(-0.05, seeds=5, baselines=("CPO",))
    x, y = (table.value[table.treated == side].to_numpy() for side in (True, False))
    exact = permutation_test((x, y), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=np.inf)
    assert effect(LESS, table, 10)["p"] == pytest.approx(exact.pvalue, abs=0.015)


def test_labels_are_exchanged_within_blocks():
    rng = np.random.default_rng(0)
    treated, blocks = np.array([1, 0, 1, 1, 0, 0], bool), np.array([0, 0, 1, 1, 1, 1])
    drawn = exchanged(treated, blocks, rng)
    assert (drawn[:, :2].sum(1) == 1).all() and (drawn[:, 2:].sum(1) == 2).all()
    assert len(np.unique(drawn, axis=0)) == 2 * 6
    for seeds, pairs in ((15, 15), (10, 1)):
        table = runs(seeds=seeds, baselines=("CPO",))
        found = claims._blocks(table, np.zeros(len(table), int))
        assert len(set(found)) == pairs
    without_partner = runs(seeds=20, baselines=("CPO",))[1:]
    assert len(set(claims._blocks(without_partner, np.zeros(39, int)))) == 1


def test_welchs_interval_is_scipys_in_one_stratum_and_pools_two():
    rng = np.random.default_rng(1)
    x, y = rng.normal(3, 1, 5), rng.normal(2, 2, 8)
    treated, strata = np.repeat([True, False], [5, 8]), np.zeros(13, int)
    found = welch(np.r_[x, y], treated, strata, ONE, logs=True)
    exact = ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert np.log1p(found) == pytest.approx([*exact], rel=1e-9)
    twice = np.tile(np.r_[x, y], 2), np.tile(treated, 2), np.repeat([0, 1], 13)
    low, high = np.log1p(welch(*twice, np.repeat(ONE, 2), logs=True))
    assert (low + high) / 2 == pytest.approx(x.mean() - y.mean())
    assert high - low < 0.72 * np.diff(exact)  # 1/√2, and more degrees of freedom
    share = welch(np.r_[x, y], treated, strata, ONE, logs=False)
    assert np.mean(share) == pytest.approx((x.mean() - y.mean()) / y.mean())


def test_means_and_the_dominated_area_are_their_definitions():
    values, treated = np.array([[1.0], [3.0], [10.0], [20.0]]), np.array([[True, False, False, True]])
    means = cell_means(treated, np.array([0, 0, 1, 1]), values)
    assert means[0, :, :, 0].tolist() == [[3, 10], [1, 20]]
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(5, 2))
    grid = (np.arange(100) + 0.5) / 100
    covered = [((points[:, 0] <= c) & (points[:, 1] >= v)).any() for c, v in itertools.product(grid, grid)]
    assert dominated(*points.T) == pytest.approx(np.mean(covered), abs=0.01)
    assert dominated(np.array([0.0]), np.array([1.0])) == 1


def test_holms_p():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.9]).tolist() == [1, 1]


def test_every_claim_names_runs_of_an_experiment(monkeypatch, tmp_path):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path))
    monkeypatch.setattr(claims, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(claims.safety, "available_runs", lambda experiment: {})
    table = claims.judge("laptop")
    assert len(table) == len(CLAIMS) == len(set(table.index))
    assert (table.planned > 0).all() and (table.planned % 2 == 0).all()
    assert table.verdict.str.startswith("undecided: ").all()
    assert (table.loc[[claim.text for claim in CLAIMS if claim.family == "primary"]].planned.sum()) == 260
    assert set(claims.judge("smoke", "04").verdict) == {"nothing is claimed"}
    shown = claims.readable(table)
    assert (shown.effect == "–").all() and shown.runs.iloc[0] == "0 of 90"


def test_the_readme_shows_the_table_of_what_ships(monkeypatch, tmp_path):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path))
    readme = (ROOT / "README.md").read_text("utf-8")
    shown = readme.split("<!-- claims -->")[1].split("<!-- /claims -->")[0].strip()
    assert shown == claims.markdown(claims.judge("laptop")), "python -m shapo.experiments claims"
