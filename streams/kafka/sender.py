"""Sends records and waits until the broker has them, however long that takes.

Invariant: when `send` returns, every record is in its partition at least once, and what is sent later comes after
its first copy. After a failure the client is replaced and the whole call is sent again: receivers know repeats.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordTooLargeError

from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.topics import DERIVED_MESSAGE_BYTES_MAX

_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_BATCH_BYTES = 1 << 20
_BATCH_OVERHEAD = 1 << 12

Pair = tuple[bytes | None, bytes | None]

log = structlog.get_logger("freshet.kafka")


@dataclass(frozen=True)
class Outgoing:
    """One record to be sent."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class TooLarge(RuntimeError):
    """A record that the broker will never take."""


class Sender:
    """A producer that does not give up.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        client_id: shown in the broker's logs.
        request_timeout_ms: how long the broker may take to answer.
        security: what connections are made with.
    """

    def __init__(
        self, bootstrap: str, *, client_id: str, request_timeout_ms: int, security: KafkaSecurity = PLAINTEXT
    ) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._request_timeout_ms = request_timeout_ms
        self._security = security
        self._producer: Any = None
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        """Connect."""
        self._producer = await self._connect()

    async def stop(self) -> None:
        """Close the connections; what was not awaited may or may not have been sent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def send(self, records: Sequence[Outgoing]) -> list[int]:
        """Offsets of the records, once the broker has them all."""

        async def once(producer: AIOKafkaProducer) -> list[int]:
            waiting = [
                await producer.send(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers) or None,
                )
                for record in records
            ]
            return [done.offset for done in await _all(waiting)]

        offsets: list[int] = await self._until_done(once)
        return offsets

    async def send_batches(self, topic: str, rows: Mapping[int, Sequence[Pair]]) -> dict[int, list[int]]:
        """Send keys and values as few record batches, in order within each partition.

        Args:
            topic: for all.
            rows: keys and values by partition.

        Returns:
            Offsets of the rows, by partition.
        """

        async def once(producer: AIOKafkaProducer) -> dict[int, list[int]]:
            sending = [_send_pairs(producer, topic, partition, pairs) for partition, pairs in rows.items()]
            return dict(zip(rows, await _all(sending), strict=True))

        offsets: dict[int, list[int]] = await self._until_done(once)
        return offsets

    async def _until_done(self, once: Any) -> Any:
        pause_s = _PAUSE_S
        while True:
            producer = self._producer
            if producer is None:
                raise RuntimeError("the sender has been stopped")
            try:
                return await once(producer)
            except (MessageSizeTooLargeError, RecordTooLargeError) as error:
                raise TooLarge(f"the broker refuses a record: {error}") from error
            except KafkaError as error:
                log.warning("sending again", error=repr(error), pause_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            await self._replace(producer)

    async def _replace(self, broken: AIOKafkaProducer) -> None:
        """Take another client: the state of one that has failed is not worth reasoning about."""
        async with self._replacing:
            if self._producer is not broken:
                return
            try:
                fresh = await self._connect()
            except KafkaError as error:
                log.warning("no broker answers", error=repr(error))
                return
            self._producer = fresh
            closing = asyncio.ensure_future(broken.stop())
            closing.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it

    async def _connect(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_batch_size=_BATCH_BYTES,
            max_request_size=DERIVED_MESSAGE_BYTES_MAX - _BATCH_OVERHEAD,
            request_timeout_ms=self._request_timeout_ms,
            retry_backoff_ms=100,
            **self._security.keywords(),
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer


async def _send_pairs(producer: AIOKafkaProducer, topic: str, partition: int, pairs: Sequence[Pair]) -> list[int]:
    waiting: list[tuple[Any, int]] = []
    batch = producer.create_batch()
    for key, value in pairs:
        if batch.append(timestamp=None, key=key, value=value) is None:
            waiting.append(await _send_batch(producer, batch, topic, partition))
            batch = producer.create_batch()
            if batch.append(timestamp=None, key=key, value=value) is None:
                raise TooLarge(f"a record of {topic} has {len(value or b'')} bytes, more than a batch takes")
    waiting.append(await _send_batch(producer, batch, topic, partition))
    done = await _all([future for future, _ in waiting])
    return [first.offset + i for first, (_, count) in zip(done, waiting, strict=True) for i in range(count)]


async def _send_batch(producer: AIOKafkaProducer, batch: Any, topic: str, partition: int) -> tuple[Any, int]:
    count = batch.record_count()
    batch.close()
    return await producer.send_batch(batch, topic, partition=partition), count


async def _all(waiting: Sequence[Any]) -> list[Any]:
    """Results of all; the first failure only once every one has ended."""
    results = await asyncio.gather(*waiting, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
