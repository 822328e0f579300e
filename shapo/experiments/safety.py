"""The experiments of the paper: for each figure, the settings it compares, and a row of numbers per run.

An experiment is {(task, baseline, variant): [config of each seed]}. Settings that several figures share are the same
configs, hence the same runs: `Study` trains them once.
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

Variant = Mapping[str, object]  # the fields of Config that it sets: actor, critic, or none
Choice = Callable[[str], Mapping[str, Variant]]  # of a task's variants
Experiment = dict[tuple[str, str, str], list[Config]]

TASK_ORDER = ("PointGoal1-v0", "Ant-v4", "Walker2d-v4", "PointButton1-v0")  # in which a campaign runs
ABLATIONS = {"PointGoal1-v0": "TRPOLag", "Walker2d-v4": "CPO"}  # where Figures 6 to 8 look: one of each kind
LAMBDA_INIT = (0.001, 1.0, 5.0, 20.0)  # PIDLag's λ before the first update, Figure 4
DOSES = (0.03, 0.1, 0.3, 1.0)  # δ_Down / δ_Up
MEASURED_ALPHA = 1e-300  # Figure 8: where n is measured, no ordinary confidence moves anything (notebook 10)
PILOT_SHARES = DOSES[:3]
PILOT_RHO = (0.01, 0.05)  # of the critics
PILOT_SEEDS = (100, 101, 102, 103)  # which no figure uses
EPISODE = 1000  # steps of an episode that nothing ends early
# As OmniSafe runs them; its CPO tries 20 steps and does not divide the violation by the episode's length.
OMNISAFE = {
    "TRPO-Lag": TRPOLag(), "TRPO-PID": PIDLag(), "CPO": CPO(line_search_steps=20, cost_per_step=False),
}  # fmt: skip


def delta_down(task: str, share: float | None = None) -> float:
    """δ_Down, nats, at a share of the task's own δ_Up; by default at that of its dials."""
    share = dials(task).share if share is None else share
    return round(share * Config(task).resolved.algorithm.target_kl, 12)


def variants(task: str) -> dict[str, Variant]:
    """What stands in for a baseline's plain update, at the task's dials."""
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
    """Every task × baseline × variant × seed; `choose(task)` gives the variants, the profile what is not said.

    Sauté stays away from tasks whose cost limit is 0, where it has no meaning. settings: further fields of Config.
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
    """Seeds and steps of a cell: PIDLag needs longer runs where it has a budget to keep, and gets fewer of them."""
    if task_of(task).cost_limit == 0:
        return budget.seeds, budget.total_steps
    slow = baseline == "PIDLag" or isinstance(baseline, PIDLag)
    return (budget.seeds, budget.long_steps) if slow else (budget.more_seeds, budget.total_steps)


def _only(*names: str) -> Choice:
    return lambda task: {name: variants(task)[name] for name in names}


def _ablation(profile: str, choose: Choice, **settings) -> Experiment:
    """One baseline on each of two tasks."""
    first, second = (grid(profile, [task], [name], choose, **settings) for task, name in ABLATIONS.items())
    return first | second


def pareto(profile: str) -> Experiment:
    """Figures 3 and 5: every baseline with and without SHAPO, on every task."""
    return grid(profile, TASK_ORDER, list(ALGORITHMS), _only("vanilla", "SHAPO"))


def esam(profile: str) -> Experiment:
    """Figure 6: Fisher against Euclidean at equal mean KL; and, at that KL, a random direction and the best policy."""
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
    """Figure 8: a fixed radius, and a fixed confidence α with n counted in episodes, or measured.

    In episodes, α is where the fixed confidence meets the fixed radius half way through training. Measured, n is a
    thousand times as large: the smallest α there is in double precision passes the radius at about a fifth of it.
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


def _doses(shares: Sequence[float]) -> Choice:
    def choose(task: str) -> dict[str, Variant]:
        radii = {f"δ = {share:g} δ_Up": delta_down(task, share) for share in shares}
        return {"vanilla": {}} | {
            label: {"actor": sharpness.FisherSAM(radius)} for label, radius in radii.items()
        }

    return choose


def dose(profile: str) -> Experiment:
    """What a radius does, up to that of the step itself."""
    return _ablation(profile, _doses(DOSES), seeds=range(PROFILES[profile].seeds))


def pilot(profile: str) -> Experiment:
    """How the dials were chosen: sweeps of both radii, on seeds that no figure uses."""
    seeds, steps = PILOT_SEEDS[: PROFILES[profile].pilot_seeds], PROFILES[profile].pilot_steps
    critics = {f"ρ = {rho:g}": {"critic": sharpness.EuclideanSAM(rho)} for rho in PILOT_RHO}
    of_actors = grid(profile, TASK_ORDER, ["TRPOLag", "CPO"], _doses(PILOT_SHARES), seeds, steps)
    return of_actors | grid(profile, list(ABLATIONS), ["TRPOLag"], lambda task: critics, seeds, steps)


