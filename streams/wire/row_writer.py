"""Compiled writer of parameter rows: items to the bytes of `freshet.v1.ItemParameters`, in one pass over the sums.

Promises: the bytes are those that protobuf would write of the same columns, one field after the other. Nothing is
checked here: item numbers lie within the graph.
"""

from typing import Any

import numpy as np
from numba import njit

from bandits import numba_memory
from bandits.numba_cache import fingerprint
from bandits.numba_inner import inner
from bandits.numba_memory import load, pointer
from freshet.v1 import parameters_pb2
from streams.wire import writers
from streams.wire.writers import (
    EIGHT_BYTES,
    VARINT,
    head_size,
    put_byte,
    put_head,
    put_varint,
    store_int32,
    store_int64,
    varint_size,
)

_FIELD = {field.name: field.number for field in parameters_pb2.ItemParametersColumns.DESCRIPTOR.fields}
_CLUSTERS, _A = _FIELD["cluster_ids"], _FIELD["a"]  # d and b follow a, as do their columns in the sums
_N, _POSITION, _EPOCH = _FIELD["n"], _FIELD["position"], _FIELD["epoch"]  # s follows n likewise
NO_EPOCH = -1


@inner
def _row_size(degree, epoch):  # type: ignore[no-untyped-def]
    size = 3 * 9 + (1 + varint_size(epoch) if epoch >= 0 else 0)
    if degree:
        size += head_size(_CLUSTERS, 4 * degree) + 3 * head_size(_A, 8 * degree) + 28 * degree
    return size


@inner
def _put_fixed(out, at, field, value):  # type: ignore[no-untyped-def]
    at = put_byte(out, at, np.int64(field) << 3 | EIGHT_BYTES)
    store_int64(out, at, value)
    return at + 8


def _entry(sources: int) -> tuple[Any, Any]:
    """What is called from outside, cached on disk for these sources."""

    @njit(cache=True, nogil=True)
    def measure_rows(item_ptr, items, epochs, ends):  # type: ignore[no-untyped-def]
        """Where the row of each item ends, int64 into `ends`.

        Args:
            item_ptr: int64, of the graph.
            items: int32, numbers.
            epochs: int64 of each, `NO_EPOCH` for rows without.
            ends: int64 of each, filled.
        """
        end = 0
        for row in range(len(items) if sources >= 0 else 0):  # the number becomes part of the key in Numba's cache
            end += _row_size(item_ptr[items[row] + 1] - item_ptr[items[row]], epochs[row])
            ends[row] = end

    @njit(cache=True, nogil=True)
    def write_rows(item_ptr, edge_cluster, edge_sums, item_sums, row_position, items, epochs, out):  # type: ignore[no-untyped-def]
        """Write the rows of items one after the other.

        Args:
            item_ptr: int64, of the graph.
            edge_cluster: int32, of the graph.
            edge_sums: int64 of shape (n_edges, 3), `Sums.edge`.
            item_sums: int64 of shape (n_items, 2), `Sums.item`.
            row_position: int64 of each item.
            items: int32, numbers.
            epochs: as in `measure_rows`.
            out: uint8, as many as its last end; filled.
        """
        data, sums, of_item, at = pointer(out), pointer(edge_sums), pointer(item_sums), np.int64(0)
        for row in range(len(items) if sources >= 0 else 0):
            item = items[row]
            start, degree = item_ptr[item], item_ptr[item + 1] - item_ptr[item]
            if degree:
                at = put_head(data, at, _CLUSTERS, 4 * degree)
                for edge in range(degree):
                    store_int32(data, at + 4 * edge, edge_cluster[start + edge])
                at += 4 * degree
                for column in range(3):
                    at = put_head(data, at, _A + column, 8 * degree)
                    for edge in range(degree):
                        store_int64(data, at + 8 * edge, load(sums, 3 * (start + edge) + column))
                    at += 8 * degree
            at = _put_fixed(data, at, _N, load(of_item, 2 * item))
            at = _put_fixed(data, at, _N + 1, load(of_item, 2 * item + 1))
            at = _put_fixed(data, at, _POSITION, row_position[item])
            if epochs[row] >= 0:
                at = put_byte(data, at, np.int64(_EPOCH) << 3 | VARINT)
                at = put_varint(data, at, np.uint64(epochs[row]))

    return measure_rows, write_rows


measure_rows, write_rows = _entry(fingerprint(numba_memory, writers))
