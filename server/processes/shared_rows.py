"""Rows that slates are filled from, in shared memory: by item and by cluster, on both sides, in step with the sums.

Rows by cluster are copied once a process has asked for them, piece by piece, as only `Recommend` reads them.

Invariants: rows of a side say what the sums of that side say; who writes to the sums calls `before` first and
`follow` after, between the words that keep readers off the side. Rows by cluster are read once `ROWS_READY` says
so, and not before both sides have them.
"""

import numpy as np

from bandits.cluster_rows_numba import MOST_EDGES, ClusterRows
from bandits.graph import Graph
from bandits.numba_edge_lanes import TOGETHER
from bandits.serving_rows_numba import MOST_CLUSTERS, MOST_LINES, READ_BEYOND, ServingRows, row_starts
from bandits.sums import Int32, Int64, Sums
from server.processes.segment import ROWS_READY, Segment, fence


def room_of(graph: Graph, base: Graph) -> dict[str, int]:
    """How many lines of rows by item, and rows by cluster, a segment needs; 0 where a graph can have none.

    Args:
        graph: the graph.
        base: before any edit.
    """
    lines = row_starts(graph.item_ptr)[1]
    numbered = graph.n_clusters <= MOST_CLUSTERS and 2 * lines < MOST_LINES
    by_cluster = base.n_edges + TOGETHER if base.n_edges <= MOST_EDGES else 0
    return {"lines": lines if numbered else 0, "cluster_rows": by_cluster}


class RowsWriter:
    """Writes the rows of a segment, whose graph and sums have been written.

    Args:
        segment: where they lie.
        graph: the graph.
    """

    def __init__(self, segment: Segment, graph: Graph) -> None:
        self._segment = segment
        self._base = graph.edits.base if graph.edits is not None else graph
        self._end = 0  # of the lines
        self._by_cluster: list[ClusterRows] = []  # of as many sides as have rows
        self.place(graph)
        if self._has_lines:
            self.follow(0, graph, np.arange(graph.n_items, dtype=np.int32))
            segment.arrays["lines1"][: self._end] = segment.arrays["lines0"][: self._end]

    @property
    def _has_lines(self) -> bool:
        return len(self._segment.arrays["lines0"]) > 0

    def fits(self, old: Graph, new: Graph) -> bool:
        """Whether rows of what an edit has appended have room."""
        end = row_starts(new.item_ptr[old.n_items :], self._end)[1]
        return not self._has_lines or end + READ_BEYOND <= len(self._segment.arrays["lines0"])

    def place(self, graph: Graph, *, items: int = 0) -> None:
        """Say where the rows of the items behind the first so many begin."""
        if self._has_lines:
            starts, self._end = row_starts(graph.item_ptr[items:], self._end)
            self._segment.arrays["row_at"][items : graph.n_items] = starts

    def before(self, side: int, items: Int32, edge_rows: Int64) -> None:
        """The sums of some items are about to be replaced on a side."""
        if side < len(self._by_cluster):
            arrays = self._segment.arrays
            self._by_cluster[side].follow(arrays["item_ptr"], arrays[f"edge{side}"], items, edge_rows)

    def follow(self, side: int, graph: Graph, items: Int32) -> None:
        """They have been."""
        if self._has_lines:
            arrays = self._segment.arrays
            sums = Sums(arrays[f"edge{side}"], arrays[f"item{side}"])
            rows = ServingRows.over(arrays["row_at"], arrays[f"lines{side}"])
            rows.follow(graph, sums, items)

    def copy_more(self) -> bool:
        """Copy some rows by cluster; True once all are there. Not while sums are written."""
        segment = self._segment
        if segment.words[ROWS_READY] or not len(segment.arrays["cluster_rows0"]):
            return True
        held = self._by_cluster
        if not held or held[-1].ready:
            rows = segment.arrays[f"cluster_rows{len(held)}"]
            held.append(ClusterRows(self._base, rows=rows, beside=held[-1] if held else None))
        side = len(held) - 1
        held[side].copy_more(segment.arrays[f"edge{side}"])
        if side and held[side].ready:
            fence()
            segment.words[ROWS_READY] = 1
        return bool(segment.words[ROWS_READY]) or not len(self._base.cluster_edge)
