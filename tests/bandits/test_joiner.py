"""The joiner's promises one by one: time, capacity, memory, rules."""

import numpy as np
import pytest

from bandits.join_rule import MAX_REWARD_CAP, JoinRule
from bandits.joiner import Joiner
from bandits.outcomes import CLICKS_TOPIC, IMPRESSIONS_TOPIC
from streams.change_codec import encode_change
from tests.bandits.event_columns import Clicked, Event, Shown, columns, facts, feed

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
CONTEXT = ((3, 1 << 14), (5, 1 << 13))


def shown(
    request: str = "r", *items: str, occurred_ms: int = 0, ingested_ms: int = NOW_MS, offset: int = 0
) -> Shown:
    return Shown(request, items or ("i",), CONTEXT, occurred_ms, ingested_ms, offset)


def clicked(
    request: str = "r", item: str = "i", *, occurred_ms: int = 0, ingested_ms: int = NOW_MS, offset: int = 0
) -> Clicked:
    return Clicked(request, item, 1 << 15, occurred_ms, ingested_ms, offset)


def tally(joiner: Joiner) -> dict[str, int]:
    return {name: n for name, n in joiner.tally.as_dict().items() if n}


def test_a_fact_names_its_cause_and_the_context_that_was_shown() -> None:
    """An impression counts once, its click once, both with the slate's context and their own place in the logs."""
    joiner = Joiner(JoinRule())
    seen = feed(joiner, [[shown("r", "i", "j", offset=7), clicked("r", "j", offset=4)]])
    assert dict(seen) == {
        ("i", CONTEXT, 1, 0, (IMPRESSIONS_TOPIC, 7, 0)): 1,
        ("j", CONTEXT, 1, 0, (IMPRESSIONS_TOPIC, 7, 0)): 1,
        ("j", CONTEXT, 0, 1 << 15, (CLICKS_TOPIC, 4, 0)): 1,
    }
    assert (joiner.impressions_position, joiner.clicks_position, joiner.sequence) == (8, 5, 1)


def test_joining_without_applying_changes_nothing() -> None:
    """`join` is a question: asked twice it answers the same, so a failed commit leaves no trace."""
    joiner = Joiner(JoinRule())
    feed(joiner, [[shown(), clicked("other")]])
    batch = columns([shown("r2"), clicked(), clicked("r2"), clicked("other", "x")])
    first, second = joiner.join(*batch), joiner.join(*batch)
    assert facts(first[0]) == facts(second[0])
    assert encode_change(first[1]) == encode_change(second[1])


def test_an_empty_batch_keeps_positions_and_clock() -> None:
    """Nothing in, nothing out, but the sequence has no holes."""
    joiner = Joiner(JoinRule())
    feed(joiner, [[shown(offset=3)], [], [clicked(offset=2)]])
    assert (joiner.impressions_position, joiner.clicks_position) == (4, 3)
    assert (joiner.sequence, joiner.clock_ms, tally(joiner)["clicks_joined"]) == (3, NOW_MS, 1)


@pytest.mark.parametrize("own_ms", [NOW_MS + HOUR_MS, NOW_MS + 365 * 24 * HOUR_MS, 2**53, 1, -1, -(2**53)])
@pytest.mark.parametrize("kind", [shown, clicked])
def test_a_wrong_clock_closes_no_window_for_others(kind: type[Event], own_ms: int) -> None:
    """An event from another year is refused alone: the row before it still gets its click."""
    joiner = Joiner(JoinRule())
    feed(joiner, [[shown()], [kind("skewed", occurred_ms=own_ms, offset=1)]])
    feed(joiner, [[clicked(ingested_ms=NOW_MS + 1, offset=2)]])
    assert joiner.clock_ms == NOW_MS + 1
    assert tally(joiner)["clicks_joined"] == 1
    assert sum(n for name, n in tally(joiner).items() if name.endswith(("_late", "_dead"))) == 1


