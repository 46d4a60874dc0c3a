"""The ledger folded anew under the graphs that it names, and the rows that learners published, for `verify`.

Invariants: what is folded depends on the ledger and the artifacts alone; a partition goes on under another graph at
the record that says so, whatever the others do; the hash of all partitions together does not depend on which of
them share a graph.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from faust.types import TP

from bandits.backend import Backend
from bandits.graph import Graph
from bandits.learner import Learner
from bandits.outcomes import Outcomes
from bandits.sums import state_hash
from freshet.v1 import kafka_state_pb2, parameters_pb2
from streams.kafka.catalogue import Edited, edited_by, mark_of
from streams.kafka.chunk import LogRecord
from streams.kafka.graph_marks import GRAPH_KEY, changes, graph_mark_of
from streams.kafka.graph_shelf import GraphShelf
from streams.kafka.ledger import decode_delivery
from streams.kafka.log_reader import LogReader
from streams.kafka.parameter_rows import is_fence, is_mark
from streams.kafka.partition_move import move_partition
from streams.kafka.shared_sums import SharedSums
from streams.outcome_codec import decode_outcomes
from streams.row_codec import decode_rows, place_rows
from streams.topics import TopicNames

Bounds = dict[TP, tuple[int, int]]
Marks = Mapping[int, parameters_pb2.PartitionMark]


@dataclass(eq=False)
class FoldedPartition:
    """One partition and the graph that it is under.

    Attributes:
        number: of the partition.
        shared: sums of the graph.
        learner: adds to them.
        epochs: the highest epoch read of each joiner partition.
        catalogue: what of the items topic has been applied, by partition of it.
    """

    number: int
    shared: SharedSums
    learner: Learner = field(init=False)
    epochs: dict[int, int] = field(default_factory=dict)
    catalogue: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.learner = self.shared.learner(self.number)

    def attach(self, mark: kafka_state_pb2.CatalogueMark, offset: int) -> None:
        """Attach an item as its mark says."""
        if mark.offset < self.catalogue.get(mark.partition, 0):
            return
        self.catalogue[mark.partition] = mark.offset + 1
        item = edited_by(mark, self.shared.graph, at=offset + 1) if mark.item_id else None
        if item is not None:
            numbers = self.shared.edit({mark.item_id: item}, number=self.number, position=offset + 1)
            row_position = self.shared.row_position
            row_position[numbers] = np.maximum(row_position[numbers], offset + 1)

    def switch(self, mark: kafka_state_pb2.GraphMark, shelf: GraphShelf, offset: int) -> None:
        """Go on under another graph, if its mark says so."""
        if mark.asked:
            if mark.offset < self.catalogue.get(mark.partition, 0):
                return
            self.catalogue[mark.partition] = mark.offset + 1
        if not changes(mark, self.shared.base_version):
            return
        shelf.load(mark.version, self.number, mark.overlap)
        old, new = self.shared, shelf.sums_of(mark.version, self.number)
        try:
            overlap = shelf.overlap(mark.overlap, old.graph, new.graph)
        except ValueError:
            return  # as workers do
        move_partition(self.number, old, new, at=offset + 1, overlap=overlap)
        before = self.learner
        old.leave(before, self.number)
        self.shared, self.learner = new, new.learner(self.number)
        self.learner.position, self.learner.applied = before.position, before.applied


@dataclass(eq=False)
class LedgerFold:
    """The ledger folded under its graphs.

    Attributes:
        partitions: by number, as of the end of the ledger.
        hash_at_marks: state hash of all partitions where the rows' marks are.
        hash_at_end: likewise at the end.
        records: facts' records that were read.
        positions: of the sources, as the ledger's records say.
        clocks_ms: of each joiner partition.
        graph: what most partitions are under in the end.
        is_plain: whether the graph never changed, in no partition.
    """

    partitions: dict[int, FoldedPartition]
    hash_at_marks: str = ""
    hash_at_end: str = ""
    records: int = 0
    positions: dict[TP, int] = field(default_factory=dict)
    clocks_ms: dict[int, int] = field(default_factory=dict)
    is_plain: bool = True

    @property
    def graph(self) -> Graph:
        """What most partitions are under in the end, the catalogue's changes included."""
        shared = {partition.shared for partition in self.partitions.values()}
        return max(shared, key=lambda one: len(one.holders)).graph


