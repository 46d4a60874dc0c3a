"""Compiled scores of candidates: sums to mean, width and score in one pass over the rows, nothing in between.

Invariant: equal to `bandits.policies.score` over `Backend.gather` bit for bit: the same operations, in order.
Nothing is checked here: item numbers are within the graph, arrays are as `VIEW` and `POLICY` say.
"""

import math

import numpy as np
from numba import njit

from bandits.draws import COARSE, OPTIMISM, THOMPSON
from bandits.numba_addresses import int32_at, int64_at, uint64_at
from bandits.numba_draws import key_bits, key_uniform, normal_quantile, stream_key
from bandits.numba_inner import inner
from bandits.numba_kernels import _ask_for_row, _ask_for_sums, _find
from bandits.numba_memory import load, pointer, prefetch, store
from bandits.policies import HIGHEST_RATE, LOWEST_RATE, STEADY
from bandits.sums import UNIT

_SCALE_1, _SCALE_2 = 1.0 / UNIT, 1.0 / UNIT**2
_AHEAD = 4  # candidates from one stage to the next, as in bandits.numba_kernels
_SLOTS = 2 * _AHEAD
_TOP_16 = np.uint64(48)

# The row of addresses and sizes of a graph and its sums, of the rows that slates are scored from, 0 where there are
# none, and of the code of `bandits.numba_late`: `late` integrates propensities, `filling` fills a slate, `picking`
# picks one of scored candidates.
VIEW = (
    *("item_ptr", "edge_cluster", "edge_sums", "item_sums", "item_hashes", "n_edges", "late"),
    *("row_at", "row_lines", "filling", "picking"),
)
LATE, ROW_AT, ROW_LINES = map(VIEW.index, ("late", "row_at", "row_lines"))
FILLING_AT, PICKING_AT = map(VIEW.index, ("filling", "picking"))
# The row of a policy's settings, float64.
POLICY = (
    *("mode", "alpha", "thompson_scale", "prior_mean", "prior_strength", "diagonal", "infinite", "largest"),
    *("optimism", "edge_strength", "item_strength", "pooled_mean"),
)
EXPLOIT, UCB, THOMPSON_MODE, UNIFORM, RANDOMIZED = 0, 1, 2, 3, 4


@inner
def score_candidates(view, items, n, clusters, k, weights, policy, quantiles, seed, score, mean, width, keys):  # type: ignore[no-untyped-def]
    """Fill score, mean, width (float64) and keys (uint64) of n candidates.

    All but the numbers n, k and seed are pointers: to a row `VIEW`, int32 items, int32 clusters that ascend, their
    float64 weights, a row `POLICY`, and `bandits.draws.COARSE_QUANTILES`.
    """
    rows, row, n_edges = int64_at(load(view, 0)), int32_at(load(view, 1)), load(view, 5)
    of_edge, hashes = int64_at(load(view, 2)), uint64_at(load(view, 4))
    of_item = int64_at(load(view, 3))
    randomized = load(policy, 0) == RANDOMIZED
    plain, centred = plain_terms(policy), centred_terms(policy)
    offset, factor = stream_key(seed, OPTIMISM if randomized else THOMPSON)
    found_array = np.empty(_SLOTS * k, np.int64)
    found = pointer(found_array)
    for step in range(n + 3 * _AHEAD):
        if step < n:
            prefetch(rows, load(items, step))
        i = step - _AHEAD
        if 0 <= i < n:
            j = load(items, i)
            _ask_for_row(row, load(rows, j), load(rows, j + 1))
            prefetch(hashes, 2 * j)
            if randomized:
                prefetch(of_item, 2 * j)
        i = step - 2 * _AHEAD
        if 0 <= i < n:
            j = load(items, i)
            start, stop = load(rows, j), load(rows, j + 1)
            for c in range(k):
                at = _find(row, n_edges, start, stop, load(clusters, c))
                _ask_for_sums(of_edge, at)
                store(found, (i % _SLOTS) * k + c, at)
        i = step - 3 * _AHEAD
        if i >= 0:
            j, first = load(items, i), (i % _SLOTS) * k
            total, square, blank = 0.0, 0.0, 0.0
            if randomized:
                of_one, towards = item_terms(of_item, j, centred)
                for c in range(k):
                    at = load(found, first + c)
                    if at >= 0:
                        total, square = add_centred(
                            of_edge, at, load(weights, c), centred, of_one, towards, total, square
                        )
            else:
                for c in range(k):
                    at = load(found, first + c)
                    if at >= 0:
                        total, square, blank = add_plain(of_edge, at, load(weights, c), plain, total, square, blank)
            key = load(hashes, 2 * j)
            settle(i, total, square, blank, policy, quantiles, offset, factor, key, score, mean, width)
            store(keys, i, key)
    return len(found_array)  # keeps the array alive until here


# What edges ask of a policy is read once: behind a pointer it would be read again for each edge, and divided anew.


@njit(inline="always")
def plain_terms(policy):  # type: ignore[no-untyped-def]
    """Mean and strength of the prior, and whether the estimator is diagonal."""
    return load(policy, 3), load(policy, 4), load(policy, 5) != 0.0


