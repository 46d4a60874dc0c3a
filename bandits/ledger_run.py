"""Many ledger records folded at once.

Invariant: the sums, row positions, applied sequences and counts are those of `Learner.apply` called for each record
in turn, bit for bit. Within a ledger partition offsets ascend, so a fact that an item's row lacks when the run
begins is not in the row that the records before it leave either.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandits.learner import Learner
from bandits.outcomes import Int32, Int64
from bandits.sums import Facts, chosen


@dataclass(frozen=True, eq=False)
class LedgerRun:
    """Facts of several ledger records, one after the other.

    Attributes:
        item_ids: external ids of all records; an item comes once for each record that has it.
        context_ends, context_cluster, context_x: contexts of all records, as in `Outcomes`.
        record: int32 of shape (n_facts,), number of the record in the run, ascending.
        item: int32 of shape (n_facts,), index into `item_ids`.
        context: int32 of shape (n_facts,), number of the context.
        impressions: int64 of shape (n_facts,), 1 or 0.
        reward: int64 of shape (n_facts,), unit 2^-15.
        opening, gamma, shown_ms: int64 of shape (n_facts,) or None, as in `Outcomes`.
        half_life_ms: int64 of shape (n_facts,), None where `shown_ms` is.
    """

    item_ids: Sequence[str]
    context_ends: Int64
    context_cluster: Int32
    context_x: Int64
    record: Int32
    item: Int32
    context: Int32
    impressions: Int64
    reward: Int64
    opening: Int64 | None = None
    gamma: Int64 | None = None
    shown_ms: Int64 | None = None
    half_life_ms: Int64 | None = None


@dataclass(frozen=True)
class Delivery:
    """Where a record of a run comes from.

    Attributes:
        learner: of its ledger partition; all of a run share graph, backend, sums and row positions.
        offset: its place in the ledger partition; ascending for each learner.
        joiner_partition, sequence: names the batch that it is a part of.
    """

    learner: Learner
    offset: int
    joiner_partition: int
    sequence: int


def fold_run(run: LedgerRun, deliveries: Sequence[Delivery]) -> Int32:
    """Add the records of a run with one call of the backend.

    Args:
        run: the facts.
        deliveries: of each record.

    Returns:
        Numbers of the items whose rows changed, ascending int32.
    """
    if not deliveries:
        return np.empty(0, np.int32)
    taken = np.fromiter(map(_take, deliveries), np.bool_, len(deliveries))
    offsets = np.fromiter((delivery.offset for delivery in deliveries), np.int64, len(deliveries))
    any_learner = deliveries[0].learner
    graph, row_position = any_learner.graph, any_learner.row_position
    # As in `Learner.apply`: a retired item goes on learning.
    number = graph.lookup(run.item_ids, retired=True)
    item = number[run.item]
    is_new = taken[run.record]
    known, offset = item >= 0, offsets[run.record]
    unknown_by_record = np.bincount(run.record[is_new & ~known], minlength=len(deliveries))
    at = np.flatnonzero(is_new & known)
    at = at[row_position[item[at]] <= offset[at]]
    facts = Facts(
        item=item[at],
        context=run.context[at],
        impressions=run.impressions[at],
        reward=run.reward[at],
        context_ptr=np.concatenate([np.zeros(1, np.int64), run.context_ends]),
        context_cluster=run.context_cluster,
        context_x=run.context_x,
        opening=chosen(run.opening, at),
        gamma=chosen(run.gamma, at),
        shown_ms=chosen(run.shown_ms, at),
        half_life_ms=chosen(run.half_life_ms, at),
    )
    if len(facts):
        any_learner.backend.add(graph, any_learner.sums, facts)
    for delivery, applied, unknown in zip(
        deliveries,
        np.bincount(run.record[at], minlength=len(deliveries)).tolist(),
        unknown_by_record.tolist(),
        strict=True,
    ):
        delivery.learner.facts_applied += applied
        delivery.learner.facts_unknown += unknown
    # Of several facts of an item the last has the highest offset, and of several values the last is kept.
    row_position[facts.item] = offset[at] + 1
    changed: Int32 = np.unique(number[np.bincount(run.item[at], minlength=len(number)) > 0])
    return changed


def _take(delivery: Delivery) -> bool:
    """True unless the batch has been applied; its learner is past it in any case."""
    learner = delivery.learner
    learner.position = delivery.offset + 1
    if delivery.sequence <= learner.applied.get(delivery.joiner_partition, 0):
        learner.batches_repeated += 1
        return False
    learner.applied[delivery.joiner_partition] = delivery.sequence
    return True
