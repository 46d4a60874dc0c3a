"""Compiled requests for slates: score, pick and, where scores are drawn, estimated propensities; many in one call.

Invariant: equal to `score`, `pick` and `estimate_propensity` over `Backend.gather` bit for bit.
Nothing is checked here: numbers are within the graph, weights and settings within their ranges.
"""

import numpy as np
from numba import njit

from bandits.draws import COARSE, COARSE_REDRAWS, OPTIMISM_REDRAWS
from bandits.numba_draws import coarse_word, key_bits, stream_key
from bandits.numba_memory import pointer
from bandits.numba_retrieval import retrieve
from bandits.numba_scores import POLICY, RANDOMIZED, THOMPSON_MODE, score_candidates
from bandits.numba_slates import pick_slate, position_probability, tie_group
from bandits.policies import STEADY

_QUARTER_BITS, _QUARTER_MASK = np.uint64(16), np.uint64(0xFFFF)
SCORE, MEAN, WIDTH, PROPENSITY = 0, 1, 2, 3  # rows of the numbers of a slate
LARGEST, THOMPSON_SCALE, OPTIMISM_FACTOR = map(POLICY.index, ("largest", "thompson_scale", "optimism"))


@njit
def fill_slate(  # type: ignore[no-untyped-def]
    view, items, clusters, weights, policy, quantiles, seed, size, top_m, share, redraws, head, band
):
    """One slate of 1 <= size <= n candidates, 1 <= top_m <= n.

    `view` and `policy` are rows as `bandits.numba_scores` says, `items` int32, `clusters` int32, `weights` float64,
    `quantiles` is `bandits.draws.COARSE_QUANTILES`, `seed` uint64; `redraws` are behind an estimated propensity,
    `head` and `band` are of the rank table and not read where `share` is 0.

    Returns chosen candidates, int64 of shape (size,), numbers, float64 of shape (4, size), and explored, bool of
    shape (size,).
    """
    n = len(items)
    score, mean, width, keys = np.empty(n), np.empty(n), np.empty(n), np.empty(n, np.uint64)
    score_candidates(
        pointer(view),
        pointer(items),
        n,
        pointer(clusters),
        len(clusters),
        pointer(weights),
        pointer(policy),
        pointer(quantiles),
        seed,
        pointer(score),
        pointer(mean),
        pointer(width),
        pointer(keys),
    )
    return pick_filled(score, mean, width, keys, policy, quantiles, seed, size, top_m, share, redraws, head, band)


@njit
def fill_around(  # type: ignore[no-untyped-def]
    view, around, attached, attached_ends, clusters, weights, policy, quantiles, seed, size, top_m, share, redraws,
    head, band, place, room,
):  # fmt: skip
    """One slate of the items around a user: as `fill_slate`, after `bandits.numba_retrieval.retrieve`.

    Returns the chosen items' numbers instead of candidates, and how many candidates there were. `head` and `band`
    are of as many candidates as there turn out to be: to be told how many, call with `size` 0, which picks nothing.
    """
    items, score, mean, width, keys = retrieve(
        pointer(view), pointer(around), attached, attached_ends, clusters, weights, pointer(policy),
        pointer(quantiles), seed, place, room,
    )  # fmt: skip
    n = len(items)
    if size == 0 or n == 0:
        return np.empty(0, np.int64), np.empty((4, 0)), np.empty(0, np.bool_), n
    chosen, numbers, explored = pick_filled(
        score, mean, width, keys, policy, quantiles, seed, min(size, n), min(top_m, n), share, redraws, head, band
    )
    for slot in range(len(chosen)):
        chosen[slot] = items[chosen[slot]]
    return chosen, numbers, explored, n


@njit
def pick_filled(  # type: ignore[no-untyped-def]
    score, mean, width, keys, policy, quantiles, seed, size, top_m, share, redraws, head, band
):
    """A slate of scored candidates; returns as `fill_slate`."""
    chosen, explored, numbers = np.empty(size, np.int64), np.empty(size, np.bool_), np.empty((4, size))
    propensity = numbers[PROPENSITY]
    pick_slate(score, keys, size, top_m, share, seed, head, band, chosen, propensity, explored)
    if policy[0] == THOMPSON_MODE or policy[0] == RANDOMIZED:
        _estimate(mean, width, keys, policy, quantiles, seed, chosen, top_m, share, redraws, head, band, propensity)
    largest = policy[LARGEST]
    for slot in range(size):
        at = chosen[slot]
        numbers[SCORE, slot] = min(max(score[at], -largest), largest)
        numbers[MEAN, slot], numbers[WIDTH, slot] = mean[at], min(width[at], largest)
    return chosen, numbers, explored


@njit
def _estimate(  # type: ignore[no-untyped-def]
    mean, width, keys, policy, quantiles, seed, chosen, top_m, share, redraws, head, band, propensity
):
    """Replace exact propensities given the drawn scores by their average over redraws (`estimate_propensity`)."""
    n, size = len(mean), len(chosen)
    randomized = policy[0] == RANDOMIZED
    scale, first_quantile = (policy[OPTIMISM_FACTOR], COARSE) if randomized else (policy[THOMPSON_SCALE], 0)
    offset, factor = stream_key(seed, OPTIMISM_REDRAWS if randomized else COARSE_REDRAWS)
    total = np.zeros(size)
    drawn = np.empty((4, n))
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
            for slot in range(size):
                first, end = tie_group(row, row[chosen[slot]])
                total[slot] += position_probability(first, end, slot, n, size, top_m, share, head, band)
    for slot in range(size):
        propensity[slot] = (propensity[slot] + total[slot]) / (redraws + 1)
