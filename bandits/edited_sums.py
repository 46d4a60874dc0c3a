"""Sums under a graph that is edited: rows are added behind the others, and moved where an item gets a new number.

Invariants: an edge in both graphs keeps its sums, a new one starts at zero, one that is gone is gone; the cost is
that of the edited items, not of the graph; a row is counted under one number only.
"""

from dataclasses import dataclass, replace

import numpy as np

from bandits.graph import Bool, Graph
from bandits.graph_edit import edges_of
from bandits.growing import Growing
from bandits.sums import OPEN, Int32, Int64, Sums, locate


@dataclass(frozen=True, eq=False)
class SumsRoom:
    """Where the rows of sums grow.

    Attributes:
        edge: of `Sums.edge`.
        item: of `Sums.item`.
        extra: of `Sums.extra`, once it has grown.
        times: of `Sums.times`, likewise.
    """

    edge: Growing
    item: Growing
    extra: Growing | None = None
    times: Growing | None = None

    @classmethod
    def of(cls, sums: Sums) -> "SumsRoom":
        """No room yet: the first extension makes some."""
        return cls(Growing(sums.edge), Growing(sums.item))

    @classmethod
    def zeros(cls, n_edges: int, n_items: int) -> tuple["SumsRoom", Sums]:
        """Nothing learned yet, and room behind it."""
        edge_room, edge = Growing.zeros(n_edges, (3,), np.int64)
        item_room, item = Growing.zeros(n_items, (2,), np.int64)
        return cls(edge_room, item_room), Sums(edge, item)

    @classmethod
    def copy_of(cls, edge_rows: Int64, item_rows: Int64) -> tuple["SumsRoom", Sums]:
        """Sums with these rows, and room behind them."""
        room, sums = cls.zeros(len(edge_rows), len(item_rows))
        sums.edge[:], sums.item[:] = edge_rows, item_rows
        return room, sums

    def fits(self, sums: Sums, edge_rows: Int64, item_rows: Int64) -> bool:
        """Whether `extended` works in place."""
        edges = self.edge.fits(len(sums.edge), len(edge_rows))
        return edges and self.item.fits(len(sums.item), len(item_rows))

    def extended(self, sums: Sums, edge_rows: Int64, item_rows: Int64) -> tuple["SumsRoom", Sums]:
        """`sums` with rows behind them; both share all their memory, if `fits`, or none."""
        fits = self.fits(sums, edge_rows, item_rows)
        edge_room, edge = self.edge.extended(len(sums.edge), edge_rows, in_place=fits)
        item_room, item = self.item.extended(len(sums.item), item_rows, in_place=fits)
        return replace(self, edge=edge_room, item=item_room), replace(sums, edge=edge, item=item)

    def with_extra(self, before: Sums, sums: Sums, extra_rows: Int64, time_rows: Int64) -> tuple["SumsRoom", Sums]:
        """`sums`, extended, with rows behind the extra ones of `before`."""
        if before.extra is None or before.times is None:
            return self, sums
        extra_room = self.extra or Growing(before.extra)
        times_room = self.times or Growing(before.times)
        extra_room, extra = extra_room.extended(len(before.extra), extra_rows)
        times_room, times = times_room.extended(len(before.times), time_rows)
        return replace(self, extra=extra_room, times=times_room), replace(sums, extra=extra, times=times)


def numbers_before(old: Graph, new: Graph) -> tuple[Int32, Int32]:
    """The numbers that an edit added, and what number each of their items had before, -1 if none; both int32."""
    added = np.arange(old.n_items, new.n_items, dtype=np.int32)
    return added, old.lookup(new.item_ids[old.n_items : new.n_items], retired=True)


def moved_rows(old: Graph, sums: Sums, new: Graph) -> tuple[Int64, Int64]:
    """Rows of the numbers that an edit added: sums of the edges that their items had before, zero elsewhere.

    Returns:
        int64 of shape (new edges, 3), int64 of shape (new numbers, 2).
    """
    added, before = numbers_before(old, new)
    edge_rows = np.zeros((new.n_edges - old.n_edges, sums.edge.shape[1]), np.int64)
    item_rows = np.zeros((len(added), sums.item.shape[1]), np.int64)
    known = np.flatnonzero(before >= 0)
    item_rows[known] = sums.item[before[known]]
    owner = np.repeat(before, np.diff(new.item_ptr[old.n_items :]))
    edge = locate(old, owner, new.edge_cluster[old.n_edges :][:, None])[:, 0]
    found = np.flatnonzero(edge >= 0)
    edge_rows[found] = sums.edge[edge[found]]
    return edge_rows, item_rows


def moved_extra(old: Graph, sums: Sums, new: Graph) -> tuple[Int64, Int64]:
    """As `moved_rows`, of the extra sums: int64 of shape (new edges, 6), int64 of shape (new numbers, 2)."""
    if sums.extra is None or sums.times is None:
        return np.zeros((0, 6), np.int64), np.zeros((0, 2), np.int64)
    edge_rows, item_rows = moved_rows(old, Sums(sums.extra, sums.times), new)
    edge_rows[:, OPEN] = np.maximum(edge_rows[:, OPEN], 0)
    return edge_rows, item_rows


def clear_rows(graph: Graph, sums: Sums, items: Int32) -> None:
    """Set the sums of some numbers to zero."""
    sums.release()
    edges = edges_of(graph, items)
    sums.edge[edges] = 0
    sums.item[items] = 0
    if sums.extra is not None and sums.times is not None:
        sums.extra[edges] = 0
        sums.times[items] = 0


def compacted_sums(graph: Graph, sums: Sums, live: Bool) -> tuple[SumsRoom, Sums]:
    """Sums without the rows of numbers that are not live; `live` is of shape (n_items,)."""
    edges = np.repeat(live, np.diff(graph.item_ptr))
    room, compact = SumsRoom.zeros(int(np.count_nonzero(edges)), int(np.count_nonzero(live)))
    # np.compress would write to a buffer first: a half of the pause in which nothing is learned.
    np.take(sums.edge, np.flatnonzero(edges), axis=0, out=compact.edge, mode="clip")
    np.take(sums.item, np.flatnonzero(live), axis=0, out=compact.item, mode="clip")
    if sums.extra is not None and sums.times is not None:
        compact.extra, compact.times = sums.extra[edges], sums.times[live]
    compact.saturated = sums.saturated
    return room, compact
