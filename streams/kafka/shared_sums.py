"""The sums that the learner partitions under one graph add to, and the graph that numbers them.

Invariants: an item belongs to one partition, and only its owner changes its edges and its rows; the partitions'
learners see the same arrays, before and after the graph was edited. All of it is used by one thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bandits.backend import Backend
from bandits.edited_sums import clear_rows
from bandits.graph import Graph
from bandits.graph_edit import edited
from bandits.learner import Learner
from bandits.sums import Int32, Int64, Sums
from streams.kafka.catalogue import Edited, graph_edit
from streams.kafka.ledger import partitions_of
from streams.row_codec import decode_rows, encode_rows, place_rows


@dataclass(eq=False)
class SharedSums:
    """Sums under one artifact and the catalogue's edits of it.

    Attributes:
        base_version: of the artifact.
        partition: int64 of shape (n_items,), ledger partition of each item number, -1 where it stands for no item.
        n_partitions: of the ledger.
        edited: items that the catalogue has changed.
        holders: partitions that are under this graph now.
        edited_for: partitions that ever had items changed here.
    """

    base_version: str
    partition: Int64
    n_partitions: int
    _all: Learner
    edited: dict[str, Edited] = field(default_factory=dict)
    holders: set[int] = field(default_factory=set)
    edited_for: set[int] = field(default_factory=set)
    _learners: list[Learner] = field(default_factory=list)

    @classmethod
    def empty(cls, graph: Graph, ledger_partitions: int, backend: Backend) -> "SharedSums":
        """Nothing learned yet."""
        partition = partitions_of(graph.item_ids, ledger_partitions)
        _ = graph.lookup([])  # the index is made now, in whatever thread this is
        return cls(graph.version, partition, ledger_partitions, Learner.empty(graph, backend))

    @property
    def graph(self) -> Graph:
        """Numbers items and edges."""
        return self._all.graph

    @property
    def sums(self) -> Sums:
        """Of everything this worker owns, zero elsewhere."""
        return self._all.sums

    @property
    def row_position(self) -> Int64:
        """As in `Learner`, int64 of shape (n_items,)."""
        return self._all.row_position

    def compile_rows(self) -> None:
        """Have what writes and reads rows compiled, so that no publication and no recovery waits for it."""
        rows = encode_rows(self.graph, self.sums, self.row_position, np.empty(0, np.int32))
        place_rows(self.graph, decode_rows([], rows), self.sums, self.row_position)

    def learner(self, number: int) -> Learner:
        """A learner of a partition, over the arrays that all share."""
        learner = Learner(self.graph, self._all.backend, self.sums, self.row_position)
        self._learners.append(learner)
        self.holders.add(number)
        return learner

    def leave(self, learner: Learner, number: int) -> None:
        """Forget a partition, its rows and its learner."""
        self.clear(number)
        self._learners = [other for other in self._learners if other is not learner]
        self.holders.discard(number)

    def items_of(self, number: int) -> Int32:
        """Items of a ledger partition."""
        return np.flatnonzero(self.partition == number).astype(np.int32)

    def clear(self, number: int) -> None:
        """Forget the rows of a partition."""
        items = self.items_of(number)
        clear_rows(self.graph, self.sums, items)
        self.row_position[items] = 0

    def edit(self, items: Mapping[str, Edited], *, number: int, position: int) -> Int32:
        """Attach items as the catalogue says; surviving edges keep their sums.

        Args:
            items: the items.
            number: of the partition that owns them.
            position: ledger position of their rows, where they have none yet.

        Returns:
            Their numbers, ascending int32.
        """
        self.edited |= items
        self.edited_for.add(number)
        graph = edited(self.graph, graph_edit(self.base_version, items))
        before = self.graph.lookup([*items], retired=True)
        self._all.position = position
        added = self._all.edit_graph(graph)
        if len(added):
            names = [graph.item_ids[number] for number in added.tolist()]
            self.partition = np.concatenate([self.partition, partitions_of(names, self.n_partitions)])
            now = graph.lookup([*items], retired=True)
            self.partition[before[(before >= 0) & (before != now)]] = -1
        for learner in self._learners:
            learner.graph, learner.sums, learner.row_position = graph, self.sums, self.row_position
        return np.sort(graph.lookup([*items], retired=True))

    def behind(self, names: list[str], rows: list[bytes]) -> list[bytes]:
        """Rows as they are written: what the catalogue has changed is put behind them."""
        if not self.edited:
            return rows
        changed = [self.edited.get(name) for name in names]
        return [row if one is None else row + one.behind() for row, one in zip(rows, changed, strict=True)]
