"""What a joiner partition keeps on disk: its changes, its head, and its outbox.

Invariant: change, positions and outbox of a micro-batch are written in one WriteBatch, synced. A record leaves the
outbox in a later one, after the broker has it.

Keys, by first byte, beside those of `streams.store`:
    H                    head (JoinerHead)
    J sequence           change of the joiner
    O sequence, number   record that must be in its topic before the next micro-batch (OutboxRecord)
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.joiner_change import JoinerChange
from freshet.v1 import kafka_state_pb2
from streams.change_codec import encode_change
from streams.kafka.sender import Outgoing
from streams.restore import restore_joiner
from streams.store import CHANGE, HEAD, Batch, Store, number_bytes

OUTBOX = b"O"


class JoinerStore:
    """Joiner and store of one partition.

    Args:
        folder: of the database.
        rule: the join rule.
        partition: number of the partition.
        ledger_partitions: partitions of the ledger; they must not change.

    Raises:
        StoreError: the store cannot be used.
    """

    def __init__(self, folder: Path, rule: JoinRule, *, partition: int, ledger_partitions: int) -> None:
        self._folder = folder
        self._gone = folder.with_name(f"{folder.name}.gone")
        self._rule = rule
        self._partition = partition
        self._ledger_partitions = ledger_partitions
        self._open()

    def _open(self) -> None:
        shutil.rmtree(self._gone, ignore_errors=True)
        self.store = Store(self._folder)
        self.head = kafka_state_pb2.JoinerHead.FromString(self.store.get(HEAD, b"") or b"")
        if not self.head.ledger_partitions:
            self.head.ledger_partitions = self._ledger_partitions
        self.joiner: Joiner = restore_joiner(self.store, self._rule)
        self.joiner.partition = self._partition
        if not self.joiner.sequence:
            self.joiner.impressions_position = self.head.impressions_position
            self.joiner.clicks_position = self.head.clicks_position

    @property
    def sequence(self) -> int:
        """Sequence in the ledger of the last change."""
        return self.joiner.sequence + self.head.sequence_shift

    def batch(self, change: JoinerChange, outbox: Sequence[Outgoing]) -> Batch:
        """A micro-batch to be written, once it has its head; `outbox` without epochs."""
        batch = Batch()
        batch.put(CHANGE, change.sequence, encode_change(change))
        batch.delete_below(CHANGE, 0, change.keep_from)
        for number, outgoing in enumerate(outbox):
            batch.put(OUTBOX, number_bytes(change.sequence) + number_bytes(number), _encode(outgoing))
        return batch

    def put_head(self, batch: Batch, head: kafka_state_pb2.JoinerHead) -> None:
        """Add the head, and drop what it says has been sent."""
        batch.delete_below(OUTBOX, 0, head.sent + 1)
        batch.put(HEAD, b"", head.SerializeToString())

    def write(self, head: kafka_state_pb2.JoinerHead, change: JoinerChange) -> None:
        """Write a micro-batch that has nothing to send."""
        self._write(self.batch(change, []), head)

    def write_head(self, head: kafka_state_pb2.JoinerHead) -> None:
        """Write the head, and drop what it says has been sent."""
        self._write(Batch(), head)

    def _write(self, batch: Batch, head: kafka_state_pb2.JoinerHead) -> None:
        self.put_head(batch, head)
        self.store.write(batch)
        self.head = head

    def next_head(self) -> kafka_state_pb2.JoinerHead:
        """A copy of the head, to be changed and written."""
        head = kafka_state_pb2.JoinerHead()
        head.CopyFrom(self.head)
        return head

    def outbox(self) -> list[Outgoing]:
        """What was written and not yet known to be sent, without epochs."""
        start = self.head.sent + 1
        return [_decode(value) for _, value in self.store.scan(OUTBOX, start=start)]

    def wipe(self) -> None:
        """Start anew, with nothing."""
        self.store.close()
        self._folder.rename(self._gone)  # at once: a crash half-way would leave a store that cannot be opened
        self._open()

    def close(self) -> None:
        """Close the database."""
        self.store.close()


def _encode(outgoing: Outgoing) -> bytes:
    message = kafka_state_pb2.OutboxRecord(
        topic=outgoing.topic, partition=outgoing.partition, key=outgoing.key, value=outgoing.value
    )
    for name, value in outgoing.headers:
        message.headers.add(name=name, value=value)
    return message.SerializeToString()


def _decode(data: bytes) -> Outgoing:
    message = kafka_state_pb2.OutboxRecord.FromString(data)
    return Outgoing(
        topic=message.topic,
        partition=message.partition,
        key=message.key if message.HasField("key") else None,
        value=message.value if message.HasField("value") else None,
        headers=[(header.name, header.value) for header in message.headers],
    )
