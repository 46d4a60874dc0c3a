"""Compiled requests for slates: score, pick and, where scores are drawn, propensities over the draws.

Invariant: equal to `score`, `pick` and `propensity_over_draws` over `Backend.gather` bit for bit.
Nothing is checked here: numbers are within the graph, weights and settings within their ranges.
"""

import numpy as np
from numba import types

from bandits.numba_addresses import caller, pointers_to
from bandits.numba_inner import inner
from bandits.numba_memory import load, pointer
from bandits.numba_propensity import over_draws
from bandits.numba_retrieval import retrieve
from bandits.numba_scores import (
    EXPLOIT,
    FILLING_AT,
    LATE,
    PICKING_AT,
    POLICY,
    RANDOMIZED,
    ROW_LINES,
    THOMPSON_MODE,
    score_candidates,
)
from bandits.numba_serving_rows import score_rows
from bandits.numba_slates import mark_beyond_means, pick_slate

SCORE, MEAN, WIDTH, PROPENSITY = 0, 1, 2, 3  # rows of the numbers of a slate
LARGEST = POLICY.index("largest")


@inner
def fill_slate(  # type: ignore[no-untyped-def]
    view, items, clusters, weights, policy, quantiles, seed, size, top_m, share, redraws, head, band
):
    """One slate of 1 <= size <= n candidates, 1 <= top_m <= n.

    `view` and `policy` are rows as `bandits.numba_scores` says, `items` int32, `clusters` int32, `weights` float64,
    `quantiles` is `bandits.draws.COARSE_QUANTILES`, `seed` uint64; `redraws` are behind an estimated propensity,
    `head` and `band` are of the rank table and not read where `share` is 0. All arrays are contiguous.

    Returns chosen candidates, int64 of shape (size,), numbers, float64 of shape (4, size), and explored, bool of
    shape (size,).
    """
    chosen, numbers, explored = np.empty(size, np.int64), np.empty((4, size)), np.empty(size, np.bool_)
    fill_slate_into(
        view, items, clusters, weights, policy, quantiles, seed, top_m, share, redraws, head, band,
        chosen, numbers, explored,
    )  # fmt: skip
    return chosen, numbers, explored


@inner
def fill_slate_into(  # type: ignore[no-untyped-def]
    view, items, clusters, weights, policy, quantiles, seed, top_m, share, redraws, head, band,
    chosen, numbers, explored,
):  # fmt: skip
    """As `fill_slate`, into arrays of those shapes; by code that lies where `view` says, compiled once for all."""
    _call(
        load(pointer(view), FILLING_AT),
        (
            *(pointer(view), pointer(items), np.int64(len(items))),
            *(pointer(clusters), pointer(weights), np.int64(len(clusters))),
            *(pointer(policy), pointer(quantiles), np.int64(len(quantiles)), np.uint64(seed)),
            *(np.int64(top_m), np.float64(share), np.int64(redraws)),
            *(pointer(head), np.int64(head.shape[0]), np.int64(head.shape[1])),
            *(pointer(band), np.int64(band.shape[0]), np.int64(band.shape[1])),
            *(pointer(chosen), pointer(numbers), pointer(explored), np.int64(len(chosen))),
        ),
    )


# What the code that fills a slate is called with: arrays as pointers and lengths, tables with both of theirs.
ARGUMENTS = (
    *(pointers_to(types.int64), pointers_to(types.int32), types.int64),  # view, items, candidates
    *(pointers_to(types.int32), pointers_to(types.float64), types.int64),  # clusters, weights, how many
    *(pointers_to(types.float64), pointers_to(types.float64), types.int64, types.uint64),  # policy, quantiles, seed
    *(types.int64, types.float64, types.int64),  # top_m, share, redraws
    *(pointers_to(types.float64), types.int64, types.int64),  # head
    *(pointers_to(types.float64), types.int64, types.int64),  # band
    *(pointers_to(types.int64), pointers_to(types.float64), pointers_to(types.bool_), types.int64),  # the slate
)
_call = caller(ARGUMENTS)


@inner
def score_and_pick(  # type: ignore[no-untyped-def]
    view, items, clusters, weights, policy, quantiles, seed, top_m, share, redraws, head, band,
    chosen, numbers, explored,
):  # fmt: skip
    """What `fill_slate_into` calls."""
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
    pick_at(
        view, score, mean, width, keys, policy, quantiles, seed, top_m, share, redraws, head, band,
        chosen, numbers, explored,
    )  # fmt: skip


@inner
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
    size = min(size, n)
    chosen, numbers, explored = np.empty(size, np.int64), np.empty((4, size)), np.empty(size, np.bool_)
    pick_at(
        view, score, mean, width, keys, policy, quantiles, seed, min(top_m, n), share, redraws, head, band,
        chosen, numbers, explored,
    )  # fmt: skip
    for slot in range(len(chosen)):
        chosen[slot] = items[chosen[slot]]
    return chosen, numbers, explored, n


@inner
def pick_at(  # type: ignore[no-untyped-def]
    view, score, mean, width, keys, policy, quantiles, seed, top_m, share, redraws, head, band,
    chosen, numbers, explored,
):  # fmt: skip
    """As `pick_into`, by code that lies where `view` says, compiled once for all."""
    _call_picking(
        load(pointer(view), PICKING_AT),
        (
            load(pointer(view), LATE),
            *(pointer(score), pointer(mean), pointer(width), pointer(keys), np.int64(len(score))),
            *(pointer(policy), pointer(quantiles), np.int64(len(quantiles)), np.uint64(seed)),
            *(np.int64(top_m), np.float64(share), np.int64(redraws)),
            *(pointer(head), np.int64(head.shape[0]), np.int64(head.shape[1])),
            *(pointer(band), np.int64(band.shape[0]), np.int64(band.shape[1])),
            *(pointer(chosen), pointer(numbers), pointer(explored), np.int64(len(chosen))),
        ),
    )


# What the code that picks is called with, likewise.
PICKING_ARGUMENTS = (
    types.int64,  # late
    *(pointers_to(types.float64), pointers_to(types.float64), pointers_to(types.float64)),  # score, mean, width
    *(pointers_to(types.uint64), types.int64),  # keys, candidates
    *(pointers_to(types.float64), pointers_to(types.float64), types.int64, types.uint64),  # policy, quantiles, seed
    *(types.int64, types.float64, types.int64),  # top_m, share, redraws
    *(pointers_to(types.float64), types.int64, types.int64),  # head
    *(pointers_to(types.float64), types.int64, types.int64),  # band
    *(pointers_to(types.int64), pointers_to(types.float64), pointers_to(types.bool_), types.int64),  # the slate
)
_call_picking = caller(PICKING_ARGUMENTS)


@inner
def pick_into(  # type: ignore[no-untyped-def]
    late, score, mean, width, keys, policy, quantiles, seed, top_m, share, redraws, head, band,
    chosen, numbers, explored,
):  # fmt: skip
    """Pick a slate of scored candidates and number it, into arrays as of `fill_slate`; `late` as of `over_draws`.

    Explored is also what is not there for its mean.
    """
    size, propensity = len(chosen), numbers[PROPENSITY]
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
