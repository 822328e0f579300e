"""How the dials are chosen from the pilot's runs, by a rule (notebook 91 says when which part was written), and what
its spread between seeds says of the study."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import t as student

from shapo.experiments import claims, safety
from shapo.runs.shipped import data_folder

LEAST_TURN = 5.0  # degrees by which a radius must turn the step to count as a different method
LEAST_RETURN = -0.05  # the least change of the return that is accepted, as a share of vanilla's
EXTENDED = ("The sweep is to be extended. ", "The sweep was extended once already. ")
COLUMNS = [
    "task", "dial", "radius", "runs", "return", "return_error", "safety", "error", "turn", "comparable", "eligible",
]  # fmt: skip


def shipped_turns() -> dict[tuple[str, float], float]:
    """(task, δ_Down / δ_Up) -> degrees by which the step turns, as the code of notebook 91 measured them once.

    They ship, so that a radius at the edge of LEAST_TURN does not change sides with the processor that measures it.
    """
    table = pd.read_csv(data_folder() / "pilot_turns.csv")
    return {(row.task, row.share): row.turn for row in table.itertuples()}


def choose(
    results: pd.DataFrame, turns: Mapping[tuple[str, float], float] | None = None, errors: float = 1.0
) -> pd.DataFrame:
    """A row per task, dial and radius: its effect on the baselines, each against its own vanilla, and which is chosen.

    return: change of the mean return, as a share of vanilla's. safety: change of the mean log of the safety metric.
    Both are means over baselines; return_error and error are their standard errors. comparable: the radius has every
    run that vanilla has, and turns the step by at least LEAST_TURN (which is not asked of ρ, whose turn is not known).
    eligible: it is comparable, and does not lower the return by more than LEAST_RETURN and so many standard `errors`.

    The rule: eligible radii within one standard error of the safest count as equal, and the largest of them is chosen;
    if there are none, the smallest comparable one. edge: none is eligible, or the chosen one is the smallest or largest
    of its sweep. Then the sweep is extended, once, before anything rests on the choice.

    results: `safety.results(pilot(...))`. turns: (task, δ_Down / δ_Up) -> degrees by which the step turns.
    """
    rows = []
    for task, runs in results.groupby("task", sort=False):
        runs = runs.assign(log=claims.logarithm(runs[safety.safety_metric(task)], "safety"))
        vanilla = runs[runs.variant == "vanilla"].groupby("baseline")
        swept = runs[runs.variant != "vanilla"]
        for variant, cell in swept.groupby("variant", sort=False):
            dial, radius = variant[0], float(variant.split()[2])
            baselines = swept[swept.variant.str[0] == dial].baseline.unique()
            base, mine = (
                by[["log", "return"]].agg(["mean", "sem", "size"]).reindex(baselines)
                for by in (vanilla, cell.groupby("baseline"))
            )
            change = mine["log", "mean"] - base["log", "mean"]
            kept = mine["return", "mean"] / base["return", "mean"] - 1
            of_change = mine["log", "sem"] ** 2 + base["log", "sem"] ** 2
            of_kept = mine["return", "sem"] ** 2 + ((1 + kept) * base["return", "sem"]) ** 2
            squares = of_change, of_kept / base["return", "mean"] ** 2
            error, kept_error = (np.sqrt(s.sum(skipna=False)) / len(s) for s in squares)
            turn = (turns or {}).get((task, radius), np.nan) if dial == "δ" else np.nan
            whole = (mine["log", "size"] == base["log", "size"]).all() and np.isfinite(error)
            comparable = bool(whole and (dial != "δ" or turn >= LEAST_TURN))
            eligible = comparable and bool(kept.mean() + errors * kept_error >= LEAST_RETURN)
            effects = kept.mean(), kept_error, change.mean(), error, turn
            rows.append([task, dial, radius, len(cell), *effects, comparable, eligible])
    table = pd.DataFrame(rows, columns=COLUMNS).assign(chosen=False, edge=False)
    for _, sweep in table.groupby(["task", "dial"], sort=False):
        eligible, comparable = sweep[sweep.eligible], sweep[sweep.comparable]
        if comparable.empty:
            continue
        if eligible.empty:
            choice = comparable.radius.idxmin()
        else:
            best = eligible.loc[eligible.safety.idxmin()]
            choice = eligible.radius[eligible.safety <= best.safety + best.error].idxmax()
        ends = sweep.radius.min(), sweep.radius.max()
        table.loc[choice, "chosen"] = True
        table.loc[choice, "edge"] = eligible.empty or sweep.radius[choice] in ends
    return table


def choices_in_words(table: pd.DataFrame, missing: int) -> str:
    """The rule's choices in Markdown, task by task; while runs of the pilot are missing, that nothing is chosen yet.

    table: from `choose`. missing: number of runs of the pilot that are not there, vanilla's among them.
    """
    if missing:
        return (
            f"**Nothing is chosen yet**: {missing} runs of the pilot are missing. What the table marks as chosen is "
            "what the rule would say of the others alone."
        )
    lines = []
    for (task, dial), sweep in table.groupby(["task", "dial"], sort=False):
        said = [f"- {task}, {'δ_Down / δ_Up' if dial == 'δ' else 'ρ_critic'}: "]
        for row in sweep[sweep.chosen].to_dict("records"):
            said.append(f"**{row['radius']:g}**, safety {row['safety']:+.1%} ± {row['error']:.1%}, ")
            said.append(f"return {row['return']:+.1%} ± {row['return_error']:.1%}. ")
            said.append("It is not eligible, and neither is any other radius. " * (not row["eligible"]))
            said.append("It lies at the edge of the sweep. " * bool(row["edge"] and row["eligible"]))
            said.append(EXTENDED[(task, dial) in safety.PILOT_MORE] * bool(row["edge"]))
        said.append("no radius turns the step enough." * (not sweep.chosen.any()))
        lines.append("".join(said).rstrip())
    return "\n".join(lines)


def resolution(profile: str) -> pd.DataFrame:
    """What can be seen: a row per task with the pilot's spread, and half the width of intervals with the study's seeds.

    cost, tail: standard deviations between seeds of one setting, of the logarithm. return: the same, as a share of
    vanilla's mean. ± cost: half the width of the 95 % interval of the change of the cost, pooled over the task's
    baselines, or in its one cell with most seeds; ± return: of that of the return, pooled. The pilot has two of the
    baselines, so the others are taken to spread alike.
    """
    rows, planned = {}, safety.pareto(profile)
    for task, runs in safety.results(safety.pilot(profile)).groupby("task", sort=False):
        seeds = [len(configs) for cell, configs in planned.items() if cell[::2] == (task, "vanilla")]
        size = runs["return"][runs.variant == "vanilla"].mean()
        numbers = {
            "cost": claims.logarithm(runs[safety.safety_metric(task)], "safety"),
            "tail": claims.logarithm(runs["tail"], "tail"), "return": runs["return"] / size,
        }  # fmt: skip
        runs = runs.assign(**numbers)
        spread = np.sqrt(runs.groupby(["baseline", "variant"])[["cost", "tail", "return"]].var().mean())
        cell, pooled = (_reach(np.array(n)) for n in ([max(seeds)], seeds))
        rows[task] = [*spread, cell * spread["cost"], pooled * spread["cost"], pooled * spread["return"]]
    columns = ["cost", "tail", "return", "± cost, one cell", "± cost", "± return"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _reach(seeds: np.ndarray) -> float:
    """Half the width of a 95 % interval of the mean difference over strata of so many seeds a side, at spread 1."""
    freedom = 2 * (seeds - 1).sum()
    return float(student.ppf(1 - claims.LEVEL / 2, freedom) * np.sqrt((2 / seeds).sum()) / len(seeds))
