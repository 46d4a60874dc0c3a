"""Compiled shortlist: of the items around a user, those that may be in the slate or bear on its propensities.

Three passes over what is contiguous: the user's edges to slots of their items, the rows of the edges to totals of
the slots (`bandits.numba_edge_lanes`), the totals to bounds of scores and means. Then whoever's best score is below
the worst scores of enough others is left out, and the few that are left are scored exactly.

Invariants: an item that is left out is in no slate of the policy whatever is drawn, is not among the means that
tell what is explored, and is passed over by `bandits.numba_ranks`; so a slate of the shortlist is the slate of all
items, bit for bit. The order is that in which items were found. Totals are 0 and places as they were, before and
after. Nothing is checked here.
"""

import numpy as np
from numba import njit

from bandits.drawn_ranks import HIGHEST_ROOT
from bandits.numba_addresses import float32_at, int32_at, int64_at
from bandits.numba_edge_lanes import (
    ROUNDINGS,
    TERMS,
    TOGETHER,
    add_lanes,
    bound_lanes,
    centred_lanes,
    plain_lanes,
)
from bandits.numba_inner import inner
from bandits.numba_memory import advance, load, pointer, prefetch, store
from bandits.numba_requests import fill_slate_into
from bandits.numba_scores import RANDOMIZED, UCB, centred_terms, item_terms, plain_terms
from bandits.policies import STEADY

_AHEAD = 16  # items
_GROUPS = 256  # bounds are compared with the best of so many groups of items
_TWO_ROUNDINGS = 2.0**-23
_F = np.float32

# The row of addresses that `shortlist` works on: `cluster_ptr` and `cluster_item` of the graph, the cluster-major
# rows (float32, three an edge), and memory of its own: `place` of each item (int32: -1, or 0 of one that is not
# live), `slots` and `found` (int32), `totals` (float32, four a slot, all 0), `means` (float32) and `bounds`
# (float32, two a slot), all for `room` slots: as many as there are edges, TOGETHER more a cluster, and TOGETHER.
NEAR = ("cluster_ptr", "cluster_item", "rows", "place", "slots", "found", "totals", "means", "bounds", "room")
ROOM = NEAR.index("room")


# What `fill_listed` says instead of a number of items.
TOO_FEW, NO_ROOM = -1, -2


@inner
def fill_listed(  # type: ignore[no-untyped-def]
    near, found, view, attached, clusters, weights, policy, quantiles, seed, top_m, fewest, share, table, chosen,
    numbers, explored,
):  # fmt: skip
    """A slate of the shortlist into arrays as `bandits.numba_requests.fill_slate_into` takes them.

    `found` is the array whose address `near` holds, `table` has no elements; `chosen` are numbers of items. Returns
    how many were listed and how many items there are. No slate is filled if fewer are listed than it has slots, or
    more than one item in `share`; nor with `TOO_FEW` edges, fewer than `fewest`, and how many, nor where there is
    `NO_ROOM`, and how much is needed.
    """
    ptr, edges = int64_at(load(pointer(near), 0)), np.int64(len(attached))
    for c in range(len(clusters)):
        edges += load(ptr, np.int64(clusters[c]) + 1) - load(ptr, np.int64(clusters[c]))
    if edges < fewest:
        return np.int64(TOO_FEW), edges
    needed = edges + TOGETHER * (len(clusters) + 1)
    if needed > load(pointer(near), ROOM):
        return np.int64(NO_ROOM), needed
    size = len(chosen)
    kept, count = shortlist(
        pointer(near), pointer(view), attached, clusters, weights, pointer(policy), max(size, top_m), size
    )
    if size <= kept and kept * share <= count:
        fill_slate_into(
            view, found[:kept], clusters, weights, policy, quantiles, seed, min(top_m, kept), 0.0, 1, table, table,
            chosen, numbers, explored,
        )  # fmt: skip
        for slot in range(size):
            chosen[slot] = found[chosen[slot]]
    return kept, count


