"""Compiled propensities where scores are drawn: over the picking of a slate and over the draws.

Invariants: 0 < propensity <= 1; integrated (`bandits.numba_integrated`) wherever a slate is short enough, else
averaged over redraws, bit for bit as `bandits.slates.estimate_propensity` does.
"""

import numpy as np

from bandits.drawn_ranks import MOST_RANKS
from bandits.draws import COARSE, COARSE_REDRAWS, OPTIMISM_REDRAWS
from bandits.numba_draws import coarse_word, key_bits, stream_key
from bandits.numba_inner import inner
from bandits.numba_integrated import integrated_at
from bandits.numba_scores import POLICY, RANDOMIZED
from bandits.numba_slates import position_probability
from bandits.policies import STEADY

_QUARTER_BITS, _QUARTER_MASK = np.uint64(16), np.uint64(0xFFFF)
THOMPSON_SCALE, OPTIMISM_FACTOR = map(POLICY.index, ("thompson_scale", "optimism"))


@inner
def over_draws(  # type: ignore[no-untyped-def]
    late, mean, width, keys, policy, quantiles, seed, chosen, top_m, share, redraws, head, band, propensity
):
    """Replace propensities given the drawn scores by those over all draws; `late` is of `integrated_at`."""
    randomized = policy[0] == RANDOMIZED
    factor = policy[OPTIMISM_FACTOR] if randomized else policy[THOMPSON_SCALE]
    if factor == 0.0:
        return  # nothing is drawn
    if max(len(chosen), top_m) > MOST_RANKS:
        _redrawn(mean, width, keys, policy, quantiles, seed, chosen, top_m, share, redraws, head, band, propensity)
    else:
        integrated_at(late, mean, width, factor, not randomized, chosen, top_m, share, head, band, propensity)


@inner
def _redrawn(  # type: ignore[no-untyped-def]
    mean, width, keys, policy, quantiles, seed, chosen, top_m, share, redraws, head, band, propensity
):
    """Average them over redraws (`bandits.slates.estimate_propensity`)."""
    n, size = len(mean), len(chosen)
    randomized = policy[0] == RANDOMIZED
    scale, first_quantile = (policy[OPTIMISM_FACTOR], COARSE) if randomized else (policy[THOMPSON_SCALE], 0)
    offset, factor = stream_key(seed, OPTIMISM_REDRAWS if randomized else COARSE_REDRAWS)
    total = np.zeros(size)
    drawn = np.empty((4, n))
    by_rank = share == 0.0 and top_m <= 1
    for block in range((redraws + 3) // 4):
        for i in range(n):
            word = coarse_word(key_bits(offset, factor, keys[i]), block)
            for quarter in range(4):
                at = np.int64((word >> (_QUARTER_BITS * np.uint64(quarter))) & _QUARTER_MASK)
                draw = quantiles[first_quantile + at]
                if randomized:
                    draw = STEADY + (1.0 - STEADY) * draw
                finite = mean[i] if scale == 0.0 else mean[i] + scale * draw * width[i]
                drawn[quarter, i] = np.inf if width[i] == np.inf and scale != 0.0 else finite
        for quarter in range(min(4, redraws - 4 * block)):
            row = drawn[quarter]
            ranked = np.sort(row)
            for slot in range(size):
                value = row[chosen[slot]]
                if by_rank and ranked[n - 1 - slot] != value:
                    continue  # another rank, another slot
                first, end = _tie_group(ranked, value)
                total[slot] += position_probability(first, end, slot, n, size, top_m, share, head, band)
    for slot in range(size):
        propensity[slot] = (propensity[slot] + total[slot]) / (redraws + 1)


@inner
def _tie_group(ranked, value):  # type: ignore[no-untyped-def]
    """First rank and end of the candidates whose score is `value`, one of `ranked`, which ascend."""
    return len(ranked) - _before(ranked, value, True), len(ranked) - _before(ranked, value, False)


@inner
def _before(ranked, value, equal):  # type: ignore[no-untyped-def]
    """How many of them are below a value, or `equal` to it."""
    low, high = 0, len(ranked)
    while low < high:
        middle = (low + high) >> 1
        if ranked[middle] < value or (equal and ranked[middle] == value):
            low = middle + 1
        else:
            high = middle
    return low
