"""Bringing a joiner partition to where the ledger says that it is.

What the ledger holds is decided; the store may be as far, behind, ahead on a branch that never reached the ledger,
or empty. Joining the source log again gives the same facts: whether a pair joins depends on the pair alone. So:

- A store that nobody has overtaken goes on, and sends its outbox again.
- A store behind the ledger joins the sources up to the ledger's positions without sending anything.
- A store that is empty, or beyond the ledger's positions on another branch, first begins anew, far enough back
  that every row and click that may still matter is met again.
- If the last batch in the ledger lacks a part, exactly its records are joined once more and sent under its number:
  learners that have their part drop the repeat.

Invariant: while this goes on the store says so, and a crash begins it again.
"""

from collections.abc import Sequence

from faust.types import TP

from streams.failpoints import failpoint
from streams.kafka.chunk import Chunk, LogRecord
from streams.kafka.joiner_partition import JoinerPartition
from streams.kafka.joiner_rounds import commit_round, send_outboxes
from streams.kafka.log_reader import LogReader, open_reader
from streams.kafka.partition import WorkerError
from streams.kafka.stretch import Stretch
from streams.kafka.takeover import LedgerView

# Rows are remembered for one retention; twice as far back also meets what they were repeats of.
_RETENTIONS_BACK = 2
_MARGIN_MS = 60_000


async def recover(partition: JoinerPartition, view: LedgerView) -> None:
    """Make a partition that was taken over ready to go on.

    Args:
        partition: it, with its new epoch.
        view: what the ledger says of it.

    Raises:
        WorkerError: the sources or the ledger have been deleted too far.
    """
    state = partition.state
    last = view.last
    forgotten = _check_ledger(partition, view)
    if last is None or (
        not state.head.recovering and state.sequence >= last.sequence and state.head.epoch >= last.epoch
    ):
        await _go_on(partition, max(state.sequence, view.applied))
        return
    incomplete = bool(view.missing) and not forgotten
    target = {
        partition.impressions: last.impressions_start if incomplete else last.impressions_position,
        partition.clicks: last.clicks_start if incomplete else last.clicks_position,
    }
    clock_ms = last.clock_start_ms if incomplete and last.clock_start_ms else last.clock_ms
    await _catch_up(partition, target, clock_ms)
    await _close_silently(partition, clock_ms)
    _settle(partition, sequence=max(last.sequence - incomplete, view.applied if forgotten else 0))
    if incomplete:
        ends = {partition.impressions: last.impressions_position, partition.clicks: last.clicks_position}
        # At the same clock: it says which windows the batch closed.
        records = await _chunks(partition, target, ends)
        await commit_round(partition.around, [(partition, records)], clock_ms=last.clock_ms)


def _check_ledger(partition: JoinerPartition, view: LedgerView) -> bool:
    """Whether learners have applied batches that neither disk nor ledger knows, and the operator accepts that."""
    state = partition.state
    known = max(0 if state.head.recovering else state.sequence, view.last.sequence if view.last else 0)
    if view.applied <= known:
        return False
    if not partition.around.settings.accept_gap:
        raise WorkerError(
            f"{partition.impressions.topic}[{partition.number}]: learners have applied its batches up to "
            f"{view.applied}, but the broker has deleted those after {known} from the ledger and the disk is "
            "empty: where it stopped is not known; accept the gap to go on with what the sources still hold"
        )
    return True


async def _go_on(partition: JoinerPartition, sequence: int) -> None:
    if partition.state.joiner.sequence == 0:
        bounds = await partition.around.consumer.thread.bounds(partition.tps)
        for tp, (first, _) in bounds.items():
            partition.jump(tp, max(first, partition.positions()[tp]))
    outbox = partition.state.outbox()
    _settle(partition, sequence=sequence, keep_outbox=True)
    await send_outboxes(partition.around, [(partition, partition.state.joiner.sequence, outbox)])


def _settle(partition: JoinerPartition, *, sequence: int, keep_outbox: bool = False) -> None:
    """The store is where the ledger is."""
    state = partition.state
    head = state.next_head()
    head.epoch = partition.epoch
    head.recovering = False
    head.sequence_shift = sequence - state.joiner.sequence
    if not keep_outbox:
        head.sent = state.joiner.sequence
    state.write_head(head)
    failpoint("joiner-settled")


