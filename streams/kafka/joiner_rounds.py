"""Rounds of the joiner partitions of a worker.

The commit path of a round:

    1. decode and join each partition's micro-batch, and let the joiner in memory go on from it
    2. write ONE WriteBatch for each partition, synced, side by side: the joiner's change, both positions, and the
       outbox (the ledger records of the micro-batch split by partition, its dead letters)
    3. send all outboxes: for each ledger partition one record batch, with one record of each joiner partition
    4. wait until the broker has all of it
    5. mark it as sent; the mark is written with the partition's next micro-batch
    6. acknowledge: the positions may be copied to the group

Step 1 of a round goes on while the round before it is in its steps 2 to 6; step 2 waits until those are over. So
one round at most is on its way, and one at most is in memory alone.

A crash before 2 has happened never, for each partition whose store was not yet written. After 2 the micro-batch is
decided: whoever recovers sends the same bytes with the same sequence, and learners drop what they have. Only one
micro-batch of a partition is on its way at a time, so that only the last one in the ledger can be incomplete.

Memory is ahead of the disk from 1 to 2. What fails in between ends the process, and a partition that is given up
forgets its joiner: whoever goes on reads the disk.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from streams.failpoints import failpoint
from streams.kafka.at_once import all_at_once
from streams.kafka.chunk import Chunk
from streams.kafka.joiner_partition import Joined, JoinerPartition
from streams.kafka.ledger import with_epoch
from streams.kafka.partition import Surroundings
from streams.kafka.rounds import Rounds
from streams.kafka.sender import Outgoing, Pair

# From which on a round is worth another thread: below, waiting for the interpreter takes longer than joining.
_BESIDE_BYTES = 512 << 10

Outbox = tuple[JoinerPartition, int, Sequence[Outgoing]]  # with the sequence of the change in the partition's store


class JoinerRounds(Rounds[JoinerPartition]):
    """Commits the joiner partitions of a worker.

    Args:
        around: what all partitions share.
    """

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._joined: asyncio.Queue[list[Joined]] = asyncio.Queue(1)
        self._joining_bytes = 0
        self._delivering_bytes = 0

    @property
    def is_behind(self) -> bool:
        """True while a whole round or more is waiting or on its way."""
        size = self._waiting_bytes() + self._joining_bytes + self._delivering_bytes
        return size >= self.around.settings.max_batch_bytes

    async def run(self) -> None:
        """Commit what comes, for ever."""
        await all_at_once([super().run(), self._deliver()])

    async def commit(self, taken: Sequence[tuple[JoinerPartition, Sequence[Chunk]]]) -> None:
        """Join a round, and hand it on once the one before has been delivered."""
        self._joining_bytes = sum(chunk.size for _, chunks in taken for chunk in chunks)
        joined = await _join(self.around, taken)
        await self._joined.join()
        for one in joined:
            one.seal()
        self._delivering_bytes, self._joining_bytes = self._joining_bytes, 0
        self._joined.put_nowait(joined)

    async def _deliver(self) -> None:
        while True:
            await _deliver(self.around, await self._joined.get())
            self._delivering_bytes = 0
            self._joined.task_done()


async def commit_round(
    around: Surroundings,
    taken: Sequence[tuple[JoinerPartition, Sequence[Chunk]]],
    *,
    clock_ms: int | None = None,
) -> None:
    """Make micro-batches durable, one step after the other; the steps are those of the module's head.

    Args:
        around: what partitions share.
        taken: their chunks; none of them where windows have closed.
        clock_ms: of the joiners, if it is known already; None = their clocks as they are.
    """
    joined = await _join(around, taken, clock_ms)
    for one in joined:
        one.seal()
    await _deliver(around, joined)


async def _join(
    around: Surroundings,
    taken: Sequence[tuple[JoinerPartition, Sequence[Chunk]]],
    clock_ms: int | None = None,
) -> list[Joined]:
    """Step 1."""
    works = [partial(one.join, chunks, clock_ms) for one, chunks in taken]
    if sum(chunk.size for _, chunks in taken for chunk in chunks) < _BESIDE_BYTES:
        joined = [work() for work in works]
    else:
        joined = await around.joins.run(works)
    for one in joined:
        one.take_over()
    failpoint("joiner-joined")
    return joined


async def _deliver(around: Surroundings, joined: Sequence[Joined]) -> None:
    """Steps 2 to 6."""
    # 2. write
    await around.disk.run([partial(_write, one) for one in joined])
    failpoint("joiner-written")
    # 3. to 5. send, wait and mark
    await send_outboxes(around, [(one.partition, one.change.sequence, one.outbox) for one in joined])
    # 6. acknowledge
    for one in joined:
        one.partition.acknowledge(one.change)


async def send_outboxes(around: Surroundings, outboxes: Sequence[Outbox]) -> None:
    """Steps 3 to 5."""
    ledger = around.names.outcomes
    refused = [out for _, _, outbox in outboxes for out in outbox if out.topic != ledger]
    facts: dict[int, list[Pair]] = {}
    owners: dict[int, list[JoinerPartition]] = {}
    for partition, _, outbox in outboxes:
        for out in outbox:
            if out.topic == ledger:
                facts.setdefault(out.partition, []).append((None, with_epoch(out.value or b"", partition.epoch)))
                owners.setdefault(out.partition, []).append(partition)
    # Letters first: once the ledger has the batch, nobody reads its records again.
    if refused:
        await around.sender.send(refused)
    failpoint("joiner-refused")
    if facts:
        sent = await around.sender.send_batches(ledger, facts)
        # An owner that slept while another took over must not claim to know what that one wrote before this.
        if around.consumer.thread.is_sure:
            for at, offsets in sent.items():
                for partition, offset in zip(owners[at], offsets, strict=True):
                    partition.state.head.ledger_offsets[at] = offset + 1
    failpoint("joiner-sent")
    # 5. mark
    for partition, sequence, _ in outboxes:
        partition.state.head.sent = sequence
    failpoint("joiner-marked")


def _write(joined: Joined) -> None:
    joined.write()
    failpoint("joiner-one-written")
