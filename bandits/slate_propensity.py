"""Exact probability that an item lands at a position, over the randomness of slate picking alone.

The picker of `bandits.slates` works on ranks: an item's rank is random within its group of ties and within the top
m; then every slot is filled by the best remaining rank or, with probability e (the exploration share), uniformly.
So P(item at p) = sum over ranks r of P(rank of the item = r) * D[r, p], and D depends on (n, slate size, e) alone.

Invariants: probabilities are sums of non-negative terms, so small ones lose no digits; over all candidates those of
one position sum to 1.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Slots open to the exploration share; those below are filled by rank. Bounds the cost of the table below, which
# grows with slate size * EXPLORED_SLOTS^2.
EXPLORED_SLOTS = 64


@dataclass(frozen=True, eq=False)
class RankTable:
    """D[r, p], the probability that the item of rank r ends at position p.

    Attributes:
        head: float64 of shape (H, S + 1), D[r, p] as head[p, r] for p < H = min(S, EXPLORED_SLOTS); all ranks
            r >= S are equal and share the last column.
        band: float64 of shape (S - H, H + 1), D[p - H + k, p] as band[p - H, k]; other ranks cannot get there.
    """

    head: Float64
    band: Float64


def rank_table(n: int, slate_size: int, explore_share: float) -> RankTable:
    """D for n candidates, 1 <= slate_size <= n; remembered, since requests repeat their sizes."""
    remembered = _small_table if slate_size <= EXPLORED_SLOTS else _large_table
    return remembered(n, slate_size, explore_share)


def _rank_table(n: int, slate_size: int, explore_share: float) -> RankTable:
    """Forward recursion over slots, all ranks r < S at once.

    State: k, how many better-ranked items are taken while r itself is not. With N = n - slot items remaining, of
    which r - k are better: exploration takes r with 1/N, a better one with (r - k)/N, a worse one otherwise; the
    best remaining is r itself exactly if k = r.
    """
    explored = min(slate_size, EXPLORED_SLOTS)
    rank = np.arange(slate_size)[:, None]
    better = np.maximum(rank - np.arange(explored + 1), 0)
    by_rank = np.where(better > 0, 1 - explore_share, 0.0)
    alive = np.zeros((slate_size, explored + 1))
    alive[:, 0] = 1.0
    head = np.empty((explored, slate_size + 1))
    tail_alive = 1.0  # of a rank >= S: exploration alone can take it
    top = np.arange(min(slate_size, explored + 1))
    for slot in range(explored):
        share = explore_share / (n - slot)
        head[slot, :-1] = alive.sum(axis=1) * share
        head[slot, top] += (1 - explore_share) * alive[top, top]
        head[slot, -1] = tail_alive * share
        tail_alive *= 1 - share
        moved = alive * (by_rank + share * better)
        alive *= share * np.maximum(n - slot - 1 - better, 0)
        alive[:, 1:] += moved[:, :-1]
    first = np.arange(slate_size - explored)[:, None]
    k = np.arange(explored + 1)
    return RankTable(
        head, alive[first + k[: explored + 1], k] if slate_size > explored else np.empty((0, explored + 1))
    )


_small_table = lru_cache(maxsize=512)(_rank_table)
_large_table = lru_cache(maxsize=4)(_rank_table)


def position_probabilities(
    first: Int64, end: Int64, position: Int64, *, n: int, slate_size: int, top_m: int, explore_share: float
) -> Float64:
    """P(item at position), elementwise, for items whose group of ties occupies the ranks first <= r < end.

    Args:
        first: int64 of shape (q,).
        end: int64 of shape (q,), first < end <= n.
        position: int64 of shape (q,), 0 <= position < slate_size.
        n: number of candidates.
        slate_size: 1 <= slate_size <= n.
        top_m: the ranks below it are permuted uniformly, 1 <= top_m <= n.
        explore_share: 0 <= explore_share <= 1.
    """
    table = rank_table(n, slate_size, explore_share) if explore_share else None

    def mean(low: Int64, high: Int64) -> Float64:
        return _mean_over_ranks(table, low, high, position)

    if top_m <= 1:
        return np.minimum(mean(first, end), 1.0)  # a sum of rounded terms may end an ulp above 1
    inside = np.clip(top_m - first, 0, end - first)  # how many ranks of the group lie within the top m
    share = inside / (end - first)
    within = mean(np.zeros_like(first), np.full_like(first, top_m))
    return np.minimum(share * within + (1 - share) * mean(first + inside, end), 1.0)


def _mean_over_ranks(table: RankTable | None, low: Int64, high: Int64, position: Int64) -> Float64:
    """Mean of D[r, position] over the ranks low <= r < high, 0 where there are none; D is the identity if None."""
    if table is None:
        total = ((low <= position) & (position < high)).astype(np.float64)
    else:
        total = np.empty(len(position))
        head = position < len(table.head)
        total[head] = _sum_head(table.head[position[head]], low[head], high[head])
        if not head.all():
            row = position[~head] - len(table.head)
            total[~head] = _sum_band(table.band[row], row, low[~head], high[~head])
    mean: Float64 = total / np.maximum(high - low, 1)
    return mean


def _sum_head(probability: Float64, low: Int64, high: Int64) -> Float64:
    shared = probability.shape[1] - 1  # the last column stands for all ranks from here on
    rank = np.arange(shared + 1)
    count = ((rank >= low[:, None]) & (rank < high[:, None])).astype(np.float64)
    count[:, shared] = np.maximum(high - np.maximum(low, shared), 0)
    return _sum_in_order(count * probability)


def _sum_band(probability: Float64, row: Int64, low: Int64, high: Int64) -> Float64:
    rank = row[:, None] + np.arange(probability.shape[1])
    return _sum_in_order(((rank >= low[:, None]) & (rank < high[:, None])) * probability)


def _sum_in_order(terms: Float64) -> Float64:
    """Sum of each row, added from the first to the last, as a compiled loop adds it."""
    total: Float64 = np.add.accumulate(terms, axis=1)[:, -1]
    return total


def tie_groups(ranked: Float64) -> tuple[Int64, Int64]:
    """First rank and end of the group of equals that each rank belongs to, int64 of the shape of `ranked`.

    Args:
        ranked: float64 of shape (..., n), equal values adjacent.

    Examples:
        >>> first, end = tie_groups(np.array([9.0, 5.0, 5.0, 1.0]))
        >>> first.tolist(), end.tolist()
        ([0, 1, 1, 3], [1, 3, 3, 4])
    """
    n = ranked.shape[-1]
    rank = np.arange(n)
    differs = ranked[..., 1:] != ranked[..., :-1]
    first = np.zeros(ranked.shape, np.int64)
    first[..., 1:] = np.where(differs, rank[1:], 0)
    end = np.full(ranked.shape, n, np.int64)
    end[..., :-1] = np.where(differs, rank[1:], n)
    np.maximum.accumulate(first, axis=-1, out=first)
    end = np.minimum.accumulate(end[..., ::-1], axis=-1)[..., ::-1]
    return first, end


def placement(scores: Float64, chosen: Int64, *, top_m: int, explore_share: float) -> Float64:
    """P(the slate has this candidate at this slot) under each draw of the scores, float64 of shape (draws, S).

    Args:
        scores: float64 of shape (draws, n), no NaN; infinities allowed.
        chosen: int64 of shape (S,), candidates of a slate from the top, 1 <= S <= n.
        top_m: 1 or more.
        explore_share: 0 <= explore_share <= 1.

    Examples:
        >>> placement(np.array([[0.9, 0.5, 0.5]]), np.array([0, 2]), top_m=1, explore_share=0.0).tolist()
        [[1.0, 0.5]]
    """
    draws, n = scores.shape
    size = len(chosen)
    if top_m <= 1 and not explore_share:
        best = np.sort(-scores, axis=1)[:, : size + 1]
        if not (best[:, 1:] == best[:, :-1]).any():
            # Rank alone decides: a draw puts an item at a position, or it does not. Ten times cheaper.
            placed: Float64 = (best[:, :size] == -scores[:, chosen]).astype(np.float64)
            return placed
    order = np.argsort(-scores, axis=1)
    first, end = tie_groups(np.take_along_axis(scores, order, axis=1))
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(n)[None], axis=1)
    rank = rank[:, chosen]
    probability = position_probabilities(
        np.take_along_axis(first, rank, axis=1).ravel(),
        np.take_along_axis(end, rank, axis=1).ravel(),
        np.tile(np.arange(size), draws),
        n=n,
        slate_size=size,
        top_m=min(top_m, n),
        explore_share=explore_share,
    )
    return probability.reshape(draws, size)
