"""Compiled reading of a ScoreRequest: from its bytes to candidates, user and settings, checked.

Invariants: a request that is taken is one that `server.requests` would pass, and what is read of it is the same;
anything else, be it wrong or merely rare, is handed over whole, so that there is one place that says what is wrong.
Nothing at or behind the end of the bytes is read. Encoding: https://protobuf.dev/programming-guides/encoding
"""

import sys
from typing import Any

import numpy as np
from numba import njit

from bandits import numba_addresses, numba_context, numba_draws, numba_memory
from bandits.numba_cache import fingerprint
from bandits.numba_context import is_direction, resolve
from bandits.numba_inner import inner
from bandits.numba_memory import load, pointer
from bandits.sums import UNIT
from server.lane import find_ids
from server.lane.find_ids import find
from server.limits import MAX_CANDIDATES, MAX_EXCLUDED, MAX_ID_BYTES, MAX_SURFACE_BYTES
from streams.limits import MAX_CLUSTERS_PER_CONTEXT
from streams.wire import fields
from streams.wire.fields import extent, is_utf8, load_float32, same_bytes, varint

# What is read: places and sizes are within the bytes of the request.
READ = (
    "candidates",  # that the graph knows, less those that are excluded
    "given",  # item ids of the request
    "unknown",
    "clusters",
    "slate_size",
    "mode",
    "has_seed",
    "seed_low",
    "seed_high",
    "request_id_at",
    "request_id_size",
    "surface_at",
    "surface_size",
)
(
    CANDIDATES,
    GIVEN,
    UNKNOWN,
    CLUSTERS,
    SLATE_SIZE,
    MODE,
    HAS_SEED,
    SEED_LOW,
    SEED_HIGH,
    REQUEST_AT,
    REQUEST_SIZE,
    SURFACE_AT,
    SURFACE_SIZE,
) = range(len(READ))

_REQUEST_ID, _EMBEDDING, _CLUSTERS, _ITEM_ID = 1 << 3 | 2, 2 << 3 | 2, 3 << 3 | 2, 4 << 3 | 2
_SLATE_SIZE, _MODE, _SEED, _EXCLUDED = 5 << 3, 6 << 3, 7 << 3, 8 << 3 | 2
_SURFACE, _USER_KEY = 9 << 3 | 2, 10 << 3 | 2
_IDS, _WEIGHTS, _VALUES = 1 << 3 | 2, 2 << 3 | 2, 1 << 3 | 2
_MOST_UNKNOWN = 64  # that are compared with each other; a request with more is rare
_HALF = np.uint64(0xFFFFFFFF)


@inner
def _read_score(data_array, index, centroids, largest, k, temperature, read, items, clusters, weights, unknown):  # type: ignore[no-untyped-def]
    """Read a request; False hands it over.

    `index` is a row of `server.lane.find_ids.INDEX`, `centroids` one of `bandits.numba_context.CENTROIDS`. Filled
    are `read` (int64, as `READ` says), `items` (int32), `clusters` (int32), `weights` (float64), and in `unknown`
    (int64, two a row) where each unknown id starts and ends.
    """
    data, end, at = pointer(data_array), len(data_array), 0
    embedding_at, clusters_at, user_end = -1, -1, -1
    read[:] = 0
    n_excluded = 0
    excluded = np.empty(0, np.int32)
    while at < end:
        tag = np.int64(load(data, at))
        at += 1
        if tag == _ITEM_ID:
            start, at = extent(data, at, end)
            if at < 0 or not 1 <= at - start <= MAX_ID_BYTES or read[GIVEN] == MAX_CANDIDATES:
                return False
            read[GIVEN] += 1
            number = find(pointer(index), data, start, at)
            if number >= 0:
                items[read[CANDIDATES]] = number
                read[CANDIDATES] += 1
            elif read[UNKNOWN] == _MOST_UNKNOWN or not is_utf8(data, start, at):
                return False
            else:
                unknown[2 * read[UNKNOWN]], unknown[2 * read[UNKNOWN] + 1] = start, at
                read[UNKNOWN] += 1
        elif tag == _EXCLUDED:
            start, at = extent(data, at, end)
            if at < 0 or n_excluded == MAX_EXCLUDED:
                return False
            if n_excluded == 0:
                excluded = np.empty(MAX_EXCLUDED, np.int32)
            number = find(pointer(index), data, start, at)
            if number < 0 and not is_utf8(data, start, at):
                return False
            excluded[n_excluded] = number
            n_excluded += 1
        elif tag in (_EMBEDDING, _CLUSTERS):
            start, at = extent(data, at, end)
            if at < 0 or user_end >= 0:
                return False
            embedding_at, clusters_at = (start, -1) if tag == _EMBEDDING else (-1, start)
            user_end = at
        elif tag in (_REQUEST_ID, _SURFACE, _USER_KEY):
            start, at = extent(data, at, end)
            if at < 0 or at - start > (MAX_SURFACE_BYTES if tag == _SURFACE else MAX_ID_BYTES):
                return False
            if not is_utf8(data, start, at):
                return False
            if tag != _USER_KEY:
                place = REQUEST_AT if tag == _REQUEST_ID else SURFACE_AT
                read[place], read[place + 1] = start, at - start
        elif tag in (_SLATE_SIZE, _MODE):
            number, at = varint(data, at, end)
            if at < 0 or number > MAX_CANDIDATES:
                return False
            read[SLATE_SIZE if tag == _SLATE_SIZE else MODE] = number
        elif tag == _SEED:
            seed, at = _long_varint(data, at, end)
            if at < 0:
                return False
            read[HAS_SEED] = 1
            read[SEED_LOW], read[SEED_HIGH] = np.int64(seed & _HALF), np.int64(seed >> np.uint64(32))
        else:
            return False
    if read[GIVEN] == 0 or user_end < 0:
        return False
    if not _settle_items(data, items, excluded[:n_excluded], unknown, read):
        return False
    k = min(k, len(weights))
    if embedding_at >= 0:
        read[CLUSTERS] = _embedding(
            data, embedding_at, user_end, centroids, largest, k, temperature, clusters, weights
        )
    else:
        read[CLUSTERS] = _clusters(data, clusters_at, user_end, centroids[1], clusters, weights)
    return read[CLUSTERS] > 0


