"""Compiled loops of the fast CPU backend.

The cost of an update is the cache misses of its row, so rows are asked for a few facts ahead.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from bandits.sums import LARGEST, UNIT

_SCALE_1 = 1.0 / UNIT
_SCALE_2 = 1.0 / UNIT**2
_AHEAD = 4  # facts between asking for a row and adding to it
_SCAN = 64  # rows up to this length are searched by counting, which compiles to SIMD compares


@intrinsic
def _prefetch(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Ask the cache for the line of a 1-d array's element."""

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array_type, _ = signature.args
        data = context.make_array(array_type)(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, kind, kind, kind])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        builder.call(function, [pointer, kind(1), kind(3), kind(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


@njit(inline="always")
def _find(edge_cluster, low, high, cluster):  # type: ignore[no-untyped-def]
    """Number of the edge to a cluster within the ascending row [low, high), or -1."""
    end = high
    while high - low > _SCAN:
        middle = (low + high) >> 1
        if edge_cluster[middle] < cluster:
            low = middle + 1
        else:
            high = middle
    row = edge_cluster[low:high]  # counting from zero spares the check for negative indices, so SIMD is possible
    below = np.int32(0)
    for position in range(len(row)):
        below += np.int32(row[position] < cluster)
    at = low + below
    if at < end and edge_cluster[at] == cluster:
        return at
    return -1


@njit(inline="always")
def _cap(added):  # type: ignore[no-untyped-def]
    """A sum of two numbers >= 0, or the largest value where it wrapped."""
    return added if added >= 0 else LARGEST


@njit(cache=True, nogil=True)
def add_facts(  # type: ignore[no-untyped-def]
    item_ptr, edge_cluster, edge_sums, item_sums, item, context, impressions, reward, context_ptr, cluster, x
):
    """Add a micro-batch in place; how many sums it left at the largest value (see `Backend.add`)."""
    flat = edge_sums.reshape(-1)
    item_flat = item_sums.reshape(-1)
    saturated = 0
    for fact in range(len(item)):
        if fact + 2 * _AHEAD < len(item):
            _prefetch(item_ptr, item[fact + 2 * _AHEAD])  # type: ignore[call-arg]
            _prefetch(item_flat, 2 * item[fact + 2 * _AHEAD])
        if fact + _AHEAD < len(item):
            ahead = item[fact + _AHEAD]
            start, stop = item_ptr[ahead], item_ptr[ahead + 1]
            for edge in range(start, min(stop, start + _SCAN), 16):
                _prefetch(edge_cluster, edge)  # type: ignore[call-arg]
            for at in range(3 * start, 3 * min(stop, start + _SCAN), 8):
                _prefetch(flat, at)  # type: ignore[call-arg]
        j, shown, r = item[fact], impressions[fact], reward[fact]
        start, stop = item_ptr[j], item_ptr[j + 1]
        for at in range(context_ptr[context[fact]], context_ptr[context[fact] + 1]):
            edge = _find(edge_cluster, start, stop, cluster[at])
            if edge >= 0:
                at_sum, weight = 3 * edge, x[at]
                new_a = flat[at_sum] + weight * shown
                new_d = flat[at_sum + 1] + weight * weight * shown
                new_b = flat[at_sum + 2] + weight * r
                saturated += (new_a < 0) | (new_d < 0) | (new_b < 0)
                flat[at_sum] = _cap(new_a)
                flat[at_sum + 1] = _cap(new_d)
                flat[at_sum + 2] = _cap(new_b)
        new_n, new_s = item_sums[j, 0] + shown, item_sums[j, 1] + r
        saturated += (new_n < 0) + (new_s < 0)
        item_sums[j, 0], item_sums[j, 1] = _cap(new_n), _cap(new_s)
    return saturated


@njit(cache=True, nogil=True)
def gather_candidates(  # type: ignore[no-untyped-def]
    item_ptr, edge_cluster, edge_sums, item_sums, item_hashes, items, clusters, edge, a, d, b, n, s, keys
):
    """Fill the columns of `CandidateSums` in natural units (see `Backend.gather`)."""
    for i in range(len(items)):
        j = items[i]
        for k in range(len(clusters)):
            at = _find(edge_cluster, item_ptr[j], item_ptr[j + 1], clusters[k])
            edge[i, k] = at >= 0
            a[i, k] = edge_sums[at, 0] * _SCALE_1 if at >= 0 else 0.0
            d[i, k] = edge_sums[at, 1] * _SCALE_2 if at >= 0 else 0.0
            b[i, k] = edge_sums[at, 2] * _SCALE_2 if at >= 0 else 0.0
        n[i] = item_sums[j, 0]
        s[i] = item_sums[j, 1] * _SCALE_1
        keys[i] = item_hashes[j, 0]
