"""Sends dead letters to their topic again, after what was wrong with them or with the settings has been put right.

Invariants: a letter is sent at most once in a run, however often it lies in the topic; the original key decides the
partition, so that an event meets its counterpart; nothing is removed from the dead letters.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streams.kafka.dead_letters import INDEX, OFFSET, PARTITION, REASON, TOPIC
from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.topics import TopicNames, missing_topic

_POLL_MS = 500
_ANSWER_MS = 10_000
_OWN_PREFIX = "freshet-"


@dataclass(frozen=True)
class DeadLetterReplay:
    """What was done.

    Attributes:
        read: letters read.
        sent: letters sent again, or that would have been.
        repeats: letters that lay there more than once.
        passed_over: letters whose reason does not contain the text that was asked for, or without an origin.
        reasons: number of letters by reason.
    """

    read: int
    sent: int
    repeats: int
    passed_over: int
    reasons: dict[str, int]


def replay_dead_letters(
    bootstrap: str,
    names: TopicNames,
    topic: str,
    *,
    reason: str = "",
    since_ms: int = 0,
    dry_run: bool = False,
    timeout_s: float = 30.0,
    progress: Callable[[int], None] = lambda _: None,
    security: KafkaSecurity = PLAINTEXT,
) -> DeadLetterReplay:
    """Send the dead letters of a source topic again.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        names: of the topics of the deployment whose dead letters they are.
        topic: the source topic.
        reason: only letters whose reason contains this.
        since_ms: only letters written at this time or later, Unix milliseconds.
        dry_run: only count.
        timeout_s: how long the broker may take to answer.
        progress: told the number of letters read.
        security: what connections are made with.

    Raises:
        ConnectionError: no broker answers, or takes the connection.
        KafkaError: the broker fails.
        ValueError: there is no dead letter topic.
    """
    from kafka import KafkaConsumer, KafkaProducer

    from streams.kafka.handshake import check_brokers

    check_brokers(bootstrap, security)
    there = {"bootstrap_servers": bootstrap, **security.keywords()}
    consumer = KafkaConsumer(**there, group_id=None, enable_auto_commit=False)
    producer = KafkaProducer(**there, acks="all", linger_ms=20) if not dry_run else None
    try:
        return _replay(consumer, producer, names, topic, reason, since_ms, timeout_s, progress)
    finally:
        consumer.close()
        if producer is not None:
            producer.close()


def _replay(
    consumer: Any,
    producer: Any,
    names: TopicNames,
    topic: str,
    reason: str,
    since_ms: int,
    timeout_s: float,
    progress: Callable[[int], None],
) -> DeadLetterReplay:
    seen: set[tuple[bytes, ...]] = set()
    read = sent = repeats = passed_over = 0
    reasons: dict[str, int] = {}
    waiting = []
    for record in _letters(consumer, names.dead_letters(topic), timeout_s):
        read += 1
        progress(read)
        headers: Mapping[str, bytes] = dict(record.headers)
        why = headers.get(REASON, b"").decode("utf-8", "replace")
        place = tuple(headers.get(name, b"") for name in (TOPIC, PARTITION, OFFSET, INDEX))
        if headers.get(TOPIC) != topic.encode() or reason not in why or record.timestamp < since_ms:
            passed_over += 1
            continue
        if place in seen:
            repeats += 1
            continue
        seen.add(place)
        reasons[why] = reasons.get(why, 0) + 1
        sent += 1
        if producer is not None:
            kept = [(name, value) for name, value in record.headers if not name.startswith(_OWN_PREFIX)]
            # Without a key there is nothing to join by; the partition it came from is as good as any.
            partition = None if record.key is not None else int(headers[PARTITION])
            waiting.append(producer.send(topic, record.value, key=record.key, partition=partition, headers=kept))
    for future in waiting:
        future.get(timeout=timeout_s)
    return DeadLetterReplay(read, sent, repeats, passed_over, reasons)


def _letters(consumer: Any, topic: str, timeout_s: float) -> Any:
    """All letters up to the end that the topic has now."""
    from kafka import TopicPartition
    from kafka.errors import KafkaTimeoutError

    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise ValueError(missing_topic(topic))
    tps = [TopicPartition(topic, number) for number in sorted(numbers)]
    consumer.assign(tps)
    ends = consumer.end_offsets(tps, timeout_ms=_ANSWER_MS)
    consumer.seek_to_beginning(*tps)
    quiet_since_s = time.monotonic()
    while any(consumer.position(tp) < ends[tp] for tp in tps):
        fetched = consumer.poll(timeout_ms=_POLL_MS)
        if fetched:
            quiet_since_s = time.monotonic()
        elif time.monotonic() - quiet_since_s > timeout_s:
            raise KafkaTimeoutError(f"the broker has sent nothing for {timeout_s} s")
        for tp, records in fetched.items():
            yield from (record for record in records if record.offset < ends[tp])