def test_an_event_of_the_future_is_a_dead_letter_with_its_place() -> None:
    """Dead letters name topic, offset, index and by how much the clock was wrong."""
    joiner = Joiner(JoinRule(max_skew_ms=10))
    late = Clicked("r", "i", 1, NOW_MS + 11, NOW_MS, offset=9, index=3)
    _, change = joiner.join(*columns([late, shown("r", "i", "j", occurred_ms=NOW_MS + 60, offset=4)]))
    assert [(letter.topic, letter.offset, letter.index) for letter in change.dead] == [(0, 4, 0), (1, 9, 3)]
    assert [letter.reason for letter in change.dead] == [
        f"occurred_at_ms: expected at most 10 ms after ingestion, got {ms}" for ms in (60, 11)
    ]
    assert change.tally.impressions_dead == 2  # shown items
    assert change.tally.clicks_dead == 1


@pytest.mark.parametrize(
    ("delay_ms", "outcome"),
    [(-11, "late"), (-10, "joined"), (0, "joined"), (100, "joined"), (101, "late")],
)
def test_the_window_includes_both_its_ends(delay_ms: int, outcome: str) -> None:
    """A click counts from `max_skew_ms` before its impression to `window_ms` after it."""
    joiner = Joiner(JoinRule(window_ms=100, max_delay_ms=1_000, max_skew_ms=10))
    feed(joiner, [[shown(occurred_ms=NOW_MS - 500), clicked(occurred_ms=NOW_MS - 500 + delay_ms)]])
    assert tally(joiner)[f"clicks_{outcome}"] == 1


def test_a_late_click_does_not_take_the_place_of_a_good_one() -> None:
    """The first click within the window counts, not the first click."""
    joiner = Joiner(JoinRule(window_ms=100))
    early = clicked(occurred_ms=NOW_MS - 400, offset=0)
    seen = feed(joiner, [[shown(occurred_ms=NOW_MS - 600)], [early, clicked(occurred_ms=NOW_MS - 550, offset=1)]])
    assert ("i", CONTEXT, 0, 1 << 15, (CLICKS_TOPIC, 1, 0)) in seen
    assert (joiner.tally.clicks_late, joiner.tally.clicks_joined) == (1, 1)


def test_a_click_of_another_item_or_request_never_counts() -> None:
    """The key is the pair: a known request with an unknown item waits, and in the end is unmatched."""
    joiner = Joiner(JoinRule())
    feed(joiner, [[shown("r", "i"), clicked("r", "j", offset=0), clicked("q", "i", offset=1)]])
    assert joiner.waiting_clicks == 2
    feed(joiner, [[clicked("z", "z", ingested_ms=NOW_MS + 3 * HOUR_MS, offset=2)]])
    assert (joiner.tally.clicks_unmatched, joiner.tally.clicks_joined, joiner.waiting_clicks) == (2, 0, 1)


def test_impressions_without_clicks_stay_within_their_limit() -> None:
    """50,000 rows at a limit of 100: the newest 100 are kept, the others are counted, memory stays small."""
    joiner = Joiner(JoinRule(max_pending_rows=100))
    for batch in range(100):
        slates = [shown(f"r{batch}-{n}", "a", "b", "c", "d", "e", offset=batch) for n in range(100)]
        feed(joiner, [slates])
        assert joiner.pending_rows <= 100
    assert joiner.tally.impressions_accepted == 50_000
    assert joiner.tally.rows_evicted == 49_900
    assert allocated(joiner) < 20_000
    assert len(joiner._index.rows) == 100
    feed(joiner, [[clicked("r99-99", "a"), clicked("r99-79", "e"), clicked("r0-0", "a")]])
    assert (joiner.tally.clicks_joined, joiner.waiting_clicks) == (1, 2)


def test_clicks_without_impressions_stay_within_their_limit() -> None:
    """20,000 clicks at a limit of 100: the newest 100 wait, the others are counted as unmatched."""
    joiner = Joiner(JoinRule(max_waiting_clicks=100))
    for batch in range(100):
        feed(joiner, [[clicked(f"r{batch}-{n}", offset=batch) for n in range(200)]])
    assert (joiner.waiting_clicks, joiner.tally.clicks_unmatched) == (100, 19_900)
    assert len(joiner._waiting) == len(joiner._click_keys) == 100
    assert allocated(joiner) < 20_000
    feed(joiner, [[shown("r99-199"), shown("r99-100"), shown("r99-99"), shown("r0-0")]])
    assert joiner.tally.clicks_joined == 2


