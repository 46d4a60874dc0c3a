"""Picking a slate from scores, with exploration and exact propensities.

Invariants: no item twice; an excluded item never; the slate is a function of (scores, keys, settings, seed) and
independent of the order of the candidates; 0 < propensity <= 1, exact over the picker's own randomness.

One mechanism: rank by score, ties in seeded random order; permute the first m ranks uniformly; then fill each slot
by the best remaining rank or, with probability `explore_share`, by a uniform draw from all that remain.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.draws import EXPLORE_COIN, EXPLORE_ORDER, TIES, TOP_M, bits, uniforms
from bandits.hashing import UInt64
from bandits.slate_propensity import EXPLORED_SLOTS, placement, position_probabilities

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_SLOTS = np.arange(EXPLORED_SLOTS, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class Slate:
    """A picked slate of S items, top first.

    Attributes:
        chosen: int64 of shape (S,), indices of candidates.
        propensity: float64 of shape (S,), P(this item at this position | the scores).
        explored: bool of shape (S,), True where the slot was filled by an exploration draw.
    """

    chosen: Int64
    propensity: Float64
    explored: Bool


def pick(
    score: Float64,
    *,
    keys: UInt64,
    slate_size: int,
    top_m: int = 1,
    explore_share: float = 0.0,
    excluded: Bool | None = None,
    seed: int,
) -> Slate:
    """Pick a slate.

    Args:
        score: float64 of shape (n,), +-inf allowed.
        keys: uint64 of shape (n,), distinct; what the candidates' random draws are keyed by.
        slate_size: 0 = all candidates; the slate is shorter if there are fewer.
        top_m: the first top_m ranks are permuted uniformly; 1 = by rank. A slate of up to top_m items is then a
            uniform draw from the top m; a longer one goes on by rank.
        explore_share: probability that a slot is drawn uniformly from the remaining candidates; applies to the
            first `EXPLORED_SLOTS` slots.
        excluded: bool of shape (n,), True for candidates never to be returned.
        seed: 0 <= seed < 2^64.

    Raises:
        ValueError: an argument is out of range, or a score is NaN; the message names it.

    Examples:
        >>> slate = pick(np.array([0.1, 0.9, 0.5]), keys=np.arange(3, dtype=np.uint64), slate_size=2, seed=1)
        >>> slate.chosen.tolist(), slate.propensity.tolist()
        ([1, 2], [1.0, 1.0])
    """
    _check(slate_size, top_m, explore_share)
    kept = None if excluded is None or not excluded.any() else np.flatnonzero(~excluded)
    if kept is not None:
        score, keys = score[kept], keys[kept]
    n = len(score)
    size, m = min(slate_size or n, n), min(top_m, n)
    descending = -score
    order = np.argsort(descending)
    ranked = descending[order]
    if n and np.isnan(ranked[-1]):
        raise ValueError(f"score: expected no NaN, got {np.count_nonzero(np.isnan(score))}")
    # Below this rank ties decide nothing, unless exploration can reach them.
    decisive = n if explore_share else max(size, m) + 1
    tied = bool((ranked[1:decisive] == ranked[: decisive - 1][: n - 1]).any())
    if tied:
        order = np.lexsort((bits(seed, TIES, keys), descending))
    if m > 1:
        order[:m] = order[np.argsort(bits(seed, TOP_M, keys[order[:m]]))]
    taken, explored = _fill(keys[order], size, explore_share, seed)
    chosen = order[taken]
    propensity = np.ones(size)
    if size and (tied or m > 1 or explore_share):
        at = descending[chosen]
        first, end = np.searchsorted(ranked, at, side="left"), np.searchsorted(ranked, at, side="right")
        propensity = position_probabilities(
            first, end, np.arange(size), n=n, slate_size=size, top_m=m, explore_share=explore_share
        )
    return Slate(chosen if kept is None else kept[chosen], propensity, explored)


def _check(slate_size: int, top_m: int, explore_share: float) -> None:
    if slate_size < 0:
        raise ValueError(f"slate_size: expected 0 or more, got {slate_size}")
    if top_m < 1:
        raise ValueError(f"top_m: expected 1 or more, got {top_m}")
    if not 0 <= explore_share <= 1:
        raise ValueError(f"explore_share: expected 0 <= explore_share <= 1, got {explore_share}")


def _fill(keys: UInt64, size: int, explore_share: float, seed: int) -> tuple[Int64, Bool]:
    """Ranks in slate order, and which slots were explored; `keys` are in order of rank.

    The next untaken item of one random order of all items is uniform among those that remain, whatever was taken by
    rank in between, because nothing has been seen of their relative order. So slots merge two queues.
    """
    explored = np.zeros(size, np.bool_)
    if explore_share:
        slots = min(size, EXPLORED_SLOTS)
        explored[:slots] = uniforms(seed, EXPLORE_COIN, _SLOTS[:slots]) < explore_share
    if not explored.any():
        return np.arange(size), explored
    draw = np.argsort(bits(seed, EXPLORE_ORDER, keys))
    # Before a queue's first untaken item lie at most as many as were taken.
    random_queue, rank_queue = iter(draw[:slots].tolist()), iter(range(slots))
    taken: dict[int, None] = {}
    for explore in explored[:slots].tolist():
        queue = random_queue if explore else rank_queue
        taken[next(rank for rank in queue if rank not in taken)] = None
    head = np.fromiter(taken, np.int64, slots)
    rest = np.ones(len(keys), np.bool_)
    rest[head] = False
    return np.concatenate([head, np.flatnonzero(rest)[: size - slots]]), explored


def beyond_means(mean: Float64, chosen: Int64) -> Bool:
    """Which items of a slate the mean alone would not have put in it: those that are there to be found out about.

    Args:
        mean: float64 of shape (n,), of the candidates.
        chosen: int64 of shape (S,), the slate.

    Returns:
        bool of shape (S,); False for equals of the last that the mean would have taken.

    Examples:
        >>> beyond_means(np.array([0.1, 0.9, 0.5]), np.array([0, 1])).tolist()
        [True, False]
    """
    if len(chosen) == 0:
        return np.zeros(0, np.bool_)
    last = np.partition(mean, len(mean) - len(chosen))[len(mean) - len(chosen)]
    beyond: Bool = mean[chosen] < last
    return beyond


def estimate_propensity(
    slate: Slate,
    redraws: Float64,
    *,
    top_m: int = 1,
    explore_share: float = 0.0,
    excluded: Bool | None = None,
) -> Float64:
    """Monte Carlo estimate of P(this item at this position) where the scores themselves were drawn.

    Averages the exact propensity given the scores over the draw that was served and M redraws of it:
    (propensity + sum over redraws) / (M + 1). Without ties, top m and exploration that is (count + 1) / (M + 1).
    Counting the served draw keeps the estimate above 0; its bias is at most 1 / (M + 1).

    Args:
        slate: what was served.
        redraws: float64 of shape (M, n), scores under fresh draws, columns in the order of the candidates.
        top_m: as it was for the slate.
        explore_share: as it was for the slate.
        excluded: as it was for the slate.

    Returns:
        float64 of shape (S,).
    """
    chosen = slate.chosen
    if excluded is not None:
        chosen = (np.cumsum(~excluded) - 1)[chosen]
        redraws = redraws[:, ~excluded]
    if len(chosen) == 0:
        return np.empty(0)
    placed = placement(redraws, chosen, top_m=top_m, explore_share=explore_share)
    total = np.add.accumulate(placed)[-1]  # from the first redraw to the last
    mean: Float64 = (slate.propensity + total) / (len(redraws) + 1)
    return mean
