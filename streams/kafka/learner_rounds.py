"""Rounds of the learner partitions of a worker.

The commit path of a round:

    1. fold the ledger records of all partitions into the sums with one call, dropping repeats and what replaced
       owners wrote too late
    2. if the last publication is long enough ago: write ONE WriteBatch for each partition, synced, side by side:
       the rows that changed since, and the head (position, applied sequences, epochs, graph)
    3. send the same rows of all partitions, each partition's mark last; after a switch of graphs an announcement
       first, and tombstones of rows that are gone
    4. wait until the broker has them
    5. remember the published positions; they are written with the next micro-batch
    6. acknowledge: the positions on disk may be copied to the group

A crash before 2 has happened never: the ledger is the log, and is folded again from the positions on disk. Rows are
published after they are on disk, so nothing published is ahead of what can be restored; and every row says which
ledger position it includes, so a crash between 2 and 5 leaves just the rows above the published position to be sent
again.

Before 1, what the graph marks of a round need is loaded: until it can be, nothing is folded.
"""

import time
from collections.abc import Sequence

import numpy as np

from bandits.ledger_run import Delivery, fold_run
from bandits.sums import Int32
from streams.failpoints import failpoint
from streams.kafka.chunk import Chunk
from streams.kafka.graph_loading import load_marked
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.parameter_rows import MARK_KEY, fence_key
from streams.kafka.partition import Surroundings
from streams.kafka.rounds import Rounds
from streams.kafka.sender import Pair
from streams.kafka.shared_sums import SharedSums
from streams.outcome_codec import LedgerError, Message, decode_run
from streams.row_codec import encode_rows
from streams.store import Batch

# While more is waiting, publishing takes at most one part in so many of the time, up to a limit. While a whole
# round waits, whoever follows the rows is behind in any case, and rows that soon change again are not sent at all.
_SHARE = 3
_LONGEST_PAUSE_S = 1.0

_Record = tuple[LearnerPartition, int, Message]
_Changed = tuple[SharedSums, Int32]  # numbers of items under a graph


class LearnerRounds(Rounds[LearnerPartition]):
    """Commits the learner partitions of a worker.

    Args:
        around: what all partitions share.
    """

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._changed: list[_Changed] = []
        self._published_at_s = 0.0
        self._publishing_took_s = 0.0

    async def add(self, partition: LearnerPartition) -> None:
        """Begin to commit a partition; rows that its last owner had not published go out with the next ones."""
        await super().add(partition)
        self._changed.append((partition.shared, partition.unpublished()))

    def due_in_s(self) -> float | None:
        """When the next publication is due."""
        if not any(map(_is_ahead, self.partitions)):
            return None
        settings, waiting = self.around.settings, self._waiting_bytes()
        pause_s = settings.publish_interval_ms / 1000
        if waiting >= settings.max_batch_bytes:
            pause_s = max(pause_s, _LONGEST_PAUSE_S)
        elif waiting:
            pause_s = max(pause_s, min(_SHARE * self._publishing_took_s, _LONGEST_PAUSE_S))
        return self._published_at_s + pause_s - time.monotonic()

    async def commit(self, taken: Sequence[tuple[LearnerPartition, Sequence[Chunk]]]) -> None:
        """Fold a round, publish when it is due; the steps are those of the module's head."""
        # 1. fold
        if taken:
            await load_marked(taken)
            self._changed += _fold(taken)
            failpoint("learner-folded")
        due_s = self.due_in_s()
        if due_s is not None and due_s <= 0:
            self._published_at_s = time.monotonic()
            await self._publish()
            self._publishing_took_s = time.monotonic() - self._published_at_s

    async def _publish(self) -> None:
        """Steps 2 to 5."""
        partitions = list(filter(_is_ahead, self.partitions))
        rows = self._changed_rows()
        positions = {partition.number: partition.learner.position for partition in partitions}
        # 2. write
        batches = [(partition, partition.batch(*rows.get(partition.number, ([], [])))) for partition in partitions]
        await self.around.disk.run([lambda pair=pair: _write(*pair) for pair in batches])  # type: ignore[misc]
        failpoint("learner-written")
        # 3. and 4. send and wait
        gone = {partition.number: sorted(partition.gone) for partition in partitions}
        pairs = {
            partition.number: _pairs(partition, *rows.get(partition.number, ([], [])), gone[partition.number])
            for partition in partitions
        }
        ends = await self.around.sender.send_batches(self.around.names.parameters, pairs)
        failpoint("learner-published")
        # 5. remember
        is_sure = self.around.consumer.thread.is_sure  # else another owner's fence may lie before these rows
        for partition in partitions:
            if is_sure:
                partition.head.parameters_end = ends[partition.number][-1] + 1
            partition.head.published_position = positions[partition.number]
            partition.announced_at = partition.switched_at
            partition.told(gone[partition.number])
        failpoint("learner-marked")

    def _changed_rows(self) -> dict[int, tuple[list[str], list[bytes]]]:
        """Names and rows of the items that changed since the last publication, by partition."""
        changed, self._changed = self._changed, []
        rows: dict[int, tuple[list[str], list[bytes]]] = {}
        for shared in dict.fromkeys(shared for shared, _ in changed):
            items = np.concatenate([items for other, items in changed if other is shared])
            rows |= _rows_of(shared, items, {partition.number: partition.epoch for partition in self.partitions})
        return rows


