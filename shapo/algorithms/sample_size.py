"""How many independent samples a gradient rests on: the n of Proposition 2, which the paper leaves open.

L^λ and its gradient are means over N steps of y_t = A_t ∇log π(a_t|s_t)ᵀx, taken along x = F⁻¹g, the direction in which
Proposition 2 asks for the variance. Steps of one episode are not independent:

    var ȳ = σ²/N · τ,    τ = 1 + 2 Σ_k ρ_k,    n_eff = N / τ,

ρ_k the autocorrelation of y at lag k within episodes, τ the integrated autocorrelation time. x has to come from other
data than y: fitted to the same terms, it finds correlation in noise (`Surrogate.cross_fitted_terms`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np


def autocorrelation_time(terms: np.ndarray, episode: np.ndarray) -> float:
    """τ of terms (T, n), T steps of n environments; steps of different episodes count as independent.

    The sum over lags ends by Geyer's initial monotone sequence (1992, Section 3.3): sums of neighbouring lags
    ρ_2m + ρ_2m+1 of a reversible chain are positive and fall, so where they stop to, only noise is left. At least 1:
    anticorrelation is not taken for more samples than there were.

    episode: (T, n), equal where two steps of an environment belong to one episode. Raises ValueError for other shapes.
    """
    correlation = _correlations(terms, episode)
    total, least = 0.0, np.inf
    for first in correlation:
        least = min(least, first + next(correlation, 0.0))
        if least <= 0:
            break
        total += least
    return max(1.0, 2 * total - 1)


def autocorrelation(terms: np.ndarray, episode: np.ndarray, lags: int) -> np.ndarray:
    """ρ_0 … ρ_lags−1 of terms (T, n), lags at most T: of all steps' variance, what pairs `k` steps apart share."""
    return np.fromiter(islice(_correlations(terms, episode), lags), float, lags)


def _correlations(terms: np.ndarray, episode: np.ndarray) -> Iterator[float]:
    """ρ_0, ρ_1, …, each Σ y_t y_t+k over pairs within an episode, over Σ y_t²; 1, 0, 0, … where y does not vary."""
    if terms.ndim != 2 or terms.shape != episode.shape:
        raise ValueError(f"terms and episode must both be (T, n); got {terms.shape} and {episode.shape}")
    y = terms - terms.mean()
    variance = (y * y).sum() or np.inf
    yield 1.0
    for lag in range(1, len(y)):
        same = episode[lag:] == episode[:-lag]
        yield float((y[lag:] * y[:-lag] * same).sum() / variance)


@dataclass(frozen=True, eq=False)
class Samples:
    """n_t, the environment steps seen so far; and, when asked, how many independent ones they are worth."""

    steps: int  # n_t
    terms: Callable[[], np.ndarray]  # (T, n) the last batch's policy-gradient terms along F⁻¹g
    episode: np.ndarray | None  # as of `autocorrelation_time`

    @cached_property
    def autocorrelation_time(self) -> float:
        """τ of the terms, at least 1."""
        return autocorrelation_time(self.terms(), self.episode)

    @property
    def effective(self) -> float:
        """n_eff,t = n_t / τ_t: earlier batches are taken to be as correlated as the last."""
        return self.steps / self.autocorrelation_time
