"""Confidence intervals over the terms of an estimate, for a fixed sample size: normal and bootstrap percentile.

Promise: the bootstrap draws only from the generator passed in, holds a bounded number of resampled counts at a
time, and its result does not depend on that bound's arithmetic. For intervals that stay valid while one watches
them, see `bandits.ope.confidence_sequence`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from bandits.ope import columns
from bandits.ope.columns import Float64

COUNTS_AT_ONCE = 1 << 22  # resampled rounds in memory: 32 MiB of int64 and as much of float64
MAX_RESAMPLES = 1_000_000


class Interval(NamedTuple):
    """A confidence interval, both ends included, in units of the reward."""

    low: float
    high: float


def normal_interval(terms: npt.ArrayLike, *, alpha: float = 0.05) -> Interval:
    """Mean of the terms +- z standard errors, with the sample variance (n - 1).

    Args:
        terms: of shape (n,), n >= 2; `Estimate.influence`.
        alpha: 1 - coverage.

    Examples:
        >>> low, high = normal_interval([0.0, 1.0, 0.0, 1.0])
        >>> round(low, 3), round(high, 3)
        (-0.066, 1.066)
    """
    x = columns.finite("terms", terms)
    if len(x) < 2:
        raise ValueError("terms: expected at least 2 rounds for a standard error, got 1")
    half = float(-ndtri(columns.fraction("alpha", alpha) / 2) * x.std(ddof=1) / np.sqrt(len(x)))
    mean = float(x.mean())
    return Interval(mean - half, mean + half)


def bootstrap_means(terms: npt.ArrayLike, *, rng: np.random.Generator, resamples: int = 2000) -> Float64:
    """Means of resampled rounds, float64 of shape (k, resamples), all k rows on the same resampled rounds.

    Sharing the rounds makes differences between rows paired: subtract two rows to compare two policies.

    Args:
        terms: of shape (k, n), one row per estimate.
        rng: the only source of randomness.
        resamples: number of resamples, 1 to 1,000,000.
    """
    x = columns.finite("terms", terms, ndim=2)
    if not 1 <= resamples <= MAX_RESAMPLES:
        raise ValueError(f"resamples: expected 1 to {MAX_RESAMPLES}, got {resamples}")
    n = x.shape[1]
    means = np.empty((x.shape[0], resamples))
    step = max(1, COUNTS_AT_ONCE // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[:, start : start + rows] = x @ counts.T.astype(np.float64) / n
    return means


def bootstrap_intervals(
    terms: npt.ArrayLike, *, rng: np.random.Generator, alpha: float = 0.05, resamples: int = 2000
) -> list[Interval]:
    """Percentile intervals (Efron 1979) of k estimates from the same resampled rounds.

    Args:
        terms: of shape (k, n), one row per estimate; `Estimate.influence`.
        rng: the only source of randomness.
        alpha: 1 - coverage.
        resamples: number of resamples.
    """
    tail = columns.fraction("alpha", alpha) / 2
    means = bootstrap_means(terms, rng=rng, resamples=resamples)
    low, high = np.quantile(means, [tail, 1 - tail], axis=1)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
