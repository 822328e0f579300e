"""How the dials are chosen from the pilot's runs, by a rule written down before the runs existed (notebook 91)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from shapo.experiments import safety

LEAST_TURN = 5.0  # degrees by which a radius must turn the step to count as a different method
LEAST_RETURN = -0.05  # the least change of the return that is accepted, as a share of vanilla's
EXTENDED = ("The sweep is to be extended. ", "The sweep was extended once already. ")
COLUMNS = [
    "task", "dial", "radius", "runs", "return", "return_error", "safety", "error", "turn", "comparable", "eligible",
]  # fmt: skip


def choose(results: pd.DataFrame, turns: Mapping[tuple[str, float], float] | None = None) -> pd.DataFrame:
    """A row per task, dial and radius: its effect on the baselines, each against its own vanilla, and which is chosen.

    return: change of the mean return, as a share of vanilla's. safety: change of the mean log of the safety metric.
    Both are means over baselines; return_error and error are their standard errors. comparable: the radius has every
    run that vanilla has, and turns the step by at least LEAST_TURN (which is not asked of ρ, whose turn is not known).
    eligible: it is comparable, and does not lower the return by more than LEAST_RETURN and one standard error.

    The rule: eligible radii within one standard error of the safest count as equal, and the largest of them is chosen;
    if there are none, the smallest comparable one. edge: none is eligible, or the chosen one is the smallest or largest
    of its sweep. Then the sweep is extended, once, before anything rests on the choice.

    results: `safety.results(pilot(...))`. turns: (task, δ_Down / δ_Up) -> degrees by which the step turns.
    """
    rows = []
    for task, runs in results.groupby("task", sort=False):
        runs = runs.assign(log=np.log(runs[safety.safety_metric(task)].clip(lower=1e-9)))
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
            eligible = comparable and bool(kept.mean() + kept_error >= LEAST_RETURN)
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
