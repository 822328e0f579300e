"""What the two papers claim, and what the runs say about it.

The claims were written down before the runs of SHAPO's study existed; the robots' runs, and part of the pilot's, had
been seen. Notebook 13 lists what was changed since.

A claim names the runs that decide it, one number of each run, and the direction it should go. It is judged by **one**
effect, pooled over all tasks and baselines that it covers (a task and a baseline are a stratum):

    effect    for metrics of LOGS, the mean over strata of the difference of mean logs, as a relative change; else the
              mean over tasks of the sum of differences as a share of the task's sum of the reference's |means|, so
              that no task outweighs another; 95 % interval by Welch, the front's by bootstrap. A mean of each
              baseline's own share would be arbitrary where one returns next to nothing. A stratum in which every run
              has the same number, such as a tail at its ceiling of 1, cannot show an effect and is left out
    p         two-sided, from labels exchanged at random within strata, or within pairs of equal seed where there are
              enough pairs to decide; corrected by Holm's method over all claims of a family. It asks whether any
              stratum has an effect, the interval how large their mean is: where baselines go opposite ways, p may be
              large beside an interval without 0, and a claim needs both
    verdict   holds: p < 0.05 in the direction claimed, and the return is not worse by more than MATTERS
              does not hold: p < 0.05 the other way, an interval that excludes an effect of MATTERS (but the front's:
              its unit is a share of a box, where less cost by MATTERS counts for less), or a worse return
              undecided: neither of these, such as less cost with a return that may be worse; and while runs are missing

A claim of kind kept holds where the interval excludes a loss of MATTERS, one of kind no lower where it excludes a gain.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t as student

from shapo.experiments import robots, safety
from shapo.experiments.statistics import bootstrap_interval
from shapo.robots.simulator import ROBOTS
from shapo.runs.shipped import data_folder, read_sealed
from shapo.runs.store import ROOT

MATTERS = 0.05  # the smallest change that would matter, as a share
LEVEL = 0.05  # of significance
PAIRS = 15  # fewest pairs to exchange labels within; of ten, p has too few values for a correction by 15
DRAWS = 9999  # permutations of the labels
LOGS = ("safety", "tail", "samples")  # metrics that are compared by their logarithms
LEAST = {"tail": 0.02}  # floor of a metric before its logarithm: one fall in 50 episodes
ENOUGH = 4000  # return at which the Ant walks well; its sample efficiency is the steps to get there


@dataclass(frozen=True)
class Claim:
    """One claim; `kind` is one of lower, higher, kept, no lower, front."""

    text: str
    family: str  # claims of a family have their p corrected together; "primary" has one claim per task
    notebook: str
    experiment: str  # a name in safety.EXPERIMENTS, or "robots"
    variant: str
    reference: str = "vanilla"
    metric: str = "safety"
    kind: str = "lower"
    task: str | None = None  # None: all tasks of the experiment
    keeps_return: bool = True  # a claim of kind lower then holds only where the return is kept


def _claims() -> tuple[Claim, ...]:
    actor, (low, middle, high), theta = "SHAPO Actor", map(robots.along, robots.RHOS), robots.asam(robots.RHO)
    episodes = "fixed α, n in episodes"
    # (text, notebook, experiment, variant, reference, metric, kind); the last three default as in Claim
    of_shapo = (
        ("SHAPO keeps the return, or raises it", "04", "pareto", "SHAPO", "vanilla", "return", "kept"),
        ("The front of cost and return moves outward", "04", "pareto", "SHAPO", "vanilla", "safety", "front"),
        ("SHAPO costs less, on average over where λ starts", "05", "lambda_sweep", "SHAPO"),
        ("The tail of the episodic cost falls, on average over tasks", "06", "pareto", "SHAPO", "vanilla", "tail"),
        ("Fisher costs less than Euclidean at equal KL", "07", "esam", actor, "E-SAM"),
        ("Pessimism costs less than a random direction at equal KL (ours)", "07", "esam", actor, "random direction"),
        ("Pessimism costs less than optimism, −ε (ours)", "07", "esam", actor, "optimistic"),
        ("SAM critics alone do not help", "08", "sam_critic", "SAM Critic", "vanilla", "safety", "no lower"),
        ("SHAPO in the actor alone costs less", "09", "shapo_actor", actor),
        ("Actor and critics cost less than the actor", "09", "shapo_actor", "SHAPO", actor),
        ("Actor and critics cost less than the critics", "09", "shapo_actor", "SHAPO", "SAM Critic"),
        ("A fixed radius costs less than none", "10", "schedules", "fixed δ"),
        ("A fixed confidence, n in episodes, costs less than none", "10", "schedules", episodes),
        ("A fixed confidence, n measured, costs less than none", "10", "schedules", "fixed α, n measured"),
        ("A fixed radius costs less than a fixed confidence, n in episodes", "10", "schedules", "fixed δ", episodes),
    )  # fmt: skip
    of_robots = (
        ("SHAC-ASAM stands action noise better than SHAC (along θ + ε)", middle, "SHAC", "noise", "higher"),
        ("SHAC-ASAM stands action noise better than SHAC (along θ)", theta, "SHAC", "noise", "higher"),
        ("SHAC-ASAM stands action noise better along θ + ε than along θ (ours)", middle, theta, "noise", "higher"),
        ("SHAC-ASAM stands other friction better than SHAC (along θ + ε)", middle, "SHAC", "friction", "higher"),
        ("SHAC-ASAM stands other friction better than SHAC (along θ)", theta, "SHAC", "friction", "higher"),
        ("SHAC-ASAM returns what SHAC does where nothing disturbs (along θ + ε)", middle, "SHAC", "home", "kept"),
        ("ρ = 1.5 keeps more of its return under noise than ρ = 0.25 (along θ + ε)", high, low, "kept", "higher"),
        ("ρ = 1.5 returns less than ρ = 0.25 where nothing disturbs (along θ + ε)", high, low, "home", "lower"),
        ("PPO keeps more of its return on other ground than SHAC", "PPO", "SHAC", "ground", "higher"),
        ("The Ant needs fewer samples with SHAC-ASAM than with PPO (along θ + ε)", middle, "PPO", "samples", "lower"),
    )  # fmt: skip
    less = "SHAPO costs less in training"
    found = [Claim(f"{less}: {t}", "primary", "04", "pareto", "SHAPO", task=t) for t in safety.TASK_ORDER]
    found += [Claim(text, "SHAPO", *rule) for text, *rule in of_shapo]
    for text, *rule in of_robots:
        task = "DiffAnt" if rule[2] == "samples" else None  # ENOUGH is a return of the Ant
        found.append(Claim(text, "robots", "22", "robots", *rule, task=task, keeps_return=False))
    return tuple(found)


CLAIMS = _claims()


def judge(
    profile: str, notebook: str | None = None, without: Collection[tuple[str, str]] = ()
) -> pd.DataFrame:
    """A row per claim, of one notebook if given: the columns of `effect`, verdict and notebook; its text is the index.

    p is corrected over all claims of the family, also those of other notebooks. A claim that lacks runs counts there
    with p = 1. Under the smoke profile nothing is claimed. without: cells (task, baseline) to leave out, to see how far
    an effect rests on them; the claims themselves leave out none.
    """
    families = {claim.family for claim in CLAIMS if notebook in (None, claim.notebook)}
    asked = [claim for claim in CLAIMS if claim.family in families]
    tables = {
        name: _table(name, profile, without) for name in dict.fromkeys(claim.experiment for claim in asked)
    }
    rows = [effect(claim, *_of_claim(claim, *tables[claim.experiment])) for claim in asked]
    table = pd.DataFrame(rows, index=pd.Index([claim.text for claim in asked], name="claim"))
    table["p"] = table.p.where(table.there == table.planned, 1.0).fillna(1.0)
    table["p"] = table.p.groupby([claim.family for claim in asked]).transform(holm)
    table["verdict"] = [verdict(claim, row) for claim, row in zip(asked, table.itertuples(), strict=True)]
    if profile == "smoke":
        table["verdict"] = "nothing is claimed"
    table["notebook"] = [claim.notebook for claim in asked]
    return table if notebook is None else table[table.notebook == notebook]


def effect(claim: Claim, runs: pd.DataFrame, planned: int) -> dict:
    """The pooled effect of a claim: value, low, high, p; on the return: kept, kept_low, kept_high; runs there, planned.

    runs: a row per run with task, baseline, seed, treated, value (a logarithm for a metric of LOGS) and return. A run
    with NaN among them counts as missing. Strata that lack runs of one side, or whose values are all equal, are left
    out; the effect of none is NaN.
    """
    runs = runs.dropna(subset=["value", "return"])
    row = dict.fromkeys(("value", "low", "high", "p", "kept", "kept_low", "kept_high"), np.nan)
    row |= {"there": len(runs), "planned": planned}
    several = runs.groupby(["task", "baseline"])[["treated", "value"]].transform("nunique") >= 2
    runs = runs[several.all(axis=1)].reset_index(drop=True)
    if runs.empty:
        return row
    rng, logs = np.random.default_rng(0), claim.metric in LOGS
    strata = runs.groupby(["task", "baseline"], sort=False).ngroup().to_numpy()
    tasks = runs.task.groupby(strata).first().to_numpy()
    treated, values = runs.treated.to_numpy(), runs[["value", "return"]].to_numpy(float)
    means = cell_means(treated[None], strata, values)
    if claim.kind == "front":
        statistic = symmetric = _front(runs, strata)
        cells = [np.flatnonzero((strata == s) & (treated == side)) for side in (0, 1) for s in set(strata)]

        def resampled(*drawn: np.ndarray, axis: int) -> np.ndarray:
            found = np.stack([values[runs_of_cell].mean(-2) for runs_of_cell in drawn], -2)
            return statistic(found.reshape(*found.shape[:-2], 2, -1, 2))

        row["low"], row["high"] = bootstrap_interval(cells, resampled, rng)
    else:
        statistic, symmetric = (
            lambda means, of=of: of(means, tasks, logs) for of in (_difference, _balanced)
        )
        row["low"], row["high"] = welch(values[:, 0], treated, strata, tasks, logs)
    row["value"] = float(statistic(means)[0])
    row["kept"] = float(_difference(means[..., ::-1], tasks, logs=False)[0])
    row["kept_low"], row["kept_high"] = welch(values[:, 1], treated, strata, tasks, logs=False)
    labels = np.concatenate([treated[None], exchanged(treated, _blocks(runs, strata), rng)])
    seen, *draws = np.abs(symmetric(cell_means(labels, strata, values)))
    row["p"] = (1 + np.sum(np.array(draws) >= seen - 1e-12)) / (1 + len(draws))
    return row


def verdict(claim: Claim, row) -> str:
    """The verdict for a row of `judge`: holds, does not hold, or undecided, with the reason if runs are missing."""
    if row.there < row.planned:
        return f"undecided: {row.planned - row.there} of {row.planned} runs missing"
    sign = -1 if claim.kind in ("lower", "no lower") else 1
    least, most = sorted((sign * row.low, sign * row.high))  # the gain, in the direction claimed
    gain, sure = sign * row.value, row.p < LEVEL
    if claim.kind == "kept":
        held, failed = least > -MATTERS, most < -MATTERS
    elif claim.kind == "no lower":
        failed = sure and gain > 0
        held = most < MATTERS and not failed
    else:
        held = sure and gain > 0
        failed = not held and ((sure and gain < 0) or (most < MATTERS and claim.kind != "front"))
        if claim.kind == "lower" and claim.keeps_return:
            worse = row.kept_high < -MATTERS
            if held and not row.kept_low > -MATTERS:
                said, verb = ("does not hold", "is") if worse else ("undecided", "may be")
                return f"{said}: less cost, but the return {verb} lower by more than {MATTERS:.0%}"
            failed = failed or worse
    return "does not hold" if failed else "holds" if held else "undecided"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """`judge`'s table for display: effect with its interval and p, the return beside it, runs, verdict, notebook."""
    rows = []
    for row in table.itertuples():
        said = "–" if np.isnan(row.value) else f"{row.value:+.1%}"
        said += "" if np.isnan(row.low) else f" [{row.low:+.1%}, {row.high:+.1%}], p = {row.p:.2g}"
        kept = f"{row.kept:+.1%} [{row.kept_low:+.1%}, {row.kept_high:+.1%}]" * (not np.isnan(row.kept_low))
        rows.append([said, kept, f"{row.there} of {row.planned}", row.verdict, row.notebook])
    return pd.DataFrame(rows, table.index, ["effect", "return", "runs", "verdict", "notebook"])


