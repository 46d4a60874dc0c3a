"""A learner partition: ledger[q] in, rows out.

Its records are folded, written and published in rounds with those of the worker's other learner partitions
(`learner_rounds`).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import structlog
from faust.types import TP

from bandits.sums import Int32
from freshet.v1 import kafka_state_pb2, parameters_pb2
from streams.kafka.catalogue import Edited, edited_by, mark_of
from streams.kafka.ledger import decode_delivery
from streams.kafka.partition import Partition, Surroundings
from streams.kafka.shared_sums import SharedSums
from streams.outcome_codec import Message, parse_record
from streams.row_codec import encode_rows
from streams.store import HEAD, ROW, Batch, Store

EDITED = b"E"  # of an item: how the catalogue has changed it

log = structlog.get_logger("freshet.kafka")


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
        self.learner = shared.learner()
        self.catalogue_positions: dict[int, int] = {}
        self._marks: dict[str, Edited] = {}  # read, and to be applied before the next facts
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
        self._put_rows(batch, names, rows)
        self.head.mark.CopyFrom(self.mark())
        batch.put(HEAD, b"", self.head.SerializeToString())
        return batch

    def write_rows(self, items: Int32) -> None:
        """Write the rows of some items while restoring, before there is a head that counts them."""
        batch = Batch()
        self._put_rows(batch, self._names(items), self._rows(items))
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
            graph_version=self.shared.base_version,
            facts_applied=learner.facts_applied,
            facts_unknown=learner.facts_unknown,
            catalogue_positions=self.catalogue_positions,
        )

    def take_mark(self, mark: parameters_pb2.PartitionMark) -> None:
        """Go on from a mark."""
        learner = self.learner
        learner.position = mark.position
        learner.applied = dict(mark.applied_sequences)
        learner.facts_applied, learner.facts_unknown = mark.facts_applied, mark.facts_unknown
        self.joiner_epochs = dict(mark.joiner_epochs)
        self.catalogue_positions = dict(mark.catalogue_positions)

    def jump(self, tp: TP, offset: int) -> None:
        """Leave a gap in the ledger."""
        self.learner.position = offset

    def close(self) -> None:
        """Close the store, forget the rows."""
        self.store.close()
        self.shared.clear(self.number)
        self.shared.leave(self.learner)

    def admit(self, value: bytes, offset: int) -> Message | None:
        """A ledger record that counts, fences among them; None for late writes of replaced owners, and damage."""
        try:
            message = parse_record(value)
        except ValueError as error:
            self.skip(offset, error)
            return None
        if message.epoch < self.joiner_epochs.get(message.joiner_partition, 0):
            return None  # its owner had been replaced; the new one has not seen this and sends it again
        self.joiner_epochs[message.joiner_partition] = message.epoch
        return message

    @property
    def has_edits(self) -> bool:
        """True if marks of the catalogue were read that have not been applied yet."""
        return bool(self._marks)

    def take_fence(self, value: bytes, offset: int) -> Int32:
        """Note the mark of the catalogue that a fence may hold; what was folded before lies before it.

        Returns:
            Numbers of the items that had to be attached at once, int32.
        """
        none = np.empty(0, np.int32)
        try:
            mark = mark_of(decode_delivery(value), self.shared.graph)
        except ValueError as error:
            self.skip(offset, error)
            return none
        if mark is None or mark.offset < self.catalogue_positions.get(mark.partition, 0):
            return none  # a fence of an owner, or repeated
        self.catalogue_positions[mark.partition] = mark.offset + 1
        # The same item twice: the edges in between count too.
        attached = self.attach() if mark.item_id in self._marks else none
        if mark.item_id:
            edited = edited_by(mark, self.shared.graph, at=offset + 1)
            if edited is not None:
                self._marks[mark.item_id] = edited
        return attached

    def attach(self) -> Int32:
        """Attach the items whose marks were read; the numbers that their rows are kept under."""
        if not self._marks:
            return np.empty(0, np.int32)
        items, self._marks = self._marks, {}
        position = max(one.at for one in items.values())
        numbers = self.shared.edit(items, position=position)
        # A row that changed in this way alone must be published as well.
        self.shared.row_position[numbers] = np.maximum(self.shared.row_position[numbers], position)
        return numbers

    def skip(self, offset: int, error: Exception) -> None:
        """Go on without a record: nobody but joiners may write here, and one that does cannot stop the stream."""
        self.head.damaged += 1
        log.error("ledger record skipped", partition=self.number, offset=offset, reason=str(error))

    def _names(self, items: Int32) -> list[str]:
        return [self.shared.graph.item_ids[item] for item in items.tolist()]

    def _rows(self, items: Int32) -> list[bytes]:
        rows = encode_rows(self.shared.graph, self.shared.sums, self.shared.row_position, items)
        return self.shared.behind(self._names(items), rows)

    def _put_rows(self, batch: Batch, names: list[str], rows: list[bytes]) -> None:
        batch.put_all(ROW, names, rows)
        for name in names if self.shared.edited else ():
            if name in self.shared.edited:
                batch.put(EDITED, name.encode(), self.shared.edited[name].to_bytes())


def folder_of(data_dir: Path, number: int) -> Path:
    """Where the store of a learner partition is."""
    return data_dir / f"learner-{number}"
