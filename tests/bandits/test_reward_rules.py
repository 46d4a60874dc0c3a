"""Several reactions to one shown item: kinds, weights, caps and aggregation against the dict model."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.join_rule import JoinRule, kind_numbers
from bandits.joiner import Joiner
from bandits.reward_rule import MAX_SUMMED_REACTIONS
from streams.change_codec import decode_change, encode_change
from streams.outcome_codec import encode_outcomes
from streams.restore import encode_rule
from tests.bandits.dict_model import DictJoiner
from tests.bandits.event_columns import Clicked, Event, Shown, columns, feed
from tests.bandits.test_joiner_model import RULE, START_MS, counts, cut, interleave, random_stream

ONE = 1 << 15
AGGREGATIONS = ("first", "sum", "max")
CONTEXT = ((3, 1 << 14), (5, 1 << 13))


def rules(rng: random.Random) -> JoinRule:
    """A rule under which several reactions may count."""
    kinds = {"click": 1.0, "dwell": 0.1, "buy": 1.0}
    return replace(
        RULE,
        kind_weights=kinds,
        kind_aggregations={kind: rng.choice(AGGREGATIONS) for kind in kinds}
        | {"dwell": rng.choice(("sum", "max"))},
        kind_caps={"dwell": rng.choice((0.25, 0.5))},
        across_kinds=rng.choice(AGGREGATIONS),
        reward_cap=rng.choice((1.0, 2.0)),
    )


def stream(rng: random.Random, rule: JoinRule, count: int) -> list[Event]:
    """Events whose clicks have kinds, and identities that come back."""
    steps = (0, 0, 0, 1, 2, 9)
    events = random_stream(rng, count, steps=steps)
    for i, event in enumerate(events):
        if isinstance(event, Clicked):
            kind = rng.choice(list(rule.kind_weights))
            reward = min(rng.choice((0, 1, 3_000, 9_000, ONE - 1, ONE)), round(rule.cap_of(kind) * ONE))
            identity = 10 * list(rule.kind_weights).index(kind) + rng.randint(1, 4)
            events[i] = replace(event, kind=kind, identity=identity, reward=reward)
    return events


@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), size=st.sampled_from((0, 1, 7, 64)))
@settings(max_examples=150, deadline=None)
def test_batches_do_not_change_what_several_reactions_amount_to(seed: int, count: int, size: int) -> None:
    """Facts and counts equal the model's, which works the reward out anew at every reaction."""
    rng = random.Random(seed)
    rule = rules(rng)
    events = stream(rng, rule, count)
    model = DictJoiner(rule)
    for event in events:
        model.take(event)
    joiner = Joiner(rule)
    assert feed(joiner, cut(events, size, rng)) == model.facts
    assert counts(joiner) == model.finish(max(event.ingested_ms for event in events))


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), size=st.sampled_from((0, 1, 7)))
@settings(max_examples=80, deadline=None)
def test_a_restored_joiner_remembers_what_rows_have_earned(seed: int, count: int, size: int) -> None:
    """After every batch the stored changes give the same joiner, bit for bit, while rows are evicted."""
    rng = random.Random(seed)
    rule = replace(rules(rng), max_pending_rows=rng.choice((3, 1_000)), max_waiting_clicks=4)
    joiner = Joiner(rule)
    stored: dict[int, bytes] = {}
    for batch in cut(stream(rng, rule, count), size, rng):
        restored = Joiner(rule)
        for record in stored.values():
            restored.apply(decode_change(record))
        outcomes, change = joiner.join(*columns(batch))
        again, same_change = restored.join(*columns(batch))
        assert encode_outcomes(again) == encode_outcomes(outcomes)
        assert encode_change(same_change) == encode_change(change)
        joiner.apply(change)
        assert len(joiner._book) <= joiner.pending_rows
        stored[change.sequence] = encode_change(change)
        stored = {number: record for number, record in stored.items() if number >= change.keep_from}


