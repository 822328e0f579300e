"""The number of independent samples behind a gradient: the n of Proposition 2, which the paper leaves open.

Along x = F⁻¹g, the direction in which Proposition 2 takes the variance, the gradient of L^λ is a mean over N steps of
y_t = A_t ∇log π(a_t|s_t)ᵀx. Steps of one episode are not independent:

    var ȳ = σ²/N · τ,    τ = 1 + 2 Σ_k ρ_k,    n_eff = N / τ,

where ρ_k is the autocorrelation of y at lag k within episodes and τ the integrated autocorrelation time. x must come
from other data than y: if fitted to the same terms, it finds correlation in noise (`Surrogate.cross_fitted_terms`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np


def autocorrelation_time(terms: np.ndarray, episode: np.ndarray) -> float:
    """τ of terms (T, n), T steps of n environments. Steps of different episodes count as independent.

    Geyer's initial monotone sequence (1992, Section 3.3) ends the sum over lags. In a reversible chain, the sums of
    neighbouring lags ρ_2m + ρ_2m+1 are positive and decrease, so what does neither is noise. τ is at least 1:
    anticorrelation does not count as more samples than there were.

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
    """ρ_0 … ρ_lags−1 of terms (T, n), with lags ≤ T: the covariance of steps k apart over the variance of all steps."""
    return np.fromiter(islice(_correlations(terms, episode), lags), float, lags)


def _correlations(terms: np.ndarray, episode: np.ndarray) -> Iterator[float]:
    """Yields ρ_k = Σ y_t y_t+k / Σ y_t², the upper sum over pairs within an episode; 1, 0, 0, … if y is constant."""
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
    """n_t, the environment steps seen so far, and on request the number of independent samples they are worth."""

    steps: int  # n_t, environment steps seen so far
    terms: Callable[[], np.ndarray]  # gives the last batch's policy-gradient terms along F⁻¹g, (T, n)
    episode: np.ndarray | None  # as in `autocorrelation_time`

    @cached_property
    def autocorrelation_time(self) -> float:
        """τ of the terms, at least 1."""
        return autocorrelation_time(self.terms(), self.episode)

    @property
    def effective(self) -> float:
        """n_eff,t = n_t / τ_t, which assumes that earlier batches were as correlated as the last."""
        return self.steps / self.autocorrelation_time
