"""What a server must take over after a micro-batch."""

from dataclasses import dataclass

import numpy as np

from bandits.graph import Graph
from bandits.graph_edit import edges_of
from bandits.learner import Learner
from bandits.sums import Int32, Int64, Sums


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
    """

    graph: Graph
    items: Int32
    edge_rows: Int64
    item_rows: Int64
    position: int
    full: bool
    extends: Graph | None = None

    def edges(self) -> Int64:
        """Edge numbers of `edge_rows`."""
        return edges_of(self.graph, self.items)

    def put_into(self, sums: Sums) -> None:
        """Write the rows into sums of the same graph."""
        sums.edge[self.edges()] = self.edge_rows
        sums.item[self.items] = self.item_rows


def changed_rows(learner: Learner, items: Int32, *, extends: Graph | None = None) -> Change:
    """The rows of some items as they are now; see `Change.extends`."""
    graph, sums = learner.graph, learner.sums
    edges = edges_of(graph, items)
    return Change(graph, items, sums.edge[edges], sums.item[items], learner.position, full=False, extends=extends)


def all_rows(learner: Learner) -> Change:
    """All rows as they are now."""
    items = np.arange(learner.graph.n_items, dtype=np.int32)
    sums = learner.sums
    return Change(learner.graph, items, sums.edge.copy(), sums.item.copy(), learner.position, full=True)
