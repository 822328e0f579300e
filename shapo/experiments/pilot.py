"""How the dials are chosen from the pilot's runs, by a rule written down before the runs existed (notebook 91)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from shapo.experiments.safety import safety_metric

LEAST_TURN = 5.0  # degrees by which a radius must turn the step to count as a different method
LEAST_RETURN = -0.05  # the least change of the return that is accepted, as a share of vanilla's
COLUMNS = ["task", "dial", "radius", "runs", "return", "safety", "error", "turn", "eligible"]


def choose(results: pd.DataFrame, turns: Mapping[tuple[str, float], float] | None = None) -> pd.DataFrame:
    """A row per task, dial and radius: its effect on the baselines, each against its own vanilla, and which is chosen.

    return: change of the mean return, as a share of vanilla's. safety: change of the mean log of the safety metric.
    Both are means over baselines; error is the standard error of safety. The rule: eligible radii within one standard
    error of the safest count as equal, and the largest of them is chosen. edge: the chosen radius is the smallest or
    the largest of its sweep, so the sweep has to be extended before anything rests on the choice.

    results: `safety.results(pilot(...))`. turns: (task, δ_Down / δ_Up) -> degrees by which the step turns. A radius is
    eligible if it turns the step by at least LEAST_TURN, has every run that vanilla has, and does not lower the return
    by more than LEAST_RETURN and one standard error. The first condition does not apply to ρ, whose turn is not known.
    """
    rows = []
    for task, runs in results.groupby("task", sort=False):
        runs = runs.assign(log=np.log(runs[safety_metric(task)].clip(lower=1e-9)))
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
            whole = (mine["log", "size"] == base["log", "size"]).all()
            moves = dial != "δ" or turn >= LEAST_TURN
            eligible = whole and moves and kept.mean() + kept_error >= LEAST_RETURN
            rows.append(
                [task, dial, radius, len(cell), kept.mean(), change.mean(), error, turn, bool(eligible)]
            )
    table = pd.DataFrame(rows, columns=COLUMNS).assign(chosen=False, edge=False)
    for _, sweep in table.groupby(["task", "dial"], sort=False):
        eligible = sweep[sweep.eligible & sweep.error.notna()]
        if len(eligible):
            best = eligible.loc[eligible.safety.idxmin()]
            equal = eligible[eligible.safety <= best.safety + best.error]
            choice = equal.radius.idxmax()
            table.loc[choice, "chosen"] = True
            table.loc[choice, "edge"] = sweep.radius[choice] in (sweep.radius.min(), sweep.radius.max())
    return table


def in_words(table: pd.DataFrame, missing: int) -> str:
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
            said.append(f"return {row['return']:+.1%}")
            said.append(". It lies at the edge: the sweep is to be extended." * bool(row["edge"]))
        none = "no radius is eligible, so the sweep is to be extended." * (not sweep.chosen.any())
        lines.append("".join(said) + none)
    return "\n".join(lines)
