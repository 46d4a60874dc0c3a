"""Rounds of the learner partitions of a worker.

The commit path of a round:

    1. fold the ledger records of all partitions into the sums with one call, dropping repeats and what replaced
       owners wrote too late
    2. if the last publication is over and long enough ago: write ONE WriteBatch for each partition whose turn it
       is, synced, side by side: its rows that changed since, and the head (position, applied sequences, epochs,
       graph)
    3. send the same rows, each partition's mark last; after a switch of graphs an announcement first, and
       tombstones of rows that are gone
    4. wait until the broker has them
    5. remember the published positions; they are written with the next micro-batch
    6. acknowledge: the positions on disk may be copied to the group

Rounds are folded while rows of earlier ones are in their steps 2 to 6: what is written and published is made of the
rows and the head at one moment, and of nothing that comes later. One publication is on its way at a time.

A crash before 2 has happened never: the ledger is the log, and is folded again from the positions on disk. Rows are
published after they are on disk, so nothing published is ahead of what can be restored; and every row says which
ledger position it includes, so a crash between 2 and 5 leaves just the rows above the published position to be sent
again.

Before 1, what the graph marks of a round need is loaded: until it can be, nothing is folded.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from bandits.ledger_run import Delivery, fold_run
from bandits.sums import Int32
from streams.failpoints import failpoint
from streams.kafka.at_once import all_at_once
from streams.kafka.chunk import Chunk
from streams.kafka.graph_loading import load_marked
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.partition import Surroundings
from streams.kafka.publication import Publication, changed_now, rows_of
from streams.kafka.publishing_turns import PublishingTurns
from streams.kafka.rounds import Rounds, wait_for
from streams.kafka.shared_sums import SharedSums
from streams.outcome_codec import LedgerError, Message, decode_run

# While a whole round waits, whoever follows the rows is behind in any case, and rows that soon change again are not
# sent at all.
_PAUSE_BEHIND_S = 1.0
_LOOK_AGAIN_S = 0.05  # whether rows are due at last

_Record = tuple[LearnerPartition, int, Message]
_Changed = tuple[SharedSums, Int32]  # numbers of items under a graph


class LearnerRounds(Rounds[LearnerPartition]):
    """Commits the learner partitions of a worker.

    Args:
        around: what all partitions share.
        is_behind: whether joiners of this worker have more to do than one round.
    """

    def __init__(self, around: Surroundings, is_behind: Callable[[], bool] = lambda: False) -> None:
        super().__init__(around)
        self._is_behind = is_behind
        self._changed: list[_Changed] = []
        self._folded = asyncio.Event()
        self._ahead_since_s = 0.0
        self._folded_at_s = 0.0
        self._published_at_s = 0.0
        self._turns = PublishingTurns()

    async def add(self, partition: LearnerPartition) -> None:
        """Begin to commit a partition; rows that its last owner had not published go out with the next ones."""
        await super().add(partition)
        self._changed.append((partition.shared, partition.unpublished()))
        self._folded.set()

    async def run(self) -> None:
        """Fold what comes and publish what changed, for ever."""
        await all_at_once([super().run(), self._publish_all()])

    async def commit(self, taken: Sequence[tuple[LearnerPartition, Sequence[Chunk]]]) -> None:
        """Step 1, the fold of a round."""
        await load_marked(taken)
        if not any(map(_is_ahead, self.partitions)):
            self._ahead_since_s = time.monotonic()
        self._changed += _fold(taken)
        failpoint("learner-folded")
        self._folded_at_s = time.monotonic()
        self._folded.set()
        await asyncio.sleep(0)  # chunks must come in while a worker catches up, and rows go out

    def due_in_s(self) -> float | None:
        """When the next publication is due; None = nothing has changed."""
        ahead = self._ahead()
        if not ahead:
            return None
        settings = self.around.settings
        pause_s, since_s = settings.publish_interval_ms / 1000, 0.0
        if self._is_far_behind():
            pause_s, since_s = max(pause_s, _PAUSE_BEHIND_S), self._ahead_since_s
        due_s = self._turns.due_at_s(list(ahead), pause_s=pause_s, since_s=since_s, is_busy=self._is_busy())
        return due_s - time.monotonic()

    async def _publish_all(self) -> None:
        while True:
            self._folded.clear()
            due_s = self.due_in_s()
            if due_s is None:
                await self._folded.wait()
            elif due_s > 0:
                await wait_for(self._folded, min(due_s, _LOOK_AGAIN_S))
            else:
                # Turns are for whoever waits for single rows: not while all are late, nor at the end of a backlog.
                ahead, in_turns = self._ahead(), self._is_busy() and not self._is_far_behind()
                turn = self._turns.next(list(ahead)) if in_turns else list(ahead)
                self._published_at_s = time.monotonic()
                await self.publish([ahead[number] for number in turn])
                self._turns.took(turn, began_s=self._published_at_s, ended_s=time.monotonic())

    def _is_busy(self) -> bool:
        """Whether something was folded since the last publication began."""
        return self._folded_at_s > self._published_at_s

    def _is_far_behind(self) -> bool:
        """Whether a whole round is waiting."""
        return self._waiting_bytes() >= self.around.settings.max_batch_bytes or self._is_behind()

    def _ahead(self) -> dict[int, LearnerPartition]:
        """Partitions that have something to publish, by number."""
        return {partition.number: partition for partition in self.partitions if _is_ahead(partition)}

    async def publish(self, partitions: Sequence[LearnerPartition] | None = None) -> None:
        """Steps 2 to 6, with the rows as they are now; meanwhile other rounds may be folded.

        Args:
            partitions: of which; None = all that have something to publish.
        """
        if partitions is None:
            partitions = [*self._ahead().values()]
        rows = self._changed_rows({partition.number: partition.epoch for partition in partitions})
        publications = [
            Publication.of(partition, *rows.get(partition.number, ([], []))) for partition in partitions
        ]
        # 2. write
        await self.around.disk.run([publication.write for publication in publications])
        failpoint("learner-written")
        # 3. and 4. send and wait
        pairs = {publication.partition.number: publication.pairs for publication in publications}
        ends = await self.around.rows_sender.send_batches(self.around.names.parameters, pairs)
        failpoint("learner-published")
        # 5. remember
        is_sure = self.around.consumer.thread.is_sure  # else another owner's fence may lie before these rows
        for publication in publications:
            publication.remember(ends[publication.partition.number][-1] + 1 if is_sure else None)
        failpoint("learner-marked")

    def _changed_rows(self, epoch_of: dict[int, int]) -> dict[int, tuple[list[str], list[bytes]]]:
        """Names and rows of the items of some partitions that changed since these were last published."""
        changed, self._changed = self._changed, []
        rows: dict[int, tuple[list[str], list[bytes]]] = {}
        for shared in dict.fromkeys(shared for shared, _ in changed):
            items = changed_now(shared, np.concatenate([items for other, items in changed if other is shared]))
            now = np.isin(shared.partition[items], [*epoch_of])
            rows |= rows_of(shared, items[now], epoch_of)
            if not now.all():
                self._changed.append((shared, items[~now]))
        return rows


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