def test_clicks_of_one_pair_stay_within_their_limit() -> None:
    """A flood on a single unknown pair is bounded like any other."""
    joiner = Joiner(JoinRule(max_waiting_clicks=10))
    feed(joiner, [[clicked(offset=n) for n in range(1_000)], [shown()]])
    assert (joiner.tally.clicks_unmatched, joiner.tally.clicks_joined) == (990, 1)
    assert (joiner.tally.clicks_duplicate, joiner.waiting_clicks) == (9, 0)
    assert not joiner._waiting


def test_repeats_of_a_slate_take_no_memory() -> None:
    """A slate sent 2,000 times keeps one context, while its row is alive."""
    joiner = Joiner(JoinRule())
    feed(joiner, [[shown(offset=n) for n in range(20)] for _ in range(100)])
    assert joiner.tally.impressions_duplicate == 1_999
    assert len(joiner._contexts) == 1
    _, change = joiner.join(*columns([shown()] * 50))
    assert len(change.context_ends) == len(change.context_cluster) == 0


def test_decided_clicks_make_place_for_others() -> None:
    """Clicks that came before their impression and got it do not push out those that still wait."""
    joiner = Joiner(JoinRule(max_waiting_clicks=10))
    for n in range(50):
        feed(joiner, [[clicked(f"r{n}", offset=2 * n)], [shown(f"r{n}", offset=n)]])
    feed(joiner, [[clicked(f"w{n}", offset=200 + n) for n in range(10)]])
    assert (joiner.waiting_clicks, joiner.tally.clicks_unmatched) == (10, 0)


def test_changes_of_what_is_gone_are_not_needed_to_restore() -> None:
    """`keep_from` moves on with eviction, so that the stored changes stay bounded."""
    joiner = Joiner(JoinRule(max_pending_rows=10))
    for n in range(100):
        _, change = joiner.join(*columns([shown(f"r{n}", offset=n), clicked(f"r{n}", offset=n)]))
        joiner.apply(change)
        assert max(1, change.sequence - 10) <= change.keep_from <= change.sequence


def allocated(joiner: Joiner) -> int:
    """Elements of all columns, used or not."""
    arenas = (joiner.rows, joiner._contexts, joiner._elements, joiner._clicks)
    return sum(len(column) for arena in arenas for column in arena._columns.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_ms", -1),
        ("max_delay_ms", -1),
        ("max_skew_ms", -1),
        ("max_pending_rows", -1),
        ("max_waiting_clicks", -1),
        ("reward_cap", 0.0),
        ("reward_cap", -1.0),
        ("reward_cap", float("nan")),
        ("reward_cap", MAX_REWARD_CAP * 1.001),
        ("kind_weights", {"click": -1.0}),
        ("kind_weights", {"click": float("nan")}),
        ("kind_weights", {"click": float("inf")}),
    ],
)
def test_a_rule_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    """A cap above 2^16 would not fit the ledger's 32 bits; negative numbers mean nothing."""
    with pytest.raises(ValueError, match=name):
        JoinRule(**{name: value})  # type: ignore[arg-type]


def test_the_largest_reward_survives_the_ledger() -> None:
    """A reward at the largest cap is the same number after encoding."""
    from streams.outcome_codec import decode_outcomes, encode_outcomes

    joiner = Joiner(JoinRule(reward_cap=MAX_REWARD_CAP))
    reward = int(MAX_REWARD_CAP * 2**15)
    outcomes, _ = joiner.join(*columns([shown(), Clicked("r", "i", reward, 0, NOW_MS, 0)]))
    assert np.array_equal(decode_outcomes(encode_outcomes(outcomes)).reward, [0, reward])
