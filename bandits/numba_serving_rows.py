"""Compiled writing of serving rows, and scores of candidates read from them: few cache lines a candidate.

What a candidate costs is the lines that are fetched for it. Its row has its hash, its sums and its clusters on the
first line or two, and the sums of four edges on each of the next; nothing else has to be looked at.

A row, in bytes: hash (8), n (8), s (8), number of edges and what they are worth (8, see `_ELSEWHERE`), a cluster an
edge (2), then from the next multiple of 16 on the sums of an edge (16): two words of 64 bits, of which the lower 47
are d and b and the upper 17 halves of a. Rows begin on a cache line.

Invariants: a row says what the sums say, to the last bit, or says `_ELSEWHERE`, and then the sums are read. So
scores equal those of `bandits.numba_scores.score_candidates` bit for bit. Nothing is checked here.
"""

from typing import Any

import numpy as np
from numba import njit

from bandits.draws import OPTIMISM, THOMPSON
from bandits.numba_addresses import address_of, int16_at, int32_at, int64_at
from bandits.numba_draws import stream_key
from bandits.numba_inner import inner
from bandits.numba_kernels import _find
from bandits.numba_memory import SHORT_LANES, advance, equal_short_lanes, load, lowest_bit, pointer, prefetch, store
from bandits.numba_scores import (
    RANDOMIZED,
    ROW_AT,
    ROW_LINES,
    add_centred,
    add_centred_term,
    add_plain,
    add_plain_term,
    ask_for_draw,
    centred_terms,
    item_term,
    item_terms,
    plain_terms,
    settle,
)

LINE = 64  # bytes
MOST_EDGES = 2 * SHORT_LANES
HEAD, SUMS, CLUSTER = 32, 16, 2  # bytes
_ELSEWHERE = 1 << 16  # beside the number of edges: more of them, or larger sums, than a row can say
_D_BITS, _HALF_BITS = 47, 17
_D_MASK, _HALF_MASK = (1 << _D_BITS) - 1, (1 << _HALF_BITS) - 1
_BLOCK = 4  # candidates of one stage
_AHEAD = 8  # candidates from one stage to the next
_KEPT = 4 * _AHEAD
_LAST_KEPT = _KEPT - 1  # all bits are set
_WORD = 8
_LONGEST = HEAD + (CLUSTER + SUMS) * MOST_EDGES


def first_sums(edges: Any) -> Any:
    """The byte of a row at which the sums of its edges begin."""
    return (HEAD + CLUSTER * edges + SUMS - 1) & -SUMS


_first_sums = njit(inline="always")(first_sums)


@njit(cache=True, nogil=True)
def write_rows(item_ptr, edge_cluster, edge_sums, item_sums, item_hashes, row_at, lines, items):  # type: ignore[no-untyped-def]
    """Write the rows of some items (int32): `row_at` (int32) says at which of the `lines` (uint8) each begins."""
    rows, row, of_edge, of_item = pointer(item_ptr), pointer(edge_cluster), pointer(edge_sums), pointer(item_sums)
    hashes, starts, base, numbers = pointer(item_hashes), pointer(row_at), address_of(lines), pointer(items)
    for i in range(len(items)):
        if i + _AHEAD < len(items):
            _ask_for_row(base + LINE * np.int64(load(starts, load(numbers, i + _AHEAD))))
        j = np.int64(load(numbers, i))
        at, start = base + LINE * np.int64(load(starts, j)), load(rows, j)
        head, edges = int64_at(at), load(rows, j + 1) - start
        store(head, 0, np.int64(load(hashes, 2 * j)))
        store(head, 1, load(of_item, 2 * j))
        store(head, 2, load(of_item, 2 * j + 1))
        beyond = np.int64(1)
        if edges <= MOST_EDGES:
            beyond = _write_edges(advance(row, start), advance(of_edge, 3 * start), edges, at)
        store(head, 3, edges if beyond == 0 else np.int64(_ELSEWHERE))


