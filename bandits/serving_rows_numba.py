"""Rows that slates are scored from: of each item its hash, its sums, its clusters, and the sums of its edges.

They are made of the sums and follow them. A candidate costs some six cache lines in one place of memory instead of
eleven in five places. An item of E <= 64 edges takes 32 + 18 E bytes, up to the next multiple of 64, and 4 more.

Invariants: rows say what the sums say, to the last bit (`bandits.numba_serving_rows`), once whoever has written to
the sums has called `follow`; rows that were extended read what they read before.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from bandits.growing import Growing
from bandits.numba_serving_rows import HEAD, LINE, MOST_EDGES, SUMS, first_sums, write_rows
from bandits.sums import Int32, Int64, Sums

MOST_CLUSTERS = 1 << 16  # of a graph: a row names them in 16 bits
MOST_LINES = 1 << 31  # of all rows
READ_BEYOND = 4  # lines behind the last row


@dataclass(frozen=True, eq=False)
class ServingRows:
    """The rows of all items of a graph.

    Attributes:
        row_at: int32 of shape (n_items,), the line at which the row of an item begins.
        lines: uint8 of shape (n_lines, 64).
    """

    row_at: Int32
    lines: npt.NDArray[np.uint8]
    _room: tuple[Growing, Growing] | None = None

    @classmethod
    def over(cls, row_at: Int32, lines: npt.NDArray[np.uint8]) -> "ServingRows":
        """Rows in memory that somebody else provides for, edits included: they cannot be `extended`."""
        return cls(row_at, lines)

    @classmethod
    def of(cls, graph: Graph, sums: Sums) -> "ServingRows | None":
        """Rows of these sums; None where a graph has more clusters, or more rows, than they can number."""
        starts, end = row_starts(graph.item_ptr)
        if graph.n_clusters > MOST_CLUSTERS or end >= MOST_LINES:
            return None
        at_room, row_at = Growing.zeros(len(starts), (), np.int32)
        room, lines = Growing.zeros(end, (LINE,), np.uint8)
        row_at[:] = starts
        made = cls(row_at, lines, (at_room, room))
        made.follow(graph, sums, np.arange(graph.n_items, dtype=np.int32))
        return made

    def follow(self, graph: Graph, sums: Sums, items: Int32) -> None:
        """Take over the sums of some items.

        Args:
            graph: of these rows.
            sums: of the graph.
            items: int32 of shape (m,), numbers of the items, contiguous.
        """
        write_rows(
            graph.item_ptr,
            graph.edge_cluster,
            sums.edge,
            sums.item,
            graph.item_hashes,
            self.row_at,
            self.lines,
            items,
        )

    def fits(self, graph: Graph) -> bool:
        """Whether `extended` works in place."""
        if self._room is None:
            return False
        starts, end = self._added(graph)
        at_room, room = self._room
        added = end - len(self.lines)
        return at_room.fits(len(self.row_at), len(starts)) and room.fits(len(self.lines), added + READ_BEYOND)

    def extended(self, graph: Graph, sums: Sums, *, in_place: bool) -> "ServingRows | None":
        """Rows of a graph that is an edit of this one's; None where it has more than they can number.

        Args:
            graph: the graph.
            sums: of it.
            in_place: share the memory of these rows; only if it `fits`.
        """
        starts, end = self._added(graph)
        if end >= MOST_LINES or self._room is None:
            return None
        at_room, row_at = self._room[0].extended(len(self.row_at), starts.astype(np.int32), in_place=in_place)
        blank = np.zeros((end - len(self.lines), LINE), np.uint8)
        room, lines = self._room[1].extended(len(self.lines), blank, in_place=in_place)
        made = ServingRows(row_at, lines, (at_room, room))
        made.follow(graph, sums, np.arange(len(self.row_at), graph.n_items, dtype=np.int32))
        return made

    def _added(self, graph: Graph) -> tuple[Int64, int]:
        return row_starts(graph.item_ptr[len(self.row_at) :], len(self.lines))


def row_starts(item_ptr: Int64, first: int = 0) -> tuple[Int64, int]:
    """The lines at which rows begin, int64 of shape (len(item_ptr) - 1,), and the line behind the last of them.

    Args:
        item_ptr: as of `Graph`, or the end of it.
        first: the line at which the first one begins.
    """
    edges: npt.NDArray[Any] = np.diff(item_ptr)
    size = np.where(edges > MOST_EDGES, HEAD, first_sums(edges) + SUMS * edges)
    ends = first + np.cumsum(-(-size // LINE))
    return np.concatenate([[first], ends[:-1]])[: len(edges)], int(ends[-1]) if len(ends) else first
