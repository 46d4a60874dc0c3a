"""What a worker owns and how far it has come: for its metrics and its health.

Invariants: a report is taken in the worker's own event loop and never changes, so any thread may read it; counts
are those of the partitions' stores, which keep them through restarts and moves.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from faust.types import TP

from streams.kafka.joiner_partition import JoinerPartition
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.partition import Partition

REPORT_S = 0.5


@dataclass(frozen=True)
class JoinerReport:
    """One joiner partition.

    Attributes:
        number: of the partition.
        is_started: whether it has been recovered.
        counts: what became of its events, by name of `Tally`, since its store was made.
        dead_letters: refused records and events since then.
        pending_rows: impressions kept for clicks to come.
        waiting_clicks: clicks kept for their impression to come.
        rows_in_flight: impressions whose window has not closed.
    """

    number: int
    is_started: bool
    counts: Mapping[str, int]
    dead_letters: int
    pending_rows: int
    waiting_clicks: int
    rows_in_flight: int


@dataclass(frozen=True)
class LearnerReport:
    """One learner partition.

    Attributes:
        number: of the partition.
        is_started: whether it has been recovered.
        graph_version: the graph that it is under.
        facts_applied: facts added since the beginning.
        facts_unknown: facts of items that the graph does not have.
        unpublished_records: ledger records whose facts are on disk, in rows that are not published.
        damaged_records: ledger records that could not be read.
    """

    number: int
    is_started: bool
    graph_version: str
    facts_applied: int
    facts_unknown: int
    unpublished_records: int
    damaged_records: int


@dataclass(frozen=True)
class Reading:
    """How far a topic partition has been read.

    Attributes:
        stored: offset behind what is on disk.
        end: end of the partition, as the broker last said; None before it said so.
        ingested_ms: when the newest record that was taken in was written, Unix milliseconds; 0 = unknown.
    """

    stored: int
    end: int | None
    ingested_ms: int = 0

    @property
    def lag(self) -> int | None:
        """Records that are not on disk yet."""
        return None if self.end is None else max(self.end - self.stored, 0)


@dataclass(frozen=True)
class WorkerReport:
    """A worker at one moment.

    Attributes:
        at_s: when, by the monotonic clock.
        now_ms: when, Unix milliseconds.
        has_joined: whether its group has given it partitions, or none.
        joiners, learners: by number.
        readings: of the topic partitions that are read, once their partition has been recovered.
    """

    at_s: float
    now_ms: int
    has_joined: bool
    joiners: tuple[JoinerReport, ...]
    learners: tuple[LearnerReport, ...]
    readings: Mapping[TP, Reading]

    @property
    def is_ready(self) -> bool:
        """Whether all that its group has given it is recovered; that may be nothing."""
        started = [one.is_started for one in self.joiners] + [one.is_started for one in self.learners]
        return self.has_joined and all(started)


def report_of(owned: Mapping[TP, Partition], *, has_joined: bool) -> WorkerReport:
    """A report; called in the worker's event loop."""
    partitions = list(dict.fromkeys(owned.values()))
    joiners = [one for one in partitions if isinstance(one, JoinerPartition)]
    learners = [one for one in partitions if isinstance(one, LearnerPartition)]
    return WorkerReport(
        at_s=time.monotonic(),
        now_ms=int(time.time() * 1000),
        has_joined=has_joined,
        joiners=tuple(map(_joiner, sorted(joiners, key=lambda one: one.number))),
        learners=tuple(map(_learner, sorted(learners, key=lambda one: one.number))),
        readings={tp: at for one in partitions if one.is_started for tp, at in _readings(one).items()},
    )


def _joiner(one: JoinerPartition) -> JoinerReport:
    joiner = one.state.joiner
    return JoinerReport(
        number=one.number,
        is_started=one.is_started,
        counts=joiner.tally.as_dict(),
        dead_letters=one.state.head.dead_letters,
        pending_rows=joiner.pending_rows,
        waiting_clicks=joiner.waiting_clicks,
        rows_in_flight=joiner.rows_in_flight,
    )


def _learner(one: LearnerPartition) -> LearnerReport:
    head = one.head
    return LearnerReport(
        number=one.number,
        is_started=one.is_started,
        graph_version=one.version,
        facts_applied=one.learner.facts_applied,
        facts_unknown=one.learner.facts_unknown,
        unpublished_records=max(head.mark.position - head.published_position, 0),
        damaged_records=head.damaged,
    )


def _readings(one: Partition) -> dict[TP, Reading]:
    seen = one.around.consumer.thread.seen
    ingested: dict[TP, int] = {}
    if isinstance(one, JoinerPartition):
        head = one.state.head
        ingested = {one.impressions: head.impressions_clock_ms, one.clicks: head.clicks_clock_ms}
    return {
        tp: Reading(stored, at.end if (at := seen(tp)) else None, ingested.get(tp, 0))
        for tp, stored in one.stored_positions().items()
    }
