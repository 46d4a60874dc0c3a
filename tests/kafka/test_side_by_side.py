"""Two topics side by side: nothing lost, nothing out of order, none far ahead of the other."""

import random
from dataclasses import dataclass

import pytest
from faust.types import TP

from streams.kafka.chunk import Chunk
from streams.kafka.side_by_side import SLACK_MS, SideBySide
from tests.kafka.scale import new_seed

SHOWN, CLICKED = TP("shown", 0), TP("clicked", 0)


@dataclass
class Record:
    offset: int
    timestamp: int
    value: bytes = b"x" * 10


def log_of(times_ms):
    """Records with holes between their offsets."""
    return [Record(3 * at, time_ms) for at, time_ms in enumerate(times_ms)]


def chunks_of(tp, log, rng):
    """A log as contiguous chunks of random sizes."""
    start = at = 0
    while at < len(log):
        size = rng.randint(1, 30)
        records = log[at : at + size]
        at += size
        end = log[at].offset - 1 if at < len(log) else records[-1].offset + 1
        yield Chunk(tp.topic, tp.partition, start, end, records)
        start = end


@pytest.mark.parametrize("limit_bytes", [100, 10_000])
def test_neither_topic_runs_ahead(limit_bytes):
    """Whatever comes first, records are taken once, in order, and no further in time than the other topic is."""
    rng = random.Random(new_seed())
    for _ in range(30):
        side = SideBySide([SHOWN, CLICKED])
        times = {tp: sorted(rng.choices(range(20_000), k=rng.randint(0, 400))) for tp in (SHOWN, CLICKED)}
        logs = {tp: log_of(times[tp]) for tp in times}
        ends = {tp: log[-1].offset + 1 if log else 0 for tp, log in logs.items()}
        to_come = {tp: list(chunks_of(tp, logs[tp], rng)) for tp in logs}
        positions, clocks, taken = dict.fromkeys(logs, 0), dict.fromkeys(logs, 0), {tp: [] for tp in logs}
        while any(to_come.values()) or side:
            ready = [tp for tp in to_come if to_come[tp]]
            if ready and rng.random() < 0.6:
                side.add(to_come[tp := rng.choice(ready)].pop(0))
            batch = side.take(positions, ends, clocks, limit_bytes=limit_bytes)
            assert not side.missed
            assert batch or ready, "nothing can go on"
            for chunk in batch:
                tp = TP(chunk.topic, chunk.partition)
                assert chunk.start == positions[tp]
                taken[tp] += chunk.records
                positions[tp], clocks[tp] = chunk.end, chunk.records[-1].timestamp
            for tp, other in ((SHOWN, CLICKED), (CLICKED, SHOWN)):
                left = logs[other][len(taken[other]) :]
                assert not left or clocks[tp] <= left[0].timestamp + SLACK_MS
        assert taken == logs
        assert positions == ends


def test_a_topic_at_its_end_holds_nobody_up():
    """An idle topic is not waited for; one that has not answered yet is."""
    side = SideBySide([SHOWN, CLICKED])
    clicks = Chunk(CLICKED.topic, 0, 0, 5, [Record(at, 50_000) for at in range(5)])
    side.add(clicks)
    nothing = dict.fromkeys([SHOWN, CLICKED], 0)
    assert side.take(nothing, {SHOWN: None, CLICKED: 5}, nothing, limit_bytes=1_000) == []
    assert side.take(nothing, {SHOWN: 7, CLICKED: 5}, nothing, limit_bytes=1_000) == []
    assert side.take(nothing, {SHOWN: 0, CLICKED: 5}, nothing, limit_bytes=1_000) == [clicks]
    assert not side


def test_what_does_not_follow_is_not_handed_on():
    """Chunks behind the position are dropped; a gap is told, so that it is read again."""
    side = SideBySide([SHOWN, CLICKED])
    first, second, fourth = (Chunk(SHOWN.topic, 0, at, at + 2, [Record(at, at)]) for at in (0, 2, 6))
    for chunk in (first, second, fourth):
        side.add(chunk)
    ends, clocks = {SHOWN: 8, CLICKED: 0}, {SHOWN: 0, CLICKED: 0}
    assert side.take({SHOWN: 2, CLICKED: 0}, ends, clocks, limit_bytes=1_000) == [second]
    assert side.take({SHOWN: 4, CLICKED: 0}, ends, clocks, limit_bytes=1_000) == []
    assert side.missed == {SHOWN}
    assert not side
