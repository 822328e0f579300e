"""Few seeds, honest numbers: interquartile means, stratified bootstrap intervals, probabilities of improvement.

Definitions follow Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice", and
its library rliable. Wherever scores are asked for, they are

    (seeds,)          the runs of one task
    (seeds, tasks)    an array; each task is a stratum
    {task: (seeds,)}  or a list of such arrays, when tasks have different numbers of runs

Scores of several tasks are pooled: normalise them first where tasks differ in scale.

The bootstrap only knows the runs there are, so its intervals are too narrow for few seeds: of Gaussian runs, a 95 %
interval of the interquartile mean covers the truth 94 times in 100 with ten seeds, 91 with five and 75 with three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import bootstrap, trim_mean

from shapo.checks import BELOW_1, whole

Scores = ArrayLike | Mapping[object, ArrayLike] | Sequence[ArrayLike]
CELL = ["task", "baseline", "variant"]  # one line of a table; its runs differ in their seeds
REPETITIONS = 2000


def iqm(scores: Scores, axis: int | None = None) -> float | np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter, each rounded down to whole runs.

    Of all scores pooled, or along one axis of an array. Two or three scores lose none, five lose one at each end.
    """
    if axis is None:
        return float(trim_mean(np.concatenate([*_strata("scores", scores).values()]), 0.25))
    return trim_mean(scores, 0.25, axis=axis)


def interval(
    scores: Scores,
    rng: np.random.Generator,
    statistic: Callable[..., np.ndarray] = iqm,
    level: float = 0.95,
    repetitions: int = REPETITIONS,
) -> tuple[float, float]:
    """(low, high) of the percentile bootstrap that resamples seeds within each task. (Agarwal et al. 2021, Section 3)

    statistic: of the pooled scores, called as `statistic(resampled, axis=-1)` on (repetitions, runs); np.mean is one.
    The interval covers other seeds on the same tasks, not other tasks. A task with a single run says nothing about
    seeds: then there is no interval, and the answer is (nan, nan).
    """
    strata = _strata("scores", scores).values()
    return bootstrap_interval(
        strata, lambda *runs, axis: statistic(np.concatenate(runs, axis), axis=axis), rng, level, repetitions
    )


def probability_of_improvement(x: Scores, y: Scores, lower_is_better: bool = False) -> float:
    """P(X > Y) + ½ P(X = Y) for a run of x and a run of y on the same task, averaged over tasks.

    Per task, Mann and Whitney's U / (seeds of x · seeds of y). lower_is_better: P(X < Y) instead, for costs.
    """
    return float(np.mean([_wins(a[:, None], b, lower_is_better).mean() for a, b in _pairs(x, y)]))


def improvement_interval(
    x: Scores,
    y: Scores,
    rng: np.random.Generator,
    lower_is_better: bool = False,
    level: float = 0.95,
    repetitions: int = REPETITIONS,
) -> tuple[float, float]:
    """(low, high) of `probability_of_improvement`, by resampling the seeds of x and of y within each task.

    As `interval`: (nan, nan) where a task has a single run. Where all runs of x beat all of y it is (1, 1), though
    five equal runs do that to five others once in 252 times.
    """
    pairs = _pairs(x, y)

    def improvement(*runs: np.ndarray, axis: int) -> np.ndarray:
        wins = [
            _wins(a[..., :, None], b[..., None, :], lower_is_better).mean((-2, -1))
            for a, b in zip(runs[::2], runs[1::2], strict=True)
        ]
        return np.mean(wins, axis=0)

    return bootstrap_interval(
        [values for pair in pairs for values in pair], improvement, rng, level, repetitions
    )


def pareto_front(cost: ArrayLike, return_: ArrayLike) -> np.ndarray:
    """Mask (points,) of those that no other dominates: none has cost ≤ and return ≥ with one of the two strict.

    Equal points stand or fall together.
    """
    cost, return_ = _runs("cost", cost), _runs("return_", return_)
    if len(cost) != len(return_):
        raise ValueError(f"cost and return_ must be as long; got {len(cost)} and {len(return_)}")
    no_worse = np.less_equal.outer(cost, cost) & np.greater_equal.outer(return_, return_)
    better = np.less.outer(cost, cost) | np.greater.outer(return_, return_)
    return ~(no_worse & better).any(axis=0)


