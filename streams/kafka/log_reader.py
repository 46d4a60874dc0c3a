"""Reads stretches of partitions once, from an offset to an end that is known: for recovery, not for following."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.kafka.chunk import LogRecord
from streams.kafka.security import PLAINTEXT, KafkaSecurity

_POLL_MS = 500
_RECORDS_PER_POLL = 20_000
_FETCH_BYTES = 4 << 20


class LogReader:
    """An open connection for reading stretches; make one with `open_reader`."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def partitions(self, topic: str) -> int:
        """Number of partitions of a topic, 0 if it does not exist."""
        await self._consumer._client.force_metadata_update()
        await self._consumer._client.add_topic(topic)
        return len(self._consumer.partitions_for_topic(topic) or ())

    async def bounds(self, tps: Sequence[TP]) -> dict[TP, tuple[int, int]]:
        """First offset and end of partitions now."""
        wanted = [TopicPartition(*tp) for tp in tps]
        first = await self._consumer.beginning_offsets(wanted)
        end = await self._consumer.end_offsets(wanted)
        return {TP(*tp): (first[tp], end[tp]) for tp in wanted}

    async def offset_at(self, tp: TP, time_ms: int) -> int:
        """First offset whose record was appended at a time or later; the end if there is none."""
        wanted = TopicPartition(*tp)
        found = (await self._consumer.offsets_for_times({wanted: max(time_ms, 0)}))[wanted]
        if found is not None:
            return int(found.offset)
        return int((await self._consumer.end_offsets([wanted]))[wanted])

    async def read(self, stretches: Mapping[TP, tuple[int, int]]) -> AsyncIterator[tuple[TP, Sequence[LogRecord]]]:
        """Records with start <= offset < end of each stretch, in pieces; pieces of a partition are in order."""
        open_ends = {TopicPartition(*tp): end for tp, (start, end) in stretches.items() if start < end}
        if not open_ends:
            return
        self._consumer.assign(list(open_ends))
        for tp in open_ends:
            self._consumer.seek(tp, stretches[TP(*tp)][0])
        while open_ends:
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_PER_POLL)
            for tp, records in fetched.items():
                end = open_ends.get(tp)
                if end is not None:
                    yield TP(*tp), [record for record in records if record.offset < end]
            for tp, end in list(open_ends.items()):
                if await self._consumer.position(tp) >= end:
                    del open_ends[tp]
                    self._consumer.pause(tp)


@asynccontextmanager
async def open_reader(
    bootstrap: str, *, client_id: str, security: KafkaSecurity = PLAINTEXT
) -> AsyncIterator[LogReader]:
    """A reader that is closed at the end of the block."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        client_id=client_id,
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=_FETCH_BYTES,
        **security.keywords(),
    )
    await consumer.start()
    try:
        yield LogReader(consumer)
    finally:
        await consumer.stop()
