"""Sums of edges as retrieval reads them: cluster by cluster, in float32, kept in step with the sums of a graph.

The items around a user are the edges of a few clusters. In the order of the clusters these lie one behind the other
and are read at once, twelve bytes an edge; in the order of the items each is a cache line somewhere else.

Invariants: once all rows have been copied, each is the sums of its edge, rounded once, provided that whoever
changes sums tells `follow` before; until then `ready` is False. There are rows of the edges that a graph was built
with, not of those attached since. Memory: 12 bytes a row and 4 for its place.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from bandits.graph import Graph
from bandits.numba_edge_lanes import TOGETHER
from bandits.numba_memory import load, pointer, prefetch, store
from bandits.sums import UNIT, Int32, Int64

Float32 = npt.NDArray[np.float32]

MOST_EDGES = 2**31 - TOGETHER  # places are int32
PIECE = 1 << 13  # rows that are copied at once, in some hundred microseconds
_CLEARED = 1 << 6  # places that are cleared in the time of one row
_AHEAD = 16
_SCALE_1, _SCALE_2 = 1.0 / UNIT, 1.0 / UNIT**2


class ClusterRows:
    """The rows of one graph, and of all that it is edited to.

    Args:
        graph: edited or not; of more than `MOST_EDGES` edges nothing is copied.
        rows: memory of zeros for them, of the shape of `rows` below; None = of our own.
        beside: rows of the same edges that are all there, whose table of places these share; None = of our own.

    Attributes:
        rows: float32 of shape (n_edges + TOGETHER, 3), a, d and b in natural units, in the order of `cluster_edge`;
            the last ones are no edge's, so that whole vectors may be read. Empty before any has been copied.
    """

    def __init__(self, graph: Graph, *, rows: Float32 | None = None, beside: "ClusterRows | None" = None) -> None:
        self._edges = graph.cluster_edge
        self._given = rows
        self.rows: Float32 = np.empty((0, 3), np.float32)
        self._place: Int32 = np.empty(0, np.int32)  # of a row, by edge, from 1 on; 0 = not copied
        self._cleared = self._copied = 0
        if beside is not None and rows is not None:
            # A row that is not copied yet may be written to by this table: it will be written over.
            self.rows, self._place, self._cleared = rows, beside._place, len(beside._place)

    @classmethod
    def over(cls, graph: Graph, rows: Float32) -> "ClusterRows":
        """Rows that are all there, and that somebody else keeps in step: only to be read."""
        held = cls(graph)
        held.rows, held._copied = rows, len(graph.cluster_edge)
        return held

    @property
    def ready(self) -> bool:
        """Whether all rows have been copied."""
        return self._copied == len(self._edges) > 0

    def copy_more(self, edge_sums: Int64, at_most: int = PIECE) -> None:
        """Copy some of the rows that are missing.

        Args:
            edge_sums: int64 of shape (n_edges or more, 3), `Sums.edge`.
            at_most: so many.
        """
        edges = len(self._edges)
        if not len(self.rows) and edges <= MOST_EDGES:
            # Memory that nobody has written to costs nothing yet.
            own = np.zeros((edges + TOGETHER, 3), np.float32) if self._given is None else self._given
            self.rows, self._place = own, np.empty(edges, np.int32)
        if self._cleared < len(self._place):
            # Places are written all over it, and a page that is written to for the first time costs its size.
            end = self._cleared + _CLEARED * at_most
            self._place[self._cleared : end] = 0
            self._cleared = end
            return
        end = min(self._copied + at_most, len(self._place))
        _copy(self._edges, edge_sums, self._place, self.rows, self._copied, end)
        self._copied = end

    def follow(self, item_ptr: Int64, edge_sums: Int64, items: Int32, edge_rows: Int64) -> None:
        """Take over rows that are about to replace those of some items.

        Args:
            item_ptr: of the graph.
            edge_sums: `Sums.edge` before.
            items: int32, distinct, contiguous.
            edge_rows: int64 of shape (edges of the items, 3), contiguous.
        """
        if self._copied:
            _follow(item_ptr, edge_sums, self._place, self.rows, items, edge_rows)


@njit(cache=True)
def _copy(edges, edge_sums, place, rows, start, end):  # type: ignore[no-untyped-def]
    of_edge, to, sums, into = pointer(edges), pointer(place), pointer(edge_sums), pointer(rows)
    for at in range(start, end):
        prefetch(sums, 3 * load(of_edge, min(at + _AHEAD, end - 1)))
        edge = load(of_edge, at)
        store(to, edge, np.int32(at + 1))
        _put(into, at, load(sums, 3 * edge), load(sums, 3 * edge + 1), load(sums, 3 * edge + 2))


@njit(cache=True)
def _follow(item_ptr, edge_sums, place, rows, items, edge_rows):  # type: ignore[no-untyped-def]
    """Only rows that differ are written: most edges of a changed item are of other users' clusters."""
    ptr, sums, to, into = pointer(item_ptr), pointer(edge_sums), pointer(place), pointer(rows)
    numbers, new = pointer(items), pointer(edge_rows)
    source = 0
    for i in range(len(items)):
        if i + 1 < len(items):
            later = load(ptr, np.int64(load(numbers, i + 1)))
            for offset in range(0, 16, 8):
                prefetch(sums, 3 * later + offset)
            prefetch(to, later)
        item = np.int64(load(numbers, i))
        for edge in range(load(ptr, item), load(ptr, item + 1)):
            a, d, b = load(new, source), load(new, source + 1), load(new, source + 2)
            source += 3
            if edge >= len(place):
                continue
            if a != load(sums, 3 * edge) or d != load(sums, 3 * edge + 1) or b != load(sums, 3 * edge + 2):
                at = np.int64(load(to, edge)) - 1
                if at >= 0:
                    _put(into, at, a, d, b)


@njit(inline="always")
def _put(rows, at, a, d, b):  # type: ignore[no-untyped-def]
    store(rows, 3 * at, np.float32(a * _SCALE_1))
    store(rows, 3 * at + 1, np.float32(d * _SCALE_2))
    store(rows, 3 * at + 2, np.float32(b * _SCALE_2))
