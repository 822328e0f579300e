"""The experiments of the paper: for each figure, the settings it compares, and a row of numbers per run.

An experiment is {(task, baseline, variant): [a config per seed]}. Settings that several figures share have the same
configs and so the same runs, which `Study` trains once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from shapo import sharpness
from shapo.algorithms import ALGORITHMS, CPO, PIDLag, TRPOLag, TrustRegion
from shapo.algorithms.config import Config
from shapo.envs import OwnTask, task_of
from shapo.experiments.profiles import PROFILES, Profile, dials
from shapo.experiments.statistics import CELL, COLUMNS, compare
from shapo.runs.identity import RunConfig
from shapo.runs.run import Run
from shapo.runs.study import Study

Variant = Mapping[str, object]  # the fields of Config that a variant sets: actor, critic, both or none
Choice = Callable[[str], Mapping[str, Variant]]  # task -> its variants
Experiment = dict[tuple[str, str, str], list[Config]]

TASK_ORDER = ("PointGoal1-v0", "Ant-v4", "Walker2d-v4", "PointButton1-v0")  # a campaign's order
ABLATIONS = {"PointGoal1-v0": "TRPOLag", "Walker2d-v4": "CPO"}  # of Figures 6 and 7: one task of each kind
LAMBDA_INIT = (0.001, 1.0, 5.0, 20.0)  # PIDLag's λ before the first update, Figure 4
DOSES = (0.03, 0.1, 0.3, 1.0)  # δ_Down / δ_Up
MEASURED_ALPHA = 1e-150  # Figure 8: with n measured, an ordinary α gives too small a radius (notebook 10)
PILOT_SHARES = DOSES[:3]
PILOT_RHO = (0.01, 0.05)  # the critics' ρ
# (task, "δ" or "ρ") -> further radii where the pilot's rule extends a sweep (notebook 91).
PILOT_MORE: dict[tuple[str, str], tuple[float, ...]] = {
    ("PointGoal1-v0", "δ"): (0.05,), ("PointGoal1-v0", "ρ"): (0.25,), ("Ant-v4", "δ"): (1.0,),
    ("Walker2d-v4", "δ"): (1.0,), ("Walker2d-v4", "ρ"): (0.25,),
}  # fmt: skip
PILOT_SEEDS = (100, 101, 102, 103)  # no figure uses these
EPISODE = 1000  # steps of an episode that nothing ends early
# Baselines as OmniSafe runs them: its CPO tries 20 steps and does not divide the violation by the episode's length.
OMNISAFE = {
    "TRPO-Lag": TRPOLag(), "TRPO-PID": PIDLag(), "CPO": CPO(line_search_steps=20, cost_per_step=False),
}  # fmt: skip


def delta_down(task: str, share: float | None = None) -> float:
    """δ_Down in nats, as a share of the task's own δ_Up; the default is the share of the task's dials."""
    share = dials(task).share if share is None else share
    return round(share * Config(task).resolved.algorithm.target_kl, 12)


def variants(task: str) -> dict[str, Variant]:
    """The variants of a baseline's plain update, at the task's dials."""
    delta = delta_down(task)
    actor, critic = sharpness.FisherSAM(delta), sharpness.EuclideanSAM(dials(task).rho_critic)
    return {
        "vanilla": {}, "SHAPO Actor": {"actor": actor}, "SAM Critic": {"critic": critic},
        "SHAPO": {"actor": actor, "critic": critic}, "E-SAM": {"actor": sharpness.KLMatchedSAM(delta)},
        "random direction": {"actor": sharpness.RandomSAM(delta)},
        "optimistic": {"actor": sharpness.OptimisticSAM(delta)},
    }  # fmt: skip


def grid(
    profile: str, tasks: Sequence[str | OwnTask], baselines: Mapping[str, TrustRegion | str] | Sequence[str],
    choose: Choice, seeds: Sequence[int] | None = None, total_steps: int | None = None, **settings,
) -> Experiment:  # fmt: skip
    """Every task × baseline × variant × seed; `choose(task)` gives the variants, the profile all that is not given.

    SauteRL is left out on tasks whose cost limit is 0, where it has no meaning. settings: further fields of Config.
    """
    budget = PROFILES[profile]
    named = baselines if isinstance(baselines, Mapping) else {name: name for name in baselines}
    return {
        (task, name, label): [
            Config(
                task, baseline, **variant, total_steps=total_steps or steps, num_envs=budget.num_envs,
                steps_per_epoch=budget.steps_per_epoch, seed=seed, **settings,
            )
            for seed in (range(runs) if seeds is None else seeds)
        ]
        for task in tasks
        for name, baseline in named.items()
        for runs, steps in [_budget(budget, task, baseline)]
        for label, variant in choose(task).items()
        if not (baseline == "SauteRL" and task_of(task).cost_limit == 0)
    }  # fmt: skip


def _budget(budget: Profile, task: str, baseline: TrustRegion | str) -> tuple[int, int]:
    """Seeds and steps of a cell. PIDLag needs longer runs where it has a cost limit to keep, and gets fewer of them."""
    if task_of(task).cost_limit == 0:
        return budget.seeds, budget.total_steps
    slow = baseline == "PIDLag" or isinstance(baseline, PIDLag)
    return (budget.seeds, budget.long_steps) if slow else (budget.more_seeds, budget.total_steps)


def _only(*names: str) -> Choice:
    return lambda task: {name: variants(task)[name] for name in names}


def _ablation(profile: str, choose: Choice, **settings) -> Experiment:
    """The grid of ABLATIONS: one baseline on each of two tasks."""
    first, second = (grid(profile, [task], [name], choose, **settings) for task, name in ABLATIONS.items())
    return first | second


def pareto(profile: str) -> Experiment:
    """Figures 3 and 5: every baseline with and without SHAPO, on every task."""
    return grid(profile, TASK_ORDER, list(ALGORITHMS), _only("vanilla", "SHAPO"))


def esam(profile: str) -> Experiment:
    """Figure 6: Fisher against Euclidean at equal mean KL, with a random direction and the best policy at that KL."""
    return _ablation(profile, _only("vanilla", "SHAPO Actor", "E-SAM", "random direction", "optimistic"))


def sam_critic(profile: str) -> Experiment:
    """Figure 7, first half: the critics alone."""
    return _ablation(profile, _only("vanilla", "SAM Critic"))


def shapo_actor(profile: str) -> Experiment:
    """Figure 7: what the actor and the critics contribute."""
    return _ablation(profile, _only("vanilla", "SAM Critic", "SHAPO Actor", "SHAPO"))


def lambda_sweep(profile: str) -> Experiment:
    """Figure 4: PIDLag from several λ_init, with and without SHAPO."""
    baselines = {f"λ₀ = {lam:g}": PIDLag(lagrangian_multiplier_init=lam) for lam in LAMBDA_INIT}
    return grid(profile, TASK_ORDER[:1], baselines, _only("vanilla", "SHAPO"))


def schedules(profile: str) -> Experiment:
    """Figure 8: a fixed radius, and a fixed confidence α with n counted in episodes or measured.

    With n in episodes, α is such that its radius equals the fixed one half way through training. A measured n is a
    thousand times as large: even the smallest α of double precision gives a smaller radius after a third of training.
    """

    def choose(task: str) -> dict[str, Variant]:
        delta = delta_down(task)
        alpha = sharpness.alpha_from_delta(delta, max(1.0, PROFILES[profile].total_steps / 2 / EPISODE))
        return {
            "vanilla": {},
            "fixed δ": {"actor": sharpness.FisherSAM(delta)},
            "fixed α, n in episodes": {"actor": sharpness.FisherSAM(sharpness.FixedAlpha(alpha, EPISODE))},
            "fixed α, n measured": {"actor": sharpness.FisherSAM(sharpness.EffectiveAlpha(MEASURED_ALPHA))},
        }

    return grid(profile, TASK_ORDER[:1], ["TRPOLag"], choose)


def _doses(task: str, shares: Sequence[float]) -> dict[str, Variant]:
    radii = {f"δ = {share:g} δ_Up": delta_down(task, share) for share in shares}
    return {"vanilla": {}} | {
        label: {"actor": sharpness.FisherSAM(radius)} for label, radius in radii.items()
    }


def dose(profile: str) -> Experiment:
    """The effect of the actor's radius, the task's own among others, up to that of the step itself, δ_Up."""

    def of_task(task: str) -> dict[str, Variant]:
        return _doses(task, sorted({*DOSES, dials(task).share}))

    return _ablation(profile, of_task, seeds=range(PROFILES[profile].seeds))


def pilot(profile: str) -> Experiment:
    """The sweeps of both radii by which the dials are chosen, on seeds that no figure uses."""
    seeds, steps = PILOT_SEEDS[: PROFILES[profile].pilot_seeds], PROFILES[profile].pilot_steps

    def of_actor(task: str) -> dict[str, Variant]:
        return _doses(task, pilot_radii(task, "δ"))

    def of_critics(task: str) -> dict[str, Variant]:
        return {f"ρ = {rho:g}": {"critic": sharpness.EuclideanSAM(rho)} for rho in pilot_radii(task, "ρ")}

    of_actors = grid(profile, TASK_ORDER, ["TRPOLag", "CPO"], of_actor, seeds, steps)
    return of_actors | grid(profile, list(ABLATIONS), ["TRPOLag"], of_critics, seeds, steps)


def pilot_radii(task: str, dial: str) -> tuple[float, ...]:
    """The pilot's sweep on a task: of δ_Down / δ_Up if dial is "δ", of ρ_critic if it is "ρ"."""
    return (PILOT_SHARES if dial == "δ" else PILOT_RHO) + PILOT_MORE.get((task, dial), ())


