"""Bringing a learner partition back: from its store, or from the parameters topic where the store is empty.

Invariants:
- Restoring is monotonic: an older row never replaces a newer one, and a row is never given a fact that it includes.
- Before anything is published, a fence with the owner's epoch is in the parameters topic. A row of a lower epoch
  behind a fence came from a replaced owner, and compaction may have removed the newer row for it; then no row of
  the partition is trusted, and the whole ledger is folded again.
- An owner's epoch is above that of every fence before its own. The group's generation alone would not do: a worker
  that comes back under its name gets the generation of the process that it replaces.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
from faust.types import TP

from freshet.v1 import parameters_pb2
from streams.failpoints import failpoint
from streams.kafka.catalogue import Edited
from streams.kafka.learner_partition import EDITED, LearnerPartition
from streams.kafka.log_reader import LogReader
from streams.kafka.parameter_rows import epoch_of, fence_key, is_fence, is_mark
from streams.kafka.partition import WorkerError
from streams.restore import restore_rows
from streams.row_codec import decode_rows, place_rows
from streams.store import ROW, Batch

log = structlog.get_logger("freshet.kafka")

_ROWS_AT_ONCE = 10_000


@dataclass
class _Topic:
    """What a partition of the parameters topic holds.

    Attributes:
        mark: the last one.
        fenced: highest epoch of a fence so far.
        tainted: a replaced owner wrote behind a fence.
        edited: rows of items that the catalogue has changed; they wait for the mark, which names the artifact.
    """

    mark: parameters_pb2.PartitionMark | None = None
    fenced: int = 0
    tainted: bool = False
    edited: dict[str, bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)


async def recover(partition: LearnerPartition, reader: LogReader, *, generation: int) -> None:
    """Make a learner partition ready to go on.

    Raises:
        WorkerError: the ledger has been deleted too far.
    """
    learner, head = partition.learner, partition.head
    has_store = head.HasField("mark")
    partition.epoch = max(generation, head.mark.epoch + 1)
    if has_store:
        partition.take_mark(head.mark)
        _attach(partition, partition.store.scan(EDITED), head.mark.graph_version)
        restore_rows(partition.store, learner, ROW)
    tp = TP(partition.around.names.parameters, partition.number)
    before = (await reader.bounds([tp]))[tp]
    if not has_store:
        topic = await _read(partition, reader, tp, before)
        if topic.tainted:
            log.warning("rows of a replaced owner: the ledger is folded from its start", partition=partition.number)
            partition.shared.clear(partition.number)
            topic.mark = None
        else:
            _place_edited(partition, topic)
        if topic.mark is not None:
            partition.take_mark(topic.mark)
            head.published_position = topic.mark.position
            _check_graph(partition, topic.mark)
        partition.epoch = max(partition.epoch, topic.fenced + 1)
        head.parameters_end = before[1]
    else:
        _check_graph(partition, head.mark)
    await _refuse_lost_ledger(partition, reader)
    failpoint("learner-restored")
    await _fence(partition, reader, tp, max(head.parameters_end, before[0]))
    failpoint("learner-fenced")
    _write_all(partition)


async def _fence(partition: LearnerPartition, reader: LogReader, tp: TP, known: int) -> None:
    """Write a fence that no other owner's reaches, given that none before the offset `known` does."""
    _, end = (await reader.bounds([tp]))[tp]
    while True:
        found = await _highest_fence(reader, tp, known, end)
        partition.epoch, known = max(partition.epoch, found + 1), end
        fence = [(fence_key(partition.epoch), partition.mark().SerializeToString())]
        end = (await partition.around.sender.send_batches(tp.topic, {tp.partition: fence}))[tp.partition][-1]
        if await _highest_fence(reader, tp, known, end) < partition.epoch:
            partition.head.parameters_end = end + 1
            return


async def _highest_fence(reader: LogReader, tp: TP, start: int, end: int) -> int:
    """The highest epoch that somebody has fenced with; a repeat of one's own before `end` counts as well."""
    highest = 0
    async for _, records in reader.read({tp: (start, end)}):
        fences = (record.key for record in records if record.key and is_fence(record.key))
        highest = max([highest, *(int.from_bytes(key[1:], "big") for key in fences)])
    return highest


