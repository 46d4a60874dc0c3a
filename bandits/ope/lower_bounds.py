"""Anytime-valid lower bounds for the mean of non-negative observations: the two one-sided confidence sequences.

Promise: with probability 1 - alpha the bound is below the running mean of conditional expectations at *every*
time at once, so one may look at any moment and stop at will. Observations have no upper bound; their mean must
be at most 1. State is a few sums, so observations may come in chunks of any size; it is fed in the order of the
log.

Both rest on the same game: a bettor against a candidate mean mu has wealth exp(lambda (S - n mu) - cost), where
each observation costs enough for its error e = X - min(1, Xhat), Xhat the running mean before it, that no bet
gains from a true mean (Fan, Grama, Liu 2015). By Ville's inequality the wealth reaches 1 / alpha with
probability alpha at most.
"""

from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.special import zeta

from bandits.ope.columns import Float64

ROOT_TOLERANCE = 1e-12

# Stitching: V grows by ETA from one epoch to the next; epoch k spends a share k^-EPOCH_POWER of alpha.
ETA = 1.1
EPOCH_POWER = 1.1

# The grid of bets of the robust mixture, lambda_j = LARGEST_BET / RATIO^(j + 1/2) (Mineiro 2022): as published.
LARGEST_BET = 0.5
RATIO = 1.6
BETS = 64
MIXTURE_MASS = 0.5 * (1 + 1.4406337969700393 / (0.95 * np.pi**2 / 6))
# Errors above 1 are kept in a histogram with bins [BIN^i, BIN^(i+1)): enough of them for any float64.
BIN = 1.5
BINS = 1752


class LowerBound(Protocol):
    """A one-sided confidence sequence."""

    def add(self, x: Float64) -> None:
        """Take observations >= 0 of shape (n,), in order."""

    def bound(self, alpha: float) -> float:
        """The lower bound now, in [0, 1]."""


class _Errors:
    """Running count, sum and prediction errors of the observations."""

    def __init__(self) -> None:
        self.n = 0
        self.total = 0.0

    def take(self, x: Float64) -> Float64:
        """Errors X - min(1, Xhat), each against what was seen before it."""
        before = self.total + np.concatenate(([0.0], np.cumsum(x)[:-1]))
        predicted = (before + 0.5) / (self.n + 1.0 + np.arange(len(x)))
        self.n += len(x)
        self.total += float(x.sum())
        # A prediction above 1 would let an error fall below -1, where the inequality behind the cost fails.
        errors: Float64 = x - np.minimum(1.0, predicted)
        return errors


class BernsteinBound:
    """Stitched empirical Bernstein bound (Howard et al. 2021, theorem 1; Karampatziakis et al. 2021).

    A closed form in n, S and the sum V of squared errors, and no search. But a single error of 40 adds 1600 to V:
    it is for weights that stay small.
    """

    def __init__(self) -> None:
        self._errors = _Errors()
        self._squares = 0.0

    def add(self, x: Float64) -> None:
        """Take observations >= 0 of shape (n,), in order."""
        self._squares += float(np.square(self._errors.take(x)).sum())

    def bound(self, alpha: float) -> float:
        """The lower bound now, in [0, 1]."""
        if self._errors.n == 0:
            return 0.0
        v = max(self._squares, 1.0)
        # Epoch k holds V in [ETA^k, ETA^(k+1)) and spends alpha / (zeta(s) (k + 1)^s) of the error probability.
        spent = EPOCH_POWER * np.log(np.log(v) / np.log(ETA) + 2) + np.log(zeta(EPOCH_POWER) / alpha)
        k1 = (ETA**0.25 + ETA**-0.25) / np.sqrt(2)
        k2 = (np.sqrt(ETA) + 1) / 2
        radius = np.sqrt(k1**2 * spent * v + (k2 * spent) ** 2) + k2 * spent
        return float(np.clip((self._errors.total - radius) / self._errors.n, 0.0, 1.0))


class RobustBound:
    """Discrete mixture over a grid of bets, for heavy-tailed observations (Mineiro 2022, arXiv:2210.11133).

    An error above 1 costs only lambda e - log(1 + lambda e), which grows like e and not like e^2; the histogram
    bounds that cost from above between the edges of its bins.
    """

    def __init__(self) -> None:
        j = np.arange(BETS)
        self._bet = LARGEST_BET / RATIO ** (j + 0.5)
        self._log_weight = np.log(MIXTURE_MASS * (RATIO - 1)) - (1 + j) * np.log(RATIO)
        self._errors = _Errors()
        self._low = 0.0
        self._middle = 0.0
        self._edge = np.zeros(BINS)
        self._curve = np.zeros(BINS)

    def add(self, x: Float64) -> None:
        """Take observations >= 0 of shape (n,), in order."""
        error = self._errors.take(x)
        self._low += float(np.square(error[error <= 0]).sum())
        self._middle += float(np.square(error[(error > 0) & (error <= 1)]).sum())
        large = error[error > 1]
        if len(large):
            self._add_large(large)

    def bound(self, alpha: float) -> float:
        """The lower bound now, in [0, 1]."""
        if self._errors.n == 0:
            return 0.0
        n, total = self._errors.n, self._errors.total
        fixed = self._log_weight - self._cost()

        def excess(mu: float) -> float:
            log_wealth = fixed + self._bet * (total - n * mu)
            largest = log_wealth.max()
            return float(largest + np.log(np.exp(log_wealth - largest).sum()) + np.log(alpha))

        # Wealth falls as the mean rises: the bound is where it stops exceeding 1 / alpha.
        if excess(0.0) <= 0:
            return 0.0
        if excess(1.0) >= 0:
            return 1.0
        return max(0.0, float(brentq(excess, 0.0, 1.0, xtol=ROOT_TOLERANCE)) - ROOT_TOLERANCE)

    def _add_large(self, error: Float64) -> None:
        bins = np.floor(np.log(error) / np.log(BIN)).astype(np.int64)
        left = BIN ** bins.astype(np.float64)
        share = (BIN * left - error) / ((BIN - 1) * left)
        self._edge += np.bincount(bins, weights=share, minlength=BINS)
        self._edge += np.bincount(bins + 1, weights=1 - share, minlength=BINS)
        self._curve += np.bincount(bins, weights=share * (1 - share) / 2, minlength=BINS)

    def _cost(self) -> Float64:
        bet = self._bet
        cost: Float64 = 0.5 * bet**2 * (self._low / (1 - bet) + self._middle)
        used = np.flatnonzero((self._edge != 0) | (self._curve != 0))
        scaled = bet[:, None] * BIN ** used.astype(np.float64)
        # Between its edges the convex cost lies below the chord, by strong convexity by at least this much.
        slack = np.square((BIN - 1) * scaled / (1 + BIN * scaled))
        return cost + (scaled - np.log1p(scaled)) @ self._edge[used] - slack @ self._curve[used]