def published(profile: str) -> Experiment:
    """The setting of OmniSafe's published table: cost limit 25, 10 M steps; notebook 12."""
    steps = PROFILES["paper" if profile == "laptop" else profile].total_steps
    seeds = range(min(3, PROFILES[profile].seeds))
    return grid(profile, TASK_ORDER[:1], OMNISAFE, _only("vanilla"), seeds, steps, cost_limit=25.0)


def unconstrained(profile: str) -> Experiment:
    """TRPO without costs on gymnasium's robots, to compare with `peers.sb3`; notebook 12."""
    tasks = [task for task in TASK_ORDER if task_of(task).cost_limit == 0]
    budget = PROFILES[profile]
    seeds = range(min(3, budget.seeds))
    return grid(profile, tasks, {"TRPO": TrustRegion()}, _only("vanilla"), seeds, budget.pilot_steps)


FIGURES = (pareto, esam, sam_critic, shapo_actor, lambda_sweep, schedules, dose)  # in the order of a campaign
EXPERIMENTS = {build.__name__: build for build in (pilot, *FIGURES, published, unconstrained)}
TOGETHER = {"all": FIGURES, "campaign": tuple(EXPERIMENTS.values())}


def study(name: str, profile: str) -> Study:
    """The runs of one experiment as a study; "all" has those of all figures together, "campaign" has everything.

    The experiments follow one another. In each, the first seed of every setting comes before the second seed of any, so
    that an unfinished study is balanced.
    """
    if name not in EXPERIMENTS | TOGETHER:
        raise ValueError(f"name must be one of {', '.join([*EXPERIMENTS, *TOGETHER])}; got {name!r}")
    configs = []
    for build in TOGETHER.get(name) or [EXPERIMENTS[name]]:
        of_one = [config for seeds in build(profile).values() for config in seeds]
        configs += sorted(of_one, key=lambda config: config.seed)
    return Study(profile if name == "all" else name, configs)


