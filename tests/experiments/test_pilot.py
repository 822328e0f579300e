"""The pilot's rule on tables where the right choice is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from shapo.experiments import profiles, safety
from shapo.experiments.pilot import LEAST_TURN, _reach, choices_in_words, choose, resolution, shipped_turns
from shapo.experiments.safety import pilot

EXTENDED = safety.PILOT_MORE  # as it is outside of these tests
TURNS = {("PointGoal1-v0", 0.03): 3.0, ("PointGoal1-v0", 0.1): 8.0, ("PointGoal1-v0", 0.3): 15.0}


def table(cells: dict[tuple[str, str], tuple[float, float]], spread: float = 0.01) -> pd.DataFrame:
    """Four seeds of each (baseline, variant), whose mean return and log cost rate are given."""
    rows = []
    for (baseline, variant), (mean, log) in cells.items():
        for seed, z in enumerate((-1.5, -0.5, 0.5, 1.5)):
            numbers = [mean, np.exp(log + spread * z)]
            rows.append(["PointGoal1-v0", baseline, variant, 100 + seed, *numbers])
    return pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", "return", "cost_rate"])


@pytest.fixture(autouse=True)
def not_extended(monkeypatch):
    monkeypatch.setattr(safety, "PILOT_MORE", {})


def chosen(cells, **settings):
    found = choose(table(cells, **settings), TURNS)
    return found.set_index("radius"), list(found.radius[found.chosen])


def both(variant, mean, log):
    """The same change in two baselines of different scale."""
    return {("TRPOLag", variant): (20 * mean, -3 + log), ("CPO", variant): (10 * mean, -1 + log)}


VANILLA = both("vanilla", 1, 0)


def test_the_safest_radius_that_keeps_the_return_is_chosen():
    cells = VANILLA | both("δ = 0.03 δ_Up", 1, -0.5) | both("δ = 0.1 δ_Up", 0.97, -0.2)
    rows, choice = chosen(cells | both("δ = 0.3 δ_Up", 0.9, -0.4))
    assert choice == [0.1]  # 0.03 turns the step by 3° only, 0.3 costs a tenth of the return
    assert rows.safety[0.1] == pytest.approx(-0.2) and rows["return"][0.1] == pytest.approx(-0.03)
    assert not rows.edge.any() and rows.eligible.to_list() == [False, True, False]
    # Sums over two baselines of two variances of four seeds each.
    assert rows.error[0.1] == pytest.approx(np.sqrt(2 * 2 * 0.01**2 * (5 / 3) / 4) / 2)


def test_among_equals_the_larger_and_an_edge_is_told():
    cells = VANILLA | both("δ = 0.1 δ_Up", 1, -0.100) | both("δ = 0.3 δ_Up", 1, -0.095)
    rows, choice = chosen(cells | both("δ = 0.03 δ_Up", 1, 0))
    assert choice == [0.3] and rows.edge[0.3]
    assert "The sweep is to be extended." in choices_in_words(choose(table(cells), TURNS), missing=0)
    _, choice = chosen(cells, spread=0.001)
    assert choice == [0.1]


def test_a_radius_with_missing_runs_or_turn_is_not_chosen():
    cells = VANILLA | {("TRPOLag", "ρ = 0.05"): (20, -3.5)} | both("δ = 0.1 δ_Up", 1, -0.2)
    runs = table(cells)
    found = choose(runs, TURNS).set_index("dial")
    assert found.chosen.to_list() == [True, True] and np.isnan(found.turn["ρ"])
    assert not choose(runs).set_index("dial").chosen["δ"], "no turn is known"
    part = choose(runs[~((runs.variant == "δ = 0.1 δ_Up") & (runs.seed == 103))], TURNS)
    assert not part.set_index("dial").chosen["δ"]
    assert choices_in_words(part, missing=2).startswith(
        "**Nothing is chosen yet**: 2 runs of the pilot are missing"
    )
    assert choose(runs[:0]).empty
    half = choose(runs[~((runs.variant == "δ = 0.1 δ_Up") & (runs.baseline == "CPO"))], TURNS)
    assert half.set_index("dial").chosen["δ"], "a sweep of one baseline"
    cells |= both("δ = 0.3 δ_Up", 1, -0.1)
    runs = table(cells)
    half = choose(runs[~((runs.variant == "δ = 0.1 δ_Up") & (runs.baseline == "CPO"))], TURNS)
    assert half.radius[half.chosen & (half.dial == "δ")].to_list() == [0.3], "0.1 lacks a baseline"
    single = choose(runs[runs.seed == 100], TURNS)
    assert single.error.isna().all() and not single.chosen.any()


def test_a_loss_of_return_that_may_be_noise_excludes_no_radius():
    cells = VANILLA | both("δ = 0.1 δ_Up", 0.94, -0.2) | both("δ = 0.3 δ_Up", 0.94, -0.1)
    runs = table(cells)
    assert not choose(runs, TURNS).eligible.any()
    runs["return"] += runs.seed.map({100: -4, 101: 4, 102: -4, 103: 4}) * (runs.variant == "δ = 0.3 δ_Up")
    assert choose(runs, TURNS).set_index("radius").eligible.to_dict() == {0.1: False, 0.3: True}
    assert not choose(runs, TURNS, errors=0).eligible.any(), "the rule's first version"


def test_without_an_eligible_radius_the_least_that_is_another_method_is_taken_and_said():
    cells = VANILLA | both("δ = 0.03 δ_Up", 0.5, -0.5) | both("δ = 0.1 δ_Up", 0.8, -0.1)
    cells |= both("δ = 0.3 δ_Up", 0.7, -0.4)
    rows, choice = chosen(cells)
    assert choice == [0.1] and rows.edge[0.1] and not rows.eligible.any()
    words = choices_in_words(choose(table(cells), TURNS), missing=0)
    assert "**0.1**" in words and "neither is any other" in words and "is to be extended" in words
    unmoved = choose(table(cells), dict.fromkeys(TURNS, 4.9))
    assert not unmoved.chosen.any() and "no radius turns the step enough" in choices_in_words(
        unmoved, missing=0
    )


def test_a_sweep_is_extended_once_and_on_its_task_alone(monkeypatch):
    before = pilot("laptop")
    monkeypatch.setattr(
        safety, "PILOT_MORE", {("PointGoal1-v0", "δ"): (0.05,), ("Walker2d-v4", "ρ"): (0.25,)}
    )
    more = {cell: seeds for cell, seeds in pilot("laptop").items() if cell not in before}
    assert set(more) == {
        ("PointGoal1-v0", "TRPOLag", "δ = 0.05 δ_Up"),
        ("PointGoal1-v0", "CPO", "δ = 0.05 δ_Up"),
        ("Walker2d-v4", "TRPOLag", "ρ = 0.25"),
    }
    assert {config.seed for seeds in more.values() for config in seeds} == {100, 101, 102, 103}
    cells = VANILLA | both("δ = 0.1 δ_Up", 1, 0) | both("δ = 0.3 δ_Up", 1, -0.1)
    assert "The sweep was extended once already." in choices_in_words(choose(table(cells), TURNS), missing=0)


def test_the_dials_are_what_the_rule_chooses_from_what_ships(monkeypatch):
    monkeypatch.setattr(safety, "PILOT_MORE", EXTENDED)
    table = choose(safety.results(pilot("laptop")), shipped_turns())
    found = table[table.chosen].set_index(["task", "dial"]).radius
    assert {task: dials.share for task, dials in profiles.DIALS.items()} == found.xs("δ", level=1).to_dict()
    rho = {task: dials.rho_critic for task, dials in profiles.DIALS.items()}
    assert found.xs("ρ", level=1).to_dict() == {task: rho[task] for task in safety.ABLATIONS}
    assert rho["PointButton1-v0"] == rho["PointGoal1-v0"] and rho["Ant-v4"] == rho["Walker2d-v4"]
    assert min(table.turn[table.chosen & (table.dial == "δ")]) >= LEAST_TURN


def test_what_can_be_seen_is_the_reach_of_students_interval(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 10))
    spread = np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    low, high = ttest_ind(x, y).confidence_interval(0.95)
    assert _reach(np.array([10])) * spread == pytest.approx((high - low) / 2)
    assert _reach(np.array([10, 10, 10, 10])) == pytest.approx(_reach(np.array([10])) / 2, rel=0.06)
    cells = VANILLA | both("δ = 0.1 δ_Up", 1, 0)
    runs = table(cells, spread=0.06).assign(tail=1.0)
    runs["return"] *= 1 + 0.1 * rng.normal(size=len(runs))
    monkeypatch.setattr(safety, "results", lambda experiment: runs)
    row = resolution("laptop").loc["PointGoal1-v0"]
    assert row.cost == pytest.approx(0.06 * np.sqrt(5 / 3)) and row["tail"] == 0
    assert row["± cost, one cell"] == pytest.approx(_reach(np.array([10])) * row.cost)
    seeds = np.array([10, 5, 10, 10, 10])  # PIDLag has five
    assert row["± cost"] == pytest.approx(_reach(seeds) * row.cost)
    assert row["± return"] == pytest.approx(_reach(seeds) * row["return"])
