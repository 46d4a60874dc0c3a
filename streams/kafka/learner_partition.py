"""A learner partition: ledger[q] in, rows out.

The commit path:

    1. fold the ledger records into the sums, dropping repeats and what replaced owners wrote too late
    2. write ONE WriteBatch, synced: the changed rows, and the head (position, applied sequences, epochs)
    3. if the last publication is long enough ago: send the rows that changed since, the mark last
    4. wait until the broker has them
    5. remember the published position; it is written with the next micro-batch
    6. acknowledge: the position may be copied to the group

A crash before 2 has happened never. Rows are published after they are on disk, so nothing published is ahead of
what can be restored; and every row says which ledger position it includes, so a crash between 2 and 5 leaves just
the rows above the published position to be sent again.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from faust.types import TP

from bandits.edited_sums import clear_rows
from bandits.graph import Graph
from bandits.learner import Learner
from bandits.sums import Int32, Int64, Sums
from freshet.v1 import kafka_state_pb2, parameters_pb2
from streams.failpoints import failpoint
from streams.kafka.chunk import Chunk
from streams.kafka.ledger import decode_delivery, partitions_of
from streams.kafka.parameter_rows import MARK_KEY, with_epoch
from streams.kafka.partition import Partition, Surroundings
from streams.outcome_codec import decode_outcomes
from streams.row_codec import encode_rows
from streams.store import HEAD, ROW, Batch, Store

log = structlog.get_logger("freshet.kafka")


@dataclass(frozen=True, eq=False)
class SharedSums:
    """Sums that all learner partitions of a worker add to; an item belongs to one of them.

    Attributes:
        graph: numbers items and edges.
        sums: of everything this worker owns, zero elsewhere.
        row_position: int64 of shape (n_items,), as in `Learner`.
        partition: int64 of shape (n_items,), ledger partition of each item.
    """

    graph: Graph
    sums: Sums
    row_position: Int64
    partition: Int64

    @classmethod
    def empty(cls, graph: Graph, ledger_partitions: int) -> "SharedSums":
        """Nothing learned yet."""
        return cls(
            graph,
            Sums.zeros(graph),
            np.zeros(graph.n_items, np.int64),
            partitions_of(graph.item_ids, ledger_partitions),
        )

    def items_of(self, number: int) -> Int32:
        """Items of a ledger partition."""
        return np.flatnonzero(self.partition == number).astype(np.int32)

    def clear(self, number: int) -> None:
        """Forget the rows of a partition."""
        items = self.items_of(number)
        clear_rows(self.graph, self.sums, items)
        self.row_position[items] = 0


class LearnerPartition(Partition):
    """Owner of one learner partition.

    Args:
        number: of the partition.
        around: what all partitions of the worker share.
        shared: the sums.

    Raises:
        StoreError: the store cannot be used.
    """

    def __init__(self, number: int, around: Surroundings, shared: SharedSums) -> None:
        self.number = number
        self.ledger = TP(around.names.outcomes, number)
        super().__init__(around, [self.ledger])
        self.shared = shared
        shared.clear(number)
        self.store = Store(folder_of(around.settings.data_dir, number))
        self.head = kafka_state_pb2.LearnerHead.FromString(self.store.get(HEAD, b"") or b"")
        self.learner = Learner(shared.graph, around.backend, shared.sums, shared.row_position)
        self.joiner_epochs: dict[int, int] = {}
        self.epoch = 0
        self._published_at_s = 0.0

    def positions(self) -> Mapping[TP, int]:
        """Where the ledger is to be read from."""
        return {self.ledger: self.learner.position}

    def due_in_s(self) -> float | None:
        """When the next publication is due."""
        if self.learner.position <= self.head.published_position:
            return None
        return self._published_at_s + self.around.settings.publish_interval_ms / 1000 - time.monotonic()

    async def commit(self, chunks: Sequence[Chunk]) -> None:
        """Make a micro-batch durable; the steps are those of the module's head."""
        if chunks:
            # 1. fold
            changed = self._fold(chunks)
            failpoint("learner-folded")
            # 2. write
            self.write(changed)
            failpoint("learner-written")
        due_s = self.due_in_s()
        if due_s is not None and due_s <= 0:
            await self.publish()

    async def publish(self) -> None:
        """Steps 3 to 5."""
        self._published_at_s = time.monotonic()
        position = self.learner.position
        items = self.shared.items_of(self.number)
        items = items[self.shared.row_position[items] > self.head.published_position]
        rows = encode_rows(self.shared.graph, self.shared.sums, self.shared.row_position, items)
        names = [self.shared.graph.item_ids[item] for item in items.tolist()]
        pairs = [*with_epoch(names, rows, self.epoch), (MARK_KEY, self.mark().SerializeToString())]
        # 3. and 4. send and wait
        last = await self.around.sender.send_rows(self.around.names.parameters, self.number, pairs)
        failpoint("learner-published")
        # 5. remember
        self.head.parameters_end = last + 1
        self.head.published_position = position
        failpoint("learner-marked")

    def write(self, items: Int32) -> None:
        """Write the rows of some items and the head."""
        batch = self._batch(items)
        self.head.mark.CopyFrom(self.mark())
        batch.put(HEAD, b"", self.head.SerializeToString())
        self.store.write(batch)

    def write_rows(self, items: Int32) -> None:
        """Write the rows of some items while restoring, before there is a head that counts them."""
        self.store.write(self._batch(items))

    def _batch(self, items: Int32) -> Batch:
        batch = Batch()
        rows = encode_rows(self.shared.graph, self.shared.sums, self.shared.row_position, items)
        batch.put_all(ROW, [self.shared.graph.item_ids[item] for item in items.tolist()], rows)
        return batch

    def mark(self) -> parameters_pb2.PartitionMark:
        """What all rows include together now."""
        learner = self.learner
        return parameters_pb2.PartitionMark(
            position=learner.position,
            applied_sequences=learner.applied,
            joiner_epochs=self.joiner_epochs,
            epoch=self.epoch,
            graph_version=self.shared.graph.version,
            facts_applied=learner.facts_applied,
            facts_unknown=learner.facts_unknown,
        )

    def take_mark(self, mark: parameters_pb2.PartitionMark) -> None:
        """Go on from a mark."""
        learner = self.learner
        learner.position = mark.position
        learner.applied = dict(mark.applied_sequences)
        learner.facts_applied, learner.facts_unknown = mark.facts_applied, mark.facts_unknown
        self.joiner_epochs = dict(mark.joiner_epochs)

    def jump(self, tp: TP, offset: int) -> None:
        """Leave a gap in the ledger."""
        self.learner.position = offset

    def close(self) -> None:
        """Close the store, forget the rows."""
        self.store.close()
        self.shared.clear(self.number)

    def _fold(self, chunks: Sequence[Chunk]) -> Int32:
        changed: list[Int32] = []
        for chunk in chunks:
            for record in chunk.records:
                changed.append(self._fold_record(record.value or b"", record.offset))
            self.learner.position = chunk.end
        return np.unique(np.concatenate(changed)) if changed else np.empty(0, np.int32)

    def _fold_record(self, value: bytes, offset: int) -> Int32:
        none = np.empty(0, np.int32)
        try:
            delivery = decode_delivery(value)
            if delivery.epoch < self.joiner_epochs.get(delivery.joiner_partition, 0):
                return none  # its owner had been replaced; the new one has not seen this and sends it again
            self.joiner_epochs[delivery.joiner_partition] = delivery.epoch
            if delivery.fence:
                return none
            outcomes = decode_outcomes(value)
        except ValueError as error:
            # Nobody but joiners may write here, and a producer that does cannot stop the stream.
            self.head.damaged += 1
            log.error("ledger record skipped", partition=self.number, offset=offset, reason=str(error))
            return none
        return self.learner.apply(outcomes, offset=offset)


def folder_of(data_dir: Path, number: int) -> Path:
    """Where the store of a learner partition is."""
    return data_dir / f"learner-{number}"