@inner(error_model="numpy")
def shortlist(near, view, attached, clusters, weights, policy, depth, size):  # type: ignore[no-untyped-def]
    """Items that may matter, into `found`; how many, and how many items are around the user.

    Args:
        near: row `NEAR`.
        view: pointer to a row `bandits.numba_scores.VIEW`.
        attached: int32, items attached to the clusters since the graph was built; all that are live are listed.
        clusters: int32.
        weights: float64, of the clusters.
        policy: pointer to a row `bandits.numba_scores.POLICY`.
        depth: ranks that matter, the size of the slate or what is permuted.
        size: of the slate.
    """
    place, found = int32_at(load(near, 3)), int32_at(load(near, 5))
    count = _find(near, clusters)
    if load(policy, 0) == RANDOMIZED:
        _add_centred(near, view, clusters, weights, policy, count)
    else:
        _add_plain(near, clusters, weights, policy)
    held = np.full(2 * _GROUPS, _F(-np.inf))
    best = pointer(held)
    _bound(near, policy, len(clusters), count, best)
    floor, mean_floor = _nth(best, depth + 1), _nth(advance(best, _GROUPS), size)
    kept = _keep(near, count, floor, mean_floor)
    for at in range(len(attached)):
        item = np.int64(attached[at])
        if load(place, item) < 0:
            store(place, item, np.int32(1))
            store(found, kept, np.int32(item))
            kept, count = kept + 1, count + 1
    for at in range(len(attached)):
        item = np.int64(attached[at])
        if load(place, item) > 0:
            store(place, item, np.int32(-1))
    return kept, count + 0 * len(held)  # keeps the array alive until here


@inner
def _find(near, clusters):  # type: ignore[no-untyped-def]
    """Slots of the items of all edges, from 1 on, and of what fills up a run of TOGETHER, 0; how many items.

    The rows of the edges, which are read next, are asked for meanwhile.
    """
    ptr, items, rows = int64_at(load(near, 0)), int32_at(load(near, 1)), float32_at(load(near, 2))
    place, slots, found = int32_at(load(near, 3)), int32_at(load(near, 4)), int32_at(load(near, 5))
    count, end = np.int64(0), np.int64(0)
    for c in range(len(clusters)):
        start, stop = load(ptr, np.int64(clusters[c])), load(ptr, np.int64(clusters[c]) + 1)
        later = load(ptr, np.int64(clusters[min(c + 1, len(clusters) - 1)]))
        for run in range(start, stop, TOGETHER):
            prefetch(items, later + run - start)
            for line in range(3):
                prefetch(rows, 3 * run + line * TOGETHER)
            for at in range(run, min(run + TOGETHER, stop)):
                prefetch(place, load(items, min(at + 2 * _AHEAD, stop - 1)))
                item = np.int64(load(items, at))
                slot = np.int64(load(place, item))
                is_new = slot < 0
                slot = count + 1 if is_new else slot
                store(place, item, np.int32(slot))  # no branch: half of the items are new, half are not
                store(found, count + 1, np.int32(item))
                store(slots, end, np.int32(slot))
                end, count = end + 1, count + is_new
        while end % TOGETHER:
            store(slots, end, np.int32(0))
            end += 1
    return count


@inner(error_model="numpy")
def _add_centred(near, view, clusters, weights, policy, count):  # type: ignore[no-untyped-def]
    ptr, rows, slots = int64_at(load(near, 0)), float32_at(load(near, 2)), int32_at(load(near, 4))
    found, totals, means = int32_at(load(near, 5)), float32_at(load(near, 6)), float32_at(load(near, 7))
    of_item, centred = int64_at(load(view, 3)), centred_terms(policy)
    store(means, 0, _F(0.0))
    for slot in range(1, count + 1):
        prefetch(of_item, 2 * load(found, min(slot + _AHEAD, count)))
        store(means, slot, _F(item_terms(of_item, np.int64(load(found, slot)), centred)[0]))
    _, _, in_rewards, strength, _, lowest = centred
    held = np.empty(TERMS, np.float32)
    terms, end = pointer(held), np.int64(0)
    for c in range(len(clusters)):
        start, stop = load(ptr, np.int64(clusters[c])), load(ptr, np.int64(clusters[c]) + 1)
        for at in range(start, stop, TOGETHER):
            centred_lanes(
                advance(rows, 3 * at), advance(slots, end), means, terms, _F(weights[c]), _F(strength),
                _F(0.5 * in_rewards), _F(lowest),
            )  # fmt: skip
            add_lanes(terms, advance(slots, end), totals)
            end += TOGETHER
    return len(held)  # keeps the array alive until here


