"""The Beta prior of per-item Thompson sampling, fitted to mature items by maximum likelihood.

Invariants: a0 and b0 are within the range that `PolicySettings` takes, for any counts; the fit does not depend on
the order of the items.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaln, digamma

from bandits.policy_settings import BETA_RANGE

Float64 = npt.NDArray[np.float64]

FEWEST_ITEMS = 10  # a spread of rates cannot be told from fewer
WEAK_STRENGTH = 2.0
_LOGIT_BOUND = 20.0
_STRENGTH_BOUNDS = (1e-2, 1e5)


@dataclass(frozen=True)
class BetaPrior:
    """A prior Beta(a0, b0) of an item's mean reward.

    Attributes:
        a0: pseudo-successes.
        b0: pseudo-failures.
        items: mature items that were used.
        fitted: False if the items did not determine a prior and the weak one stands in.
    """

    a0: float
    b0: float
    items: int
    fitted: bool


def fit_beta_prior(n: npt.ArrayLike, s: npt.ArrayLike, *, min_impressions: float = 100.0) -> BetaPrior:
    """Maximum likelihood of the beta-binomial over items with at least `min_impressions`.

    The strength a0 + b0 is sought from 0.01 to 100,000; rates that spread no wider than one common rate would make
    them end at 100,000. With fewer than `FEWEST_ITEMS` mature items, or where all their rates are equal, the weak
    prior stands in: strength `WEAK_STRENGTH` around the pooled rate (sum s + 1/2) / (sum n + 1), that is Beta(1, 1)
    without any data.

    Args:
        n: of shape (items,), impressions.
        s: of shape (items,), rewards; values outside [0, n] are clipped.
        min_impressions: what makes an item mature; more than 0.

    Raises:
        ValueError: shapes differ, a count is not finite or negative, or `min_impressions` is not positive.
    """
    shown, earned = np.asarray(n, np.float64), np.asarray(s, np.float64)
    if shown.ndim != 1 or shown.shape != earned.shape:
        raise ValueError(f"n, s: expected equal 1-d shapes, got {shown.shape}, {earned.shape}")
    if not (np.isfinite(shown) & np.isfinite(earned) & (shown >= 0) & (earned >= 0)).all():
        raise ValueError("n, s: expected finite counts >= 0, got another value")
    if not min_impressions > 0:
        raise ValueError(f"min_impressions: expected more than 0, got {min_impressions}")
    mature = shown >= min_impressions
    pairs = np.stack([shown[mature], np.minimum(earned, shown)[mature]])
    (shown, earned), count = np.unique(pairs, axis=1, return_counts=True)
    rate = (count @ earned + 0.5) / (count @ shown + 1)
    items = int(count.sum())
    fitted = items >= FEWEST_ITEMS and bool(np.ptp(earned / shown) > 0)
    mean, strength = _maximise(shown, earned, count, rate) if fitted else (rate, WEAK_STRENGTH)
    a0, b0 = np.clip([strength * mean, strength * (1 - mean)], *BETA_RANGE).tolist()
    return BetaPrior(a0, b0, items, fitted)


def log_likelihood(a0: float, b0: float, n: Float64, s: Float64) -> float:
    """Beta-binomial log-likelihood of (a0, b0), without the binomial coefficients."""
    return float(np.sum(betaln(a0 + s, b0 + n - s)) - len(n) * betaln(a0, b0))


def _maximise(n: Float64, s: Float64, count: npt.NDArray[np.int64], rate: float) -> tuple[float, float]:
    """Mean and strength a0 + b0, by L-BFGS over (logit of the mean, log of the strength)."""

    def negative(point: Float64) -> tuple[float, Float64]:
        mean, strength = 1 / (1 + np.exp(-point[0])), np.exp(point[1])
        a, b = strength * mean, strength * (1 - mean)
        value = count @ (betaln(a + s, b + n - s) - betaln(a, b))
        shared = digamma(strength) - digamma(strength + n)
        by_a = count @ (digamma(a + s) - digamma(a) + shared)
        by_b = count @ (digamma(b + n - s) - digamma(b) + shared)
        slope = (by_a - by_b) * strength * mean * (1 - mean), by_a * a + by_b * b
        return -value / count.sum(), -np.array(slope) / count.sum()

    start = np.array([np.log(rate / (1 - rate)), np.log(10.0)])
    bounds = [(-_LOGIT_BOUND, _LOGIT_BOUND), tuple(np.log(_STRENGTH_BOUNDS))]
    options = {"ftol": 1e-14, "gtol": 1e-9}
    found = minimize(negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return 1 / (1 + np.exp(-found.x[0])), np.exp(found.x[1])
