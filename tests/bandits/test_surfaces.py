"""Surfaces that are not learned from: their impressions and clicks are counted, and nothing else."""

import random
from collections import Counter
from collections.abc import Sequence
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
from tests.bandits.test_at_close import tick
from tests.bandits.test_joiner_model import RULE, START_MS, counts, cut, random_stream

HOUR_MS = 3_600_000
NAMED = replace(RULE, surfaces=("home",))
CONTEXT = ((3, 1 << 14), (5, 1 << 13))


def mixed_stream(rng: random.Random, count: int, steps: Sequence[int]) -> list[Event]:
    """Events of which some slates are of another surface."""
    events = random_stream(rng, count, steps)
    return [replace(e, passed=rng.random() < 0.4) if isinstance(e, Shown) else e for e in events]


def shown(request: str, item: str, at_ms: int, *, offset: int = 0, passed: bool = False) -> Shown:
    return Shown(request, (item,), CONTEXT, at_ms, at_ms, offset, passed=passed)


def clicked(request: str, item: str, at_ms: int, *, offset: int = 0) -> Clicked:
    return Clicked(request, item, 1 << 15, at_ms, at_ms, offset)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7, 64)))
@settings(max_examples=120, deadline=None)
def test_other_surfaces_are_joined_as_the_model_says(seed: int, count: int, size: int) -> None:
    """Facts and counts equal the model's, over keys that both kinds of surfaces use and beside every limit."""
    rng = random.Random(seed)
    events = mixed_stream(rng, count, (0, 0, 0, 1, 5, 20, 40, 91))
    model = DictJoiner(NAMED)
    for event in events:
        model.take(event)
    joiner = Joiner(NAMED)
    assert feed(joiner, cut(events, size, rng)) == model.facts
    assert counts(joiner) == model.finish(max(event.ingested_ms for event in events))


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7)))
@settings(max_examples=60, deadline=None)
def test_two_deployments_learn_each_fact_exactly_once(seed: int, count: int, size: int) -> None:
    """What one passes over the other takes: together they have the facts of a joiner that passes nothing over."""
    rng = random.Random(seed)
    events = mixed_stream(rng, count, (0, 0, 1, 5, 20, 40))
    flipped = [replace(e, passed=not e.passed) if isinstance(e, Shown) else e for e in events]
    whole = [replace(e, passed=False) if isinstance(e, Shown) else e for e in events]
    every = Counter[Fact]()
    for one in (events, flipped):
        every += feed(Joiner(NAMED), cut(one, size, rng))
    assert every == feed(Joiner(RULE), cut(whole, size, rng))


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), at_close=st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_restored_joiner_still_knows_other_surfaces(seed: int, count: int, at_close: bool) -> None:
    """After every batch: what is left of the stored changes gives the same joiner, bit for bit."""
    rng = random.Random(seed)
    rule = replace(NAMED, max_pending_rows=rng.choice((3, 1_000)), max_waiting_clicks=4)
    rule = replace(rule, resolution="at_close" if at_close else "immediate")
    joiner, stored = Joiner(rule), {}
    for batch in cut(mixed_stream(rng, count, (0, 0, 1, 20, 51)), 0, rng):
        restored = Joiner(rule)
        for record in stored.values():
            restored.apply(decode_change(record))
        outcomes, change = joiner.join(*columns(batch))
        again, same_change = restored.join(*columns(batch))
        assert encode_outcomes(again) == encode_outcomes(outcomes)
        assert encode_change(same_change) == encode_change(change)
        joiner.apply(change)
        stored[change.sequence] = encode_change(change)
        stored = {number: record for number, record in stored.items() if number >= change.keep_from}


@pytest.mark.parametrize("first", ["slate", "click"])
def test_a_click_on_another_surface_does_not_wait(first: str) -> None:
    """It is counted once its slate is known, whichever came first, and leaves the room of clicks that wait."""
    joiner = Joiner(NAMED)
    events = [shown("r", "a", START_MS, passed=True), clicked("r", "a", START_MS)]
    assert not feed(joiner, [[event] for event in (events if first == "slate" else events[::-1])])
    assert counts(joiner) == {"impressions_other_surface": 1, "clicks_other_surface": 1}
    assert joiner.waiting_clicks == 0


def test_other_surfaces_are_never_in_flight() -> None:
    """Where impressions count when their window closes, those of other surfaces neither open nor close."""
    joiner = Joiner(replace(NAMED, resolution="at_close"))
    batch = [shown("r", "a", START_MS, passed=True), shown("q", "b", START_MS, offset=1)]
    outcomes, change = joiner.join(*columns(batch))
    joiner.apply(change)
    assert ([outcomes.item_ids[item] for item in outcomes.item], joiner.rows_in_flight) == (["b"], 1)
    closed = tick(joiner, START_MS + 2 * HOUR_MS)
    assert [closed.item_ids[item] for item in closed.item] == ["b"]
    assert joiner.rows_in_flight == 0


def test_rows_keep_the_surfaces_that_were_learned_from_when_they_came() -> None:
    """A rule that names another surface from now on does not turn clicks on older rows away."""
    joiner = Joiner(RULE)
    feed(joiner, [[shown("r", "a", START_MS)]])
    joiner.rule = NAMED
    feed(joiner, [[shown("q", "b", START_MS, offset=1, passed=True)]])
    outcomes, _ = joiner.join(*columns([clicked("r", "a", START_MS), clicked("q", "b", START_MS, offset=1)]))
    assert [fact[0] for fact in facts(outcomes)] == ["a"]


@pytest.mark.parametrize("surfaces", [("home", "home"), tuple(map(str, range(65)))])
def test_surfaces_that_cannot_be_told_apart_are_refused(surfaces: tuple[str, ...]) -> None:
    """The rule says what it expected and what it got."""
    got = ", ".join(f'"{surface}"' for surface in surfaces)
    with pytest.raises(ValueError, match=f"surfaces: expected at most 64 distinct names, got {got}"):
        JoinRule(surfaces=surfaces)
