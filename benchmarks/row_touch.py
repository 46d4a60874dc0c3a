"""The bound of an update: read and write one word on every cache line of an item's row, and do nothing else."""

import numpy as np
from numba import njit

from bandits.graph import Graph
from bandits.numba_memory import LANES, load, pointer, prefetch, store
from bandits.sums import Int32, Sums

_AHEAD = 4  # rows asked for before they are touched; 2 to 16 measured alike
_LINE = 8  # sums on a cache line


_WAKING = 20_000  # rows; some in every huge page of five million items


def wake_rows(graph: Graph, sums: Sums, rng: np.random.Generator) -> None:
    """Touch random rows, to be called untimed before a path that touches them is timed.

    Where the machine is a virtual one, its host may forget after some tenths of a second which memory is where, and
    who touches a page first after that waits 3 to 10 us for the host: up to 80 ms a call, which are not its own.
    """
    touch_rows(graph, sums, rng.integers(0, graph.n_items, _WAKING).astype(np.int32))


def touch_rows(graph: Graph, sums: Sums, items: Int32) -> int:
    """Touch the clusters, the edges' sums and the item's sums of each item's row once, in order.

    Args:
        graph: its item-major half is read.
        sums: one sum of every line grows by 1, so that the line has to be written back, as an update's.
        items: (F,) int32.

    Returns:
        A number that depends on everything read, so that no compiler leaves a read out.
    """
    return int(_touch(graph.item_ptr, graph.edge_cluster, sums.edge, sums.item, items))


@njit(nogil=True)
def _touch(item_ptr, edge_cluster, edge_sums, item_sums, item):  # type: ignore[no-untyped-def]
    rows, row, of_edge, of_item = pointer(item_ptr), pointer(edge_cluster), pointer(edge_sums), pointer(item_sums)
    items, total = pointer(item), np.int64(0)
    for step in range(len(item) + 2 * _AHEAD):
        if step < len(item):
            prefetch(rows, load(items, step))
        fact = step - _AHEAD
        if 0 <= fact < len(item):
            j = load(items, fact)
            start, stop = load(rows, j), load(rows, j + 1)
            for edge in range(start, stop, LANES):
                prefetch(row, edge)
            for number in range(3 * start, 3 * stop, _LINE):
                prefetch(of_edge, number)
            prefetch(of_item, 2 * j)
        fact = step - 2 * _AHEAD
        if fact >= 0:
            j = load(items, fact)
            start, stop = load(rows, j), load(rows, j + 1)
            for edge in range(start, stop, LANES):
                total += load(row, edge)
            for number in range(3 * start, 3 * stop, _LINE):
                store(of_edge, number, load(of_edge, number) + 1)
            store(of_item, 2 * j, load(of_item, 2 * j) + 1)
    return total
