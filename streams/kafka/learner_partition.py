"""A learner partition: ledger[q] in, rows out.

Its records are folded, written and published in rounds with those of the worker's other learner partitions
(`learner_rounds`).

Invariant: which graph it is under is what the marks of its ledger say, and nothing else.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import structlog
from faust.types import TP

from bandits.learner import Learner
from bandits.sums import Int32
from freshet.v1 import kafka_state_pb2, parameters_pb2
from streams.kafka.catalogue import Edited, edited_by, mark_of
from streams.kafka.graph_marks import changes, graph_mark_of
from streams.kafka.graph_shelf import GraphShelf
from streams.kafka.ledger import decode_delivery
from streams.kafka.partition import Partition, Surroundings
from streams.kafka.partition_move import move_partition
from streams.kafka.shared_sums import SharedSums
from streams.outcome_codec import Message, parse_record
from streams.row_codec import decode_rows, encode_rows, place_rows
from streams.store import HEAD, ROW, Batch, Store

EDITED = b"E"  # of an item: how the catalogue has changed it
GONE = b"T"  # of an item whose row is gone: the topic may have it still
_MAX_PAST_GRAPHS = 64

log = structlog.get_logger("freshet.kafka")


class LearnerPartition(Partition):
    """Owner of one learner partition.

    Args:
        number: of the partition.
        around: what all partitions of the worker share.
        shelf: the graphs to be under.

    Raises:
        StoreError: the store cannot be used.
    """

    def __init__(self, number: int, around: Surroundings, shelf: GraphShelf) -> None:
        self.number = number
        self.ledger = TP(around.names.outcomes, number)
        super().__init__(around, [self.ledger])
        self.shelf = shelf
        self.store = Store(folder_of(around.settings.data_dir, number))
        self.head = kafka_state_pb2.LearnerHead.FromString(self.store.get(HEAD, b"") or b"")
        self.shared, self.learner = self._enter(shelf.sums_of(shelf.wanted.version, number))
        self.switched_at = 0
        self.announced_at = 0  # the switch that the parameters topic has been told of
        self.past_graphs: list[str] = []
        self.gone: set[str] = set()  # rows that are to be taken out of the parameters topic
        self.ahead: dict[int, dict[str, bytes]] = {}  # rows of later graphs, by the position of their switch
        self._left: list[str] = []  # no longer changed by the catalogue
        self._told: list[str] = []  # of rows that are gone: the topic has them no longer
        self._trial = kafka_state_pb2.GraphMark()
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
        back = self.gone.intersection(names)
        self.gone -= back
        for name in self._left:
            batch.delete(EDITED, name.encode())
        for name in (*self._told, *back):
            batch.delete(GONE, name.encode())
        for name in self.gone:
            batch.delete(ROW, name.encode())
            batch.put(GONE, name.encode(), b"")
        self._left, self._told = [], []
        self._put_rows(batch, names, rows)
        self.head.mark.CopyFrom(self.mark())
        batch.put(HEAD, b"", self.head.SerializeToString())
        return batch

    def told(self, gone: Iterable[str]) -> None:
        """Note that the topic has no rows of these items any longer; the store forgets it with the next batch."""
        self._told += gone
        self.gone.difference_update(gone)

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
            switched_at=self.switched_at,
            past_graphs=self.past_graphs,
            worker=self.around.settings.name,
            trial_partition=self._trial.partition,
            trial_offset=self._trial.offset,
            trial_version=self._trial.version,
            refusal=self._trial.refusal,
        )

    def take_mark(self, mark: parameters_pb2.PartitionMark) -> None:
        """Go on from a mark."""
        learner = self.learner
        learner.position = mark.position
        learner.applied = dict(mark.applied_sequences)
        learner.facts_applied, learner.facts_unknown = mark.facts_applied, mark.facts_unknown
        self.joiner_epochs = dict(mark.joiner_epochs)
        self.catalogue_positions = dict(mark.catalogue_positions)
        self.switched_at, self.past_graphs = mark.switched_at, list(mark.past_graphs)

    @property
    def version(self) -> str:
        """Of the artifact that it is under."""
        return self.shared.base_version

    def go_under(self, shared: SharedSums) -> None:
        """Come under other sums, in which nothing of this partition is; what was learned so far is left behind."""
        before = self.learner
        self.shared.leave(before, self.number)
        self.shared, self.learner = self._enter(shared)
        for name in ("position", "applied", "facts_applied", "facts_unknown", "batches_repeated"):
            setattr(self.learner, name, getattr(before, name))

    def jump(self, tp: TP, offset: int) -> None:
        """Leave a gap in the ledger."""
        self.learner.position = offset

    def close(self) -> None:
        """Close the store, forget the rows."""
        self.store.close()
        self.shared.leave(self.learner, self.number)

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
        """Take the mark of an item or of a graph that a fence may hold; what was folded before lies before it.

        Returns:
            Numbers of the items whose rows changed at once, int32, under the graph that is in force then.
        """
        none = np.empty(0, np.int32)
        try:
            delivery = decode_delivery(value)
            graph_mark = graph_mark_of(delivery)
            if graph_mark is not None:
                return self._take_graph(graph_mark, offset)
            mark = mark_of(delivery, self.shared.graph)
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
        numbers = self.shared.edit(items, number=self.number, position=position)
        # A row that changed in this way alone must be published as well.
        self.shared.row_position[numbers] = np.maximum(self.shared.row_position[numbers], position)
        return numbers

    def _take_graph(self, mark: kafka_state_pb2.GraphMark, offset: int) -> Int32:
        """Go on under the artifact of a mark, which the shelf has.

        Raises:
            ValueError: its overlap map is not between the clusters of both.
        """
        none = np.empty(0, np.int32)
        if mark.asked:
            if mark.offset < self.catalogue_positions.get(mark.partition, 0):
                return none  # repeated
            self.catalogue_positions[mark.partition] = mark.offset + 1
        if mark.trial:
            self._trial = mark
        if not changes(mark, self.version):
            return none
        self.attach()
        old, new = self.shared, self.shelf.sums_of(mark.version, self.number)
        overlap = self.shelf.overlap(mark.overlap, old.graph, new.graph)
        left = move_partition(self.number, old, new, at=offset + 1, overlap=overlap)
        self.past_graphs = [*self.past_graphs, self.version][-_MAX_PAST_GRAPHS:]
        self.go_under(new)
        self.switched_at = offset + 1
        self.gone.update(left.rows)
        self._left += left.edited
        self._place_ahead()
        log.info("another graph", partition=self.number, version=mark.version, rows_gone=len(left.rows))
        items = self.shared.items_of(self.number)
        return items[self.shared.row_position[items] > 0]

    def _place_ahead(self) -> None:
        """Rows that an owner before published under this graph, and that the ledger has only now come to."""
        rows = self.ahead.pop(self.switched_at, {})
        if rows:
            decoded = decode_rows([*rows], [*rows.values()])
            place_rows(self.shared.graph, decoded, self.shared.sums, self.shared.row_position)

    def _enter(self, shared: SharedSums) -> tuple[SharedSums, Learner]:
        return shared, shared.learner(self.number)

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