def compare(
    runs: pd.DataFrame,
    rng: np.random.Generator,
    higher: Sequence[str] = (),
    lower: Sequence[str] = (),
    reference: str | None = "vanilla",
    level: float = 0.95,
    repetitions: int = REPETITIONS,
) -> pd.DataFrame:
    """The table of a notebook: each variant, metric by metric, and how probably it beats the reference.

    runs: a row per run with the columns task, baseline, variant, seed and the metrics. higher, lower: names of the
    metrics of which more, and of which less, is better. reference: the variant to compare with on the same task and
    baseline; None to leave that out.

    Returns a row per (task, baseline, variant, metric), in order of appearance: seeds, iqm, low, high, and better,
    better_low, better_high, the probability of improvement on the reference. NaN: the metric is not defined there,
    there is one seed and so no interval, or no run of the reference. A cell's numbers depend on its own runs, the
    reference's and rng only. Raises ValueError for a table that is empty or lacks columns, for a run that appears
    twice, and for numbers that are infinite, or NaN in some seeds of a cell but not in others.
    """
    _check_bootstrap(rng, level, repetitions)
    cells = _cells(runs, [*higher, *lower])
    entropy = rng.integers(2**63)
    rows = []
    for key, cell in cells.items():
        other = cells.get((*key[:2], reference)) if key[2] != reference else None
        for metric in [*higher, *lower]:
            # Every cell resamples by the same numbers: a run more or less elsewhere does not change it.
            draw = {"rng": np.random.default_rng(entropy), "level": level, "repetitions": repetitions}
            x = cell[metric].dropna()
            y = [] if other is None else other[metric].dropna()
            point = [iqm(x), *interval(x, **draw)] if len(x) else [math.nan] * 3
            better = [math.nan] * 3
            if len(x) and len(y):
                less = metric in lower
                better[0] = probability_of_improvement(x, y, less)
                better[1:] = improvement_interval(x, y, lower_is_better=less, **draw)
            rows.append([*key, metric, len(cell), *point, *better])
    columns = [*CELL, "metric", "seeds", "iqm", "low", "high", "better", "better_low", "better_high"]
    table = pd.DataFrame(rows, columns=columns)
    return table if reference is not None else table.drop(columns=columns[-3:])


