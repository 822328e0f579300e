"""The experiments of the paper: for each figure, the settings it compares, and a row of numbers per run.

An experiment is {(task, baseline, variant): [config of each seed]}. Settings that several figures share are the same
configs, hence the same runs: `Study` trains them once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from shapo.algorithms import ALGORITHMS, PIDLag, TrustRegion
from shapo.algorithms.config import Config
from shapo.envs import OwnTask, task_of
from shapo.experiments.profiles import DIALS, PROFILES
from shapo.runs.identity import RunConfig
from shapo.runs.run import Run
from shapo.runs.study import Study
from shapo.sharpness import (
    EffectiveAlpha,
    EuclideanSAM,
    FisherSAM,
    FixedAlpha,
    KLMatchedSAM,
    alpha_from_delta,
)

Variant = Mapping[str, object]  # the fields of Config that it sets: actor, critic, or none
Experiment = dict[tuple[str, str, str], list[Config]]

LAMBDA_INIT = (0.001, 0.1, 0.5, 2.0)  # PIDLag's λ before the first update, Figure 4
ESAM_RHO = (0.01, 0.03, 0.1, 0.3)  # the Euclidean sweep of Figure 6
PAPER_TASKS = ("PointGoal1-v0", "PointButton1-v0", "Ant-v4", "Walker2d-v4")
ABLATION_TASKS = ("PointGoal1-v0", "Walker2d-v4")  # one of each kind: Figures 4 and 6 to 8
EFFECTIVE_ALPHA = (
    1e-12,
    1e-50,
)  # confidence levels at which a measured n gives radii that move something, Figure 8
PILOT_SHARES = (0.03, 0.1, 0.3)  # δ_Down / δ_Up
PILOT_RHO = (0.01, 0.05)  # of the critics
PILOT_SEEDS = (100, 101, 102, 103)  # which no figure uses
EPISODE = 1000  # steps of an episode that nothing ends early


def variants(task: str) -> dict[str, Variant]:
    """The rows of method.md's ablation at the task's dials."""
    actor, critic = FisherSAM(DIALS[task].delta_down), EuclideanSAM(DIALS[task].rho_critic)
    matched = KLMatchedSAM(DIALS[task].delta_down)
    return {
        "vanilla": {},
        "SHAPO Actor": {"actor": actor},
        "SAM Critic": {"critic": critic},
        "SHAPO": {"actor": actor, "critic": critic},
        "E-SAM": {"actor": matched},
        "E-SAM + SAM Critic": {"actor": matched, "critic": critic},
    }


def grid(
    profile: str,
    tasks: Sequence[str | OwnTask],
    baselines: Mapping[str, TrustRegion | str] | Sequence[str],
    choose: Callable[[str], Mapping[str, Variant]],
    seeds: Sequence[int] | None = None,
    total_steps: int | None = None,
) -> Experiment:
    """Every task × baseline × variant × seed; `choose(task)` gives the variants, the profile what is not said.

    Sauté stays away from tasks whose cost limit is 0, where it has no meaning.
    """
    budget = PROFILES[profile]
    seeds = range(budget.seeds) if seeds is None else seeds
    total_steps = budget.total_steps if total_steps is None else total_steps
    if not isinstance(baselines, Mapping):
        baselines = dict(zip(baselines, baselines, strict=True))
    return {
        (task, name, label): [
            Config(
                task, baseline, **variant, total_steps=total_steps, num_envs=budget.num_envs,
                steps_per_epoch=budget.steps_per_epoch, seed=seed,
            )
            for seed in seeds
        ]
        for task in tasks
        for name, baseline in baselines.items()
        for label, variant in choose(task).items()
        if not (baseline == "SauteRL" and task_of(task).cost_limit == 0)
    }  # fmt: skip


def delta_down(task: str, share: float) -> float:
    """δ_Down, nats, that is a share of the task's own δ_Up."""
    return round(share * Config(task).resolved.algorithm.target_kl, 12)


def _only(*names: str) -> Callable[[str], dict[str, Variant]]:
    return lambda task: {name: variants(task)[name] for name in names}


def pareto(profile: str) -> Experiment:
    """Figures 3 and 5: every baseline with and without SHAPO, on every task."""
    return grid(profile, PAPER_TASKS, list(ALGORITHMS), _only("vanilla", "SHAPO"))


def lambda_sweep(profile: str) -> Experiment:
    """Figure 4: PIDLag from several λ_init, with and without SHAPO."""
    baselines = {f"λ₀ = {lam:g}": PIDLag(lagrangian_multiplier_init=lam) for lam in LAMBDA_INIT}
    return grid(profile, ABLATION_TASKS, baselines, _only("vanilla", "SHAPO"))


