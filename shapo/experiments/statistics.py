"""Statistics for few seeds: interquartile means, bootstrap intervals, probabilities of improvement.

Definitions follow Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice", and
its library rliable. Scores are one number for each run of a setting, (seeds,).

The bootstrap knows only the runs it is given, so its intervals are too narrow for few seeds: of Gaussian runs, a 95 %
interval of the interquartile mean covers the truth 94 times in 100 with ten seeds, 91 with five and 75 with three.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import bootstrap, mannwhitneyu, norm, trim_mean

from shapo.checks import BELOW_1, whole

CELL = ["task", "baseline", "variant"]  # one line of a table; its runs differ in their seeds
BETTER = ["better", "better_low", "better_high"]
COLUMNS = [*CELL, "metric", "seeds", "iqm", "low", "high", *BETTER]  # columns of `compare`
REPETITIONS = 2000


def iqm(scores: ArrayLike, axis: int = -1) -> float | np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter, each rounded down to whole runs.

    Two or three scores lose none, five lose one at each end.
    """
    return trim_mean(finite("scores", scores, dimensions=(1, 2)), 0.25, axis=axis)


def interval(
    scores: ArrayLike, rng: np.random.Generator, statistic: Callable[..., np.ndarray] = iqm,
    level: float = 0.95, repetitions: int = REPETITIONS,
) -> tuple[float, float]:  # fmt: skip
    """(low, high) of the percentile bootstrap over seeds; (nan, nan) for a single run. (Agarwal et al. 2021, Section 3)

    statistic: called as `statistic(resampled, axis=-1)` on (repetitions, seeds), such as np.mean.
    """
    return bootstrap_interval([finite("scores", scores)], statistic, rng, level, repetitions)


def probability_of_improvement(x: ArrayLike, y: ArrayLike, lower_is_better: bool = False) -> float:
    """P(X > Y) + ½ P(X = Y) for a run of x and a run of y: Mann and Whitney's U / (seeds of x · seeds of y).

    lower_is_better: P(X < Y) instead, for costs.
    """
    x, y = finite("x", x), finite("y", y)
    wins = mannwhitneyu(x, y).statistic / (len(x) * len(y))
    return float(1 - wins if lower_is_better else wins)


def improvement_interval(
    x: ArrayLike, y: ArrayLike, lower_is_better: bool = False, level: float = 0.95
) -> tuple[float, float]:
    """(low, high) of `probability_of_improvement`; (nan, nan) for a single run.

    It holds every P that lies within z of its own standard errors of what is seen (Newcombe 2006, Part 2, method 5). If
    five runs all beat five others, it is (0.64, 1), where the bootstrap knows no other order and gives (1, 1).
    """
    seen, m, n = probability_of_improvement(x, y, lower_is_better), len(x), len(y)
    z = norm.ppf((1 + BELOW_1("level", level)) / 2)

    def excess(p: float) -> float:
        variance = p * (1 - p) * (1 + ((m + n) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
        return (seen - p) ** 2 - z**2 * variance

    if min(m, n) < 2:
        return math.nan, math.nan
    inside = min(max(seen, 1e-9), 1 - 1e-9)
    low, high = brentq(excess, 0, inside) if seen > 0 else 0.0, brentq(excess, inside, 1) if seen < 1 else 1.0
    return float(low), float(high)


def bootstrap_interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], rng: np.random.Generator,
    level: float = 0.95, repetitions: int = REPETITIONS,
) -> tuple[float, float]:  # fmt: skip
    """SciPy's percentile bootstrap, which resamples each sample on its own; (nan, nan) if one has a single run."""
    generator(rng)
    settings = {
        "n_resamples": whole(1)("repetitions", repetitions),
        "vectorized": True,
        "method": "percentile",
    }
    settings["confidence_level"] = BELOW_1("level", level)
    if min(map(len, samples)) < 2:
        return math.nan, math.nan
    return tuple(map(float, bootstrap(samples, statistic, rng=rng, **settings).confidence_interval))


def pareto_front(cost: ArrayLike, return_: ArrayLike) -> np.ndarray:
    """Mask (points,) of the points that no other dominates: none has cost ≤ and return ≥ with one of the two strict.

    Equal points are either all on the front or all off it.
    """
    cost, return_ = finite("cost", cost), finite("return_", return_)
    if len(cost) != len(return_):
        raise ValueError(f"cost and return_ must be as long; got {len(cost)} and {len(return_)}")
    no_worse = np.less_equal.outer(cost, cost) & np.greater_equal.outer(return_, return_)
    better = np.less.outer(cost, cost) | np.greater.outer(return_, return_)
    return ~(no_worse & better).any(axis=0)