def readable(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """`compare`'s table for the eye: a row per variant, "12.3 [11.0, 13.1]" per metric, blank where there is nothing.

    digits: significant digits of the largest value of a metric on a task; its other values get as many decimals.
    """
    whole(1)("digits", digits)
    largest = table.groupby(["task", "metric"]).iqm.transform(lambda values: values.abs().max())
    shown = pd.DataFrame({"seeds": table.groupby(CELL, sort=False).seeds.first()})
    for metric, part in table.assign(largest=largest).groupby("metric", sort=False):
        rows, index = list(part.itertuples()), pd.MultiIndex.from_frame(part[CELL])
        texts = [_text(row.iqm, row.low, row.high, _decimals(row.largest, digits)) for row in rows]
        shown[metric] = pd.Series(texts, index)
        if "better" in part:
            texts = [_text(row.better, row.better_low, row.better_high, 2) for row in rows]
            shown[f"P(better {metric})"] = pd.Series(texts, index)
    return shown.fillna("")


def _strata(name: str, scores: Scores) -> dict[object, np.ndarray]:
    """The runs (seeds,) of each task."""
    if isinstance(scores, Mapping):
        strata = dict(scores)
    elif isinstance(scores, list | tuple) and any(np.ndim(values) for values in scores):
        strata = dict(enumerate(scores))
    else:
        array = np.asarray(scores, float)
        if array.ndim not in (1, 2):
            raise ValueError(f"{name} must be (seeds,) or (seeds, tasks); got shape {array.shape}")
        strata = dict(enumerate(array.T)) if array.ndim == 2 else {0: array}
    if not strata:
        raise ValueError(f"{name} must hold at least one task; got none")
    return {task: _runs(f"{name} of task {task!r}", values) for task, values in strata.items()}


def _runs(name: str, values: ArrayLike) -> np.ndarray:
    """One-dimensional, some, and finite."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} must be one or more finite numbers in one dimension; got {array}")
    return array


def _pairs(x: Scores, y: Scores) -> list[tuple[np.ndarray, np.ndarray]]:
    """The runs of x and of y, task by task."""
    x, y = _strata("x", x), _strata("y", y)
    if x.keys() != y.keys():
        raise ValueError(f"x and y must hold the same tasks; only one holds {[*(x.keys() ^ y.keys())]}")
    return [(x[task], y[task]) for task in x]


def _wins(x: np.ndarray, y: np.ndarray, lower_is_better: bool) -> np.ndarray:
    """1 where the run of x is better, ½ where they tie; broadcast."""
    return (x < y if lower_is_better else x > y) + 0.5 * (x == y)


def bootstrap_interval(
    samples: Iterable[np.ndarray], statistic: Callable[..., np.ndarray], rng: np.random.Generator,
    level: float = 0.95, repetitions: int = REPETITIONS,
) -> tuple[float, float]:  # fmt: skip
    """SciPy's percentile bootstrap: resamples each sample on its own. (nan, nan) where one has a single run."""
    _check_bootstrap(rng, level, repetitions)
    samples = tuple(samples)
    if min(map(len, samples)) < 2:
        return math.nan, math.nan
    found = bootstrap(
        samples, statistic, n_resamples=repetitions, confidence_level=level, method="percentile",
        vectorized=True, rng=rng,
    )  # fmt: skip
    return tuple(map(float, found.confidence_interval))


def _check_bootstrap(rng: np.random.Generator, level: float, repetitions: int) -> None:
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator; got {rng!r}")
    BELOW_1("level", level)
    whole(1)("repetitions", repetitions)


def _cells(runs: pd.DataFrame, metrics: list[str]) -> dict[tuple[str, str, str], pd.DataFrame]:
    """The runs of each (task, baseline, variant), by seed; refuses a table that cannot be compared."""
    if not metrics or len(set(metrics)) < len(metrics):
        raise ValueError(f"higher and lower must name at least one metric, each once; got {metrics}")
    if absent := [name for name in [*CELL, "seed", *metrics] if name not in runs]:
        raise ValueError(f"runs must have the columns {absent}; got {[*runs.columns]}")
    if words := [metric for metric in metrics if not pd.api.types.is_numeric_dtype(runs[metric])]:
        raise ValueError(f"metrics must be numbers; {words} are not")
    if runs.empty:
        raise ValueError("runs must hold at least one run; got none")
    if runs[[*CELL, "seed"]].isna().any(axis=None):
        raise ValueError("every run must have a task, a baseline, a variant and a seed; got missing ones")
    if len(again := runs[runs.duplicated([*CELL, "seed"])]):
        task, baseline, variant, seed = next(again[[*CELL, "seed"]].itertuples(index=False))
        raise ValueError(
            f"each run must appear once; seed {seed} of {(task, baseline, variant)} appears again"
        )
    cells = {key: cell.sort_values("seed") for key, cell in runs.groupby(CELL, sort=False, observed=True)}
    for key, cell in cells.items():
        for metric in metrics:
            values = cell[metric].to_numpy(float, na_value=np.nan)
            if np.isinf(values).any() or 0 < np.isnan(values).sum() < len(values):
                raise ValueError(f"{metric} of {key} must be finite, or NaN in every seed; got {values}")
    return cells


def _decimals(largest: float, digits: int) -> int:
    """How many decimals leave `digits` significant digits of the largest value."""
    return max(0, digits - 1 - math.floor(math.log10(largest))) if largest > 0 else digits - 1


def _text(point: float, low: float, high: float, decimals: int) -> str:
    if math.isnan(point):
        return ""
    return f"{point:.{decimals}f}" + (
        "" if math.isnan(low) else f" [{low:.{decimals}f}, {high:.{decimals}f}]"
    )