@inner(error_model="numpy")
def _add_plain(near, clusters, weights, policy):  # type: ignore[no-untyped-def]
    ptr, rows, slots = int64_at(load(near, 0)), float32_at(load(near, 2)), int32_at(load(near, 4))
    totals = float32_at(load(near, 6))
    prior_mean, strength, diagonal = plain_terms(policy)
    held = np.empty(TERMS, np.float32)
    terms, end = pointer(held), np.int64(0)
    for c in range(len(clusters)):
        start, stop = load(ptr, np.int64(clusters[c])), load(ptr, np.int64(clusters[c]) + 1)
        for at in range(start, stop, TOGETHER):
            plain_lanes(
                advance(rows, 3 * at), terms, _F(weights[c]), _F(prior_mean * strength), _F(strength), diagonal
            )
            add_lanes(terms, advance(slots, end), totals)
            end += TOGETHER
    return len(held)


@njit(inline="always")
def _factors(policy):  # type: ignore[no-untyped-def]
    """The least and the largest factor that a width may have in a score, as ranks are integrated."""
    mode = load(policy, 0)
    if mode == RANDOMIZED:
        optimism = load(policy, 8)
        return optimism * STEADY, optimism * (STEADY + (1.0 - STEADY) * HIGHEST_ROOT)
    alpha = load(policy, 1) if mode == UCB else 0.0
    return alpha, alpha


@inner
def _bound(near, policy, k, count, best):  # type: ignore[no-untyped-def]
    """Bounds of scores and means of the slots, and the best lower bounds of groups of them; totals are 0 again.

    A total errs by as many roundings as were added up, and as a term has; a square root halves what its square errs
    by. Twice that is allowed for, which the arithmetic of the bounds stays within.
    """
    totals, bounds, room = float32_at(load(near, 6)), float32_at(load(near, 8)), load(near, ROOM)
    randomized = load(policy, 0) == RANDOMIZED
    least, most = _factors(policy)
    error = (k + ROUNDINGS) * _TWO_ROUNDINGS
    kinds = 1 if randomized else (2 if load(policy, 6) != 0.0 and most > 0.0 else 0)
    blank = load(policy, 3) if load(policy, 4) == 0.0 else 0.0
    for i in range(0, count, TOGETHER):
        group = advance(best, i % _GROUPS)
        bound_lanes(
            advance(totals, 4 * (i + 1)), count - i, advance(bounds, i), advance(bounds, room + i), group,
            advance(group, _GROUPS), _F(error), _F(least), _F(most), _F(blank), kinds,
        )  # fmt: skip
    for column in range(4):
        store(totals, column, _F(0.0))


@inner
def _nth(values, n):  # type: ignore[no-untyped-def]
    """The n-th largest of _GROUPS values; -inf if there are fewer. A pointer."""
    held = np.full(n, -np.inf)
    best = pointer(held)
    for i in range(_GROUPS):
        value, at = np.float64(load(values, i)), n - 1
        if value <= load(best, at):
            continue
        while at > 0 and load(best, at - 1) < value:
            store(best, at, load(best, at - 1))
            at -= 1
        store(best, at, value)
    return held[n - 1]


@inner
def _keep(near, count, floor, mean_floor):  # type: ignore[no-untyped-def]
    """Move those who reach a floor to the front of `found`, and let all of them go from their places; how many."""
    place, found = int32_at(load(near, 3)), int32_at(load(near, 5))
    bounds, room = float32_at(load(near, 8)), load(near, ROOM)
    kept = np.int64(0)
    for i in range(count):
        item = load(found, i + 1)
        store(place, np.int64(item), np.int32(-1))
        above, mean_above = np.float64(load(bounds, i)), np.float64(load(bounds, room + i))
        reaches = above >= floor or mean_above >= mean_floor
        store(found, kept, item)
        kept += reaches
    return kept