async def _catch_up(partition: JoinerPartition, target: dict[TP, int], clock_ms: int) -> None:
    """Join the sources up to some positions, sending nothing."""
    state, settings = partition.state, partition.around.settings
    readers = [
        open_reader(settings.bootstrap, client_id=settings.name, security=settings.security) for _ in range(2)
    ]
    async with readers[0] as shown, readers[1] as clicked:
        is_new = state.joiner.sequence == 0
        # A clock beyond the ledger's may have closed windows that the ledger has not closed.
        closed_more = state.joiner.has_closed and state.joiner.clock_ms > clock_ms
        if is_new or closed_more or any(partition.positions()[tp] > offset for tp, offset in target.items()):
            await _begin_anew(partition, target, clock_ms, shown)
        head = state.next_head()
        head.recovering = True
        head.sent = state.joiner.sequence
        state.write_head(head)
        await _check_sources(partition, shown)
        start = partition.positions()
        pair = (
            Stretch(shown, partition.impressions, start[partition.impressions], target[partition.impressions]),
            Stretch(clicked, partition.clicks, start[partition.clicks], target[partition.clicks]),
        )
        while await pair[0].fill() | await pair[1].fill():
            # Both topics advance together in time, so that no click waits long for its row.
            until_ms = min(stretch.last_ms for stretch in pair if stretch.records)
            await _join_silently(partition, [stretch.take(until_ms) for stretch in pair])
    for tp, offset in target.items():
        partition.jump(tp, offset)


async def _begin_anew(partition: JoinerPartition, target: dict[TP, int], clock_ms: int, reader: LogReader) -> None:
    state, rule = partition.state, partition.around.settings.rule
    state.wipe()
    horizon_ms = clock_ms - _RETENTIONS_BACK * rule.row_retention_ms - _MARGIN_MS
    for tp, offset in target.items():
        first = await reader.offset_at(tp, horizon_ms)
        partition.jump(tp, min(first, offset))


async def _check_sources(partition: JoinerPartition, reader: LogReader) -> None:
    bounds = await reader.bounds(partition.tps)
    for tp, offset in partition.positions().items():
        first = bounds[tp][0]
        if offset < first:
            if not partition.around.settings.accept_gap:
                raise WorkerError(
                    f"{tp.topic}[{tp.partition}]: recovery needs offset {offset}, but the broker has deleted "
                    f"everything before {first}; accept the gap to go on"
                )
            partition.jump(tp, first)


async def _close_silently(partition: JoinerPartition, clock_ms: int) -> None:
    """Close the windows that the ledger has closed: which these are depends on its clock alone."""
    if partition.state.joiner.rows_in_flight:
        await _join_silently(partition, [], clock_ms=clock_ms)


async def _join_silently(
    partition: JoinerPartition, chunks: Sequence[Chunk | None], *, clock_ms: int | None = None
) -> None:
    state = partition.state
    head, joiner = state.next_head(), state.joiner
    given = [chunk for chunk in chunks if chunk is not None]
    shown, clicked = partition.decode(given, head)
    _, change = joiner.join(
        shown.events,
        clicked.events,
        clock_ms=min(head.impressions_clock_ms, head.clicks_clock_ms) if clock_ms is None else clock_ms,
    )
    ends = dict(partition.positions()) | {TP(chunk.topic, chunk.partition): chunk.end for chunk in given}
    change.impressions_position, change.clicks_position = ends[partition.impressions], ends[partition.clicks]
    head.sent = change.sequence
    await partition.around.disk.run([lambda: state.write(head, change)])
    failpoint("joiner-rejoined")
    joiner.apply(change)


async def _chunks(partition: JoinerPartition, start: dict[TP, int], ends: dict[TP, int]) -> list[Chunk]:
    """Exactly the records of a batch."""
    settings = partition.around.settings
    records: dict[TP, list[LogRecord]] = {tp: [] for tp in partition.tps}
    async with open_reader(settings.bootstrap, client_id=settings.name, security=settings.security) as reader:
        async for tp, piece in reader.read({tp: (start[tp], ends[tp]) for tp in partition.tps}):
            records[tp] += piece
    return [Chunk(tp.topic, tp.partition, start[tp], ends[tp], records[tp]) for tp in partition.tps]
