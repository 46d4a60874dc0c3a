"""Recomputes what the topics hold from each other, and compares bit for bit.

Three questions, asked while workers may run: are the parameter rows the fold of the ledger up to their marks; is
the ledger what the joiners make of the source topics; is every consumed event accounted for once. The source log
is joined in micro-batches of our own, one joiner a partition: whether a pair joins depends on the pair alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from faust.types import TP

from bandits.backend import Backend
from bandits.events import Clicks, Impressions
from bandits.graph import Graph
from bandits.graph_edit import edited
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.joiner_change import Tally
from bandits.learner import Learner
from bandits.sums import state_hash
from freshet.v1 import kafka_state_pb2, parameters_pb2
from streams.event_codec import click_columns, impression_columns
from streams.kafka.catalogue import Edited, edited_by, graph_edit, mark_of
from streams.kafka.chunk import LogRecord
from streams.kafka.ledger import decode_delivery
from streams.kafka.log_reader import LogReader, open_reader
from streams.kafka.parameter_rows import is_fence, is_mark
from streams.kafka.source_codec import click_decoder, impression_decoder
from streams.kafka.stretch import Stretch
from streams.outcome_codec import decode_outcomes
from streams.row_codec import decode_rows, place_rows
from streams.topics import TopicNames
from streams.verify import Check, Verification, conservation

_CLIENT = "freshet-verify"
Positions = dict[TP, int]


@dataclass
class SourceFold:
    """The source log joined and learned anew.

    Attributes:
        learner: what was learned.
        tally: of all joiners together.
        rows, clicks: shown items and clicks that were consumed, refused ones left out.
        refused: records and events that are no valid events.
        waiting: clicks that still wait.
    """

    learner: Learner
    tally: Tally = field(default_factory=Tally)
    rows: int = 0
    clicks: int = 0
    refused: int = 0
    waiting: int = 0


async def fold_sources(
    bootstrap: str,
    *,
    names: TopicNames,
    graph: Graph,
    rule: JoinRule,
    backend: Backend,
    progress: Callable[[int], None],
    until: Positions | None = None,
    clocks_ms: dict[int, int] | None = None,
) -> SourceFold:
    """Join and learn the source topics from their beginning.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        names: of the topics.
        graph: to learn under.
        rule: the join rule of the workers.
        backend: adds the facts.
        progress: told the number of records read.
        until: where to stop in each partition; None = at its end now.
        clocks_ms: of each joiner at the end, which says what windows have closed; None = as the last events say.
    """
    result = SourceFold(Learner.empty(graph, backend))
    connect = open_reader(bootstrap, client_id=_CLIENT)
    async with connect as shown, open_reader(bootstrap, client_id=_CLIENT) as clicked:
        for number in range(await shown.partitions(names.impressions)):
            tps = (TP(names.impressions, number), TP(names.clicks, number))
            bounds = await shown.bounds(tps)
            ends = {tp: bounds[tp][1] if until is None else until.get(tp, bounds[tp][0]) for tp in tps}
            clock_ms = (clocks_ms or {}).get(number, 0)
            await _fold_partition(result, number, rule, (shown, clicked), tps, bounds, ends, progress, clock_ms)
    return result


async def verify_topics(
    bootstrap: str,
    *,
    names: TopicNames,
    graph: Graph,
    rule: JoinRule,
    backend: Backend,
    progress: Callable[[int], None],
) -> Verification:
    """Check the topics against each other; arguments as in `fold_sources`."""
    async with open_reader(bootstrap, client_id=_CLIENT) as reader:
        # Rows first, ledger next, sources last: each is then at least as far as what is compared with it.
        published = await _read_rows(reader, names, graph, backend)
        ledger = await _fold_ledger(reader, names, graph, backend, published.marks)
        # Where the catalogue has changed edges, both are folded under the graph of now: sources do not know when
        # it changed.
        now = ledger.learner.graph
        whole = ledger
        if now is not graph:
            whole = await _fold_ledger(reader, names, now, backend, published.marks, follow=False)
    sources = await fold_sources(
        bootstrap,
        names=names,
        graph=now,
        rule=rule,
        backend=backend,
        progress=progress,
        until=ledger.positions,
        clocks_ms=ledger.clocks_ms,
    )
    held = published.learner
    rows_hash, marks_hash = state_hash(held.graph, held.sums), ledger.hash_at_marks
    ledger_hash, sources_hash = state_hash(now, whole.learner.sums), state_hash(now, sources.learner.sums)
    return Verification(
        checks=[
            _equal("rows = fold(ledger)", rows_hash, marks_hash),
            _equal("fold(ledger) = fold(join(sources))", ledger_hash, sources_hash),
            *conservation(sources.tally, waiting=sources.waiting, rows=sources.rows, clicks=sources.clicks),
        ],
        state_hash=rows_hash,
        folded_hash=sources_hash,
        ledger_records=ledger.records,
        counts=sources.tally.as_dict() | {"clicks_waiting": sources.waiting, "refused": sources.refused},
    )


@dataclass
class _Published:
    learner: Learner
    edited: dict[str, bytes] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)


async def _read_rows(reader: LogReader, names: TopicNames, graph: Graph, backend: Backend) -> _Published:
    published = _Published(Learner.empty(graph, backend))
    tps = [TP(names.parameters, number) for number in range(await reader.partitions(names.parameters))]
    async for tp, records in reader.read(await reader.bounds(tps)):
        rows: list[LogRecord] = []
        for record in records:
            if is_mark(record.key or b""):
                mark = parameters_pb2.PartitionMark.FromString(record.value or b"")
                published.marks[tp.partition] = max(published.marks.get(tp.partition, 0), mark.position)
            elif not is_fence(record.key or b"") and record.value is not None:
                rows.append(record)
        if rows:
            _place_rows(published, [((record.key or b"").decode(), record.value or b"") for record in rows])
    # The rows of items that the catalogue has changed say themselves what their edges are.
    items = {name: Edited.from_bytes(value) for name, value in published.edited.items()}
    if items:
        new = edited(graph, graph_edit(graph.version, items))
        published.learner.edit_graph(new)
        _place_rows(published, [*published.edited.items()])
    return published


def _place_rows(published: _Published, rows: list[tuple[str, bytes]]) -> None:
    item_ids, values = [name for name, _ in rows], [value for _, value in rows]
    decoded, learner = decode_rows(item_ids, values), published.learner
    place_rows(learner.graph, decoded, learner.sums, learner.row_position)
    for at in [] if decoded.edited_at is None else np.flatnonzero(decoded.edited_at).tolist():
        published.edited[item_ids[at]] = values[at]


@dataclass
class _Ledger:
    learner: Learner
    follow: bool
    hash_at_marks: str = ""
    positions: Positions = field(default_factory=dict)
    records: int = 0
    epochs: dict[tuple[int, int], int] = field(default_factory=dict)
    clocks_ms: dict[int, int] = field(default_factory=dict)
    catalogue: dict[tuple[int, int], int] = field(default_factory=dict)


async def _fold_ledger(
    reader: LogReader,
    names: TopicNames,
    graph: Graph,
    backend: Backend,
    marks: dict[int, int],
    *,
    follow: bool = True,
) -> _Ledger:
    """Fold up to the marks, take the hash, go on to the end; `follow` the catalogue's changes of the graph."""
    ledger = _Ledger(Learner.empty(graph, backend), follow)
    tps = [TP(names.outcomes, number) for number in range(await reader.partitions(names.outcomes))]
    bounds = await reader.bounds(tps)
    at_mark = {tp: min(max(marks.get(tp.partition, 0), bounds[tp][0]), bounds[tp][1]) for tp in tps}
    applied: dict[int, dict[int, int]] = {tp.partition: {} for tp in tps}
    for stretches in (
        {tp: (bounds[tp][0], at_mark[tp]) for tp in tps},
        {tp: (at_mark[tp], bounds[tp][1]) for tp in tps},
    ):
        async for tp, records in reader.read(stretches):
            for record in records:
                _fold_record(ledger, applied[tp.partition], tp.partition, record, names)
        ledger.hash_at_marks = ledger.hash_at_marks or state_hash(ledger.learner.graph, ledger.learner.sums)
    return ledger