async def bounds_of(reader: LogReader, topic: str) -> Bounds:
    """First offset and end of each partition of a topic now."""
    return await reader.bounds([TP(topic, number) for number in range(await reader.partitions(topic))])


async def read_marks(reader: LogReader, bounds: Bounds) -> dict[int, parameters_pb2.PartitionMark]:
    """The last mark of each partition of the parameters topic within some bounds."""
    marks: dict[int, parameters_pb2.PartitionMark] = {}
    async for tp, records in reader.read(bounds):
        for record in records:
            if is_mark(record.key or b""):
                mark = parameters_pb2.PartitionMark.FromString(record.value or b"")
                if mark.position >= marks.get(tp.partition, mark).position:
                    marks[tp.partition] = mark
    return marks


async def hash_of_rows(reader: LogReader, bounds: Bounds, shelf: GraphShelf, marks: Marks) -> str:
    """State hash of all rows, each under the graph of its partition's mark; as of the bounds of the marks.

    Raises:
        NoArtifact: a graph is missing.
    """
    numbers = [tp.partition for tp in bounds]
    held = {number: _sums_of(shelf, number, _version(shelf, marks, number)) for number in numbers}
    edited: dict[int, dict[str, bytes]] = {number: {} for number in held}
    for number, shared in held.items():
        shared.holders.add(number)
    async for tp, records in reader.read(bounds):
        rows = [record for record in records if record.value is not None and not _is_about_all(record)]
        switched_at = marks[tp.partition].switched_at if tp.partition in marks else 0
        _place(held[tp.partition], rows, switched_at, edited[tp.partition])
    for number, values in edited.items():
        # The rows of items that the catalogue has changed say themselves what their edges are.
        if values:
            items = {name: Edited.from_bytes(value) for name, value in values.items()}
            held[number].edit(items, number=number, position=0)
            rows_now = decode_rows([*values], [*values.values()])
            place_rows(held[number].graph, rows_now, held[number].sums, held[number].row_position)
    return _hash(held.values())


async def fold_ledger(reader: LogReader, names: TopicNames, shelf: GraphShelf, marks: Marks) -> LedgerFold:
    """Fold up to the marks, take the hash, go on to the end, under the graphs that the ledger names.

    Raises:
        NoArtifact: a graph is missing.
        LedgerError: a record cannot be read.
    """
    bounds = await bounds_of(reader, names.outcomes)
    tps = [*bounds]
    at_mark: dict[TP, int] = {}
    fold = LedgerFold({})
    for tp in tps:
        first = await _first_version(reader, tp, bounds[tp], marks.get(tp.partition))
        shared = _sums_of(shelf, tp.partition, first or shelf.wanted.version)
        fold.partitions[tp.partition] = FoldedPartition(tp.partition, shared)
        position = marks[tp.partition].position if tp.partition in marks else 0
        at_mark[tp] = min(max(position, bounds[tp][0]), bounds[tp][1])
    for stretches in (
        {tp: (bounds[tp][0], at_mark[tp]) for tp in tps},
        {tp: (at_mark[tp], bounds[tp][1]) for tp in tps},
    ):
        async for tp, records in reader.read(stretches):
            for record in records:
                _fold_record(fold, fold.partitions[tp.partition], record, names, shelf)
        fold.hash_at_end = _hash(partition.shared for partition in fold.partitions.values())
        fold.hash_at_marks = fold.hash_at_marks or fold.hash_at_end
    return fold


async def hash_under(reader: LogReader, names: TopicNames, graph: Graph, backend: Backend) -> str:
    """State hash of all facts of the ledger under one graph, whatever it says of graphs."""
    learner = Learner.empty(graph, backend)
    bounds = await bounds_of(reader, names.outcomes)
    applied: dict[int, dict[int, int]] = {tp.partition: {} for tp in bounds}
    epochs: dict[int, dict[int, int]] = {tp.partition: {} for tp in bounds}
    async for tp, records in reader.read(bounds):
        for record in records:
            outcomes = _admitted(epochs[tp.partition], record)[0]
            if outcomes is not None:
                learner.applied = applied[tp.partition]  # a sequence is dropped where this partition has had it
                # An item belongs to one partition, whose offsets its row follows.
                learner.apply(outcomes, offset=record.offset)
    return state_hash(graph, learner.sums)


