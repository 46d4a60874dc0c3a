"""Rounds of the joiner partitions of a worker.

The commit path of a round:

    1. decode and join each partition's micro-batch, without changing the joiners
    2. write ONE WriteBatch for each partition, synced, side by side: the joiner's change, both positions, and the
       outbox (the ledger records of the micro-batch split by partition, its dead letters)
    3. send all outboxes: for each ledger partition one record batch, with one record of each joiner partition
    4. wait until the broker has all of it
    5. mark it as sent; the mark is written with the partition's next micro-batch
    6. acknowledge: the positions may be copied to the group

A crash before 2 has happened never, for each partition whose store was not yet written. After 2 the micro-batch is
decided: whoever recovers sends the same bytes with the same sequence, and learners drop what they have. Only one
micro-batch of a partition is on its way at a time, so that only the last one in the ledger can be incomplete.
"""

import asyncio
from collections.abc import Sequence

from streams.failpoints import failpoint
from streams.kafka.chunk import Chunk
from streams.kafka.joiner_partition import Joined, JoinerPartition
from streams.kafka.ledger import with_epoch
from streams.kafka.partition import Surroundings
from streams.kafka.rounds import Rounds
from streams.kafka.sender import Outgoing, Pair


class JoinerRounds(Rounds[JoinerPartition]):
    """Commits the joiner partitions of a worker."""

    async def commit(self, taken: Sequence[tuple[JoinerPartition, Sequence[Chunk]]]) -> None:
        """Commit a round."""
        await commit_round(self.around, taken)

    def due_in_s(self) -> float | None:
        """Nothing is due without events."""
        return None


async def commit_round(
    around: Surroundings,
    taken: Sequence[tuple[JoinerPartition, Sequence[Chunk]]],
    *,
    clock_ms: int | None = None,
) -> None:
    """Make micro-batches durable; the steps are those of the module's head.

    Args:
        around: what partitions share.
        taken: their chunks; none of them where windows have closed.
        clock_ms: of the joiners, if it is known already; None = their clocks as they are.
    """
    # 1. join
    joined: list[Joined] = []
    for partition, chunks in taken:
        joined.append(partition.join(chunks, clock_ms))
        await asyncio.sleep(0)  # a partition may take long when it catches up
    failpoint("joiner-joined")
    # 2. write
    await around.disk.run([lambda one=one: _write(one) for one in joined])  # type: ignore[misc]
    for one in joined:
        one.take_over()
    failpoint("joiner-written")
    # 3. and 4. send and wait
    await send_outboxes(around, [(one.partition, one.outbox) for one in joined])


async def send_outboxes(
    around: Surroundings, outboxes: Sequence[tuple[JoinerPartition, Sequence[Outgoing]]]
) -> None:
    """Steps 3 to 5."""
    ledger = around.names.outcomes
    refused = [out for _, outbox in outboxes for out in outbox if out.topic != ledger]
    facts: dict[int, list[Pair]] = {}
    owners: dict[int, list[JoinerPartition]] = {}
    for partition, outbox in outboxes:
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
    for partition, _ in outboxes:
        partition.state.head.sent = partition.state.joiner.sequence
    failpoint("joiner-marked")


def _write(joined: Joined) -> None:
    joined.write()
    failpoint("joiner-one-written")
