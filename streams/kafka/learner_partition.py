"""A learner partition: ledger[q] in, rows out.

Its records are folded, written and published in rounds with those of the worker's other learner partitions
(`learner_rounds`).
"""

from collections.abc import Mapping
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
from streams.kafka.ledger import partitions_of
from streams.kafka.partition import Partition, Surroundings
from streams.outcome_codec import Message, parse_record
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

    def positions(self) -> Mapping[TP, int]:
        """Where the ledger is to be read from."""
        return {self.ledger: self.learner.position}

    def stored_positions(self) -> Mapping[TP, int]:
        """What the rows on disk include."""
        return {self.ledger: self.head.mark.position}

    def write(self, items: Int32) -> None:
        """Write the rows of some items and the head."""
        self.store.write(self.batch(self._names(items), self._rows(items)))

    def batch(self, names: list[str], rows: list[bytes]) -> Batch:
        """Rows, and a head that says what they include, to be written to the store."""
        batch = Batch()
        batch.put_all(ROW, names, rows)
        self.head.mark.CopyFrom(self.mark())
        batch.put(HEAD, b"", self.head.SerializeToString())
        return batch

    def write_rows(self, items: Int32) -> None:
        """Write the rows of some items while restoring, before there is a head that counts them."""
        batch = Batch()
        batch.put_all(ROW, self._names(items), self._rows(items))
        self.store.write(batch)

    def unpublished(self) -> Int32:
        """Items whose rows changed after the last publication, as far as their row positions tell."""
        items = self.shared.items_of(self.number)
        return items[self.shared.row_position[items] > self.head.published_position]

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

    def admit(self, value: bytes, offset: int) -> Message | None:
        """A ledger record that is to be folded; None for fences, late writes of replaced owners, and damage."""
        try:
            message = parse_record(value)
        except ValueError as error:
            self.skip(offset, error)
            return None
        if message.epoch < self.joiner_epochs.get(message.joiner_partition, 0):
            return None  # its owner had been replaced; the new one has not seen this and sends it again
        self.joiner_epochs[message.joiner_partition] = message.epoch
        return None if message.fence else message

    def skip(self, offset: int, error: Exception) -> None:
        """Go on without a record: nobody but joiners may write here, and one that does cannot stop the stream."""
        self.head.damaged += 1
        log.error("ledger record skipped", partition=self.number, offset=offset, reason=str(error))

    def _names(self, items: Int32) -> list[str]:
        return [self.shared.graph.item_ids[item] for item in items.tolist()]

    def _rows(self, items: Int32) -> list[bytes]:
        return encode_rows(self.shared.graph, self.shared.sums, self.shared.row_position, items)


def folder_of(data_dir: Path, number: int) -> Path:
    """Where the store of a learner partition is."""
    return data_dir / f"learner-{number}"
