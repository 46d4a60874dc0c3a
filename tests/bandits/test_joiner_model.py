"""The joiner against a dict model: facts and counts are those of one event at a time, however they are batched."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from streams.change_codec import decode_change, encode_change
from streams.outcome_codec import encode_outcomes
from tests.bandits.dict_model import DictJoiner
from tests.bandits.event_columns import Clicked, Event, Fact, Shown, columns, facts, feed

RULE = JoinRule(window_ms=50, max_delay_ms=30, max_skew_ms=5)
# Ages at ingestion: on, just inside and just outside of every limit. None = the producer did not say.
AGES = (None, None, 0, 0, 1, -5, -6, 30, 31, 10_000, -10_000)
# Steps of the ingestion clock: ties, and just at the window and both retentions.
STEPS = (0, 0, 0, 0, 1, 5, 20, 40, 41, 50, 51, 90, 91, 1_000)
START_MS = 1_700_000_000_000


def random_event(rng: random.Random, now_ms: int, offsets: list[int], widest: int = 3) -> Event:
    age_ms = rng.choice(AGES)
    occurred_ms = 0 if age_ms is None else now_ms - age_ms
    request = f"r{rng.randrange(4)}"
    topic = rng.randrange(2)
    same_record = rng.random() < 0.3 and offsets[topic] > 0
    offsets[topic] += not same_record
    place = {"offset": offsets[topic], "index": rng.randrange(1_000)}
    if topic:
        reward = rng.choice((0, 1, 1 << 15, (1 << 15) - 1))
        return Clicked(request, f"i{rng.randrange(widest + 1)}", reward, occurred_ms, now_ms, **place)
    items = tuple(f"i{n}" for n in rng.sample(range(widest + 1), rng.randint(1, widest)))
    context = tuple((c, rng.choice((1, 9_999, 1 << 15))) for c in sorted(rng.sample(range(6), rng.randint(1, 3))))
    return Shown(request, items, context, occurred_ms, now_ms, **place)


def random_stream(rng: random.Random, count: int, steps: Sequence[int] = STEPS, widest: int = 3) -> list[Event]:
    """Events in the order of ingestion; slates have up to `widest` items."""
    now_ms, offsets = START_MS, [-1, -1]
    events = []
    for _ in range(count):
        now_ms += rng.choice(steps)
        events.append(random_event(rng, now_ms, offsets, widest))
    return events


def cut(events: Sequence[Event], size: int, rng: random.Random) -> Iterator[list[Event]]:
    """Micro-batches of a size, or of random sizes where it is 0."""
    at = 0
    while at < len(events):
        step = size or rng.choice((1, 1, 2, 5, 30))
        yield list(events[at : at + step])
        at += step


def interleave(events: Sequence[Event], rng: random.Random) -> list[Event]:
    """The two logs merged anew at random; each keeps its order."""
    logs = [[e for e in events if isinstance(e, kind)] for kind in (Shown, Clicked)]
    turns = [kind for kind, log in enumerate(logs) for _ in log]
    rng.shuffle(turns)
    queues = [iter(log) for log in logs]
    return [next(queues[turn]) for turn in turns]


def expect(events: Sequence[Event]) -> tuple[Counter[Fact], dict[str, int]]:
    model = DictJoiner(RULE)
    for event in events:
        model.take(event)
    return model.facts, model.finish(max(event.ingested_ms for event in events))


def counts(joiner: Joiner) -> dict[str, int]:
    return {name: n for name, n in joiner.tally.as_dict().items() if n} | (
        {"waiting": joiner.waiting_clicks} if joiner.waiting_clicks else {}
    )


def check(events: Sequence[Event], batches: Iterator[list[Event]]) -> None:
    joiner = Joiner(RULE)
    seen = feed(joiner, batches)
    expected_facts, expected_counts = expect(events)
    assert seen == expected_facts
    assert counts(joiner) == expected_counts


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7, 64)))
@settings(max_examples=120, deadline=None)
def test_batches_do_not_change_what_is_joined(seed: int, count: int, size: int) -> None:
    """Facts and counts equal the model's, over times on and beside every limit and keys that are used again."""
    rng = random.Random(seed)
    events = random_stream(rng, count)
    check(events, cut(events, size, rng))


@pytest.mark.parametrize(("size", "seed"), [(1, 1), (7, 2), (64, 20_324), (64, 3), (1_000, 4), (0, 5)])
def test_long_streams_join_as_the_model_says(size: int, seed: int) -> None:
    """2,000 events of slowly moving time, where most keys repeat and all clicks find rows and limits."""
    rng = random.Random(seed)
    events = random_stream(rng, 2_000, steps=(0, 0, 0, 1, 2, 9))
    check(events, cut(events, size, rng))


