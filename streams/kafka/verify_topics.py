"""Recomputes what the topics hold from each other, and compares bit for bit.

Three questions, asked while workers may run: are the parameter rows the fold of the ledger up to their marks; is
the ledger what the joiners make of the source topics; is every consumed event accounted for once. The source log
is joined in micro-batches of our own, one joiner a partition: whether a pair joins depends on the pair alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from faust.types import TP

from bandits.backend import Backend
from bandits.events import Clicks, Impressions
from bandits.graph import Graph
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.joiner_change import Tally
from bandits.learner import Learner
from bandits.sums import state_hash
from streams.artifact_dir import Artifacts
from streams.event_codec import click_columns, impression_columns
from streams.kafka.graph_shelf import GraphShelf
from streams.kafka.ledger_fold import bounds_of, fold_ledger, hash_of_rows, hash_under, read_marks
from streams.kafka.log_reader import LogReader, open_reader
from streams.kafka.security import PLAINTEXT, KafkaSecurity
from streams.kafka.source_codec import click_decoder, impression_decoder
from streams.kafka.stretch import Stretch
from streams.topics import TopicNames, TopicsError, missing_topic
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
    security: KafkaSecurity = PLAINTEXT,
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
        security: what connections are made with.
    """
    result = SourceFold(Learner.empty(graph, backend))
    readers = [open_reader(bootstrap, client_id=_CLIENT, security=security) for _ in range(2)]
    async with readers[0] as shown, readers[1] as clicked:
        for number in range(await _partitions(shown, names.impressions)):
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
    artifacts: Artifacts,
    rule: JoinRule,
    backend: Backend,
    progress: Callable[[int], None],
    security: KafkaSecurity = PLAINTEXT,
) -> Verification:
    """Check the topics against each other.

    Args:
        bootstrap: host:port of brokers, separated by commas.
        names: of the topics.
        graph: that partitions began with where neither ledger nor rows say which.
        artifacts: finds all graphs that the ledger names.
        rule: the join rule of the workers.
        backend: adds the facts.
        progress: told the number of records read of the sources.
        security: what connections are made with.

    Raises:
        NoArtifact: it does not have one of them.
        TopicsError: a topic does not exist.
    """
    async with open_reader(bootstrap, client_id=_CLIENT, security=security) as reader:
        counts = [await _partitions(reader, topic) for topic in (names.outcomes, names.parameters)]
        shelves = [GraphShelf(artifacts, counts[0], backend, graph) for _ in "rl"]
        # Rows first, ledger next, sources last: each is then at least as far as what is compared with it.
        bounds = await bounds_of(reader, names.parameters)
        marks = await read_marks(reader, bounds)
        rows_hash = await hash_of_rows(reader, bounds, shelves[0], marks)
        ledger = await fold_ledger(reader, names, shelves[1], marks)
        # Where graphs have changed, both are folded under the one of now: sources do not know when they did.
        now, whole_hash = ledger.graph, ledger.hash_at_end
        if not ledger.is_plain:
            whole_hash = await hash_under(reader, names, now, backend)
    sources = await fold_sources(
        bootstrap,
        names=names,
        graph=now,
        rule=rule,
        backend=backend,
        progress=progress,
        until=ledger.positions,
        clocks_ms=ledger.clocks_ms,
        security=security,
    )
    sources_hash = state_hash(now, sources.learner.sums)
    return Verification(
        checks=[
            _equal("rows = fold(ledger)", rows_hash, ledger.hash_at_marks),
            _equal("fold(ledger) = fold(join(sources))", whole_hash, sources_hash),
            *conservation(sources.tally, waiting=sources.waiting, rows=sources.rows, clicks=sources.clicks),
        ],
        state_hash=rows_hash,
        folded_hash=sources_hash,
        ledger_records=ledger.records,
        counts=sources.tally.as_dict() | {"clicks_waiting": sources.waiting, "refused": sources.refused},
    )


async def _partitions(reader: LogReader, topic: str) -> int:
    """Number of partitions of a topic.

    Raises:
        TopicsError: there is none.
    """
    count = await reader.partitions(topic)
    if not count:
        raise TopicsError(missing_topic(topic))
    return count


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
