"""Where a policy puts each candidate: exact over the picking of a slate, averaged over draws of the scores.

Invariants: a column of `slot_probabilities` sums to 1; a candidate that cannot get to a slot has 0 there, not a
rounding error. Picking is that of `bandits.slates`: by rank, ties at random, the first top_m ranks permuted, slots
explored.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bandits.ope import NoSupport
from bandits.slate_propensity import EXPLORED_SLOTS, position_probabilities, tie_groups
from bandits.sums import Float64, Int64


def slot_probabilities(scores: Float64, *, slate_size: int, top_m: int, explore_share: float) -> Float64:
    """P(candidate at slot), float64 of shape (n, S), S = min(slate_size, n).

    Args:
        scores: float64 of shape (draws, n), n >= 1; +inf allowed.
        slate_size: 1 or more.
        top_m: 1 or more.
        explore_share: 0 to 1.
    """
    draws, n = scores.shape
    size, m = min(slate_size, n), min(top_m, n)
    decisive = min(max(size, m), n)  # beyond these ranks all are alike
    at_rank = _rank_shares(scores, decisive)
    table = _slot_of_rank(n, size, m, explore_share)
    probability: Float64 = at_rank @ table[:decisive]
    if n > decisive:
        beyond = np.maximum(1.0 - at_rank.sum(axis=1, keepdims=True), 0.0)
        probability += np.where(beyond < 0.5 / (draws * n), 0.0, beyond) * table[decisive]
    return np.minimum(probability, 1.0)


@lru_cache(maxsize=256)
def _slot_of_rank(n: int, size: int, top_m: int, explore_share: float) -> Float64:
    """P(slot) of each rank that differs from the one above it, float64 of shape (ranks, size)."""
    ranks = min(max(size, top_m) + 1, n)
    rank = np.repeat(np.arange(ranks), size)
    slot = np.tile(np.arange(size), ranks)
    table = position_probabilities(
        rank, rank + 1, slot, n=n, slate_size=size, top_m=top_m, explore_share=explore_share
    )
    return table.reshape(ranks, size)


def _rank_shares(scores: Float64, decisive: int) -> Float64:
    """P(candidate has rank r) for r < decisive, float64 of shape (n, decisive); ties share their ranks."""
    draws, n = scores.shape
    order = np.argsort(-scores, axis=1)
    first, end = tie_groups(np.take_along_axis(scores, order, axis=1))
    share = 1.0 / ((end - first) * draws)
    row = order * (decisive + 1)
    steps = np.bincount(
        np.concatenate([row + np.minimum(first, decisive), row + np.minimum(end, decisive)], axis=None),
        weights=np.concatenate([share, -share], axis=None),
        minlength=n * (decisive + 1),
    )
    shares = steps.reshape(n, decisive + 1).cumsum(axis=1)[:, :decisive]
    return np.where(shares < 0.5 / (draws * n), 0.0, shares)  # what a sum of steps leaves of nothing


def prefix_probabilities(
    scores: Float64, chosen: Int64, values: Float64, *, top_m: int, explore_share: float
) -> tuple[Float64, Float64]:
    """P(the slots down to l are those of a given slate), and the value expected at slot l on the way there.

    Given what was taken, the untaken members of a group of equals are as likely as each other, so the next slot is
    uniform over those of the best group that is left, or explored.

    Args:
        scores: float64 of shape (draws, n).
        chosen: int64 of shape (S,), candidates from the top; -1 is none of them.
        values: float64 of shape (n, S), of each candidate at each slot.
        top_m: 1 or more.
        explore_share: 0 to 1.

    Returns:
        Two float64 of shape (S,): the probability of the first l + 1 slots, and the expectation over draws of
        P(first l slots) times the value expected at slot l.

    Raises:
        NoSupport: ties reach across the first top_m ranks, where the order of the rest depends on the past.
    """
    draws, n = scores.shape
    group = _groups(scores, min(top_m, n))
    left = np.ones(n, np.bool_)
    alive = np.ones(draws)
    prefix, above = np.zeros(len(chosen)), np.zeros(len(chosen))
    for slot, taken in enumerate(chosen.tolist()):
        if not left.any() or not alive.any():
            break
        best = group[:, left].min(axis=1)
        in_best = (group == best[:, None]) & left
        explore = explore_share if slot < EXPLORED_SLOTS else 0.0
        step = (1.0 - explore) * in_best / in_best.sum(axis=1, keepdims=True)
        step += explore * left / left.sum()
        above[slot] = float(np.mean(alive * (step @ values[:, slot])))
        alive = alive * step[:, taken] if taken >= 0 else np.zeros(draws)
        prefix[slot] = float(alive.mean())
        if taken >= 0:
            left[taken] = False
    return prefix, above


def _groups(scores: Float64, top_m: int) -> npt.NDArray[np.int64]:
    """Rank at which each candidate's group of interchangeable ones begins, int64 of the shape of `scores`."""
    order = np.argsort(-scores, axis=1)
    first, end = tie_groups(np.take_along_axis(scores, order, axis=1))
    if top_m > 1:
        if ((first < top_m) & (end > top_m)).any():
            raise NoSupport(f"top_m: scores tie across the first {top_m} ranks")
        first = np.where(first < top_m, 0, first)
    group = np.empty_like(first)
    np.put_along_axis(group, order, first, axis=1)
    return group