@given(seed=st.integers(0, 2**32), count=st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_the_order_of_sums_and_maxima_does_not_matter(seed: int, count: int) -> None:
    """Clicks in any order among each other and the impressions: every row earns the same."""
    rng = random.Random(seed)
    rule = replace(
        rules(rng),
        kind_aggregations={kind: rng.choice(("sum", "max")) for kind in ("click", "dwell", "buy")},
        across_kinds=rng.choice(("sum", "max")),
    )
    events = [replace(event, ingested_ms=START_MS, occurred_ms=0) for event in stream(rng, rule, count)]
    # The same reaction sent again is worth the same.
    worth = {k: rng.choice((1, 3_000, 9_000)) for k in range(30)}
    events = [replace(e, reward=worth[e.identity]) if isinstance(e, Clicked) else e for e in events]
    earned = []
    for _ in range(3):
        shuffled = [event for event in events if isinstance(event, Clicked)]
        rng.shuffle(shuffled)
        order = interleave([e for e in events if isinstance(e, Shown)] + shuffled, rng)
        total: Counter[tuple[object, ...]] = Counter()
        for (item, context, _, reward, _), times in feed(Joiner(rule), cut(order, 0, rng)).items():
            total[item, context] += reward * times
        earned.append(total)
    assert earned[0] == earned[1] == earned[2]


def seen(rule: JoinRule, *clicks: tuple[str, int, int]) -> tuple[list[int], dict[str, int]]:
    """Rewards of the facts that clicks (kind, reward, identity) on one row give, one batch each."""
    joiner = Joiner(rule)
    feed(joiner, [[Shown("r", ("i",), CONTEXT, 0, START_MS, 0)]])
    rewards: list[int] = []
    for offset, (kind, reward, identity) in enumerate(clicks):
        click = Clicked("r", "i", reward, 0, START_MS, offset, kind=kind, identity=identity)
        outcomes, change = joiner.join(*columns([click]))
        joiner.apply(change)
        rewards += outcomes.reward.tolist()
    return rewards, {name: n for name, n in joiner.tally.as_dict().items() if n and name.startswith("clicks_")}


def test_a_sum_counts_each_reaction_once_up_to_its_cap() -> None:
    """Heartbeats of dwell time add up, one sent twice does not, and the cap holds exactly."""
    rule = JoinRule(kind_weights={"dwell": 1.0}, kind_aggregations={"dwell": "sum"}, kind_caps={"dwell": 0.5})
    beats = [("dwell", 6_000, 1), ("dwell", 6_000, 2), ("dwell", 6_000, 2), ("dwell", 6_000, 3), ("dwell", 9, 4)]
    assert seen(rule, *beats) == (
        [6_000, 6_000, ONE // 2 - 12_000],
        {"clicks_joined": 3, "clicks_duplicate": 1, "clicks_absorbed": 1},
    )


def test_a_maximum_adds_the_difference() -> None:
    """The longest dwell counts, whichever came first."""
    rule = JoinRule(kind_weights={"dwell": 1.0}, kind_aggregations={"dwell": "max"})
    clicks = [("dwell", 500, 1), ("dwell", 200, 2), ("dwell", 800, 3), ("dwell", 800, 3)]
    assert seen(rule, *clicks) == ([500, 300], {"clicks_joined": 2, "clicks_absorbed": 2})


def test_kinds_are_combined_under_one_cap() -> None:
    """A click, its dwell time and a purchase add up to at most the cap; each kind keeps its own rule."""
    rule = JoinRule(
        kind_weights={"click": 1.0, "dwell": 1.0},
        kind_aggregations={"dwell": "max"},
        kind_caps={"click": 0.25},
        across_kinds="sum",
    )
    clicks = [("click", ONE // 4, 0), ("dwell", ONE // 2, 0), ("click", ONE // 4, 0), ("dwell", ONE, 0)]
    assert seen(rule, *clicks) == ([ONE // 4, ONE // 2, ONE // 4], {"clicks_joined": 3, "clicks_duplicate": 1})


def test_a_row_that_one_click_closed_stays_closed_when_the_rule_changes() -> None:
    """What a row earned under the first-click rule is not added to: nobody knows how much it was."""
    joiner = Joiner(JoinRule())
    feed(joiner, [[Shown("r", ("i", "j"), CONTEXT, 0, START_MS, 0), Clicked("r", "i", 9, 0, START_MS, 0)]])
    joiner.rule = JoinRule(kind_aggregations={"click": "sum"})
    clicks = [Clicked("r", item, 7, 0, START_MS, 1, n, kind="click", identity=1) for n, item in enumerate("ij")]
    facts = feed(joiner, [clicks])
    assert [(item, reward) for item, _, _, reward, _ in facts] == [("j", 7)]
    joiner.rule = JoinRule()
    assert not feed(joiner, [[Clicked("r", "j", 5, 0, START_MS, 2)]])


def test_a_robot_cannot_fill_the_memory_of_a_row() -> None:
    """A row remembers so many summed reactions; further ones are counted as absorbed."""
    rule = JoinRule(kind_aggregations={"click": "sum"})
    rewards, tally = seen(rule, *[("click", 1, number) for number in range(1, MAX_SUMMED_REACTIONS + 11)])
    assert (len(rewards), tally) == (
        MAX_SUMMED_REACTIONS,
        {"clicks_joined": MAX_SUMMED_REACTIONS, "clicks_absorbed": 10},
    )


def test_the_plain_rule_is_stored_as_before() -> None:
    """A rule without aggregation is written without the fields that name it, so that older releases read it."""
    assert b"across" not in encode_rule(JoinRule())
    assert b"kind_caps" not in encode_rule(JoinRule())
    rule = JoinRule(across_kinds="sum", kind_caps={"click": 0.5})
    assert JoinRule(**rule.as_dict()) == rule


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kind_aggregations": {"click": "mean"}}, 'expected one of "first", "sum", "max", got "mean"'),
        ({"kind_aggregations": {"dwell": "sum"}}, 'expected kinds of kind_weights ("click"), got "dwell"'),
        ({"kind_caps": {"click": 2.0}}, "expected 0 < cap <= reward_cap 1.0, got 2.0"),
        ({"across_kinds": "all"}, 'across_kinds: expected one of "first", "sum", "max", got "all"'),
    ],
)
def test_a_wrong_rule_names_its_field(settings_: dict[str, object], message: str) -> None:
    """Field, what was expected, what came."""
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        JoinRule(**settings_)  # type: ignore[arg-type]


def test_kinds_are_numbered_by_their_name() -> None:
    """A change that was stored names its kinds for ever, whatever else is declared later."""
    assert kind_numbers(["click"]).tolist() == [925419117849106912]
    assert len(np.unique(kind_numbers(["click", "dwell", "buy", ""]))) == 4
