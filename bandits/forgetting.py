"""Half-life forgetting by forward decay (Cormode et al., ICDE 2009), exact in any order.

Time is cut into blocks of eight half-lives. What was shown at time t adds its weight relative to the end of its
block, 2^-((end - t) / half-life), from 1/256 to 1, rounded once. A row holds the sums of its newest block and of
the block before it; older blocks are forgotten. So

- a late fact adds exactly what it would have added on time, and sums of one half-life do not depend on any order;
- no sum is ever scaled, hence nothing drifts: ageing is one factor for a block when the sums are read;
- the weight of a fact is off by at most 0.7 % (time is counted in 256ths of a half-life, the weight in 256ths or
  less of itself), and that factor is common to all sums that it adds to; an amount is never rounded to zero; and a
  fact is forgotten wholly at an age of 8 to 16 half-lives, when it counts 1/256 or less.

Everything here is integer arithmetic, so that every machine gives the same bits; only `ageing` is not, which makes
numbers to be served and no state.
"""

import numpy as np
import numpy.typing as npt

from bandits.sums import HALF_LIFE, LATEST, PAST_A, PAST_D, A, D

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

STEPS = 256  # of a half-life
BLOCK_HALF_LIVES = 8
BLOCK_STEPS = STEPS * BLOCK_HALF_LIVES
WEIGHT_BITS = 16
WEIGHT_UNIT = 1 << WEIGHT_BITS
# Weight of each step before the end of a block, within a half-life; no entry is near a half, so rounding is safe.
WEIGHTS: Int64 = np.rint(WEIGHT_UNIT * np.exp2(-np.arange(STEPS) / STEPS)).astype(np.int64)
FEW_IMPRESSIONS = 200  # of an edge within a half-life: with fewer, forgetting costs over 3 % where tastes stay
_OLDEST = -32.0  # binary logarithm of the smallest factor of ageing: sums stay above zero


def blocks(shown_ms: Int64, half_life_ms: Int64) -> Int64:
    """Number of the block of each time, int64 of the same shape."""
    return shown_ms * STEPS // half_life_ms // BLOCK_STEPS


def weights(shown_ms: Int64, half_life_ms: Int64) -> Int64:
    """Weight of each time relative to the end of its block, unit 2^-16, 256 to 65,536."""
    before_end = BLOCK_STEPS - 1 - shown_ms * STEPS // half_life_ms % BLOCK_STEPS
    weight: Int64 = WEIGHTS[before_end % STEPS] >> (before_end // STEPS)
    return weight


def weighed(amount: Int64, weight: Int64) -> Int64:
    """Amounts times weights, rounded once; what is not 0 stays at least 1. Amounts are below 2^47."""
    product = (amount * weight + (WEIGHT_UNIT >> 1)) >> WEIGHT_BITS
    rounded: Int64 = np.maximum(product, amount > 0)
    return rounded


def rebased(newest: Int64, past: Int64, before: Int64, after: Int64) -> Int64:
    """Sums of the newest block under another half-life; the block before it is put to it.

    Args:
        newest: sums of the newest block.
        past: sums of the block before it.
        before: weight under the old half-life of the latest time of the row, unit 2^-16.
        after: its weight under the new one.
    """
    total = newest + (past >> BLOCK_HALF_LIVES)
    whole = total // before
    # A product that would not fit stays at the largest value.
    fits = whole < np.iinfo(np.int64).max >> (WEIGHT_BITS + 1)
    scaled = np.where(fits, whole, 0) * after + total % before * after // before
    return np.where(fits, scaled, np.iinfo(np.int64).max)


def ageing(latest_ms: Int64, half_life_ms: Int64, now_ms: int) -> tuple[Float64, Float64]:
    """Factors of the sums of the newest block, and of the one before it; 1 and 0 where nothing is forgotten.

    Args:
        latest_ms: int64 of shape (n,), latest time in each row.
        half_life_ms: int64 of shape (n,), 0 = nothing is forgotten.
        now_ms: the time to which they are brought; not before any of `latest_ms`.
    """
    forgets = half_life_ms > 0
    half_life = np.maximum(half_life_ms, 1)
    end_ms = (blocks(latest_ms, half_life) + 1) * (BLOCK_HALF_LIVES * half_life)
    newest = np.exp2(np.maximum((end_ms - now_ms) / half_life, _OLDEST))
    return np.where(forgets, newest, 1.0), np.where(forgets, newest / (1 << BLOCK_HALF_LIVES), 0.0)


def impressions_held(edge: Int64, extra: Int64, times: Int64, degrees: Int64) -> float:
    """How many impressions of an edge fall within a half-life, in the mean over edges that were shown; 0 for none.

    What an edge remembers is that many times 1/ln 2 once it has been forgetting for some half-lives, less before.
    With sums a of w and d of w^2 it is a^2 / d impressions, fewer than there were if their weights differ (Kish,
    Survey Sampling, 1965).

    Args:
        edge: int64 of shape (m, 3), rows of `bandits.sums.Sums.edge`.
        extra: int64 of shape (m, 6), rows of `Sums.extra`.
        times: int64 of shape (n, 2), rows of `Sums.times`.
        degrees: int64 of shape (n,), how many of the edges each item has, in their order.
    """
    now_ms = int(times[:, LATEST].max(initial=0))
    newest, past = (np.repeat(age, degrees) for age in ageing(times[:, LATEST], times[:, HALF_LIFE], now_ms))
    a = edge[:, A] * newest + extra[:, PAST_A] * past
    d = edge[:, D] * newest + extra[:, PAST_D] * past
    shown = (d > 0) & np.repeat(times[:, HALF_LIFE] > 0, degrees)
    return float(np.log(2.0) * np.mean(a[shown] ** 2 / d[shown])) if shown.any() else 0.0
