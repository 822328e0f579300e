"""The paper's experiments: what each compares, what is shared, and how a run becomes a row of numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import shapo
from shapo.envs import TASKS
from shapo.experiments import safety as experiments
from shapo.experiments import statistics
from shapo.experiments.profiles import dials
from shapo.experiments.safety import delta_down
from shapo.sharpness import (
    EffectiveAlpha,
    EuclideanSAM,
    FisherSAM,
    KLMatchedSAM,
    OptimisticSAM,
    RandomSAM,
)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_changes_only_what_it_compares(name, profile):
    experiment = experiments.EXPERIMENTS[name](profile)
    for (task, baseline, variant), configs in experiment.items():
        assert len({config.run_id for config in configs}) == len(configs) > 0
        for config in configs:
            limit = 25 if name == "published" else TASKS[task].cost_limit
            assert config.task == task and config.resolved.cost_limit == limit
            vanilla = experiment[task, baseline, "vanilla"]
            assert replace(config, actor=None, critic=None) in vanilla
            if variant == "vanilla":
                assert config.actor is None and config.critic is None
            else:
                assert config.actor or config.critic


def test_figure_3_has_saute_only_where_there_is_a_budget():
    cells = {(task, baseline) for task, baseline, _ in experiments.pareto("laptop")}
    assert len(cells) == 4 * 5 - 2
    assert not {("Ant-v4", "SauteRL"), ("Walker2d-v4", "SauteRL")} & cells


def cells(name, profile="laptop"):
    """{(task, baseline, variant): (seeds, steps)}"""
    built = experiments.EXPERIMENTS[name](profile)
    assert all(len({config.total_steps for config in configs}) == 1 for configs in built.values())
    return {cell: (len(configs), configs[0].total_steps) for cell, configs in built.items()}


def test_the_laptop_study_has_the_seeds_and_steps_of_its_table():
    pareto = cells("pareto")
    assert pareto["PointGoal1-v0", "CRPO", "SHAPO"] == pareto["PointButton1-v0", "SauteRL", "vanilla"]
    assert pareto["PointGoal1-v0", "CRPO", "SHAPO"] == (10, 2_000_000)
    assert pareto["PointGoal1-v0", "PIDLag", "SHAPO"] == (5, 5_000_000)
    assert pareto["Ant-v4", "PIDLag", "SHAPO"] == pareto["Walker2d-v4", "CPO", "SHAPO"] == (5, 2_000_000)
    assert set(cells("lambda_sweep").values()) == {(5, 5_000_000)} and len(cells("lambda_sweep")) == 8
    for name in ("esam", "sam_critic", "shapo_actor"):
        where = {(task, baseline): budget for (task, baseline, _), budget in cells(name).items()}
        assert where == {
            ("PointGoal1-v0", "TRPOLag"): (10, 2_000_000), ("Walker2d-v4", "CPO"): (5, 2_000_000)
        }  # fmt: skip
    assert set(cells("schedules").values()) == {(10, 2_000_000)}
    assert set(cells("dose").values()) == {(5, 2_000_000)} and len(cells("dose")) == 2 * 5 + 1
    assert set(cells("published").values()) == {(3, 10_000_000)} and len(cells("published")) == 3
    assert set(cells("pilot").values()) == {(4, 1_000_000)} and len(cells("pilot")) == 4 * 2 * 4 + 2 * 2 + 8


def test_the_variants_share_one_radius():
    assert delta_down("PointGoal1-v0", 0.1) == 0.002 and delta_down("Walker2d-v4", 0.1) == 0.006
    delta, rho = delta_down("PointGoal1-v0"), dials("PointGoal1-v0").rho_critic
    actor, critic = FisherSAM(delta), EuclideanSAM(rho)
    assert experiments.variants("PointGoal1-v0") == {
        "vanilla": {},
        "SHAPO Actor": {"actor": actor},
        "SAM Critic": {"critic": critic},
        "SHAPO": {"actor": actor, "critic": critic},
        "E-SAM": {"actor": KLMatchedSAM(delta)},
        "random direction": {"actor": RandomSAM(delta)},
        "optimistic": {"actor": OptimisticSAM(delta)},
    }
    assert dials("a task of the user's") == dials("PointButton1-v0")


def test_fixed_confidence_meets_the_fixed_radius_half_way():
    cell = {variant: configs[0].actor for (_, _, variant), configs in experiments.schedules("laptop").items()}
    fixed, half = cell["fixed δ"], shapo.PROFILES["laptop"].total_steps // 2
    schedule = cell["fixed α, n in episodes"]
    assert schedule.radius(half) == pytest.approx(fixed.delta_down, rel=1e-9)
    assert schedule.radius(20_000) > 10 * fixed.delta_down
    assert isinstance(cell["fixed α, n measured"].delta_down, EffectiveAlpha)
    worth = type("Samples", (), {"effective": 0.8e6})
    assert 0.2 < cell["fixed α, n measured"].radius(worth) / fixed.delta_down < 1


def test_a_campaign_is_balanced_and_begins_with_the_pilot():
    runs = [run.config for run in experiments.study("campaign", "laptop").runs]
    seeds = [config.seed for config in runs]
    pilot = sum(map(len, experiments.pilot("laptop").values()))
    assert seeds[:pilot] == sorted(seeds[:pilot]) and set(seeds[:pilot]) == set(experiments.PILOT_SEEDS)
    first = runs[pilot : pilot + 36]  # seed 0 of all settings of Figure 3
    assert {config.seed for config in first} == {0}
    tasks = list(dict.fromkeys(config.task for config in first))
    assert tasks == ["PointGoal1-v0", "Ant-v4", "Walker2d-v4", "PointButton1-v0"]


def test_the_pilot_uses_no_seed_of_a_figure():
    for profile in shapo.PROFILES:
        pilot = {config.seed for configs in experiments.pilot(profile).values() for config in configs}
        figures = {run.config.seed for run in experiments.study("all", profile).runs}
        assert pilot and not pilot & figures
    with pytest.raises(ValueError, match=r"name must be one of pilot, .*, campaign; got 'paretto'"):
        experiments.study("paretto", "smoke")


def test_runs_that_figures_share_are_trained_once():
    separate = sum(len(experiments.study(build.__name__, "laptop").runs) for build in experiments.FIGURES)
    together = experiments.study("all", "laptop").runs
    assert len(together) == len({run.path for run in together}) < separate


def test_a_row_of_results_is_what_the_run_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path))
    config, missing = experiments.esam("smoke")["Walker2d-v4", "CPO", "vanilla"][:2]
    run = shapo.train(config, progress=False)
    table = experiments.results({("Walker2d-v4", "CPO", "vanilla"): [config, missing]})
    assert table[["task", "baseline", "variant", "seed"]].values.tolist() == [
        ["Walker2d-v4", "CPO", "vanilla", config.seed]
    ]
    (row,) = table.itertuples()
    episodes = run.episodes
    late = episodes[episodes.steps > 0.75 * config.total_steps]
    assert 0 < len(late) < len(episodes)
    assert table["return"].item() == pytest.approx(late["return"].mean())
    assert row.failures == episodes.failed.sum() > 10
    assert row.cost_rate == pytest.approx(row.failures / config.total_steps)
    second_half = run.progress.J_C[run.progress.steps > config.total_steps / 2]
    assert row.tail == pytest.approx(np.quantile(second_half, 0.80))
    assert experiments.results({("Walker2d-v4", "CPO", "vanilla"): [missing]}).empty


def test_what_one_seed_lacks_is_not_compared():
    rows = [
        ["PointGoal1-v0", "CPO", variant, seed, 5.0 + seed, *[10.0 + seed - gain] * 4]
        for variant, gain in (("vanilla", 0), ("SHAPO", 20))
        for seed in range(5)
    ]
    runs = pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", *experiments.METRICS])
    runs.loc[0, "return"] = np.nan
    table = experiments.comparison(runs, np.random.default_rng(0)).set_index(["variant", "metric"])
    assert np.isnan(table.iqm["vanilla", "return"]) and np.isnan(table.better["SHAPO", "return"])
    assert table.better["SHAPO", "cost"] == 1 and ("SHAPO", "cost_rate") in table.index
    nothing = experiments.comparison(experiments.results({}), np.random.default_rng(0))
    assert nothing.empty and "iqm" in nothing and statistics.readable(nothing).empty
