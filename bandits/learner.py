"""The learner: folds the ledger into sums.

Invariants: the state is a pure fold of the ledger; a batch of a joiner partition is applied once, however often it
is delivered; a row is never given a fact that it already includes, so restoring from rows of different ages and
replaying the ledger from the oldest of them is safe.
"""

from dataclasses import dataclass, field

import numpy as np

from bandits.backend import Backend
from bandits.edited_sums import SumsRoom, clear_rows, compacted_sums, moved_extra, moved_rows, numbers_before
from bandits.graph import Bool, Graph
from bandits.growing import Growing
from bandits.outcomes import Outcomes
from bandits.overlap import OverlapMap, inherit_sums
from bandits.sums import Facts, Int32, Int64, Sums, carry_over, chosen, numbers_in


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
    _room: tuple[SumsRoom, Growing] | None = None

    @classmethod
    def empty(cls, graph: Graph, backend: Backend) -> "Learner":
        """Nothing learned yet."""
        room, sums = SumsRoom.zeros(graph.n_edges, graph.n_items)
        positions, position = Growing.zeros(graph.n_items, (), np.int64)
        return cls(graph, backend, sums, position, _room=(room, positions))

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
        # A retired item goes on learning from what was shown before, in case it comes back.
        number = self.graph.lookup(outcomes.item_ids, retired=True)
        taken = number >= 0
        self.facts_unknown += 0 if taken.all() else int(np.count_nonzero(~taken[outcomes.item]))
        taken[taken] = self.row_position[number[taken]] <= offset
        item = number.take(outcomes.item)
        missing: Bool | slice = slice(None) if taken.all() else taken[outcomes.item]
        facts = Facts(
            item=item[missing],
            context=outcomes.context[missing],
            impressions=outcomes.impressions[missing],
            reward=outcomes.reward[missing],
            context_ptr=np.concatenate([np.zeros(1, np.int64), outcomes.context_ends]),
            context_cluster=outcomes.context_cluster,
            context_x=outcomes.context_x,
            opening=chosen(outcomes.opening, missing),
            gamma=chosen(outcomes.gamma, missing),
            shown_ms=chosen(outcomes.shown_ms, missing),
            half_life_ms=_half_lives(outcomes, len(item[missing])),
        )
        if len(facts):
            self.backend.add(self.graph, self.sums, facts)
        self.facts_applied += len(facts)
        named = np.zeros(len(number), np.bool_)
        named[outcomes.item] = True
        changed = _ascending(number[taken & named])
        self.row_position[changed] = self.position
        return changed

    def switch_graph(self, graph: Graph, *, overlap: OverlapMap | None = None) -> None:
        """Go on with another graph: edges and items in both keep their sums, the others start at zero.

        Args:
            graph: the other graph.
            overlap: where its clusters were made anew: what became of the old ones. Sums are inherited through it.
        """
        if overlap is None:
            self.sums = carry_over(self.graph, self.sums, graph)
        else:
            self.sums = inherit_sums(self.graph, self.sums, graph, overlap)
        self._room = None
        old = numbers_in(self.graph, graph)
        position = np.full(graph.n_items, self.position, np.int64)
        position[old >= 0] = self.row_position[old[old >= 0]]
        self.row_position = position
        self.graph = graph

    def edit_graph(self, graph: Graph) -> Int32:
        """Go on with an edit of the graph in force; costs what was edited.

        Args:
            graph: `bandits.graph_edit.edited` of it, by one edit.

        Returns:
            Numbers that the edit added, ascending int32.
        """
        old, sums_before = self.graph, self.sums
        added, before = numbers_before(old, graph)
        edge_rows, item_rows = moved_rows(old, self.sums, graph)
        known = before >= 0
        position = np.full(len(added), self.position, np.int64)
        position[known] = self.row_position[before[known]]
        rows, positions = self._room or (SumsRoom.of(self.sums.at_rest()), Growing(self.row_position))
        extra_rows, time_rows = moved_extra(old, self.sums, graph)
        rows, sums = rows.extended(self.sums, edge_rows, item_rows)
        rows, self.sums = rows.with_extra(self.sums, sums, extra_rows, time_rows)
        positions, self.row_position = positions.extended(len(self.row_position), position)
        self._room = rows, positions
        clear_rows(old, self.sums, before[known])
        self.sums.follow(sums_before, graph, before[known])
        self.row_position[before[known]] = 0
        self.graph = graph
        return added

    def compact_graph(self, graph: Graph, live: Bool) -> None:
        """Go on with the graph in force built anew.

        Args:
            graph: the same without some numbers, in the same order.
            live: bool of shape (n_items,), False for these numbers. Sums that retired items still have there go.
        """
        room, self.sums = compacted_sums(self.graph, self.sums, live)
        self.row_position = self.row_position[live]
        self._room = room, Growing(self.row_position)
        self.graph = graph


def _ascending(numbers: Int32) -> Int32:
    """Distinct numbers in order; the sort of what is distinct already takes a tenth of `np.unique`."""
    ordered: Int32 = np.sort(numbers)
    return ordered if (ordered[1:] > ordered[:-1]).all() else np.unique(ordered)


def _half_lives(outcomes: Outcomes, facts: int) -> Int64 | None:
    return None if outcomes.shown_ms is None else np.full(facts, outcomes.half_life_ms, np.int64)
