"""Compiled reader of parameter rows: bytes of `freshet.v1.ItemParameters` to columns, and columns into sums.

Promises: rows that are read are those that protobuf would have read, with the same values. Fields that come twice,
out of order, or that few rows have, sums below zero, and damage make a row unusual: that is all that is said of it.
Nothing behind the end of a row is read. Where rows are placed, item numbers must lie within the graph; edges that
it does not have are counted.
"""

from typing import Any

import numpy as np
from numba import njit

from bandits import numba_memory
from bandits.numba_cache import fingerprint
from bandits.numba_memory import load, pointer, store
from freshet.v1 import parameters_pb2
from streams.wire import fields
from streams.wire.fields import extent, load_word, varint
from streams.wire.writers import EIGHT_BYTES, VARINT

_LENGTH = 2
_FIELD = {field.name: field.number for field in parameters_pb2.ItemParametersColumns.DESCRIPTOR.fields}
_CLUSTERS, _EPOCH = _FIELD["cluster_ids"] << 3 | _LENGTH, _FIELD["epoch"] << 3 | VARINT
_A, _N = (
    _FIELD["a"],
    _FIELD["n"],
)  # d and b follow a, s and position follow n, as do the columns that they are read to
BYTES_OF_AN_EDGE = 28


@njit
def _sums(data, at, end, edge, first, degree):  # type: ignore[no-untyped-def]
    """Read a column of sums to every third place of `edge`; where it ends, -1 if it is unusual."""
    start, stop = extent(data, at, end)
    if stop < 0 or stop - start != 8 * degree:
        return -1
    signs = np.int64(0)
    for place in range(degree):
        value = np.int64(load_word(data, start + 8 * place))
        signs |= value
        store(edge, first + 3 * place, value)
    return stop if signs >= 0 else -1


@njit
def _row(data, at, end, first, cluster, edge, scalars, row):  # type: ignore[no-untyped-def]
    """Read a row, whose edges are written from `first` on; where those end, -1 if it is unusual."""
    degree, columns, before = np.int64(0), 0, np.int64(0)
    most = (end - at) // BYTES_OF_AN_EDGE  # whoever has more clusters has not all sums of them, nor room here
    while at < end:
        tag = np.int64(load(data, at))
        field, kind = tag >> 3, tag & 7
        if field <= before:
            return np.int64(-1)
        before = field
        if tag == _CLUSTERS:
            start, stop = extent(data, at + 1, end)
            if stop < 0 or (stop - start) & 3:
                return np.int64(-1)
            degree = (stop - start) >> 2
            if degree > most:
                return np.int64(-1)
            for place in range(4 * degree):
                store(cluster, 4 * first + place, load(data, start + place))
            at = stop
        elif kind == _LENGTH and _A <= field < _A + 3:
            at = _sums(data, at + 1, end, edge, 3 * first + field - _A, degree)
            columns += 1
        elif kind == EIGHT_BYTES and _N <= field < _N + 3 and at + 9 <= end:
            value = np.int64(load_word(data, at + 1))
            store(scalars, 3 * row + field - _N, value)
            at = at + 9 if value >= 0 else np.int64(-1)
        elif tag == _EPOCH:
            _, at = varint(data, at + 1, end)
        else:
            return np.int64(-1)
        if at < 0:
            return np.int64(-1)
    return first + degree if columns == 3 or degree == 0 else np.int64(-1)


@njit
def _edge_of(edge_cluster, low, high, cluster):  # type: ignore[no-untyped-def]
    """The edge between low and high that leads to a cluster, -1 if there is none."""
    end = high
    while low < high:
        middle = (low + high) >> 1
        if edge_cluster[middle] < cluster:
            low = middle + 1
        else:
            high = middle
    return low if low < end and edge_cluster[low] == cluster else -1


def _entry(sources: int) -> tuple[Any, Any]:
    """What is called from outside, cached on disk for these sources."""

    @njit(cache=True, nogil=True)
    def read_rows(data, ends, cluster, edge, scalars, edge_ends):  # type: ignore[no-untyped-def]
        """Read rows that lie one after the other; False if one is unusual.

        Args:
            data: uint8, the bytes of all.
            ends: int64 of each row.
            cluster: uint8, four for each `BYTES_OF_AN_EDGE` of data; filled with int32.
            edge: int64 of shape (as many, 3); a, d and b are filled in.
            scalars: int64 of shape (n_rows, 3), zeros; n, s and position are filled in.
            edge_ends: int64 of each row; filled.
        """
        bytes_of, clusters, edges, of_rows = pointer(data), pointer(cluster), pointer(edge), pointer(scalars)
        start, end = np.int64(0), np.int64(0)
        for row in range(len(ends) if sources >= 0 else 0):  # the number becomes part of the key in Numba's cache
            end = _row(bytes_of, start, ends[row], end, clusters, edges, of_rows, row)
            if end < 0:
                return False
            start, edge_ends[row] = ends[row], end
        return True

    @njit(cache=True, nogil=True)
    def write_places(  # type: ignore[no-untyped-def]
        number, position, edge_ends, cluster, edge, item, item_ptr, edge_cluster, edge_sums, item_sums, row_position
    ):
        """Write rows into sums, none over a newer one; how many of their edges the graph does not have.

        Args:
            number: int64 of each row, its item in the graph; -1 = none, it is passed over.
            position: of each row.
            edge_ends: int64 of each row, where its edges end.
            cluster: int32 of each edge.
            edge: int64 of shape (n_edges, 3).
            item: int64 of shape (n_rows, 2).
            item_ptr: of the graph.
            edge_cluster: of the graph.
            edge_sums: `Sums.edge`; changed.
            item_sums: `Sums.item`; changed.
            row_position: int64 of each item; changed.
        """
        missing, start = 0, np.int64(0)
        for row in range(len(number) if sources >= 0 else 0):
            at, end = number[row], edge_ends[row]
            if at >= 0 and position[row] >= row_position[at]:
                row_position[at] = position[row]
                item_sums[at, 0], item_sums[at, 1] = item[row, 0], item[row, 1]
                low, high = np.int64(item_ptr[at]), np.int64(item_ptr[at + 1])
                for place in range(end - start):
                    of_graph = low + place
                    if of_graph >= high or edge_cluster[of_graph] != cluster[start + place]:
                        of_graph = _edge_of(edge_cluster, low, high, cluster[start + place])
                    if of_graph < 0:
                        missing += 1
                        continue
                    for column in range(3):
                        edge_sums[of_graph, column] = edge[start + place, column]
            start = end
        return missing

    return read_rows, write_places


read_rows, write_places = _entry(fingerprint(numba_memory, fields))
