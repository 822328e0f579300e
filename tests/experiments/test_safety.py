"""The paper's experiments: what each compares, what is shared, and how a run becomes a row of numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import shapo
from shapo.envs import TASKS
from shapo.experiments import safety as experiments
from shapo.sharpness import EffectiveAlpha, EuclideanSAM, FisherSAM, FixedAlpha, KLMatchedSAM


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_experiment_changes_only_what_it_compares(name, profile):
    experiment = experiments.EXPERIMENTS[name](profile)
    budget = shapo.PROFILES[profile]
    for (task, baseline, variant), configs in experiment.items():
        seeds = budget.seeds if name != "pilot" else budget.pilot_seeds
        assert len({config.run_id for config in configs}) == len(configs) == seeds > 0
        for config in configs:
            assert config.task == task and config.resolved.cost_limit == TASKS[task].cost_limit
            vanilla = experiment[task, baseline, "vanilla"]
            assert replace(config, actor=None, critic=None) in vanilla
            if variant == "vanilla":
                assert config.actor is None and config.critic is None
            else:
                assert config.actor or config.critic


def test_figure_3_has_five_baselines_on_four_tasks_and_saute_only_with_a_budget():
    cells = {(task, baseline) for task, baseline, _ in experiments.pareto("laptop")}
    assert len(cells) == 4 * 5 - 2
    assert not {("Ant-v4", "SauteRL"), ("Walker2d-v4", "SauteRL")} & cells


def test_the_ablation_is_methods_table():
    dials, rows = experiments.DIALS["PointGoal1-v0"], experiments.variants("PointGoal1-v0")
    actor, critic = FisherSAM(dials.delta_down), EuclideanSAM(dials.rho_critic)
    matched = KLMatchedSAM(dials.delta_down)
    assert rows == {
        "vanilla": {},
        "SHAPO Actor": {"actor": actor},
        "SAM Critic": {"critic": critic},
        "SHAPO": {"actor": actor, "critic": critic},
        "E-SAM": {"actor": matched},
        "E-SAM + SAM Critic": {"actor": matched, "critic": critic},
    }


def test_fixed_confidence_meets_the_fixed_radius_half_way_counted_in_episodes():
    cell = {
        variant: configs[0].actor
        for (task, _, variant), configs in experiments.schedules("laptop").items()
        if task == "PointGoal1-v0"
    }
    fixed, half = cell["fixed δ"], shapo.PROFILES["laptop"].total_steps // 2
    assert cell["fixed α, n in episodes"].radius(half) == pytest.approx(fixed.delta_down, rel=1e-9)
    alphas = {cell[f"fixed α, n {way}"].delta_down.alpha for way in ("in steps", "in episodes", "measured")}
    assert len(alphas) == 1
    assert isinstance(cell["fixed α, n in steps"].delta_down, FixedAlpha)
    assert isinstance(cell["fixed α, n measured"].delta_down, EffectiveAlpha)


def test_the_pilot_uses_no_seed_of_a_figure():
    for profile in shapo.PROFILES:
        pilot = {config.seed for configs in experiments.pilot(profile).values() for config in configs}
        figures = {run.config.seed for run in experiments.study("all", profile).runs}
        assert pilot and not pilot & figures
    with pytest.raises(ValueError, match=r"name must be 'all' or one of pareto, .*; got 'paretto'"):
        experiments.study("paretto", "smoke")


def test_runs_that_figures_share_are_trained_once():
    separate = sum(len(experiments.study(build.__name__, "laptop").runs) for build in experiments.FIGURES)
    together = experiments.study("all", "laptop").runs
    assert len(together) == len({run.path for run in together}) < separate


def test_a_row_of_results_is_what_the_run_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("SHAPO_RUNS", str(tmp_path))
    config, missing = experiments.esam("smoke")["Walker2d-v4", "TRPOLag", "vanilla"][:2]
    run = shapo.train(config, progress=False)
    table = experiments.results({("Walker2d-v4", "TRPOLag", "vanilla"): [config, missing]})
    assert table[["task", "baseline", "variant", "seed"]].values.tolist() == [
        ["Walker2d-v4", "TRPOLag", "vanilla", config.seed]
    ]
    (row,) = table.itertuples()
    episodes = run.episodes
    late = episodes[episodes.steps > 0.75 * config.total_steps]
    assert 0 < len(late) < len(episodes)
    assert table["return"].item() == pytest.approx(late["return"].mean())
    assert row.failures == episodes.failed.sum() > 10
    assert row.cost_rate == pytest.approx(row.failures / config.total_steps)
    assert row.tail == pytest.approx(np.quantile(run.progress.J_C, 0.80))
    assert experiments.results({("Walker2d-v4", "TRPOLag", "vanilla"): [missing]}).empty


def table_of(rows):
    frame = pd.DataFrame(rows, columns=["task", "baseline", "variant", "seed", "return", "cost_rate"])
    return frame.assign(failures=0.0, cost=0.0, tail=0.0)


def test_the_dials_are_the_safest_radii_that_keep_the_return():
    task = "PointGoal1-v0"
    cells = {
        ("vanilla", "CPO"): (10.0, 0.04), ("vanilla", "TRPOLag"): (20.0, 0.05),
        ("δ = 0.001", "CPO"): (10.0, 0.03), ("δ = 0.001", "TRPOLag"): (19.0, 0.04),
        ("δ = 0.01", "CPO"): (1.0, 0.01), ("δ = 0.01", "TRPOLag"): (2.0, 0.01),  # safest, and useless
        ("δ = 0.0003", "CPO"): (10.0, 0.02),  # safe and good, but not run with TRPOLag
        ("ρ = 0.05", "CPO"): (10.0, 0.05), ("ρ = 0.05", "TRPOLag"): (21.0, 0.06),  # not safer
    }  # fmt: skip
    results = table_of([(task, b, v, s, *numbers) for (v, b), numbers in cells.items() for s in (100, 101)])
    dose = experiments.dose(results).set_index("variant")
    assert dose.loc["δ = 0.001", "return"] == pytest.approx((0 + -1 / 20) / 2)
    assert dose.loc["δ = 0.001", "safety"] == pytest.approx((-0.25 - 0.2) / 2)
    assert dose.loc["δ = 0.001", ["safety_low", "safety_high"]].tolist() == pytest.approx([-0.25, -0.2])
    assert list(dose.index[dose.chosen]) == ["δ = 0.001"]
    assert dose.runs.to_dict() == {"δ = 0.001": 4, "δ = 0.01": 4, "δ = 0.0003": 2, "ρ = 0.05": 4}
    with pytest.raises(ValueError, match="vanilla runs of every task; got none of PointGoal1-v0"):
        experiments.dose(results[results.variant != "vanilla"])
    assert experiments.dose(results[results.variant == "vanilla"]).empty
    assert list(experiments.dose(results[:0])) == list(experiments.dose(results))
