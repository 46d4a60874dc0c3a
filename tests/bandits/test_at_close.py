"""Impressions in flight: the joiner opens them, closes them with their reward, and loses and doubles none."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.events import Clicks, Impressions
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.outcomes import Outcomes
from streams.change_codec import decode_change, encode_change
from streams.outcome_codec import decode_outcomes, encode_outcomes
from tests.bandits.dict_model import DictJoiner
from tests.bandits.event_columns import Clicked, Event, Shown, columns
from tests.bandits.test_joiner_model import RULE, START_MS, cut, interleave, random_stream
from tests.bandits.test_reward_rules import rules, stream

CONTEXT = ((3, 1 << 14), (5, 1 << 13))
AT_CLOSE = replace(RULE, resolution="at_close")

Total = dict[tuple[str, tuple[tuple[int, int], ...]], list[int]]


def totals(batches: Sequence[Outcomes]) -> Total:
    """(impressions, reward, in flight) of every item in every context."""
    result: Total = {}
    for outcomes in batches:
        ends = [0, *outcomes.context_ends.tolist()]
        pairs = list(zip(outcomes.context_cluster.tolist(), outcomes.context_x.tolist(), strict=True))
        for i in range(len(outcomes)):
            context = tuple(pairs[ends[outcomes.context[i]] : ends[outcomes.context[i] + 1]])
            sums = result.setdefault((outcomes.item_ids[outcomes.item[i]], context), [0, 0, 0])
            opening = 0 if outcomes.opening is None else int(outcomes.opening[i])
            for column, term in enumerate((int(outcomes.impressions[i]), int(outcomes.reward[i]), opening)):
                sums[column] += term
    return {key: sums for key, sums in result.items() if any(sums)}


def feed(joiner: Joiner, batches: Sequence[Sequence[Event]]) -> list[Outcomes]:
    made = []
    for batch in batches:
        outcomes, change = joiner.join(*columns(batch))
        joiner.apply(decode_change(encode_change(change)))
        made.append(decode_outcomes(encode_outcomes(outcomes)))
    return made


def tick(joiner: Joiner, clock_ms: int) -> Outcomes:
    outcomes, change = joiner.join(Impressions.none(), Clicks.none(), clock_ms=clock_ms)
    joiner.apply(change)
    return outcomes


def expected(rule: JoinRule, events: Sequence[Event], clock_ms: int) -> Total:
    """The dict model's rows: those whose window has closed have counted wholly, the others are in flight."""
    model = DictJoiner(replace(rule, resolution="immediate"))
    for event in events:
        model.take(event)
    over = {id(event): clock_ms - event.ingested_ms > rule.window_ms for event in events}
    result: Total = {}
    for row in model.every:
        sums = result.setdefault((row.item, row.slate.context), [0, 0, 0])
        if over[id(row.slate)]:
            sums[0] += 1
            sums[1] += row.earned
        else:
            sums[2] += 1
    return {key: sums for key, sums in result.items() if any(sums)}


