"""Compiled answer to a ScoreRequest: fills the slate and writes the ScoreResponse.

Invariants: the bytes parse to the message that `server.recommender` would have built; the room is what `room_for`
says. Nothing is checked here: what comes in has been read by `server.lane.read_score`.
"""

import sys
from typing import Any

import numpy as np
from numba import njit

from bandits.numba_cache import fingerprint
from bandits.numba_inner import inner
from bandits.numba_memory import pointer
from bandits.numba_requests import MEAN, PROPENSITY, SCORE, WIDTH, fill_slate
from bandits.slates_numba import FILLING
from server.lane import find_ids, write_bytes
from server.lane.find_ids import place_of
from server.lane.read_score import CANDIDATES, CLUSTERS, UNKNOWN
from server.lane.write_bytes import (
    put_byte,
    put_bytes,
    put_double,
    put_text,
    put_text_at,
    put_varint,
    store_float32,
    varint_size,
)
from server.limits import MAX_ID_BYTES
from streams.limits import MAX_CLUSTERS_PER_CONTEXT

_REQUEST_ID, _ITEM, _UNKNOWN, _POSITION = 1 << 3 | 2, 2 << 3 | 2, 3 << 3 | 2, 6 << 3 | 2
_CONTEXT, _MODE, _SEED = 7 << 3 | 2, 8 << 3, 9 << 3
_ITEM_ID, _SLOT, _SCORE, _MEAN, _WIDTH, _PROPENSITY = (
    1 << 3 | 2,
    2 << 3,
    3 << 3 | 1,
    4 << 3 | 1,
    5 << 3 | 1,
    6 << 3 | 1,
)
_KIND, _EXPLORED = 7 << 3, 8 << 3
_IDS, _WEIGHTS = 1 << 3 | 2, 2 << 3 | 2
_ITEM_BYTES = MAX_ID_BYTES + 64  # most that one item takes
_OTHER_BYTES = 64 + 2 * MAX_ID_BYTES + 16 * MAX_CLUSTERS_PER_CONTEXT


def room_for(size: int, unknown_bytes: int, tail_bytes: int) -> int:
    """Bytes that no answer of this slate exceeds.

    Args:
        size: of the slate.
        unknown_bytes: of the ids that the graph does not know, with 4 more for each.
        tail_bytes: of the fields that are the same in all answers.
    """
    return size * _ITEM_BYTES + unknown_bytes + tail_bytes + _OTHER_BYTES


@inner
def _write_score(  # type: ignore[no-untyped-def]
    data, index, view, policy, quantiles, head, band, read, items, clusters, weights, unknown,
    request_id, tail, size, top_m, share, redraws, mode, kind, seed, position, bounds, counts, out,
):  # fmt: skip
    """Write an answer to `out`; how many bytes, the sum of the propensities, and how many slots were explored.

    `data` are the bytes of the request; `index` is a row of `find_ids.INDEX`; `view`, `policy` and what goes with
    them are as `fill_slate` takes them; `read` to `unknown` as `read_score` fills them; `tail` the fields that are
    the same in all answers, `kind` the number of the kind of propensity. `counts` has how many propensities are
    up to each of `bounds`, and above all.
    """
    candidates, k = items[: read[CANDIDATES]], read[CLUSTERS]
    user, affinity = clusters[:k], weights[:k]
    chosen, numbers, explored = fill_slate(
        view, candidates, user, affinity, policy, quantiles, seed, size, top_m, share, redraws, head, band
    )
    to, at = pointer(out), 0
    at = put_text(to, at, _REQUEST_ID, pointer(request_id), 0, len(request_id))
    total, n_explored = 0.0, 0
    counts[:] = 0
    for slot in range(size):
        at = _item(to, at, index, candidates[chosen[slot]], slot, numbers, kind, explored[slot])
        propensity = numbers[PROPENSITY, slot]
        counts[np.searchsorted(bounds, propensity)] += 1
        total += propensity
        n_explored += explored[slot]
    for one in range(read[UNKNOWN]):
        start = unknown[2 * one]
        at = put_text(to, at, _UNKNOWN, pointer(data), start, unknown[2 * one + 1] - start)
    at = put_bytes(to, at, pointer(tail), 0, len(tail))
    at = _packed_position(to, at, np.uint64(position))
    at = _context(to, at, user, affinity)
    at = put_varint(to, put_byte(to, at, _MODE), np.uint64(mode))
    if seed != np.uint64(0):
        at = put_varint(to, put_byte(to, at, _SEED), seed)
    return at, total, n_explored


@inner
def _item(to, at, index, number, slot, numbers, kind, explored):  # type: ignore[no-untyped-def]
    """A ScoredItem."""
    address, size = place_of(pointer(index), np.int64(number))
    body = 1 + varint_size(size) + size + (1 + varint_size(slot) if slot else 0) + 2 + 2 * explored
    for row in range(4):
        body += 9 * (numbers[row, slot] != 0.0)
    at = put_varint(to, put_byte(to, at, _ITEM), np.uint64(body))
    at = put_text_at(to, at, _ITEM_ID, address, size)
    if slot:
        at = put_varint(to, put_byte(to, at, _SLOT), np.uint64(slot))
    at = put_double(to, at, _SCORE, numbers[SCORE, slot])
    at = put_double(to, at, _MEAN, numbers[MEAN, slot])
    at = put_double(to, at, _WIDTH, numbers[WIDTH, slot])
    at = put_double(to, at, _PROPENSITY, numbers[PROPENSITY, slot])
    at = put_byte(to, put_byte(to, at, _KIND), kind)
    return put_byte(to, put_byte(to, at, _EXPLORED), 1) if explored else at


@inner
def _packed_position(to, at, position):  # type: ignore[no-untyped-def]
    """The only entry of `parameters_position`."""
    start = at + 2
    end = put_varint(to, start, position)
    put_byte(to, put_byte(to, at, _POSITION), end - start)
    return end


@inner
def _context(to, at, clusters, weights):  # type: ignore[no-untyped-def]
    """The resolved user, as ClusterWeights."""
    k, ids_size = len(clusters), 0
    for c in range(k):
        ids_size += varint_size(np.int64(clusters[c]))
    weights_size = 4 * k
    body = 2 + varint_size(ids_size) + ids_size + varint_size(weights_size) + weights_size
    at = put_varint(to, put_byte(to, at, _CONTEXT), np.uint64(body))
    at = put_varint(to, put_byte(to, at, _IDS), np.uint64(ids_size))
    for c in range(k):
        at = put_varint(to, at, np.uint64(clusters[c]))
    at = put_varint(to, put_byte(to, at, _WEIGHTS), np.uint64(weights_size))
    for c in range(k):
        store_float32(to, at, np.float32(weights[c]))
        at += 4
    return at


def _entry(sources: int) -> Any:
    """`_write_score` as it is called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def write_score(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return _write_score(*arguments)

    return write_score


write_score = _entry(fingerprint(*FILLING, find_ids, write_bytes, sys.modules[__name__]))