def published(profile: str) -> Experiment:
    """The setting of OmniSafe's published table: cost limit 25, 10 M steps; notebook 12."""
    steps = PROFILES["paper" if profile == "laptop" else profile].total_steps
    seeds = range(min(3, PROFILES[profile].seeds))
    return grid(profile, TASK_ORDER[:1], OMNISAFE, _only("vanilla"), seeds, steps, cost_limit=25.0)


def unconstrained(profile: str) -> Experiment:
    """TRPO without cost on gymnasium's robots, for `peers.sb3` to be compared with; notebook 12."""
    tasks, budget = ("Ant-v4", "Walker2d-v4"), PROFILES[profile]
    seeds = range(min(3, budget.seeds))
    return grid(profile, tasks, {"TRPO": TrustRegion()}, _only("vanilla"), seeds, budget.pilot_steps)


FIGURES = (pareto, esam, sam_critic, shapo_actor, lambda_sweep, schedules, dose)  # as a campaign runs them
EXPERIMENTS = {build.__name__: build for build in (pilot, *FIGURES, published, unconstrained)}
TOGETHER = {"all": FIGURES, "campaign": tuple(EXPERIMENTS.values())}


def study(name: str, profile: str) -> Study:
    """The runs of one experiment as a study; those of all figures together as "all", everything as "campaign".

    Experiment after experiment, and in each the first seed of every setting before the second of any: a part is
    balanced.
    """
    if name not in EXPERIMENTS | TOGETHER:
        raise ValueError(f"name must be one of {', '.join([*EXPERIMENTS, *TOGETHER])}; got {name!r}")
    configs = []
    for build in TOGETHER.get(name) or [EXPERIMENTS[name]]:
        of_one = [config for seeds in build(profile).values() for config in seeds]
        configs += sorted(of_one, key=lambda config: config.seed)
    return Study(profile if name == "all" else name, configs)


def available_runs(experiment: Mapping[Hashable, Sequence[RunConfig]]) -> dict[Hashable, list[Run]]:
    """Of each setting, the runs that are there; settings without any are left out."""
    runs = {name: [run for run in map(Run, configs) if run.available] for name, configs in experiment.items()}
    return {name: several for name, several in runs.items() if several}


def results(experiment: Experiment) -> pd.DataFrame:
    """A row per run that is there: task, baseline, variant, seed, and its `summary`; runs that are not are left out."""
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


def tail_level(task: str) -> float:
    """Figure 5's quantile: 0.95, but 0.80 on Walker2d, where the 95th sits near 1."""
    return 0.80 if task == "Walker2d-v4" else 0.95


def episodic_costs(run: Run) -> pd.DataFrame:
    """What Figure 5 takes quantiles of, columns steps and cost: the episodes' costs.

    Where an episode costs 0 or 1, the fall, a quantile of single episodes would be 0 or 1 as well: there J_C, the mean
    cost of the last 50 episodes, once an epoch.
    """
    if safety_metric(run.config.task) == "failures":
        return run.progress[["steps", "J_C"]].dropna().rename(columns={"J_C": "cost"})
    return run.episodes[["steps", "cost"]]


def summary(run: Run) -> dict[str, float]:
    """The numbers of METRICS for one run, each episode counted once."""
    progress, episodes, costs = run.progress, run.episodes, episodic_costs(run)
    late = episodes[episodes.steps > 0.75 * run.config.total_steps]
    costs = costs.cost[costs.steps > run.config.total_steps / 2]  # untrained policies would rule the whole
    return {
        "return": late["return"].mean(), "cost": late.cost.mean(), **progress.iloc[-1][["cost_rate", "failures"]],
        "tail": np.quantile(costs, tail_level(run.config.task)) if len(costs) else np.nan,
    }  # fmt: skip


def comparison(runs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """`statistics.compare`, task by task, of `results`: return, cost, cost rate or failures, and tail.

    Empty, with the same columns, where there are no runs. A number that some seed of a cell lacks is NaN in the cell:
    no episode ended in the last quarter, say.
    """
    seed, tables = rng.integers(2**63), []
    for task, part in runs.groupby("task", sort=False):
        lower = ["cost", safety_metric(task), "tail"]
        # NaN poisons a mean: what one seed lacks, all lose
        whole = part.groupby(CELL)[["return", *lower]].transform(lambda values: values.mean(skipna=False))
        part = part.assign(**{name: part[name].where(whole[name].notna()) for name in whole})
        tables.append(compare(part, np.random.default_rng(seed), ["return"], lower))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