@njit(inline="always")
def _ask_for_row(at):  # type: ignore[no-untyped-def]
    for word in range(0, _LONGEST // _WORD, LINE // _WORD):
        prefetch(int64_at(at), word)


@njit(inline="always")
def _write_edges(row, of_edge, edges, at):  # type: ignore[no-untyped-def]
    """Clusters and sums of a row that begins at an address; 0 if it holds all of them."""
    clusters, sums, beyond = int16_at(at + HEAD), int64_at(at + _first_sums(edges)), np.int64(0)
    for edge in range(edges):
        a, d, b = load(of_edge, 3 * edge), load(of_edge, 3 * edge + 1), load(of_edge, 3 * edge + 2)
        store(clusters, edge, np.int16(load(row, edge)))
        store(sums, 2 * edge, d | (a & _HALF_MASK) << _D_BITS)
        store(sums, 2 * edge + 1, b | a >> _HALF_BITS << _D_BITS)
        beyond |= a >> 2 * _HALF_BITS | d >> _D_BITS | b >> _D_BITS  # below 0, too
    return beyond


@inner
def score_rows(view, items, n, clusters, k, weights, policy, quantiles, seed, score, mean, width, keys):  # type: ignore[no-untyped-def]
    """As `bandits.numba_scores.score_candidates`, whose arguments it takes, of a view that has rows."""
    starts, base = int32_at(load(view, ROW_AT)), load(view, ROW_LINES)
    randomized = load(policy, 0) == RANDOMIZED
    plain, centred = plain_terms(policy), centred_terms(policy)
    offset, factor = stream_key(seed, OPTIMISM if randomized else THOMPSON)
    # Of each candidate on its way: where its row is, how many of its edges are to the user's clusters, where their
    # sums are; with which weights, and what `item_term` makes of the item.
    of_way = 2 + k
    way_array, factors_array = np.empty(_KEPT * of_way, np.int64), np.empty(_KEPT * of_way)
    way, factors = pointer(way_array), pointer(factors_array)
    for first in range(0, n + 3 * _AHEAD, _BLOCK):
        for i in _stage(first, 0, n):
            prefetch(starts, load(items, i))
        for i in _stage(first, 1, n):
            at = base + LINE * np.int64(load(starts, load(items, i)))
            prefetch(int64_at(at), 0)
            prefetch(int64_at(at), LINE // _WORD)
            store(way, (i & _LAST_KEPT) * of_way, at)
        for i in _stage(first, 2, n):
            own, own_factors = advance(way, (i & _LAST_KEPT) * of_way), advance(factors, (i & _LAST_KEPT) * of_way)
            head = int64_at(load(own, 0))
            store(own, 1, _match(load(own, 0), clusters, k, weights, advance(own, 2), advance(own_factors, 2)))
            if randomized:
                ask_for_draw(quantiles, offset, factor, np.uint64(load(head, 0)))
                of_one, towards = item_term(load(head, 1), load(head, 2), centred)
                store(own_factors, 0, of_one)
                store(own_factors, 1, towards)
        for i in _stage(first, 3, n):
            own, own_factors = advance(way, (i & _LAST_KEPT) * of_way), advance(factors, (i & _LAST_KEPT) * of_way)
            head, count = int64_at(load(own, 0)), load(own, 1)
            total, square, blank = 0.0, 0.0, 0.0
            if load(head, 3) == _ELSEWHERE:
                item = np.int64(load(items, i))
                total, square, blank = _terms_from_sums(view, item, clusters, k, weights, policy)
            elif randomized:
                of_one, towards = load(own_factors, 0), load(own_factors, 1)
                for edge in range(count):
                    a, d, b = _sums_at(load(own, 2 + edge))
                    w = load(own_factors, 2 + edge)
                    total, square = add_centred_term(a, d, b, w, centred, of_one, towards, total, square)
            else:
                for edge in range(count):
                    a, d, b = _sums_at(load(own, 2 + edge))
                    w = load(own_factors, 2 + edge)
                    total, square, blank = add_plain_term(a, d, b, w, plain, total, square, blank)
            key = np.uint64(load(head, 0))
            settle(i, total, square, blank, policy, quantiles, offset, factor, key, score, mean, width)
            store(keys, i, key)
    return len(way_array) + len(factors_array)  # keeps the arrays alive until here


@njit(inline="always")
def _stage(first, number, n):  # type: ignore[no-untyped-def]
    """Candidates that are now at a stage."""
    start = first - number * _AHEAD
    return range(max(start, 0), min(start + _BLOCK, n))


@njit(inline="always")
def _match(at, clusters, k, weights, to_edges, to_factors):  # type: ignore[no-untyped-def]
    """Ask for the sums of a row's edges to the clusters; their addresses, and weights, ascending; how many."""
    size, count = load(int64_at(at), 3), np.int64(0)
    row, sums = int16_at(at + HEAD), at + _first_sums(size)
    if size > MOST_EDGES:
        return count
    long = size > SHORT_LANES
    for c in range(k):
        cluster = np.int16(load(clusters, c))
        same = equal_short_lanes(row, cluster)
        if long:
            same |= equal_short_lanes(advance(row, SHORT_LANES), cluster) << np.uint64(SHORT_LANES)
        edge = lowest_bit(same)
        found = edge < size
        place = sums + SUMS * edge if found else at  # the head is at hand already: no branch
        prefetch(int64_at(place), 0)
        store(to_edges, count, place)  # overwritten unless counted
        store(to_factors, count, load(weights, c))
        count += found
    return count


@njit(inline="always")
def _sums_at(address):  # type: ignore[no-untyped-def]
    """The three sums of an edge."""
    low, high = load(int64_at(address), 0), load(int64_at(address), 1)
    a = low >> _D_BITS & _HALF_MASK | (high >> _D_BITS & _HALF_MASK) << _HALF_BITS
    return a, low & _D_MASK, high & _D_MASK


@inner
def _terms_from_sums(view, item, clusters, k, weights, policy):  # type: ignore[no-untyped-def]
    """What the edges of an item add up to that its row does not hold."""
    rows, row, n_edges = int64_at(load(view, 0)), int32_at(load(view, 1)), load(view, 5)
    of_edge, of_item = int64_at(load(view, 2)), int64_at(load(view, 3))
    randomized = load(policy, 0) == RANDOMIZED
    plain, centred = plain_terms(policy), centred_terms(policy)
    of_one, towards = item_terms(of_item, item, centred)
    total, square, blank = 0.0, 0.0, 0.0
    for c in range(k):
        at = _find(row, n_edges, load(rows, item), load(rows, item + 1), load(clusters, c))
        if at < 0:
            continue
        if randomized:
            total, square = add_centred(of_edge, at, load(weights, c), centred, of_one, towards, total, square)
        else:
            total, square, blank = add_plain(of_edge, at, load(weights, c), plain, total, square, blank)
    return total, square, blank
