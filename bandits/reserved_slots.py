"""Slates with slots that are reserved for uniform draws from pools of candidates, with exact propensities.

What `bandits.slates` does where every candidate may be explored, for the case that only some may: a pool holds the
candidates that a share of the slots is drawn from. Each slate has `share * slots` drawn slots of a pool in
expectation, its floor or one more; which slots they are is random, what lies in them is uniform over the pool.

Invariants: no item twice; pools are disjoint, and whoever is in none is never drawn; the slate is a function of
(scores, keys, pools, settings, seed); 0 < propensity <= 1, exact over the picker's own randomness; over all
candidates those of one position sum to 1.

One mechanism: draw the reserved slots first; rank who is left, ties in seeded random order; permute their first m
ranks uniformly; fill the other slots in that order.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from bandits.draws import EXPLORE_COIN, EXPLORE_ORDER, RESERVED_SLOTS, bits, uniforms
from bandits.hashing import UInt64
from bandits.slate_propensity import EXPLORED_SLOTS, tie_groups
from bandits.slates import pick

Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

POOLS = 2  # there are two; 0 is none
_COINS = np.arange(POOLS, dtype=np.uint64)
_SLOTS = np.arange(EXPLORED_SLOTS, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class Pools:
    """Who may be drawn.

    Attributes:
        of: int8 of shape (n,), 1 or 2 for candidates of a pool, 0 for those of none.
        shares: of the slots that are drawn from each pool; they add up to at most 1. They concern the first
            `EXPLORED_SLOTS` slots, those below are filled by rank.
    """

    of: Int8
    shares: tuple[float, float]

    def sizes(self) -> Int64:
        """Members of each pool, int64 of shape (2,)."""
        return np.bincount(self.of, minlength=POOLS + 1)[1:].astype(np.int64)

    @property
    def draw(self) -> bool:
        """Whether anything can be drawn."""
        return any(share > 0 and size for share, size in zip(self.shares, self.sizes().tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class ReservedSlate:
    """A picked slate of S items, top first.

    Attributes:
        chosen: int64 of shape (S,), indices of candidates.
        propensity: float64 of shape (S,), P(this item at this position | the scores).
        drawn: int8 of shape (S,), the pool that the slot was drawn from, 0 where it was filled by rank.
    """

    chosen: Int64
    propensity: Float64
    drawn: Int8


def pick_reserved(
    score: Float64, *, keys: UInt64, slate_size: int, top_m: int, pools: Pools, seed: int
) -> ReservedSlate:
    """Pick a slate.

    Args:
        score: float64 of shape (n,), +-inf allowed.
        keys: uint64 of shape (n,), distinct; what the candidates' random draws are keyed by.
        slate_size: 1 or more; the slate is shorter if there are fewer candidates.
        top_m: the first top_m ranks of who is not drawn are permuted uniformly; 1 = by rank.
        pools: who may be drawn.
        seed: 0 <= seed < 2^64.

    Raises:
        ValueError: a score is NaN.

    Examples:
        >>> pools = Pools(np.array([0, 0, 1], np.int8), (0.5, 0.0))
        >>> score, keys = np.array([0.9, 0.5, 0.1]), np.arange(3, dtype=np.uint64)
        >>> slate = pick_reserved(score, keys=keys, slate_size=2, top_m=1, pools=pools, seed=3)
        >>> slate.chosen.tolist(), slate.propensity.tolist(), slate.drawn.tolist()
        ([2, 0], [0.5, 0.5], [1, 0])
    """
    chosen, drawn = draw_slate(score, keys=keys, slate_size=slate_size, top_m=top_m, pools=pools, seed=seed)
    if not len(chosen):
        return ReservedSlate(chosen, np.empty(0), drawn)
    propensity = placement_reserved(score[None], chosen, top_m=top_m, pools=pools)[0]
    return ReservedSlate(chosen, propensity, drawn)


def draw_slate(
    score: Float64, *, keys: UInt64, slate_size: int, top_m: int, pools: Pools, seed: int
) -> tuple[Int64, Int8]:
    """`chosen` and `drawn` of `pick_reserved`."""
    n = len(score)
    size = min(slate_size, n)
    open_slots = min(size, EXPLORED_SLOTS)
    chosen, drawn = np.full(size, -1, np.int64), np.zeros(size, np.int8)
    slots = np.argsort(bits(seed, RESERVED_SLOTS, _SLOTS[:open_slots]))
    taken = np.zeros(n, np.bool_)
    for pool, count in enumerate(_drawn_counts(pools, open_slots, seed), 1):
        members = np.flatnonzero(pools.of == pool)
        first = members[np.argsort(bits(seed, EXPLORE_ORDER, keys[members]))[:count]]
        mine, slots = slots[:count], slots[count:]
        chosen[mine], drawn[mine], taken[first] = first, pool, True
    left = int(np.count_nonzero(chosen < 0))
    if left:
        ranked = pick(score, keys=keys, slate_size=left, top_m=top_m, excluded=taken, seed=seed)
        chosen[chosen < 0] = ranked.chosen
    return chosen, drawn


def _drawn_counts(pools: Pools, open_slots: int, seed: int) -> list[int]:
    """How many slots are drawn from each pool."""
    counts: list[int] = []
    coins = uniforms(seed, EXPLORE_COIN, _COINS).tolist()
    for share, size, coin in zip(pools.shares, pools.sizes().tolist(), coins, strict=True):
        whole, part = divmod(share * open_slots, 1)
        counts.append(min(int(whole) + (coin < part), size, open_slots - sum(counts)))
    return counts


def possible_counts(pools: Pools, open_slots: int) -> Iterator[tuple[tuple[int, int], float]]:
    """What `pick_reserved` may draw from each pool, with the probability of each case; those of 0 are left out."""
    choices = []
    for share in pools.shares:
        whole, part = divmod(share * open_slots, 1)
        choices.append([(int(whole), 1 - part), (int(whole) + 1, part)])
    size1, size2 = pools.sizes().tolist()
    for (count1, p1), (count2, p2) in itertools.product(*choices):
        if p1 * p2 > 0:
            first = min(count1, size1, open_slots)
            yield (first, min(count2, size2, open_slots - first)), p1 * p2


def placement_reserved(scores: Float64, chosen: Int64, *, top_m: int, pools: Pools) -> Float64:
    """P(the slate has this candidate at this slot) under each draw of the scores, float64 of shape (draws, S).

    Args:
        scores: float64 of shape (draws, n), no NaN; infinities allowed.
        chosen: int64 of shape (S,), candidates of a slate from the top, 1 <= S <= n.
        top_m: 1 or more.
        pools: who may be drawn.
    """
    draws, n = scores.shape
    size = len(chosen)
    order = np.argsort(-scores, axis=1)
    first, end = tie_groups(np.take_along_axis(scores, order, axis=1))
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(n)[None], axis=1)
    rank = rank[:, chosen]
    first, end = np.take_along_axis(first, rank, axis=1), np.take_along_axis(end, rank, axis=1)
    above, tied = np.empty((POOLS, draws, size), np.int64), np.empty((POOLS, draws, size), np.int64)
    for pool in range(POOLS):
        ahead = np.zeros((draws, n + 1), np.int64)
        np.cumsum(pools.of[order] == pool + 1, axis=1, out=ahead[:, 1:])
        above[pool] = np.take_along_axis(ahead, first, axis=1)
        tied[pool] = np.take_along_axis(ahead, end, axis=1) - above[pool] - (pools.of[chosen] == pool + 1)
    return _probabilities(
        first, end, above, tied, pools.of[chosen], n=n, top_m=min(top_m, n), pools=pools, size=size
    )


def _probabilities(
    first: Int64, end: Int64, above: Int64, tied: Int64, own: Int8, *, n: int, top_m: int, pools: Pools, size: int
) -> Float64:
    """P(item at its slot), of shape (draws, S).

    `first` and `end` are the ranks of each item's group of ties, `above` and `tied` how many of each pool are above
    that group and how many others in it, `own` the item's own pool. An item that is not drawn is as many ranks
    higher as were drawn from above it, and finds as many slots taken as are reserved before its own.
    """
    slot = np.arange(size)
    open_slots = min(size, EXPLORED_SLOTS)
    is_open = slot < open_slots
    sizes = pools.sizes()
    total = np.zeros(first.shape)
    for counts, p in possible_counts(pools, open_slots):
        drawn = sum(counts)
        undrawn = np.ones(size)
        for pool, count in enumerate(counts):
            mine = own == pool + 1
            undrawn[mine] = 1 - count / max(1, int(sizes[pool]))
            total += np.where(mine & is_open, p * count / (open_slots * max(1, int(sizes[pool]))), 0.0)
        undrawn *= np.where(is_open, 1 - drawn / open_slots, 1.0)
        others = [sizes[pool] - (own == pool + 1) for pool in range(POOLS)]
        for hidden, before in itertools.product(_hidden(counts, above, tied, others), range(drawn + 1)):
            up, beside, chance = hidden
            taken = np.where(is_open, _choose(slot, before, open_slots - 1 - slot, drawn - before), before == drawn)
            placed = _at_rank(first - up, end - first - beside, slot - before, min(top_m, n - drawn))
            total += p * undrawn * chance * taken * placed
    return np.minimum(total, 1.0)  # a sum of rounded terms may end an ulp above 1


def _hidden(
    counts: tuple[int, int], above: Int64, tied: Int64, others: list[Int64]
) -> list[tuple[int, int, Float64]]:
    """How many of those drawn may have been above an item and beside it, and the probability of each case."""
    cases: dict[tuple[int, int], Float64] = {(0, 0): np.ones(above.shape[1:])}
    for pool, count in enumerate(counts):
        most_up, most_beside = min(count, int(above[pool].max())), min(count, int(tied[pool].max()))
        below = others[pool] - above[pool] - tied[pool]
        added: dict[tuple[int, int], Float64] = {}
        for up, beside in itertools.product(range(most_up + 1), range(most_beside + 1)):
            if up + beside > count:
                continue
            chance = _choose(above[pool], up, tied[pool], beside, below, count - up - beside)
            for (up_before, beside_before), before in cases.items():
                key = up_before + up, beside_before + beside
                added[key] = added.get(key, 0.0) + before * chance
        cases = added
    return [(up, beside, chance) for (up, beside), chance in cases.items()]


def _at_rank(first: Int64, tied: Int64, rank: Int64, top_m: int) -> Float64:
    """P(an item of a group of `tied` whose first rank is `first` gets `rank`), as `position_probabilities`."""
    tied = np.maximum(tied, 1)
    if top_m <= 1:
        return ((first <= rank) & (rank < first + tied)) / tied
    inside = np.clip(top_m - first, 0, tied)
    beyond = (first + inside <= rank) & (rank < first + tied)
    probability: Float64 = inside / tied * ((rank >= 0) & (rank < top_m)) / top_m + beyond / tied
    return probability


def _choose(*groups: int | Int64) -> Float64:
    """Probability of (members, drawn) group by group, given how many are drawn in all; 0 where it cannot be."""
    members, drawn = groups[::2], groups[1::2]
    possible: npt.NDArray[np.bool_] = np.array(True)
    logarithm: Float64 = -_log_choose(sum(members), sum(drawn))
    for some, few in zip(members, drawn, strict=True):
        possible = possible & (np.asarray(few) >= 0) & (np.asarray(few) <= np.asarray(some))
        logarithm = logarithm + _log_choose(some, few)
    chance: Float64 = np.where(possible, np.exp(np.where(possible, logarithm, 0.0)), 0.0)
    return chance


def _log_choose(members: int | Int64, drawn: int | Int64) -> Float64:
    members, drawn = np.asarray(members), np.asarray(drawn)
    left = members - drawn
    logarithm: Float64 = (
        gammaln(np.maximum(members, 0) + 1.0)
        - gammaln(np.maximum(drawn, 0) + 1.0)
        - gammaln(np.maximum(left, 0) + 1.0)
    )
    return logarithm