@inner
def _long_varint(data, at, end):  # type: ignore[no-untyped-def]
    """A number of up to 64 bits, uint64, and where it ends; -1 as its end if it is none."""
    number = np.uint64(0)
    for place in range(10):
        if at + place >= end:
            return number, -1
        byte = np.uint64(load(data, at + place))
        if place == 9 and byte > np.uint64(1):
            return number, -1
        number |= (byte & np.uint64(0x7F)) << np.uint64(7 * place)
        if byte < np.uint64(0x80):
            return number, at + place + 1
    return number, -1


@inner
def _settle_items(data, items, excluded, unknown, read):  # type: ignore[no-untyped-def]
    """Drop what is excluded; False if an id is there twice."""
    count = read[CANDIDATES]
    size = 64
    while size < 2 * (count + len(excluded)):
        size *= 2
    seen = np.full(size, -1, np.int32)  # a candidate
    if not _all_new(items[:count], seen):
        return False
    for one in range(read[UNKNOWN]):
        for other in range(one):
            start, first = unknown[2 * one], unknown[2 * other]
            length = unknown[2 * one + 1] - start
            if length == unknown[2 * other + 1] - first and same_bytes(data, start, data, first, length):
                return False
    if len(excluded):
        seen[:] = -1
        _all_new(excluded, seen)
        kept = 0
        for at in range(count):
            number = items[at]
            items[kept] = number
            kept += not _is_in(number, seen)
        read[CANDIDATES] = kept
    return True


@inner
def _slot(number, size):  # type: ignore[no-untyped-def]
    return (np.int64(number) * 0x9E3779B1 >> 12) & (size - 1)


@inner
def _is_in(number, seen):  # type: ignore[no-untyped-def]
    slot = _slot(number, len(seen))
    while seen[slot] >= 0:
        if seen[slot] == number:
            return True
        slot = (slot + 1) & (len(seen) - 1)
    return False


@inner
def _all_new(numbers, seen):  # type: ignore[no-untyped-def]
    """Enter numbers (-1 is passed over) into slots of -1; False if one is there twice."""
    new = True
    for number in numbers:
        slot = _slot(number, len(seen))
        while number >= 0 and seen[slot] >= 0 and seen[slot] != number:
            slot = (slot + 1) & (len(seen) - 1)
        if number >= 0:
            new &= seen[slot] < 0
            seen[slot] = number
    return new


@inner
def _embedding(data, at, end, row, largest, k, temperature, clusters, weights):  # type: ignore[no-untyped-def]
    """Clusters of an `Embedding`; how many, 0 if it is unusual."""
    dim = row[2]
    if at >= end or load(data, at) != _VALUES or dim == 0 or row[1] == 0:
        return 0
    start, stop = extent(data, at + 1, end)
    if stop != end or stop - start != 4 * dim:
        return 0
    values = np.empty(dim, np.float32)
    for i in range(dim):
        values[i] = load_float32(data, start + 4 * i)
    if not is_direction(pointer(values), dim):
        return 0
    count = resolve(pointer(row), largest, pointer(values), k, temperature, pointer(clusters), pointer(weights))
    return count + 0 * len(values)  # which keeps them alive until here


@inner
def _clusters(data, at, end, n_clusters, clusters, weights):  # type: ignore[no-untyped-def]
    """Clusters of a `ClusterWeights`, ascending, weights rounded; how many, 0 if it is unusual."""
    if at >= end or load(data, at) != _IDS:
        return 0
    start, stop = extent(data, at + 1, end)
    if stop < 0 or stop >= end or load(data, stop) != _WEIGHTS:
        return 0
    weight_at, weight_end = extent(data, stop + 1, end)
    if weight_end != end:
        return 0
    count = (weight_end - weight_at) >> 2
    if not 1 <= count <= MAX_CLUSTERS_PER_CONTEXT or (weight_end - weight_at) & 3:
        return 0
    for got in range(count):
        number, start = varint(data, start, stop)
        weight = np.float64(load_float32(data, weight_at + 4 * got))
        if start < 0 or number >= n_clusters or not 0.0 < weight <= 1.0:
            return 0
        to = got
        while to > 0 and clusters[to - 1] > number:
            clusters[to], weights[to] = clusters[to - 1], weights[to - 1]
            to -= 1
        if to > 0 and clusters[to - 1] == number:
            return 0
        clusters[to], weights[to] = number, min(max(np.rint(weight * UNIT), 1.0), np.float64(UNIT)) / UNIT
    return count if start == stop else 0


def _entry(sources: int) -> Any:
    """`_read_score` as it is called from outside, cached on disk for these sources."""

    @njit(cache=True)
    def read_score(*arguments):  # type: ignore[no-untyped-def]
        if sources < 0:
            raise ValueError
        return _read_score(*arguments)

    return read_score


read_score = _entry(
    fingerprint(find_ids, numba_addresses, numba_context, numba_draws, numba_memory, fields, sys.modules[__name__])
)