async def _read(partition: LearnerPartition, reader: LogReader, tp: TP, bounds: tuple[int, int]) -> _Topic:
    topic = _Topic()
    async for _, records in reader.read({tp: bounds}):
        for record in records:
            _take(topic, record.key or b"", record.value)
        if len(topic.names) >= _ROWS_AT_ONCE:
            _place(partition, topic)
    _place(partition, topic)
    return topic


def _take(topic: _Topic, key: bytes, value: bytes | None) -> None:
    if value is None:
        return
    if is_fence(key):
        topic.fenced = max(topic.fenced, int.from_bytes(key[1:], "big"))
    elif is_mark(key):
        mark = parameters_pb2.PartitionMark.FromString(value)
        if mark.epoch >= topic.fenced:
            topic.mark = mark
    else:
        topic.tainted |= epoch_of(value) < topic.fenced
        topic.names.append(key.decode())
        topic.values.append(value)


def _place(partition: LearnerPartition, topic: _Topic) -> None:
    if topic.names:
        shared = partition.shared
        rows = decode_rows(topic.names, topic.values)
        place_rows(shared.graph, rows, shared.sums, shared.row_position)
        for at in np.flatnonzero(rows.edited_at).tolist() if rows.edited_at is not None else ():
            topic.edited[topic.names[at]] = topic.values[at]
    topic.names, topic.values = [], []


def _place_edited(partition: LearnerPartition, topic: _Topic) -> None:
    """Attach items as their rows say, and place the rows again."""
    if topic.mark is not None and topic.edited:
        rows = ((name.encode(), value) for name, value in topic.edited.items())
        _attach(partition, rows, topic.mark.graph_version)
        topic.names, topic.values = [*topic.edited], [*topic.edited.values()]
        _place(partition, topic)


def _attach(partition: LearnerPartition, items: Iterable[tuple[bytes, bytes]], version: str) -> None:
    """Attach items as the catalogue had them under a version.

    Another artifact says itself where its items are attached; of the catalogue's changes those stay that it knows
    nothing of: further items, and that items were retired.
    """
    shared = partition.shared
    edited = {name.decode(): Edited.from_bytes(value) for name, value in items}
    if version != shared.base_version:
        graph, kept = shared.graph, dict[str, Edited]()
        for name, one in edited.items():
            number = int(graph.lookup([name], retired=True)[0])
            if number >= 0 and one.retired:
                row = graph.edge_cluster[graph.item_ptr[number] : graph.item_ptr[number + 1]]
                kept[name] = replace(one, clusters=tuple(row.tolist()))
            elif number < 0 and max(one.clusters, default=-1) < graph.n_clusters:
                kept[name] = one
        edited = kept
    if edited:
        shared.edit(edited, position=0)


def _check_graph(partition: LearnerPartition, mark: parameters_pb2.PartitionMark) -> None:
    """Rows of another graph keep what both have; everything is written and published anew under this one."""
    version = partition.shared.base_version
    if mark.graph_version == version:
        return
    log.info("another graph", partition=partition.number, was=mark.graph_version, now=version)
    known: Sequence[str] = [name.decode() for name, _ in partition.store.scan(ROW)]
    gone = partition.shared.graph.lookup(known, retired=True) < 0
    batch = Batch()
    for name in np.array(known, dtype=object)[gone].tolist():
        batch.delete(ROW, name.encode())
    for name, _ in partition.store.scan(EDITED):
        if name.decode() not in partition.shared.edited:
            batch.delete(EDITED, name)
    partition.store.write(batch)
    partition.head.published_position = 0


def _write_all(partition: LearnerPartition) -> None:
    """The store has every row that was restored; the head, without which it counts as empty, comes last."""
    items = partition.shared.items_of(partition.number)
    items = items[partition.shared.row_position[items] > 0]
    if not partition.head.HasField("mark") or partition.head.mark.graph_version != partition.shared.base_version:
        for start in range(0, len(items), _ROWS_AT_ONCE):
            partition.write_rows(items[start : start + _ROWS_AT_ONCE])
            failpoint("learner-rows-written")
    partition.write(np.empty(0, np.int32))


async def _refuse_lost_ledger(partition: LearnerPartition, reader: LogReader) -> None:
    tp = partition.ledger
    first, _ = (await reader.bounds([tp]))[tp]
    position = partition.learner.position
    if position < first and not partition.around.settings.accept_gap:
        raise WorkerError(
            f"{tp.topic}[{tp.partition}]: the rows include the ledger up to {position}, but the broker has deleted "
            f"everything before {first}: {first - position} records are lost; accept the gap to go on"
        )