def _fold_record(
    ledger: _Ledger, applied: dict[int, int], partition: int, record: LogRecord, names: TopicNames
) -> None:
    value = record.value or b""
    outcomes, delivery = decode_outcomes(value), decode_delivery(value)
    joiner = outcomes.joiner_partition
    # As a learner does: what a replaced owner wrote behind its successor's fence is not heard.
    if delivery.epoch < ledger.epochs.get((partition, joiner), 0):
        return
    ledger.epochs[partition, joiner] = delivery.epoch
    if delivery.fence:
        _fold_mark(ledger, partition, delivery, record.offset)
        return
    ledger.records += 1
    ledger.clocks_ms[joiner] = max(ledger.clocks_ms.get(joiner, 0), outcomes.clock_ms)
    ledger.learner.applied = applied  # a sequence is dropped where this partition has had it
    # An item belongs to one partition, whose offsets its row follows.
    ledger.learner.apply(outcomes, offset=record.offset)
    for topic, position in (
        (names.impressions, outcomes.impressions_position),
        (names.clicks, outcomes.clicks_position),
    ):
        tp = TP(topic, joiner)
        ledger.positions[tp] = max(ledger.positions.get(tp, 0), position)


def _fold_mark(ledger: _Ledger, partition: int, delivery: kafka_state_pb2.OutcomeDelivery, offset: int) -> None:
    """As a learner does, where the fence of nobody is a mark of the catalogue."""
    learner = ledger.learner
    mark = mark_of(delivery, learner.graph)
    if mark is None or not ledger.follow or mark.offset < ledger.catalogue.get((partition, mark.partition), 0):
        return
    ledger.catalogue[partition, mark.partition] = mark.offset + 1
    item = edited_by(mark, learner.graph, at=offset + 1) if mark.item_id else None
    if item is not None:
        learner.position = offset + 1
        edit = graph_edit(learner.graph.version, {mark.item_id: item})
        learner.edit_graph(edited(learner.graph, edit))