def markdown(table: pd.DataFrame) -> str:
    """`readable` as a table for the README, each notebook as a link."""
    names = {path.name[:2]: path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    shown = readable(table).reset_index()
    shown["notebook"] = [f"[{number}](notebooks/{names[number]})" for number in shown.notebook]
    rows = [list(shown.columns), ["---"] * len(shown.columns), *shown.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def logarithm(values: pd.Series, metric: str) -> pd.Series:
    """The logarithms by which runs are compared in a metric of LOGS, whose values may be 0."""
    return np.log(values.clip(lower=LEAST.get(metric, 1e-9)))


def cell_means(treated: np.ndarray, strata: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means (draws, 2, strata, m), the reference first, of labels (draws, runs), strata (runs,), values (runs, m)."""
    sides = []
    for side in (~treated, treated):
        cells = [side[:, strata == s].astype(float) for s in range(strata.max() + 1)]
        means = [c @ values[strata == s] / c.sum(1, keepdims=True) for s, c in enumerate(cells)]
        sides.append(np.stack(means, 1))
    return np.stack(sides, 1)


def exchanged(treated: np.ndarray, blocks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """DRAWS permutations (DRAWS, runs) of the labels within each block."""
    drawn = np.tile(treated, (DRAWS, 1))
    for block in np.unique(blocks):
        mine = np.flatnonzero(blocks == block)
        drawn[:, mine] = treated[mine][rng.random((DRAWS, len(mine))).argsort(1)]
    return drawn


def _blocks(runs: pd.DataFrame, strata: np.ndarray) -> np.ndarray:
    """The blocks of `exchanged`: pairs of equal seed if no run lacks a partner and there are PAIRS, else the strata."""
    pairs = runs.groupby([strata, runs.seed.to_numpy()])
    whole = (pairs.treated.nunique() == 2).all() and 2 * pairs.ngroups == len(runs)
    return pairs.ngroup().to_numpy() if whole and pairs.ngroups >= PAIRS else strata


def _weights(sizes: np.ndarray, tasks: np.ndarray, logs: bool) -> np.ndarray:
    """The weights (..., strata) of the strata's differences in an effect, for means of these sizes (..., strata)."""
    if logs:
        return np.full_like(sizes, 1 / len(tasks))
    of_task = np.abs(sizes) @ (tasks[:, None] == tasks)  # the sum over the strata of a stratum's task
    return 1 / (len(set(tasks)) * of_task)


def _difference(means: np.ndarray, tasks: np.ndarray, logs: bool) -> np.ndarray:
    """The relative change of the first value in means (..., 2, strata, m), pooled as the module describes.

    tasks: the task of each stratum, (strata,).
    """
    reference, change = means[..., 0, :, 0], means[..., 1, :, 0] - means[..., 0, :, 0]
    pooled = (_weights(reference, tasks, logs) * change).sum(-1)
    return np.expm1(pooled) if logs else pooled


def _balanced(means: np.ndarray, tasks: np.ndarray, logs: bool) -> np.ndarray:
    """`_difference` on a scale that does not depend on the labels: exchanging all labels flips its sign."""
    change, sizes = means[..., 1, :, 0] - means[..., 0, :, 0], np.abs(means[..., 0]).mean(-2)
    return (_weights(sizes, tasks, logs) * change).sum(-1)


def welch(
    values: np.ndarray, treated: np.ndarray, strata: np.ndarray, tasks: np.ndarray, logs: bool
) -> tuple[float, float]:
    """Welch's 95 % interval of the pooled difference, with Satterthwaite's degrees of freedom; NaN for single runs.

    The weights, which the reference's means decide, are taken as known.
    """
    reference, other = cell_means(treated[None], strata, values[:, None])[0, :, :, 0]
    weights = _weights(reference, tasks, logs)
    cells = [
        (s, values[(strata == s) & (treated == side)]) for s in range(len(tasks)) for side in (False, True)
    ]
    if min(len(cell) for _, cell in cells) < 2:
        return np.nan, np.nan
    parts = np.array([weights[s] ** 2 * cell.var(ddof=1) / len(cell) for s, cell in cells])
    freedom = parts.sum() ** 2 / sum(parts**2 / [len(cell) - 1 for _, cell in cells])
    reach = student.ppf(1 - LEVEL / 2, freedom) * np.sqrt(parts.sum()) if parts.sum() else 0.0
    bounds = (weights * (other - reference)).sum() + np.array([-reach, reach])
    low, high = np.expm1(bounds) if logs else bounds
    return float(low), float(high)


def _front(runs: pd.DataFrame, strata: np.ndarray):
    """A statistic: the share of a task's box that a variant's points dominate, minus the reference's; mean over tasks.

    A point is a stratum's mean log cost and return. The box spans all runs of the task, whatever their labels.
    """
    tasks = [
        (np.unique(strata[part.index]), part[["value", "return"]].agg(["min", "max"]).to_numpy())
        for _, part in runs.groupby("task", sort=False)
    ]

    def statistic(means: np.ndarray) -> np.ndarray:
        areas = []
        for which, (low, high) in tasks:
            points = (means[..., which, :] - low) / np.where(high > low, high - low, 1.0)
            areas.append(dominated(points[..., 0], points[..., 1]))
        area = np.mean(areas, axis=0)
        return area[..., 1] - area[..., 0]

    return statistic


def dominated(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The area of the unit square that points (..., points) dominate: cost is no less, value no more than a point's."""
    order = np.argsort(cost, axis=-1)
    cost, value = np.take_along_axis(cost, order, -1), np.take_along_axis(value, order, -1)
    edges = np.concatenate([cost, np.ones_like(cost[..., :1])], -1)
    return (np.diff(edges, axis=-1) * np.maximum.accumulate(value, -1)).sum(-1)


def holm(p: ArrayLike) -> np.ndarray:
    """Holm's adjusted p: the smallest times their number, the next times one less, never falling, at most 1."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def _table(experiment: str, profile: str, without: Collection[tuple[str, str]]) -> tuple[pd.DataFrame, dict]:
    """The available runs of an experiment, a row each, and its settings with a config per seed."""
    if experiment == "robots":
        return robot_runs(profile), robots.robots(profile)
    built = safety.EXPERIMENTS[experiment](profile)
    built = {cell: configs for cell, configs in built.items() if cell[:2] not in without}
    return safety.results(built), built


def _of_claim(claim: Claim, table: pd.DataFrame, settings: dict) -> tuple[pd.DataFrame, int]:
    """The runs of one claim as `effect` takes them, and the number planned. Only tasks that have both sides count."""
    sides = (claim.variant, claim.reference)
    cells = [(cell[0], cell[-1], len(configs)) for cell, configs in settings.items()]
    planned = pd.DataFrame(cells, columns=["task", "variant", "runs"])
    planned = planned[planned.variant.isin(sides) & (planned.task.eq(claim.task) | (claim.task is None))]
    planned = planned[planned.groupby("task").variant.transform("nunique") == 2]
    runs = table[table.variant.isin(sides) & table.task.isin(planned.task)]
    if claim.metric == "safety":
        column = [row[safety.safety_metric(row["task"])] for _, row in runs.iterrows()]
    else:
        column = runs.get(claim.metric, np.nan)
    value = pd.Series(column, runs.index, float)
    if claim.metric in LOGS:
        value = logarithm(value, claim.metric)
    runs = runs.assign(value=value, treated=runs.variant == claim.variant)
    return runs[["task", "baseline", "seed", "treated", "value", "return"]], int(planned.runs.sum())


def robot_runs(profile: str) -> pd.DataFrame:
    """A row per run of a robot, with the numbers of its policy: means over the shipped rollouts of notebook 22.

    noise, friction: mean return over all of its values but that of training. home: return where nothing disturbs, also
    given as return. kept, ground: the return under noise, and that on other ground, as shares of home. samples: steps
    until the training return, averaged over 20 iterations, reaches ENOUGH (the Ant only).
    """
    columns = ["task", "baseline", "variant", "seed", "return", "home"]
    columns += ["noise", "friction", "kept", "ground", "samples"]
    store, rows = data_folder() / "rollouts.parquet", []
    there = safety.available_runs(robots.robots(profile))
    if not store.exists() or not there:
        return pd.DataFrame(columns=columns)
    keys = ["run_id", "noise", "stiffness", "damping", "friction"]
    rollouts = read_sealed(store)
    means = rollouts[~rollouts.diverged].groupby(keys)["return"].mean().reset_index()
    for task, variant, run in ((*cell, run) for cell, runs in there.items() for run in runs):
        robot, mine = ROBOTS[task], means[means.run_id == run.config.run_id]
        usual = {
            "noise": mine.noise == 0, "friction": mine.friction == robot.friction,
            "ground": (mine.stiffness == robot.stiffness) & (mine.damping == robot.damping),
        }  # fmt: skip
        home = mine["return"][np.logical_and.reduce([*usual.values()])].mean()
        row = {"task": task, "baseline": "", "variant": variant, "seed": run.config.seed}
        row |= {"return": home, "home": home, "samples": np.nan}
        for name, as_usual in usual.items():
            others = np.logical_and.reduce([usual[other] for other in usual if other != name])
            row[name] = mine["return"][others & ~as_usual].mean()
        learned = run.progress.episode_return.rolling(20, min_periods=1).mean() >= ENOUGH
        if task == "DiffAnt":  # a run that never gets there counts with all its steps
            row["samples"] = (
                run.progress.steps[learned.idxmax()] if learned.any() else run.progress.steps.iloc[-1]
            )
        rows.append(row | {"kept": row["noise"] / home, "ground": row["ground"] / home})
    return pd.DataFrame(rows, columns=columns)