def compare(
    runs: pd.DataFrame, rng: np.random.Generator, higher: Sequence[str] = (), lower: Sequence[str] = (),
    reference: str | None = "vanilla", level: float = 0.95, repetitions: int = REPETITIONS,
) -> pd.DataFrame:  # fmt: skip
    """Compares variants metric by metric, with the probability that each beats the reference.

    runs: a row per run with the columns task, baseline, variant, seed and the metrics. higher, lower: names of the
    metrics that are better when higher, and when lower. reference: the variant to compare with on the same task and
    baseline; None leaves the comparison out.

    Returns a row per (task, baseline, variant, metric), in order of appearance: seeds, iqm, low, high, and better,
    better_low, better_high, the probability of improvement on the reference. A number is NaN if the metric is not
    defined there, if a single seed gives no interval, or if the reference has no run. A cell's numbers depend only on
    its own runs, the reference's and rng. Raises ValueError for a table that is empty or lacks columns, for a run that
    appears twice, and for numbers that are infinite, or NaN in some seeds of a cell but not in others.
    """
    cells = _cells(runs, [*higher, *lower])
    entropy, rows = generator(rng).integers(2**63), []
    for key, cell in cells.items():
        other = cells.get((*key[:2], reference)) if key[2] != reference else None
        for metric in [*higher, *lower]:
            # Every cell uses the same random numbers: a run added or removed elsewhere does not change its interval.
            draw = {"rng": np.random.default_rng(entropy), "level": level, "repetitions": repetitions}
            x, less = cell[metric].dropna(), metric in lower
            y = x[:0] if other is None else other[metric].dropna()
            point = [iqm(x), *interval(x, **draw)] if len(x) else [math.nan] * 3
            better = [math.nan] * 3
            if len(x) and len(y):
                better = [probability_of_improvement(x, y, less), *improvement_interval(x, y, less, level)]
            rows.append([*key, metric, len(cell), *point, *better])
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.drop(columns=BETTER) if reference is None else table


def readable(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """`compare`'s table for display: a row per variant, "12.3 [11.0, 13.1]" per metric, blank where there is nothing.

    digits: significant digits of a metric's largest value on a task; its other values get as many decimals.
    """
    whole(1)("digits", digits)
    largest = table.groupby(["task", "metric"]).iqm.transform(lambda values: values.abs().max())
    largest = largest.where(largest > 0, 1.0).astype(float)
    places = (digits - 1 - np.floor(np.log10(largest))).clip(lower=0)
    shown = pd.DataFrame({"seeds": table.groupby(CELL, sort=False).seeds.first()})
    for metric, part in table.assign(places=places, two=2).groupby("metric", sort=False):
        part = part.set_index(CELL)
        shown[metric] = part[["iqm", "low", "high", "places"]].apply(_text, axis=1)
        if "better" in part:
            shown[f"P(better {metric})"] = part[[*BETTER, "two"]].apply(_text, axis=1)
    return shown.fillna("")


def _text(row: pd.Series) -> str:
    point, low, high, places = row
    bounds = "" if math.isnan(low) else f" [{low:.{places:.0f}f}, {high:.{places:.0f}f}]"
    return "" if math.isnan(point) else f"{point:.{places:.0f}f}{bounds}"


def generator(rng: object) -> np.random.Generator:
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator; got {rng!r}")
    return rng


def finite(name: str, values: ArrayLike, dimensions: Sequence[int] = (1,)) -> np.ndarray:
    """The values as an array. Raises ValueError if it is empty, not finite, or not of one of the `dimensions`."""
    array = np.asarray(values, float)
    if array.ndim not in dimensions or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} must be one or more finite numbers in one dimension; got {array}")
    return array


def _cells(runs: pd.DataFrame, metrics: list[str]) -> dict[tuple[str, str, str], pd.DataFrame]:
    """The runs of each (task, baseline, variant), by seed. Raises ValueError for a table that cannot be compared."""
    if not metrics or len(set(metrics)) < len(metrics):
        raise ValueError(f"higher and lower must name at least one metric, each once; got {metrics}")
    labels = [*CELL, "seed"]
    if absent := [name for name in [*labels, *metrics] if name not in runs]:
        raise ValueError(f"runs must have the columns {absent}; got {[*runs.columns]}")
    if words := [metric for metric in metrics if not pd.api.types.is_numeric_dtype(runs[metric])]:
        raise ValueError(f"metrics must be numbers; {words} are not")
    if runs.empty:
        raise ValueError("runs must hold at least one run; got none")
    if runs[labels].isna().any(axis=None):
        raise ValueError("every run must have a task, a baseline, a variant and a seed; got missing ones")
    if len(again := runs.loc[runs.duplicated(labels), labels]):
        *cell, seed = again.iloc[0]
        raise ValueError(f"each run must appear once; seed {seed} of {tuple(cell)} appears again")
    cells = {key: cell.sort_values("seed") for key, cell in runs.groupby(CELL, sort=False, observed=True)}
    for key, cell in cells.items():
        for metric in metrics:
            values = cell[metric].to_numpy(float, na_value=np.nan)
            if np.isinf(values).any() or 0 < np.isnan(values).sum() < len(values):
                raise ValueError(f"{metric} of {key} must be finite, or NaN in every seed; got {values}")
    return cells
