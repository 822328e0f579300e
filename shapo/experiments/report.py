"""What a notebook may say of the runs that are there: its table, and sentences computed from that table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shapo.experiments.safety import METRICS, safety_metric
from shapo.experiments.statistics import CELL, compare, false_alarm_rate, pareto_front


def comparison(
    runs: pd.DataFrame, rng: np.random.Generator, reference: str | None = "vanilla"
) -> pd.DataFrame:
    """`statistics.compare`, task by task, of `experiments.results`: return, cost, cost rate or failures, and tail.

    Empty, with the same columns, where there are no runs. A number that some seed of a cell lacks is NaN in the cell:
    no episode ended in the last quarter, say.
    """
    seed, tables = rng.integers(2**63), []
    for task, part in runs.groupby("task", sort=False):
        lower = ["cost", safety_metric(task), "tail"]
        # NaN poisons a mean: what one seed lacks, all lose
        whole = part.groupby(CELL)[["return", *lower]].transform(lambda values: values.mean(skipna=False))
        part = part.assign(**{name: part[name].where(whole[name].notna()) for name in whole})
        tables.append(compare(part, np.random.default_rng(seed), ["return"], lower, reference))
    columns = [*CELL, "metric", "seeds", "iqm", "low", "high", "better", "better_low", "better_high"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def in_words(table: pd.DataFrame, reference: str = "vanilla") -> str:
    """Markdown: in how many baselines each variant is better than the reference, metric by metric.

    table: of `comparison`, with the same reference. Better: P > ½; bold: the whole interval lies on that side of ½.
    """
    judged = table.dropna(subset="better")
    if judged.empty:
        return (
            f"**Nothing to say yet**: no task and baseline has runs of {reference} and of another variant, in `runs/` "
            "or in `figures/data/`. The status says what is missing."
        )
    seeds = table.seeds[table.low.notna()].min()  # the fewest that give an interval
    luck = "Of one seed there is no interval, and nothing is clear."
    if seeds > 1:
        rate = false_alarm_rate(int(seeds))
        luck = (
            f"With {seeds} seeds a side the bootstrap's interval is too narrow: of two equal methods, {rate:.0%} of "
            f"comparisons get bold, so about {rate * len(judged):.0f} of the {len(judged)} below would by chance alone."
        )
    lines = [
        f"Better or worse than {reference}: the probability of improvement is above or below ½. **Bold**: so is its "
        f"whole 95 % interval. {luck}",
        "",
    ]
    for (task, variant), part in judged.groupby(["task", "variant"], sort=False):
        lines.append(f"- {task}, {variant}:")
        verdicts = {metric: _verdict(rows) for metric, rows in part.groupby("metric")}
        lines += [
            f"    - {label}: {verdicts[metric]}"
            for metric, (label, _) in METRICS.items()
            if metric in verdicts
        ]
    return "\n".join(lines)


def fronts_in_words(
    table: pd.DataFrame, variant: str = "SHAPO", reference: str = "vanilla", each: str = "baselines"
) -> str:
    """Markdown: per task, which way the interquartile means move, and whose points the other's dominate.

    table: of `comparison`. A point is (cost rate or failures, return); domination is that of `pareto_front`.
    each: what the table's baselines are. Empty where there is nothing to compare, which `in_words` says.
    """
    lines = []
    for task, part in table.groupby("task", sort=False):
        safety = safety_metric(task)
        points = part.pivot(index=["variant", "baseline"], columns="metric", values="iqm")
        points = points[[safety, "return"]].dropna()
        if not {variant, reference} <= set(points.index.get_level_values("variant")):
            continue
        ours, theirs = points.loc[variant], points.loc[reference]
        change = (ours - theirs).dropna()
        both = ((change[safety] < 0) & (change["return"] > 0)).sum()
        neither = ((change[safety] > 0) & (change["return"] < 0)).sum()
        name = METRICS[safety][0].partition(",")[0]
        lines.append(
            f"- {task}: {variant} improves both return and {name} in {both} of the {len(change)} {each} that are there "
            f"with and without it, and worsens both in {neither}. It dominates {_dominated(theirs, by=ours)} of the "
            f"{len(theirs)} points of {reference}, which dominates {_dominated(ours, by=theirs)} of its {len(ours)}."
        )
    return "\n".join(lines)


def _verdict(rows: pd.DataFrame) -> str:
    """better in 2 of 3 (TRPOLag, **CPO**), worse in 1 (PIDLag)"""
    if (rows.better == 0.5).all() and (rows.low == rows.high).all() and rows.iqm.nunique() == 1:
        return f"{rows.iqm.iloc[0]:g} in every run, so nothing is compared"
    clearly = (rows.better_low > 0.5) | (rows.better_high < 0.5)
    names = rows.baseline.where(~clearly, "**" + rows.baseline + "**")
    sides = {"better": rows.better > 0.5, "worse": rows.better < 0.5, "level": rows.better == 0.5}
    found = [f"{side} in {which.sum()}" for side, which in sides.items() if which.any()]
    lists = [f" ({', '.join(names[which])})" for which in sides.values() if which.any()]
    found[0] += f" of {len(rows)}"
    return ", ".join(map("".join, zip(found, lists, strict=True)))


def _dominated(points: pd.DataFrame, by: pd.DataFrame) -> int:
    """How many of `points` some point of `by` dominates; columns cost, return."""
    alone = [pd.concat([points.iloc[[i]], by]).to_numpy() for i in range(len(points))]
    return sum(not pareto_front(*values.T)[0] for values in alone)