def _fold_record(
    fold: LedgerFold, partition: FoldedPartition, record: LogRecord, names: TopicNames, shelf: GraphShelf
) -> None:
    outcomes, fence = _admitted(partition.epochs, record)
    if fence is not None:
        graph_mark, mark = graph_mark_of(fence), mark_of(fence, partition.shared.graph)
        before = partition.shared.graph
        if graph_mark is not None:
            partition.switch(graph_mark, shelf, record.offset)
        elif mark is not None:
            partition.attach(mark, record.offset)
        fold.is_plain &= partition.shared.graph is before
    if outcomes is None:
        return
    fold.records += 1
    joiner = outcomes.joiner_partition
    fold.clocks_ms[joiner] = max(fold.clocks_ms.get(joiner, 0), outcomes.clock_ms)
    partition.learner.apply(outcomes, offset=record.offset)
    for topic, position in (
        (names.impressions, outcomes.impressions_position),
        (names.clicks, outcomes.clicks_position),
    ):
        tp = TP(topic, joiner)
        fold.positions[tp] = max(fold.positions.get(tp, 0), position)


def _admitted(
    epochs: dict[int, int], record: LogRecord
) -> tuple[Outcomes | None, kafka_state_pb2.OutcomeDelivery | None]:
    """Facts or a fence that count; as a learner does, what a replaced owner wrote too late is not heard."""
    value = record.value or b""
    outcomes, delivery = decode_outcomes(value), decode_delivery(value)
    joiner = outcomes.joiner_partition
    if delivery.epoch < epochs.get(joiner, 0):
        return None, None
    epochs[joiner] = delivery.epoch
    return (None, delivery) if delivery.fence else (outcomes, None)


async def _first_version(
    reader: LogReader, tp: TP, bounds: tuple[int, int], mark: parameters_pb2.PartitionMark | None
) -> str:
    """The graph that a partition's ledger begins under; empty if nobody says."""
    if mark is not None and mark.switched_at == 0:
        return mark.graph_version  # no mark of a graph lies before this one
    async for _, records in reader.read({tp: bounds}):
        for record in records:
            graph_mark = graph_mark_of(decode_delivery(record.value or b"")) if record.key == GRAPH_KEY else None
            if graph_mark is not None and not graph_mark.trial:
                return graph_mark.from_version
    return "" if mark is None else mark.graph_version


def _sums_of(shelf: GraphShelf, number: int, version: str) -> SharedSums:
    shelf.load(version, number)
    return shelf.sums_of(version, number)


def _version(shelf: GraphShelf, marks: Marks, number: int) -> str:
    return (marks[number].graph_version if number in marks else "") or shelf.wanted.version


def _place(shared: SharedSums, rows: list[LogRecord], switched_at: int, edited: dict[str, bytes]) -> None:
    """Place rows that are not older than their partition's switch to its graph."""
    if not rows:
        return
    names, values = [(row.key or b"").decode() for row in rows], [row.value or b"" for row in rows]
    decoded = decode_rows(names, values)
    if decoded.position.min() < switched_at:
        now = np.flatnonzero(decoded.position >= switched_at).tolist()
        _place(shared, [rows[at] for at in now], switched_at, edited)
        return
    place_rows(shared.graph, decoded, shared.sums, shared.row_position)
    edited_at = np.zeros(len(rows), np.int64) if decoded.edited_at is None else decoded.edited_at
    for name, value, at in zip(names, values, edited_at.tolist(), strict=True):
        if at:
            edited[name] = value


def _is_about_all(record: LogRecord) -> bool:
    key = record.key or b""
    return is_mark(key) or is_fence(key)


def _hash(shared: Iterable[SharedSums]) -> str:
    """State hash of all rows, wherever they lie: hashes of shards add up, modulo 2^64 in each half."""
    hashes = [state_hash(one.graph, one.sums) for one in dict.fromkeys(shared)]
    halves = [sum(int(one[at : at + 16], 16) for one in hashes) % 2**64 for at in (0, 16)]
    return "".join(f"{half:016x}" for half in halves)
