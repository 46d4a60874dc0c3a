"""Brings the items topic into the ledger: a mark for every change of an item whose partition this worker owns.

A graph that an operator asks for becomes a mark in each of these partitions.

Invariants: marks of one partition of the items topic come in its order, at least once; a learner drops those it has
had, so a bridge that begins anew, or two that overlap, do no harm. A record that says nothing usable becomes a dead
letter and stops nothing.
"""

from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from freshet.v1 import kafka_state_pb2
from streams.corpus.item_place import ItemPlace
from streams.kafka.catalogue import BadItem, catalogue_mark, encode_mark, item_id_of
from streams.kafka.chunk import LogRecord
from streams.kafka.dead_letters import letters
from streams.kafka.graph_marks import GRAPH_KEY, encode_graph_mark, is_order, order_of
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.ledger import partitions_of
from streams.kafka.partition import Surroundings
from streams.kafka.sender import Outgoing
from streams.kafka.source_codec import Refused

_POLL_MS = 200
_RECORDS_PER_POLL = 5_000

log = structlog.get_logger("freshet.kafka")


async def bridge(around: Surroundings, learners: Sequence[LearnerPartition]) -> None:
    """Follow the items topic until cancelled.

    Args:
        around: what partitions share.
        learners: owned partitions, recovered.
    """
    owned = {learner.number: learner for learner in learners}
    topic, settings = around.names.items, around.settings
    tower = ItemPlace.load(settings.item_tower) if settings.item_tower else None
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        client_id=f"{settings.name}-items",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=_POLL_MS,
        **settings.security.keywords(),
    )
    await consumer.start()
    try:
        await consumer._client.add_topic(topic)
        numbers = sorted(consumer.partitions_for_topic(topic) or ())
        tps = [TopicPartition(topic, number) for number in numbers]
        if not tps:
            log.warning("no items topic: items are as the graph has them", topic=topic)
            return
        consumer.assign(tps)
        sent: dict[tuple[int, int], int] = {}
        first = await consumer.beginning_offsets(tps)
        for tp in tps:
            for number, learner in owned.items():
                sent[number, tp.partition] = learner.catalogue_positions.get(tp.partition, 0)
            known = min(sent[number, tp.partition] for number in owned)
            consumer.seek(tp, max(known, first[tp]))
        while True:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_RECORDS_PER_POLL)
            outgoing: list[Outgoing] = []
            for tp, records in fetched.items():
                for record in records:
                    if is_order(record.key):
                        outgoing += await _ordered(around, owned, sent, tp.partition, record)
                    else:
                        outgoing += _sent_for(around, owned, sent, tp.partition, record, tower)
            if outgoing:
                await around.sender.send(outgoing)
    finally:
        await consumer.stop()


async def _ordered(
    around: Surroundings,
    owned: dict[int, LearnerPartition],
    sent: dict[tuple[int, int], int],
    partition: int,
    record: LogRecord,
) -> list[Outgoing]:
    """The marks of a graph that an operator asks for; those of a trial say what stands against it."""
    order = order_of(record.value)
    numbers = [number for number in owned if record.offset >= sent[number, partition]]
    sent |= {(number, partition): record.offset + 1 for number in numbers}
    if order is None or order.deployment != around.names.prefix:
        return []
    outgoing: list[Outgoing] = []
    for number in numbers:
        learner = owned[number]
        mark = kafka_state_pb2.GraphMark(
            version=order.version,
            from_version=learner.version,
            overlap=order.overlap,
            asked=True,
            partition=partition,
            offset=record.offset,
            trial=order.trial,
        )
        if order.trial:
            mark.refusal = await learner.shelf.refusal(order.version, number, learner.shared.graph, order.overlap)
            log.info("a graph is tried", partition=number, version=order.version, refusal=mark.refusal)
        outgoing.append(Outgoing(around.names.outcomes, number, GRAPH_KEY, encode_graph_mark(mark)))
    return outgoing


def _sent_for(
    around: Surroundings,
    owned: dict[int, LearnerPartition],
    sent: dict[tuple[int, int], int],
    partition: int,
    record: LogRecord,
    tower: ItemPlace | None,
) -> list[Outgoing]:
    """The mark of one record, a dead letter, or nothing."""
    key, value = record.key, record.value
    bad: BadItem | None = None
    try:
        number = int(partitions_of([item_id_of(key)], around.ledger_partitions)[0])
    except BadItem as error:
        # Nobody's item: the owner of the partition of the same number speaks for it.
        number, bad = partition % around.ledger_partitions, error
    if number not in owned or record.offset < sent[number, partition]:
        return []
    sent[number, partition] = record.offset + 1
    if bad is None:
        try:
            graph = owned[number].shared.graph
            mark = catalogue_mark(graph, key, value, partition=partition, offset=record.offset, tower=tower)
            return [Outgoing(around.names.outcomes, number, None, encode_mark(mark))]
        except BadItem as error:
            bad = error
    log.error("item refused", partition=partition, offset=record.offset, reason=str(bad))
    letter = letters(around.names, around.names.items, partition, [Refused(record, None, value or b"", str(bad))])
    # A mark of no item: the letter is not written again after a restart.
    nothing = kafka_state_pb2.CatalogueMark(partition=partition, offset=record.offset)
    return [*letter, Outgoing(around.names.outcomes, number, None, encode_mark(nothing))]