def _rows_of(
    shared: SharedSums, items: Int32, epoch_of: dict[int, int]
) -> dict[int, tuple[list[str], list[bytes]]]:
    items = _current(shared, items)
    if not len(items):
        return {}
    items = items[np.argsort(shared.partition[items], kind="stable")]
    numbers, starts = np.unique(shared.partition[items], return_index=True)
    epochs = np.repeat([epoch_of[number] for number in numbers.tolist()], np.diff(starts, append=len(items)))
    rows = encode_rows(shared.graph, shared.sums, shared.row_position, items, epochs)
    names = [shared.graph.item_ids[item] for item in items.tolist()]
    rows = shared.behind(names, rows)
    ends = [*starts[1:].tolist(), len(items)]
    places = zip(numbers.tolist(), starts.tolist(), ends, strict=True)
    return {number: (names[start:end], rows[start:end]) for number, start, end in places}


def _current(shared: SharedSums, items: Int32) -> Int32:
    """Numbers of the same items as of now, each once, ascending; without those whose partition has left."""
    items, graph = np.unique(items), shared.graph
    if graph.edits is not None and not graph.edits.live[items].all():
        items = np.unique(graph.lookup([graph.item_ids[item] for item in items.tolist()], retired=True))
    return items[np.isin(shared.partition[items], [*shared.holders])]


def _pairs(partition: LearnerPartition, names: list[str], rows: list[bytes], gone: list[str]) -> list[Pair]:
    """What a partition publishes, in this order."""
    mark = partition.head.mark.SerializeToString()
    first: list[Pair] = []
    if partition.announced_at < partition.switched_at:
        # Whoever reads on from here knows that these rows are of another graph, before the mark comes.
        first = [(fence_key(partition.epoch), mark)]
    tombstones: list[Pair] = [(name.encode(), None) for name in gone]
    keys = [name.encode() for name in names]
    return [*first, *zip(keys, rows, strict=True), *tombstones, (MARK_KEY, mark)]


def _is_ahead(partition: LearnerPartition) -> bool:
    """True if something has been folded that is not published."""
    return partition.learner.position > partition.head.published_position


def _fold(taken: Sequence[tuple[LearnerPartition, Sequence[Chunk]]]) -> list[_Changed]:
    """Fold all records; the items whose rows changed, under the numbers that they had then."""
    records: list[_Record] = []
    changed: list[_Changed] = []

    def fold() -> None:
        for shared in dict.fromkeys(partition.shared for partition, _, _ in records):
            changed.append((shared, _fold_records([record for record in records if record[0].shared is shared])))
        records.clear()

    for partition, chunks in taken:
        for chunk in chunks:
            for record in chunk.records:
                value, offset = record.value or b"", record.offset
                message = partition.admit(value, offset)
                if message is None:
                    continue
                if message.fence:
                    fold()  # a mark of the catalogue or of a graph changes the edges for what comes after it
                    items = partition.take_fence(value, offset)
                    changed.append((partition.shared, items))
                    continue
                if partition.has_edits:
                    changed.append((partition.shared, partition.attach()))
                records.append((partition, offset, message))
        if partition.has_edits:
            fold()
            changed.append((partition.shared, partition.attach()))
    fold()
    for partition, chunks in taken:
        partition.learner.position = chunks[-1].end
    return changed


def _fold_records(records: list[_Record]) -> Int32:
    """Fold records under one graph with one call, but for those that are damaged."""
    try:
        run = decode_run([message for _, _, message in records])
    except LedgerError:
        records = [record for record in records if _is_whole(*record)]
        run = decode_run([message for _, _, message in records])
    deliveries = [
        Delivery(partition.learner, offset, message.joiner_partition, message.sequence)
        for partition, offset, message in records
    ]
    return fold_run(run, deliveries)


def _is_whole(partition: LearnerPartition, offset: int, message: Message) -> bool:
    try:
        decode_run([message])
    except LedgerError as error:
        partition.skip(offset, error)
        return False
    return True


def _write(partition: LearnerPartition, batch: Batch) -> None:
    partition.store.write(batch)
    failpoint("learner-one-written")
