"""What a server must take over after a micro-batch."""

from dataclasses import dataclass

import numpy as np

from bandits.graph import Graph
from bandits.graph_edit import edges_of
from bandits.learner import Learner
from bandits.sums import HALF_LIFE, LATEST, Int32, Int64, Sums, chosen

_REFRESHES = 32  # in a half-life


@dataclass(frozen=True, eq=False)
class Change:
    """Rows that changed, as copies.

    Attributes:
        graph: the graph that numbers the items.
        items: int32 of shape (m,), changed item numbers; all of them if `full`.
        edge_rows: int64 of shape (edges of these items, 3), rows concatenated in the order of `items`.
        item_rows: int64 of shape (m, 2).
        position: ledger position included.
        full: everything before is to be replaced (first change, graph switch).
        extends: the graph that `graph` is an edit of; `items` are then the numbers that the edit added. None = the
            graph is the same as before, unless the change is full.
        extra_rows: int64 of shape (edges of these items, 6), rows of `Sums.extra`; None where there are none.
        time_rows: int64 of shape (m, 2), rows of `Sums.times`; None likewise.
        now_ms: the time that fading rows are to be brought to, Unix milliseconds.
    """

    graph: Graph
    items: Int32
    edge_rows: Int64
    item_rows: Int64
    position: int
    full: bool
    extends: Graph | None = None
    extra_rows: Int64 | None = None
    time_rows: Int64 | None = None
    now_ms: int = 0

    def edges(self) -> Int64:
        """Edge numbers of `edge_rows`."""
        return edges_of(self.graph, self.items)

    def put_into(self, sums: Sums) -> None:
        """Write the rows into sums of the same graph."""
        edges = self.edges()
        sums.edge[edges] = self.edge_rows
        sums.item[self.items] = self.item_rows
        if self.extra_rows is not None and self.time_rows is not None:
            extra, times = sums.with_extra()
            extra[edges], times[self.items] = self.extra_rows, self.time_rows


class Fading:
    """Says when rows that nothing was added to have to be handed over again, because they fade.

    All rows that are served are brought to one time; it moves on when a 32nd of the shortest half-life that was
    seen has passed, in the time of what was shown: while nothing is shown, nothing is forgotten.
    """

    def __init__(self) -> None:
        self.now_ms = 0
        self._latest_ms = 0
        self._half_life_ms = 0

    def moves_on(self, sums: Sums, items: Int32 | slice) -> bool:
        """Look at rows that have changed; True if all rows must be handed over, at a later time."""
        if sums.times is None:
            return False
        times = sums.times[items]
        half_lives = times[times[:, HALF_LIFE] > 0, HALF_LIFE]
        if not len(half_lives):
            return False
        shortest = int(half_lives.min())
        self._half_life_ms = min(self._half_life_ms or shortest, shortest)
        self._latest_ms = max(self._latest_ms, int(times[:, LATEST].max()))
        if (self._latest_ms - self.now_ms) * _REFRESHES < self._half_life_ms:
            return False
        self.now_ms = self._latest_ms
        return True


def rows_now(
    graph: Graph,
    sums: Sums,
    items: Int32,
    *,
    position: int,
    full: bool = False,
    extends: Graph | None = None,
    now_ms: int = 0,
) -> Change:
    """Copies of the rows of some items as they are now; arguments as in `Change`."""
    edges = edges_of(graph, items)
    return Change(
        graph,
        items,
        sums.edge[edges],
        sums.item[items],
        position,
        full=full,
        extends=extends,
        extra_rows=chosen(sums.extra, edges),
        time_rows=chosen(sums.times, items),
        now_ms=now_ms,
    )


def changed_rows(learner: Learner, items: Int32, *, extends: Graph | None = None, now_ms: int = 0) -> Change:
    """The rows of some items of a learner."""
    return rows_now(learner.graph, learner.sums, items, position=learner.position, extends=extends, now_ms=now_ms)


def all_rows(learner: Learner, *, now_ms: int = 0) -> Change:
    """All rows of a learner."""
    items = np.arange(learner.graph.n_items, dtype=np.int32)
    sums = learner.sums
    return Change(
        learner.graph,
        items,
        sums.edge.copy(),
        sums.item.copy(),
        learner.position,
        full=True,
        extra_rows=None if sums.extra is None else sums.extra.copy(),
        time_rows=None if sums.times is None else sums.times.copy(),
        now_ms=now_ms,
    )