async def _fold_partition(
    result: SourceFold,
    number: int,
    rule: JoinRule,
    readers: tuple[LogReader, LogReader],
    tps: tuple[TP, TP],
    bounds: dict[TP, tuple[int, int]],
    ends: Positions,
    progress: Callable[[int], None],
    clock_ms: int,
) -> None:
    joiner = Joiner(rule, partition=number)
    shown_decoder, click_reader = impression_decoder(rule), click_decoder(rule)
    clocks, read = [0, 0], 0
    pair = [Stretch(reader, tp, bounds[tp][0], ends[tp]) for reader, tp in zip(readers, tps, strict=True)]
    while await pair[0].fill() | await pair[1].fill():
        # Both topics advance together in time, so that no click waits long for its row.
        until_ms = min(stretch.last_ms for stretch in pair if stretch.records)
        chunks = [stretch.take(until_ms) for stretch in pair]
        pieces = [chunk.records if chunk else [] for chunk in chunks]
        shown = shown_decoder.decode(pieces[0], clock_ms=clocks[0])
        clicked = click_reader.decode(pieces[1], clock_ms=clocks[1])
        clocks = [shown.clock_ms, clicked.clock_ms]
        # By way of messages, not as the worker reads them: what is compared should not share its mistakes.
        impressions, clicks = impression_columns(shown.records, rule), click_columns(clicked.records, rule)
        _join(result, joiner, impressions, clicks, min(clocks))
        result.rows += len(impressions.item_ids)
        result.clicks += len(clicks)
        result.refused += len(shown.refused) + len(clicked.refused)
        read += len(pieces[0]) + len(pieces[1])
        progress(read)
    if joiner.rows_in_flight:
        _join(result, joiner, Impressions.none(), Clicks.none(), clock_ms)
    for name in Tally.names():
        setattr(result.tally, name, getattr(result.tally, name) + getattr(joiner.tally, name))
    result.waiting += joiner.waiting_clicks


def _join(result: SourceFold, joiner: Joiner, impressions: Impressions, clicks: Clicks, clock_ms: int) -> None:
    outcomes, change = joiner.join(impressions, clicks, clock_ms=clock_ms)
    result.learner.apply(outcomes, offset=result.learner.position)
    joiner.apply(change)


def _equal(name: str, found: str, expected: str) -> Check:
    detail = f"both have state hash {found}" if found == expected else f"state hash {found}, expected {expected}"
    return Check(name, found == expected, detail)