@pytest.mark.parametrize("seed", range(6))
def test_long_slates_of_few_requests_join_as_the_model_says(seed: int) -> None:
    """Slates longer than are looked through, and more of one request than are: rows found by themselves, too."""
    rng = random.Random(seed)
    events = random_stream(rng, 150, steps=(0, 0, 1, 3), widest=150)
    check(events, cut(events, rng.choice((0, 7, 64)), rng))


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7, 64)))
@settings(max_examples=120, deadline=None)
def test_the_order_between_the_logs_does_not_change_what_is_joined(seed: int, count: int, size: int) -> None:
    """As long as neither log runs ahead of the other by more than the retention of clicks."""
    rng = random.Random(seed)
    events = random_stream(rng, count, steps=(0,))
    for i, step in enumerate(sorted(rng.choices(range(RULE.click_retention_ms + 1), k=count))):
        moved = {"ingested_ms": START_MS + step}
        if events[i].occurred_ms:
            moved["occurred_ms"] = events[i].occurred_ms + step
        events[i] = type(events[i])(**{**vars(events[i]), **moved})
    expected_facts, expected_counts = expect(events)
    for _ in range(3):
        joiner = Joiner(RULE)
        assert feed(joiner, cut(interleave(events, rng), size, rng)) == expected_facts
        assert counts(joiner) == expected_counts


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7)))
@settings(max_examples=120, deadline=None)
def test_a_restored_joiner_goes_on_identically(seed: int, count: int, size: int) -> None:
    """After every batch: what `keep_from` leaves of the stored changes gives the same joiner, bit for bit."""
    rng = random.Random(seed)
    events = random_stream(rng, count)
    rule = JoinRule(**{**vars(RULE), "max_pending_rows": rng.choice((3, 1_000)), "max_waiting_clicks": 4})
    joiner = Joiner(rule)
    stored: dict[int, bytes] = {}
    for batch in cut(events, size, rng):
        restored = Joiner(rule)
        for record in stored.values():
            restored.apply(decode_change(record))
        outcomes, change = joiner.join(*columns(batch))
        again, same_change = restored.join(*columns(batch))
        assert encode_outcomes(again) == encode_outcomes(outcomes)
        assert encode_change(same_change) == encode_change(change)
        assert same_change.dead == change.dead
        joiner.apply(change)
        stored[change.sequence] = encode_change(change)
        stored = {number: record for number, record in stored.items() if number >= change.keep_from}


@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), limits=st.tuples(st.integers(0, 5), st.integers(0, 5)))
@settings(max_examples=120, deadline=None)
def test_every_event_is_counted_once_whatever_is_evicted(seed: int, count: int, limits: tuple[int, int]) -> None:
    """Shown items and clicks are conserved, even while the capacity limits bite, and the limits hold."""
    rng = random.Random(seed)
    events = random_stream(rng, count, steps=(0, 0, 1))
    rule = JoinRule(**{**vars(RULE), "max_pending_rows": limits[0], "max_waiting_clicks": limits[1]})
    joiner = Joiner(rule)
    rows = clicks = 0
    for batch in cut(events, 0, rng):
        feed(joiner, [batch])
        rows += sum(len(event.items) for event in batch if isinstance(event, Shown))
        clicks += sum(isinstance(event, Clicked) for event in batch)
        tally = joiner.tally.as_dict()
        evicted = tally.pop("rows_evicted")
        assert sum(n for name, n in tally.items() if name.startswith("impressions_")) == rows
        assert sum(n for name, n in tally.items() if name.startswith("clicks_")) + joiner.waiting_clicks == clicks
        assert joiner.pending_rows <= limits[0]
        assert joiner.waiting_clicks <= limits[1]
        assert evicted <= tally["impressions_accepted"]


@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), size=st.sampled_from((0, 1, 7)))
@settings(max_examples=120, deadline=None)
def test_logs_that_are_read_at_different_speeds_join_the_same(seed: int, count: int, size: int) -> None:
    """However far one log runs ahead: told how far both have been read, the joiner forgets nothing too early."""
    rng = random.Random(seed)
    events = []
    for event in random_stream(rng, count, steps=(0, 0, 1, 5, 20, 40, 41)):
        # A request is not used again after its rows were forgotten.
        era = (event.ingested_ms - START_MS) // RULE.row_retention_ms
        events.append(replace(event, request=f"{era} {event.request}"))
    expected_facts, expected_counts = expect(events)
    joiner, seen, position = Joiner(RULE), Counter[Fact](), 0
    order = interleave(events, rng)
    for batch in cut(order, size, rng):
        position += len(batch)
        clock_ms = min((event.ingested_ms for event in order[position:]), default=events[-1].ingested_ms)
        outcomes, change = joiner.join(*columns(batch), clock_ms=clock_ms)
        joiner.apply(change)
        seen += facts(outcomes)
    assert seen == expected_facts
    assert counts(joiner) == expected_counts
