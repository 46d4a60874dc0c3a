"""Bringing a learner partition back: from its store, or from the parameters topic where the store is empty.

Invariants:
- Restoring is monotonic: an older row never replaces a newer one, and a row is never given a fact that it includes.
- Before anything is published, a fence with the owner's epoch is in the parameters topic. A row of a lower epoch
  behind a fence came from a replaced owner, and compaction may have removed the newer row for it; then no row of
  the partition is trusted, and the whole ledger is folded again.
- An owner's epoch is above that of every fence before its own. The group's generation alone would not do: a worker
  that comes back under its name gets the generation of the process that it replaces.
- Rows count under the graph of the mark that follows them. One whose position is below the switch to that graph is
  of a graph before: an owner that had been replaced wrote it, and it is taken out. One beyond a later switch, which
  an owner announced and did not finish, waits until the ledger has come to that switch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import structlog
from faust.types import TP

from bandits.edited_sums import clear_rows
from freshet.v1 import parameters_pb2
from streams.failpoints import failpoint
from streams.kafka.catalogue import Edited
from streams.kafka.graph_loading import load_or_wait
from streams.kafka.graph_marks import GRAPH_KEY, graph_mark_of
from streams.kafka.learner_partition import EDITED, GONE, LearnerPartition
from streams.kafka.ledger import decode_delivery
from streams.kafka.log_reader import LogReader
from streams.kafka.parameter_rows import epoch_of, fence_key, is_fence, is_mark
from streams.kafka.partition import WorkerError
from streams.restore import restore_rows
from streams.row_codec import decode_rows, place_rows
from streams.store import ROW

log = structlog.get_logger("freshet.kafka")

_ROWS_AT_ONCE = 10_000


@dataclass
class _Topic:
    """What a partition of the parameters topic holds.

    Attributes:
        mark: the last one.
        fenced: highest epoch of a fence so far.
        tainted: a replaced owner wrote behind a fence.
        switches: ledger positions of switches that were announced.
        edited: rows of items that the catalogue has changed; they wait for the mark, which names the artifact.
        stale: rows of graphs before.
    """

    mark: parameters_pb2.PartitionMark | None = None
    fenced: int = 0
    tainted: bool = False
    switches: set[int] = field(default_factory=set)
    edited: dict[str, bytes] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)


async def recover(partition: LearnerPartition, reader: LogReader, *, generation: int) -> None:
    """Make a learner partition ready to go on.

    Raises:
        WorkerError: the ledger has been deleted too far, or the graph that the partition is under cannot be had.
    """
    head = partition.head
    has_store = head.HasField("mark")
    partition.epoch = max(generation, head.mark.epoch + 1)
    if has_store:
        await _go_under(partition, head.mark.graph_version)
        partition.take_mark(head.mark)
        _attach(partition, partition.store.scan(EDITED))
        restore_rows(partition.store, partition.learner, ROW)
        partition.gone = {name.decode() for name, _ in partition.store.scan(GONE)}
    tp = TP(partition.around.names.parameters, partition.number)
    before = (await reader.bounds([tp]))[tp]
    if not has_store:
        topic = await _read_all(partition, reader, tp, before)
        if topic.mark is not None:
            partition.take_mark(topic.mark)
            head.published_position = topic.mark.position
        else:
            await _go_under(partition, await _first_version(partition, reader))
        partition.gone.update(topic.stale)
        partition.epoch = max(partition.epoch, topic.fenced + 1)
        head.parameters_end = before[1]
    await _refuse_lost_ledger(partition, reader)
    failpoint("learner-restored")
    await _fence(partition, reader, tp, max(head.parameters_end, before[0]))
    partition.announced_at = partition.switched_at  # the fence says it
    failpoint("learner-fenced")
    _write_all(partition)


async def _go_under(partition: LearnerPartition, version: str) -> None:
    """Come under a graph, with nothing learned."""
    if version and version != partition.version:
        await load_or_wait(partition, version)
        partition.go_under(partition.shelf.sums_of(version, partition.number))


async def _first_version(partition: LearnerPartition, reader: LogReader) -> str:
    """The graph that the ledger begins under: what its first mark says, else the one wanted."""
    tp = partition.ledger
    async for _, records in reader.read(await reader.bounds([tp])):
        for record in records:
            mark = graph_mark_of(decode_delivery(record.value or b"")) if record.key == GRAPH_KEY else None
            if mark is not None and not mark.trial:
                return mark.from_version
    return partition.shelf.wanted.version


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


async def _read_all(partition: LearnerPartition, reader: LogReader, tp: TP, bounds: tuple[int, int]) -> _Topic:
    """All that the parameters topic has of a partition, under the graph of its last mark."""
    topic = await _read(partition, reader, tp, bounds)
    mark = topic.mark
    if topic.tainted:
        log.warning("rows of a replaced owner: the ledger is folded from its start", partition=partition.number)
        partition.shared.clear(partition.number)
        topic.mark = None
        return topic
    if mark is None:
        partition.shared.clear(partition.number)
        return topic
    ahead = sorted(at for at in topic.switches if at > mark.switched_at)
    if mark.graph_version not in ("", partition.version) or ahead:
        # Now that it is known what the rows are of, they are read again.
        if mark.graph_version not in ("", partition.version):
            await _go_under(partition, mark.graph_version)
        else:
            partition.shared.clear(partition.number)
        topic = await _read(partition, reader, tp, bounds, ahead=ahead)
        topic.mark = mark
    _place_edited(partition, topic, mark.switched_at)
    _take_out_stale(partition, topic, mark.switched_at)
    return topic


async def _read(
    partition: LearnerPartition, reader: LogReader, tp: TP, bounds: tuple[int, int], *, ahead: Sequence[int] = ()
) -> _Topic:
    topic = _Topic()
    async for _, records in reader.read({tp: bounds}):
        for record in records:
            _take(topic, record.key or b"", record.value)
        if len(topic.names) >= _ROWS_AT_ONCE:
            _place(partition, topic, ahead)
    _place(partition, topic, ahead)
    return topic


def _take(topic: _Topic, key: bytes, value: bytes | None) -> None:
    if value is None:
        return
    if is_fence(key):
        topic.fenced = max(topic.fenced, int.from_bytes(key[1:], "big"))
        topic.switches.add(parameters_pb2.PartitionMark.FromString(value).switched_at)
    elif is_mark(key):
        mark = parameters_pb2.PartitionMark.FromString(value)
        if mark.epoch >= topic.fenced:
            topic.mark = mark
    else:
        topic.tainted |= epoch_of(value) < topic.fenced
        topic.names.append(key.decode())
        topic.values.append(value)


def _place(partition: LearnerPartition, topic: _Topic, ahead: Sequence[int]) -> None:
    """Place what was read; rows beyond a switch that is ahead wait for it."""
    names, values = topic.names, topic.values
    topic.names, topic.values = [], []
    if ahead and names:
        positions = decode_rows(names, values).position
        switch = np.searchsorted(np.array(ahead), positions, side="right")
        for at in np.flatnonzero(switch).tolist():
            partition.ahead.setdefault(ahead[switch[at] - 1], {})[names[at]] = values[at]
        here = np.flatnonzero(switch == 0).tolist()
        names, values = [names[at] for at in here], [values[at] for at in here]
    if names:
        shared = partition.shared
        rows = decode_rows(names, values)
        place_rows(shared.graph, rows, shared.sums, shared.row_position)
        edited = np.zeros(len(names), np.int64) if rows.edited_at is None else rows.edited_at
        for at in np.flatnonzero(edited == 0).tolist() if topic.edited else ():
            topic.edited.pop(names[at], None)  # of a graph before
        for at in np.flatnonzero(edited).tolist():
            topic.edited[names[at]] = values[at]


def _place_edited(partition: LearnerPartition, topic: _Topic, switched_at: int) -> None:
    """Attach items as their rows say, and place the rows again."""
    names, values = [*topic.edited], [*topic.edited.values()]
    if names:
        now = np.flatnonzero(decode_rows(names, values).position >= switched_at).tolist()
        names, values = [names[at] for at in now], [values[at] for at in now]
    if names:
        _attach(partition, zip((name.encode() for name in names), values, strict=True))
        topic.names, topic.values = names, values
        _place(partition, topic, ())


def _take_out_stale(partition: LearnerPartition, topic: _Topic, switched_at: int) -> None:
    """Forget rows of graphs before; they are taken out of the topic too."""
    shared = partition.shared
    items = shared.items_of(partition.number)
    positions = shared.row_position[items]
    stale = items[(positions > 0) & (positions < switched_at)]
    clear_rows(shared.graph, shared.sums, stale)
    shared.row_position[stale] = 0
    topic.stale = [shared.graph.item_ids[item] for item in stale.tolist()]


def _attach(partition: LearnerPartition, items: Iterable[tuple[bytes, bytes]]) -> None:
    """Attach items as the catalogue has changed them."""
    edited = {name.decode(): Edited.from_bytes(value) for name, value in items}
    if edited:
        partition.shared.edit(edited, number=partition.number, position=0)


def _write_all(partition: LearnerPartition) -> None:
    """The store has every row that was restored; the head, without which it counts as empty, comes last."""
    items = partition.shared.items_of(partition.number)
    items = items[partition.shared.row_position[items] > 0]
    if not partition.head.HasField("mark"):
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