def esam(profile: str) -> Experiment:
    """Figure 6: Fisher against Euclidean at equal mean KL, and the Euclidean perturbation over a sweep of ρ."""

    def choose(task: str) -> dict[str, Variant]:
        sweep = {f"E-SAM ρ = {rho:g}": {"actor": EuclideanSAM(rho)} for rho in ESAM_RHO}
        return _only("vanilla", "SHAPO Actor", "SHAPO", "E-SAM", "E-SAM + SAM Critic")(task) | sweep

    return grid(profile, ABLATION_TASKS, ["TRPOLag"], choose)


def sam_critic(profile: str) -> Experiment:
    """Figure 7, first half: the critics alone."""
    return grid(profile, ABLATION_TASKS, ["TRPOLag", "PIDLag"], _only("vanilla", "SAM Critic"))


def shapo_actor(profile: str) -> Experiment:
    """Figure 7: what the actor and the critics contribute."""
    names = ("vanilla", "SAM Critic", "SHAPO Actor", "SHAPO")
    return grid(profile, ABLATION_TASKS, ["TRPOLag", "PIDLag"], _only(*names))


def schedules(profile: str) -> Experiment:
    """Figure 8: a fixed radius, and a fixed confidence α with n counted in steps, in episodes, or measured.

    α is the one at which, counted in episodes, the fixed confidence meets the fixed radius half way through training;
    where n is measured, it is swept as well.
    """

    def choose(task: str) -> dict[str, Variant]:
        delta = DIALS[task].delta_down
        alpha = alpha_from_delta(delta, max(1.0, PROFILES[profile].total_steps / 2 / EPISODE))
        return _only("vanilla")(task) | {
            "fixed δ": {"actor": FisherSAM(delta)},
            "fixed α, n in steps": {"actor": FisherSAM(FixedAlpha(alpha))},
            "fixed α, n in episodes": {"actor": FisherSAM(FixedAlpha(alpha, EPISODE))},
            "fixed α, n measured": {"actor": FisherSAM(EffectiveAlpha(alpha))},
        } | {
            f"α = {level:g}, n measured": {"actor": FisherSAM(EffectiveAlpha(level))}
            for level in EFFECTIVE_ALPHA
        }  # fmt: skip

    return grid(profile, ABLATION_TASKS, ["TRPOLag"], choose)


def pilot(profile: str) -> Experiment:
    """How the dials were chosen: sweeps of both radii, on seeds that no figure uses."""

    def actors(task: str) -> dict[str, Variant]:
        shares = {
            f"δ = {share:g} δ_Up": {"actor": FisherSAM(delta_down(task, share))} for share in PILOT_SHARES
        }
        return {"vanilla": {}} | shares

    def critics(task: str) -> dict[str, Variant]:
        return {f"ρ = {rho:g}": {"critic": EuclideanSAM(rho)} for rho in PILOT_RHO}

    seeds, steps = PILOT_SEEDS[: PROFILES[profile].pilot_seeds], PROFILES[profile].pilot_steps
    tasks = ["PointGoal1-v0", "Ant-v4", "Walker2d-v4", "PointButton1-v0"]
    of_actors = grid(profile, tasks, ["TRPOLag", "CPO"], actors, seeds, steps)
    return of_actors | grid(profile, ABLATION_TASKS, ["TRPOLag"], critics, seeds, steps)


FIGURES = (pareto, lambda_sweep, esam, sam_critic, shapo_actor, schedules)
EXPERIMENTS = {build.__name__: build for build in (*FIGURES, pilot)}


def study(name: str, profile: str) -> Study:
    """The runs of one experiment as a study, or those of all figures together as "all".

    The first seed of every setting comes before the second of any, so that a part of the study is balanced.
    """
    if name != "all" and name not in EXPERIMENTS:
        raise ValueError(f"name must be 'all' or one of {', '.join(EXPERIMENTS)}; got {name!r}")
    builds = FIGURES if name == "all" else [EXPERIMENTS[name]]
    configs = [config for build in builds for seeds in build(profile).values() for config in seeds]
    configs.sort(key=lambda config: config.seed)
    return Study(profile if name == "all" else name, configs)


def available_runs(experiment: Mapping[Hashable, Sequence[RunConfig]]) -> dict[Hashable, list[Run]]:
    """Of each setting, the runs that are there; settings without any are left out."""
    runs = {
        setting: [run for config in configs if (run := Run(config)).available]
        for setting, configs in experiment.items()
    }
    return {setting: several for setting, several in runs.items() if several}