@njit(inline="always")
def centred_terms(policy):  # type: ignore[no-untyped-def]
    """Of `estimate_centred`: strengths of item and edge, in rewards and in impressions; m, and the lowest rate."""
    edge_strength, item_strength, m = load(policy, 9), load(policy, 10), load(policy, 11)
    return item_strength, item_strength / m, edge_strength, edge_strength / m, m, LOWEST_RATE * m


@njit(inline="always")
def item_terms(of_item, item, centred):  # type: ignore[no-untyped-def]
    """The item's own mean of `estimate_centred`, and what draws its edges towards the pooled one."""
    return item_term(load(of_item, 2 * item), load(of_item, 2 * item + 1), centred)


@njit(inline="always")
def item_term(n, s, centred):  # type: ignore[no-untyped-def]
    """As `item_terms`, of an item's two sums."""
    rewards, impressions, edge_strength, _, m, _ = centred
    of_one = (s * _SCALE_1 + rewards) / (n * 1.0 + impressions)
    return of_one, 0.5 * edge_strength * (1.0 - of_one / m)


@njit(inline="always")
def add_centred(of_edge, at, w, centred, of_one, towards, total, square):  # type: ignore[no-untyped-def]
    """What one edge of weight w adds to mean and squared width about its item's mean; clusters come ascending."""
    a, d, b = load(of_edge, 3 * at), load(of_edge, 3 * at + 1), load(of_edge, 3 * at + 2)
    return add_centred_term(a, d, b, w, centred, of_one, towards, total, square)


@njit(inline="always")
def add_centred_term(a, d, b, w, centred, of_one, towards, total, square):  # type: ignore[no-untyped-def]
    """As `add_centred`, of an edge's three sums."""
    _, _, _, strength, _, lowest = centred
    inverse = 1.0 / (d * _SCALE_2 + strength)
    theta = (b * _SCALE_2 - a * _SCALE_1 * of_one + towards) * inverse + of_one
    rate = min(max(theta, lowest), HIGHEST_RATE)
    return total + theta * w, square + rate * (1.0 - rate) * inverse * (w * w)


@njit(inline="always")
def add_plain(of_edge, at, w, plain, total, square, blank):  # type: ignore[no-untyped-def]
    """As `bandits.policies.estimate`: what one edge adds to mean, squared width and weight of unseen edges."""
    a, d, b = load(of_edge, 3 * at), load(of_edge, 3 * at + 1), load(of_edge, 3 * at + 2)
    return add_plain_term(a, d, b, w, plain, total, square, blank)


@njit(inline="always")
def add_plain_term(a, d, b, w, plain, total, square, blank):  # type: ignore[no-untyped-def]
    """As `add_plain`, of an edge's three sums."""
    prior_mean, strength, diagonal = plain
    if d > 0 or strength > 0.0:
        inverse = 1.0 / (d * _SCALE_2 + strength)
        divisor = inverse if diagonal else 1.0 / (a * _SCALE_1 + strength)
        total += (b * _SCALE_2 + prior_mean * strength) * divisor * w
        square += inverse * (w * w)
    return total, square, blank + w if d == 0 else blank


@njit(inline="always")
def ask_for_draw(quantiles, offset, factor, key):  # type: ignore[no-untyped-def]
    """Ask for what `settle` reads of a candidate's draw, where scores are drawn from the table."""
    prefetch(quantiles, COARSE + np.int64(key_bits(offset, factor, key) >> _TOP_16))


@njit(inline="always")
def settle(i, total, square, blank, policy, quantiles, offset, factor, key, score, mean, width):  # type: ignore[no-untyped-def]
    """Write score, mean and width of candidate i from what its edges added up to."""
    at_width = math.sqrt(square)
    if load(policy, 0) == RANDOMIZED:
        draw = np.int64(key_bits(offset, factor, key) >> _TOP_16)
        drawn = STEADY + (1.0 - STEADY) * load(quantiles, COARSE + draw)
        store(mean, i, total)
        store(width, i, at_width)
        store(score, i, total + load(policy, 8) * drawn * at_width)
        return
    prior_mean, strength, infinite = load(policy, 3), load(policy, 4), load(policy, 6) != 0.0
    if blank > 0.0 and strength == 0.0 and prior_mean != 0.0:
        total += prior_mean * blank
    unseen = blank > 0.0 and infinite
    store(mean, i, total)
    store(width, i, np.inf if unseen else at_width)
    store(score, i, _score(total, at_width, unseen, policy, offset, factor, key))


@njit(inline="always")
def _score(mean, width, unseen, policy, offset, factor, key):  # type: ignore[no-untyped-def]
    mode = load(policy, 0)
    if mode == UCB:
        alpha = load(policy, 1)
        return mean if alpha == 0.0 else (np.inf if unseen else mean + alpha * width)
    if mode == THOMPSON_MODE:
        scale = load(policy, 2)
        if scale == 0.0:
            return mean
        return np.inf if unseen else mean + scale * normal_quantile(key_uniform(offset, factor, key)) * width
    return 0.0 if mode == UNIFORM else mean
