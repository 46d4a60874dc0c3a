"""Compiled requests for slates: score, pick and, where scores are drawn, propensities over the draws.

Invariant: equal to `score`, `pick` and `propensity_over_draws` over `Backend.gather` bit for bit.
Nothing is checked here: numbers are within the graph, weights and settings within their ranges.
"""

import numpy as np
from numba import njit

from bandits.numba_memory import load, pointer
from bandits.numba_propensity import over_draws
from bandits.numba_retrieval import retrieve
from bandits.numba_scores import EXPLOIT, LATE, POLICY, RANDOMIZED, ROW_LINES, THOMPSON_MODE, score_candidates
from bandits.numba_serving_rows import score_rows
from bandits.numba_slates import mark_beyond_means, pick_slate

SCORE, MEAN, WIDTH, PROPENSITY = 0, 1, 2, 3  # rows of the numbers of a slate
LARGEST = POLICY.index("largest")


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
    if load(pointer(view), ROW_LINES) != 0:
        score_rows(
            pointer(view), pointer(items), n, pointer(clusters), len(clusters), pointer(weights), pointer(policy),
            pointer(quantiles), seed, pointer(score), pointer(mean), pointer(width), pointer(keys),
        )  # fmt: skip
    else:
        score_candidates(
            pointer(view), pointer(items), n, pointer(clusters), len(clusters), pointer(weights), pointer(policy),
            pointer(quantiles), seed, pointer(score), pointer(mean), pointer(width), pointer(keys),
        )  # fmt: skip
    return pick_filled(
        load(pointer(view), LATE), score, mean, width, keys, policy, quantiles, seed, size, top_m, share, redraws,
        head, band,
    )  # fmt: skip


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
        load(pointer(view), LATE), score, mean, width, keys, policy, quantiles, seed, min(size, n), min(top_m, n),
        share, redraws, head, band,
    )  # fmt: skip
    for slot in range(len(chosen)):
        chosen[slot] = items[chosen[slot]]
    return chosen, numbers, explored, n


@njit
def pick_filled(  # type: ignore[no-untyped-def]
    late, score, mean, width, keys, policy, quantiles, seed, size, top_m, share, redraws, head, band
):
    """A slate of scored candidates; returns as `fill_slate`. Explored is also what is not there for its mean."""
    chosen, explored, numbers = np.empty(size, np.int64), np.empty(size, np.bool_), np.empty((4, size))
    propensity = numbers[PROPENSITY]
    pick_slate(score, keys, size, top_m, share, seed, head, band, chosen, propensity, explored)
    if policy[0] == THOMPSON_MODE or policy[0] == RANDOMIZED:
        over_draws(
            late, mean, width, keys, policy, quantiles, seed, chosen, top_m, share, redraws, head, band, propensity
        )
    if policy[0] != EXPLOIT:
        mark_beyond_means(mean, chosen, explored)
    largest = policy[LARGEST]
    for slot in range(size):
        at = chosen[slot]
        numbers[SCORE, slot] = min(max(score[at], -largest), largest)
        numbers[MEAN, slot], numbers[WIDTH, slot] = mean[at], min(width[at], largest)
    return chosen, numbers, explored
