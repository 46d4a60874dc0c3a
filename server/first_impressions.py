"""Which items are still owed their first impressions, and what of those is on its way.

Invariants: an item is owed none once its known impressions, with those that this server has shown meanwhile, are
`wanted`; what was shown and never reported counts for two holds at most; a call pays for its own candidates, and
for nothing where no item around its user is owed any.

An impression counts when its row arrives, seconds after the slate left. So an item is taken to have what was known
when it was first shown within the hold, and what was shown since, if that is more than what is known now. What
other processes of this server show is heard of at once, what other servers show when its rows arrive.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph, Int32
from bandits.graph_edit import edges_of
from bandits.life_cycle import Bool, Float64, Int64
from bandits.slate_propensity import EXPLORED_SLOTS
from bandits.sums import N
from server.snapshot import Parameters

MOST_EDGES_LOOKED_AT = 1_000_000  # of items that are owed some; with more, any cluster may have one
_NEVER = -1


@dataclass(frozen=True, eq=False)
class _Look:
    """What was found when all items were last looked at; one that is owed nothing then is owed nothing later.

    Attributes:
        graph: the graph then; numbers mean the same under all edits of one graph.
        seen: numbers below it were looked at.
        items: int64, those that were owed some, ascending.
        owed: bool of shape (seen + 1,), which they are; the last entry, True, is for all that come later.
        clusters: bool of shape (n_clusters,), clusters with an edge to them; None = any may have one.
    """

    graph: Graph
    seen: int
    items: Int64
    owed: Bool
    clusters: Bool | None


class _Shown:
    """What was shown of each item number, in the hold that runs and in the one before; int64 of shape (n,)."""

    def __init__(self) -> None:
        self.known = np.empty(0, np.int64)  # impressions when the item was first shown in the hold that runs
        self.now = np.empty(0, np.int64)
        self.known_before = np.empty(0, np.int64)
        self.before = np.empty(0, np.int64)

    def grow(self, size: int) -> None:
        more = size - len(self.now)
        if more > 0:
            for name, start in (("known", _NEVER), ("now", 0), ("known_before", _NEVER), ("before", 0)):
                setattr(self, name, np.concatenate([getattr(self, name), np.full(more, start)]))

    def turn(self) -> None:
        """Begin another hold."""
        self.known_before, self.before = self.known, self.now
        self.known, self.now = np.full(len(self.known), _NEVER), np.zeros(len(self.now), np.int64)

    def add(self, items: Int64, known: Int64) -> None:
        self.known[items] = np.where(self.known[items] < 0, known, self.known[items])
        np.add.at(self.now, items, 1)

    def at_least(self, items: Int64) -> Int64:
        """Impressions that each item will have had once all is reported."""
        first = np.where(self.known_before[items] < 0, self.known[items], self.known_before[items])
        total: Int64 = np.where(first < 0, 0, first + self.before[items] + self.now[items])
        return total


class ShownElsewhere(Protocol):
    """What other processes of the same server show."""

    def tell(self, graph: Graph, items: Int64, known: Int64) -> None:
        """Say what this process has shown, and what was known of it; int64 of shape (n,)."""

    def hear(self, graph: Graph) -> tuple[Int64, Int64]:
        """What others have shown since this was asked last, likewise."""


class FirstImpressions:
    """Follows which items are owed impressions. Safe to use from several threads.

    Args:
        wanted: impressions of each item.
        max_age_ms: since publication, of items that are owed some, which must be known; None = of any age.
        hold_ms: how long a slate may be on its way to the learner and back.
        clock_ms: Unix milliseconds.
        elsewhere: other processes that show items; None = there are none.
    """

    def __init__(
        self,
        wanted: float,
        *,
        max_age_ms: float | None = None,
        hold_ms: int,
        clock_ms: Callable[[], int],
        elsewhere: ShownElsewhere | None = None,
    ) -> None:
        self.wanted = wanted
        self._max_age_ms = max_age_ms
        self._hold_ms = hold_ms
        self._clock_ms = clock_ms
        self._elsewhere = elsewhere
        self._look: _Look | None = None
        self._lock = threading.Lock()
        self._shown = _Shown()
        self._turn_ms = clock_ms() + hold_ms
        self.in_flight = 0
        """Impressions shown and not yet known, of all items that are owed some, at the latest look."""

    @property
    def owed_items(self) -> int:
        """How many items are owed some, at the latest look."""
        return 0 if self._look is None else len(self._look.items)

    def around(self, graph: Graph, clusters: Int32) -> bool:
        """Whether any item around a user may be owed some."""
        look = self._look
        if look is None or not _numbered_alike(look.graph, graph):
            return True
        if look.clusters is None or look.clusters[clusters].any():
            return True
        if graph.edits is None:
            return False
        attached = (graph.edits.attached.get(cluster) for cluster in clusters.tolist())
        return any(items is not None and len(items) > 0 and items[-1] >= look.seen for items in attached)

    def may_be_owed(self, graph: Graph, items: Int32) -> Bool | None:
        """Which candidates may be owed some, as of the latest look; None = none of them."""
        look = self._look
        if look is None or not _numbered_alike(look.graph, graph):
            return np.ones(len(items), np.bool_)
        owed = look.owed[np.minimum(items, look.seen)]
        return owed if owed.any() else None

    def owed(self, graph: Graph, items: Int32, known: Float64) -> Bool | None:
        """Which candidates are owed some now; None = none of them.

        Args:
            graph: the graph.
            items: int32 of shape (n,).
            known: float64 of shape (n,), their impressions.
        """
        may = self.may_be_owed(graph, items)
        if may is None:
            return None
        at = np.flatnonzero(may & (known < self.wanted))
        at = at[self._are_new(graph, items[at])]
        found = np.zeros(len(items), np.bool_)
        found[at] = True
        look = self._look
        if look is not None and _numbered_alike(look.graph, graph) and len(at):
            with self._lock:
                self._shown.grow(graph.n_items)
                self._hear(graph)
                found[at] = self._shown.at_least(items[at].astype(np.int64)) < self.wanted
        return found if found.any() else None

    def show(self, graph: Graph, items: Int32, known: Float64) -> None:
        """Count a slate.

        Args:
            graph: the graph.
            items: int32 of shape (S,), top first.
            known: float64 of shape (S,), impressions that were known of them.
        """
        look = self._look
        if look is None or not _numbered_alike(look.graph, graph):
            return
        # Nobody looks far down; counted there, an item that is ranked and never shown would be taken for shown.
        items, known = items[:EXPLORED_SLOTS], known[:EXPLORED_SLOTS]
        mine = known < self.wanted
        if mine.any():
            with self._lock:
                numbers, counts = items[mine].astype(np.int64), known[mine].astype(np.int64)
                self._shown.grow(graph.n_items)
                self._shown.add(numbers, counts)
                if self._elsewhere:
                    self._elsewhere.tell(graph, numbers, counts)

    def look(self, parameters: Parameters) -> None:
        """Find who is owed some; O(items) under a graph that is new, then O(those that are, and new ones)."""
        graph, look = parameters.graph, self._look
        same = look is not None and _numbered_alike(look.graph, graph)
        if look is not None and same:
            items = np.concatenate([look.items, np.arange(look.seen, graph.n_items)])
        else:
            items = np.arange(graph.n_items)
        if graph.edits is not None:
            items = items[graph.edits.live[items]]
        items = items[self._are_new(graph, items)]
        known: Int64 = parameters.read(lambda sums, _: sums.item[items, N])
        below = known < self.wanted
        items, known = items[below], known[below]
        owed = np.zeros(graph.n_items + 1, np.bool_)
        owed[items], owed[-1] = True, True
        with self._lock:
            if look is not None and not same:
                self._shown = self._moved(look, graph)
            self._shown.grow(graph.n_items)
            self._hear(graph)
            self._look = _Look(graph, graph.n_items, items, owed, _clusters_of(graph, items))
            if self._clock_ms() >= self._turn_ms:
                self._shown.turn()
                self._turn_ms = self._clock_ms() + self._hold_ms
            self.in_flight = int(np.maximum(self._shown.at_least(items) - known, 0).sum())

    def _hear(self, graph: Graph) -> None:
        """Count what other processes have shown; called with the lock held."""
        if self._elsewhere:
            items, known = self._elsewhere.hear(graph)
            if len(items):
                self._shown.grow(int(items.max()) + 1)  # they may know of a later edit already
                self._shown.add(items, known)

    def _are_new(self, graph: Graph, items: npt.NDArray[np.integer]) -> Bool:
        if self._max_age_ms is None:
            return np.ones(len(items), np.bool_)
        if graph.published_ms is None:
            return np.zeros(len(items), np.bool_)
        return np.asarray(graph.published_ms[items] > max(0.0, self._clock_ms() - self._max_age_ms))

    def _moved(self, look: _Look, graph: Graph) -> _Shown:
        """What was shown, under the numbers of another graph."""
        old, new = self._shown, _Shown()
        new.grow(graph.n_items)
        tracked = look.items[look.items < len(old.now)]
        tracked = tracked[(old.known[tracked] >= 0) | (old.known_before[tracked] >= 0)]
        to = graph.lookup([look.graph.item_ids[item] for item in tracked.tolist()])
        tracked, to = tracked[to >= 0], to[to >= 0]
        for name in ("known", "now", "known_before", "before"):
            getattr(new, name)[to] = getattr(old, name)[tracked]
        return new


def _numbered_alike(one: Graph, other: Graph) -> bool:
    return (one if one.edits is None else one.edits.base) is (other if other.edits is None else other.edits.base)


def _clusters_of(graph: Graph, items: Int64) -> Bool | None:
    if int((graph.item_ptr[items + 1] - graph.item_ptr[items]).sum()) > MOST_EDGES_LOOKED_AT:
        return None
    clusters = np.zeros(graph.n_clusters, np.bool_)
    clusters[graph.edge_cluster[edges_of(graph, items)]] = True
    return clusters