def available_runs(experiment: Mapping[Hashable, Sequence[RunConfig]]) -> dict[Hashable, list[Run]]:
    """The available runs of each setting. Settings without any are left out."""
    runs = {name: [run for run in map(Run, configs) if run.available] for name, configs in experiment.items()}
    return {name: several for name, several in runs.items() if several}


def results(experiment: Experiment) -> pd.DataFrame:
    """A row per available run: task, baseline, variant, seed and its `summary`. Other runs are left out."""
    rows = [
        dict(zip(CELL, cell, strict=True), seed=run.config.seed) | summary(run)
        for cell, runs in available_runs(experiment).items()
        for run in runs
    ]
    return pd.DataFrame(rows, columns=None if rows else [*CELL, "seed", *METRICS])


# What each number is, with its unit, and whether more of it is better.
METRICS = {
    "return": ("return per episode, last quarter", True),
    "cost": ("cost per episode, last quarter", False),
    "cost_rate": ("cost per step, all of training", False),
    "failures": ("failures, all of training", False),
    "tail": ("tail quantile of the episodic cost, second half", False),
}


def safety_metric(task: str | OwnTask) -> str:
    """The column of `results` that is the paper's measure of safety on a task."""
    return "failures" if task_of(task).failure_metric == "cumulative failures" else "cost_rate"


def episodic_costs(run: Run) -> pd.DataFrame:
    """The costs of episodes, of which Figure 5 takes quantiles: columns steps and cost.

    Where an episode costs 1 for a fall and else 0, a quantile of single episodes would be 0 or 1 as well. There, cost
    is J_C, the mean cost of the last 50 episodes, once per epoch.
    """
    if safety_metric(run.config.task) == "failures":
        return run.progress[["steps", "J_C"]].dropna().rename(columns={"J_C": "cost"})
    return run.episodes[["steps", "cost"]]


def summary(run: Run) -> dict[str, float]:
    """The numbers of METRICS for one run, each episode counted once."""
    progress, episodes, costs = run.progress, run.episodes, episodic_costs(run)
    late = episodes[episodes.steps > 0.75 * run.config.total_steps]
    costs = costs.cost[costs.steps > run.config.total_steps / 2]  # early policies would dominate the whole
    return {
        "return": late["return"].mean(), "cost": late.cost.mean(), **progress.iloc[-1][["cost_rate", "failures"]],
        "tail": np.quantile(costs, task_of(run.config.task).tail_level) if len(costs) else np.nan,
    }  # fmt: skip


def comparison(runs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """`statistics.compare` of `results`, task by task: return, cost, cost rate or failures, and tail.

    Without runs, the table is empty and has the same columns. If one seed of a cell lacks a number, for example because
    no episode ended in the last quarter, the number is NaN for the whole cell.
    """
    seed, tables = rng.integers(2**63), []
    for task, part in runs.groupby("task", sort=False):
        lower = ["cost", safety_metric(task), "tail"]
        # The mean is NaN if one seed's number is: then the number is removed from all seeds.
        whole = part.groupby(CELL)[["return", *lower]].transform(lambda values: values.mean(skipna=False))
        part = part.assign(**{name: part[name].where(whole[name].notna()) for name in whole})
        tables.append(compare(part, np.random.default_rng(seed), ["return"], lower))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
