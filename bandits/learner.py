"""The learner: folds the ledger into sums.

Invariants: the state is a pure fold of the ledger; a batch of a joiner partition is applied once, however often it
is delivered; a row is never given a fact that it already includes, so restoring from rows of different ages and
replaying the ledger from the oldest of them is safe.
"""

from dataclasses import dataclass, field

import numpy as np

from bandits.backend import Backend
from bandits.graph import Graph
from bandits.outcomes import Outcomes
from bandits.sums import Facts, Int32, Int64, Sums, carry_over


@dataclass(eq=False)
class Learner:
    """Sums of one graph, and what of the ledger they include.

    Attributes:
        graph: the graph that numbers everything here.
        backend: adds the facts.
        sums: the sums.
        row_position: int64 of shape (n_items,): every fact below this ledger position is in the item's row.
        applied: last applied sequence of each joiner partition.
        position: ledger position up to which everything was applied.
        facts_applied: facts added since the start.
        facts_unknown: facts of items that the graph does not have; they move nothing.
        batches_repeated: deliveries that were dropped because they had been applied.
    """

    graph: Graph
    backend: Backend
    sums: Sums
    row_position: Int64
    applied: dict[int, int] = field(default_factory=dict)
    position: int = 0
    facts_applied: int = 0
    facts_unknown: int = 0
    batches_repeated: int = 0

    @classmethod
    def empty(cls, graph: Graph, backend: Backend) -> "Learner":
        """Nothing learned yet."""
        return cls(graph, backend, Sums.zeros(graph), np.zeros(graph.n_items, np.int64))

    def apply(self, outcomes: Outcomes, *, offset: int) -> Int32:
        """Add one ledger record.

        Args:
            outcomes: the record.
            offset: its place in the ledger.

        Returns:
            Numbers of the items whose rows changed, ascending int32.
        """
        self.position = offset + 1
        if outcomes.sequence <= self.applied.get(outcomes.joiner_partition, 0):
            self.batches_repeated += 1
            return np.empty(0, np.int32)
        self.applied[outcomes.joiner_partition] = outcomes.sequence
        item = self.graph.lookup(outcomes.item_ids)[outcomes.item] if len(outcomes) else outcomes.item
        known = item >= 0
        self.facts_unknown += int(np.count_nonzero(~known))
        missing = known.copy()
        missing[known] = self.row_position[item[known]] <= offset
        facts = Facts(
            item=item[missing],
            context=outcomes.context[missing],
            impressions=outcomes.impressions[missing],
            reward=outcomes.reward[missing],
            context_ptr=np.concatenate([np.zeros(1, np.int64), outcomes.context_ends]),
            context_cluster=outcomes.context_cluster,
            context_x=outcomes.context_x,
        )
        if len(facts):
            self.backend.add(self.graph, self.sums, facts)
        self.facts_applied += len(facts)
        changed: Int32 = np.unique(facts.item)
        self.row_position[changed] = self.position
        return changed

    def switch_graph(self, graph: Graph) -> None:
        """Go on with another graph: edges and items in both keep their sums, the others start at zero."""
        self.sums = carry_over(self.graph, self.sums, graph)
        old = self.graph.lookup(graph.item_ids)
        position = np.full(graph.n_items, self.position, np.int64)
        position[old >= 0] = self.row_position[old[old >= 0]]
        self.row_position = position
        self.graph = graph