def results(experiment: Experiment) -> pd.DataFrame:
    """A row per run that is there: task, baseline, variant, seed, and its `summary`; runs that are not are left out."""
    rows = [
        {"task": task, "baseline": baseline, "variant": variant, "seed": run.config.seed} | summary(run)
        for (task, baseline, variant), runs in available_runs(experiment).items()
        for run in runs
    ]
    labels = ["task", "baseline", "variant", "seed"]
    return pd.DataFrame(rows, columns=None if rows else labels + list(METRICS))


# What each number is, with its unit, and whether more of it is better.
METRICS = {
    "return": ("return per episode, last quarter", True),
    "cost": ("cost per episode, last quarter", False),
    "cost_rate": ("cost per step, all of training", False),
    "failures": ("failures, all of training", False),
    "tail": ("tail quantile of the episodic cost", False),
}


def safety_metric(task: str | OwnTask) -> str:
    """The column of `results` that is the paper's measure of safety on a task."""
    return "failures" if task_of(task).failure_metric == "cumulative failures" else "cost_rate"


def tail_level(task: str) -> float:
    """Figure 5's quantile: 0.95, but 0.80 on Walker2d, where the 95th sits near 1."""
    return 0.80 if task == "Walker2d-v4" else 0.95


def episodic_costs(run: Run) -> pd.DataFrame:
    """What Figure 5 takes quantiles of: columns steps and cost.

    The episodes' costs. Where an episode costs 0 or 1, the fall, a quantile of single episodes would be 0 or 1 as well:
    there J_C, the mean cost of the last 50 episodes, once an epoch.
    """
    if safety_metric(run.config.task) == "failures":
        return run.progress[["steps", "J_C"]].dropna().rename(columns={"J_C": "cost"})
    return run.episodes[["steps", "cost"]]


def summary(run: Run) -> dict[str, float]:
    """The numbers of METRICS for one run, each episode counted once."""
    progress, episodes, costs = run.progress, run.episodes, episodic_costs(run).cost
    late = episodes[episodes.steps > 0.75 * run.config.total_steps]
    last = progress.iloc[-1]
    return {
        "return": late["return"].mean(), "cost": late.cost.mean(),
        "cost_rate": last.cost_rate, "failures": last.failures,
        "tail": np.quantile(costs, tail_level(run.config.task)) if len(costs) else np.nan,
    }  # fmt: skip


def dose(results: pd.DataFrame, least_return: float = -0.05) -> pd.DataFrame:
    """What each radius of the pilot does, next to vanilla with the same baseline and seed; and which one is chosen.

    A row per task and variant. Changes are means over baselines and seeds: of return as a share of the task's best
    vanilla baseline, of the safety metric as a share of vanilla's own; safety_low and safety_high are the extremes of
    the latter. Of each of the two dials, the radius that lowers the safety metric most is chosen among those that
    change return by no less than `least_return`, and were run with every baseline and seed that vanilla was.

    results: a table of `results(pilot(...))`. Raises ValueError where a task has no vanilla run to compare with.
    """
    columns = ["task", "variant", "runs", "return", "safety", "safety_low", "safety_high", "chosen"]
    rows = []
    for task, runs in results.groupby("task", sort=False):
        runs = runs.assign(safety=runs[safety_metric(task)]).set_index(["baseline", "seed"])
        vanilla = runs[runs.variant == "vanilla"]
        if vanilla.empty:
            raise ValueError(f"results must hold vanilla runs of every task; got none of {task}")
        scale = vanilla["return"].groupby("baseline").mean().max()
        for variant, cell in runs[runs.variant != "vanilla"].groupby("variant", sort=False):
            pairs = cell.merge(vanilla, on=["baseline", "seed"], suffixes=("", "_vanilla"))
            change = pairs.safety / pairs.safety_vanilla - 1
            change_of_return = ((pairs["return"] - pairs["return_vanilla"]) / scale).mean()
            eligible = len(pairs) == len(vanilla) and change_of_return >= least_return and change.mean() < 0
            numbers = [len(pairs), change_of_return, change.mean(), change.min(), change.max(), eligible]
            rows.append([task, variant, *numbers])
    table = pd.DataFrame(rows, columns=columns)
    eligible = table[table.chosen.astype(bool)]
    best = eligible.groupby(["task", eligible.variant.str[:1]]).safety.idxmin()
    return table.assign(chosen=table.index.isin(best))