@given(
    seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7, 64)), plain=st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_batches_do_not_change_what_is_in_flight(seed: int, count: int, size: int, plain: bool) -> None:
    """At any clock: rows whose window is over have counted with all their rewards, the others are in flight."""
    rng = random.Random(seed)
    rule = replace(RULE if plain else rules(rng), resolution="at_close")
    events = random_stream(rng, count) if plain else stream(rng, rule, count)
    joiner = Joiner(rule)
    made = feed(joiner, list(cut(events, size, rng)))
    clock_ms = max(event.ingested_ms for event in events)
    assert totals(made) == expected(rule, events, clock_ms)
    assert joiner.rows_in_flight == sum(sums[2] for sums in totals(made).values())
    for step in (0, rule.window_ms - 1, rule.window_ms, rule.window_ms + 1):
        made.append(tick(joiner, clock_ms + step))
        assert totals(made) == expected(rule, events, clock_ms + step)
    assert joiner.rows_in_flight == 0


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7)))
@settings(max_examples=80, deadline=None)
def test_once_nothing_is_in_flight_the_facts_are_those_of_immediate(seed: int, count: int, size: int) -> None:
    """The same pairs join, whatever the order between the logs; only the moment differs."""
    rng = random.Random(seed)
    rule = rules(rng) if rng.random() < 0.5 else RULE
    events = [replace(event, ingested_ms=START_MS, occurred_ms=0) for event in stream(rng, rules(rng), count)]
    immediate = totals(feed(Joiner(rule), list(cut(events, size, rng))))
    joiner = Joiner(replace(rule, resolution="at_close"))
    made = feed(joiner, list(cut(interleave(events, rng), size, rng)))
    made.append(tick(joiner, START_MS + rule.window_ms + 1))
    assert totals(made) == immediate


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7)))
@settings(max_examples=80, deadline=None)
def test_a_restored_joiner_closes_the_same_windows(seed: int, count: int, size: int) -> None:
    """After every batch the stored changes give the same joiner, while rows are evicted and the rule changes."""
    rng = random.Random(seed)
    joiner, made, stored = Joiner(AT_CLOSE), [], {}
    events = random_stream(rng, count)
    for batch in cut(events, size, rng):
        rule = replace(
            rng.choice((AT_CLOSE, AT_CLOSE, RULE, replace(rules(rng), resolution="at_close"), rules(rng))),
            max_pending_rows=rng.choice((3, 1_000)),
        )
        restored = Joiner(rule)
        joiner.rule = rule
        for record in stored.values():
            restored.apply(decode_change(record))
        outcomes, change = joiner.join(*columns(batch))
        again, same_change = restored.join(*columns(batch))
        assert encode_outcomes(again) == encode_outcomes(outcomes)
        assert encode_change(same_change) == encode_change(change)
        joiner.apply(change)
        made.append(outcomes)
        stored[change.sequence] = encode_change(change)
        stored = {number: record for number, record in stored.items() if number >= change.keep_from}
        assert all(sums[2] >= 0 for sums in totals(made).values())
        assert joiner.rows_in_flight <= joiner.pending_rows
    made.append(tick(joiner, joiner.clock_ms + RULE.window_ms + 1))
    assert joiner.rows_in_flight == 0
    final = totals(made).values()
    assert all(sums[2] == 0 for sums in final)
    assert sum(sums[0] for sums in final) == joiner.tally.impressions_accepted


def test_a_fact_that_closes_names_the_impression() -> None:
    """Opening and closing have the impression as cause; a click that comes after the closing its own."""
    joiner = Joiner(JoinRule(window_ms=50, max_delay_ms=100, resolution="at_close"))
    slate = Shown("r", ("i", "j"), CONTEXT, START_MS, START_MS, 7, 2)
    opened, closed, late = feed(
        joiner,
        [
            [slate],
            [Clicked("r", "j", 9, START_MS + 5, START_MS + 51, 3)],
            [Clicked("r", "i", 8, START_MS + 6, START_MS + 60, 4)],
        ],
    )
    causes = [
        list(zip(made.cause_topic.tolist(), made.cause_offset.tolist(), made.cause_index.tolist(), strict=True))
        for made in (opened, closed, late)
    ]
    assert causes == [[(0, 7, 2)] * 2, [(0, 7, 2)] * 2, [(1, 4, 0)]]
    assert (opened.opening.tolist(), opened.impressions.tolist()) == ([1, 1], [0, 0])  # type: ignore[union-attr]
    assert (closed.opening.tolist(), closed.impressions.tolist()) == ([-1, -1], [1, 1])  # type: ignore[union-attr]
    assert (closed.reward.tolist(), late.reward.tolist()) == ([0, 9], [8])
    assert (opened.clock_ms, closed.clock_start_ms, closed.clock_ms) == (START_MS, START_MS, START_MS + 51)


@pytest.mark.parametrize("limit", [0, 1])
def test_a_row_that_is_forgotten_early_closes_early(limit: int) -> None:
    """Where too many impressions wait, the oldest count with what they have earned so far, and none stays open."""
    joiner = Joiner(replace(AT_CLOSE, max_pending_rows=limit))
    first = Shown("r", ("i",), CONTEXT, 0, START_MS, 0)
    made = feed(joiner, [[first, Clicked("r", "i", 9, 0, START_MS, 0)], [replace(first, request="s", offset=1)]])
    assert totals(made)["i", CONTEXT] == [2 - limit, 9, limit]
    assert joiner.rows_in_flight == limit


def test_immediate_ledgers_are_as_before() -> None:
    """Without the setting no fact has an opening, and the record no field for it."""
    joiner = Joiner(RULE)
    outcomes, _ = joiner.join(*columns([Shown("r", ("i",), CONTEXT, 0, START_MS, 0)]))
    assert outcomes.opening is outcomes.gamma is outcomes.shown_ms is None
    assert (outcomes.clock_ms, outcomes.clock_start_ms, outcomes.half_life_ms) == (0, 0, 0)
