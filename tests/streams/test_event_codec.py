"""Messages to columns: order, rounding, the reward rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandits.join_rule import MAX_REWARD_CAP, JoinRule
from bandits.sums import UNIT
from freshet.v1 import events_pb2
from streams.event_codec import Record, click_columns, impression_columns


def slate(request: str, items: list[str], context: dict[int, float], occurred_ms: int = 0) -> events_pb2.Impression:
    return events_pb2.Impression(
        request_id=request,
        occurred_at_ms=occurred_ms,
        context=events_pb2.ClusterWeights(cluster_ids=list(context), weights=list(context.values())),
        items=[events_pb2.ShownItem(item_id=item, position=n) for n, item in enumerate(items)],
    )


def test_slates_become_columns_in_the_order_of_the_log() -> None:
    """Clusters ascend within a context; each slate has the offset of its record and its number in it."""
    first = [slate("r1", ["b", "a"], {7: 0.5, 2: 0.25}, 5), slate("r2", ["c"], {1: 1.0})]
    second = [slate("r1", ["d"], {9: 1e-9})]
    got = impression_columns([Record(40, 1_000, first), Record(41, 1_001, second, [17])], JoinRule())
    assert (got.request_ids, got.item_ids) == (["r1", "r2", "r1"], ["b", "a", "c", "d"])
    assert got.item_ends.tolist() == [2, 3, 4]
    assert got.context_ends.tolist() == [2, 3, 4]
    assert got.context_cluster.tolist() == [2, 7, 1, 9]
    assert got.context_x.tolist() == [UNIT // 4, UNIT // 2, UNIT, 1]
    assert got.occurred_at_ms.tolist() == [5, 0, 0]
    assert got.ingested_at_ms.tolist() == [1_000, 1_000, 1_001]
    assert (got.offset.tolist(), got.index.tolist()) == ([40, 40, 41], [0, 1, 17])
    assert (got.context_cluster.dtype, got.index.dtype) == (np.int32, np.int32)


def test_no_messages_are_no_columns() -> None:
    """Also records whose events were all refused."""
    assert len(impression_columns([], JoinRule())) == len(impression_columns([Record(1, 1, [])], JoinRule())) == 0
    assert len(click_columns([], JoinRule())) == len(click_columns([Record(1, 1, [])], JoinRule())) == 0


def reward_of(rule: JoinRule, reward: float | None, kind: str = "") -> int:
    click = events_pb2.Click(request_id="r", item_id="i", kind=kind)
    if reward is not None:
        click.reward = reward
    columns = click_columns([Record(3, 9, [click], [2])], rule)
    assert (columns.offset.tolist(), columns.index.tolist()) == ([3], [2])
    assert (columns.request_ids, columns.item_ids) == (["r"], ["i"])
    return int(columns.reward[0])


@pytest.mark.parametrize(
    ("reward", "kind", "expected"),
    [
        (None, "", UNIT),
        (None, "click", UNIT),
        (0.0, "", 0),
        (-0.0, "", 0),
        (0.5, "", UNIT // 2),
        (1.0, "", UNIT),
        (2.0, "", UNIT),
        (1e308, "", UNIT),
        (1e308, "free", 0),
        (5e-324, "", 0),
        (None, "dwell", UNIT // 4),
        (2.0, "dwell", UNIT // 2),
        (1e308, "dwell", UNIT),
        (None, "buy", UNIT),
        (1e-3, "buy", 327_680 // 10),
        (1e308, "huge", UNIT),
        (2.0**-15, "", 1),
        (2.0**-17, "", 0),
    ],
)
def test_a_reward_is_weighted_and_capped(reward: float | None, kind: str, expected: int) -> None:
    """Absent means 1; the weight of the kind comes before the cap; nothing overflows."""
    weights = {"click": 1.0, "dwell": 0.25, "buy": 1_000.0, "free": 0.0, "huge": 1e308}
    assert reward_of(JoinRule(kind_weights=weights), reward, kind) == expected


@given(
    reward=st.floats(0, allow_infinity=False),
    weight=st.floats(0, allow_infinity=False),
    cap=st.floats(1e-9, MAX_REWARD_CAP),
)
def test_no_reward_is_negative_or_above_its_cap(reward: float, weight: float, cap: float) -> None:
    """Any finite reward and weight: a whole number from 0 to the cap, which fits 32 bits."""
    got = reward_of(JoinRule(kind_weights={"click": weight}, reward_cap=cap), reward)
    assert 0 <= got <= round(cap * UNIT) < 2**32


def test_a_kind_has_its_own_cap() -> None:
    """Ten seconds of dwell time at a twentieth each, at most a quarter; other kinds keep the cap of the rule."""
    rule = JoinRule(kind_weights={"click": 1.0, "dwell": 0.05}, kind_caps={"dwell": 0.25})
    assert reward_of(rule, 4.0, "dwell") == round(0.2 * UNIT)
    assert reward_of(rule, 10.0, "dwell") == UNIT // 4
    assert reward_of(rule, 1.0, "click") == UNIT


def test_the_same_reaction_sent_again_has_the_same_identity() -> None:
    """An event_id says it, else kind, time and reward do; when it was ingested does not matter."""
    rule = JoinRule(kind_weights={"click": 1.0, "dwell": 1.0}, kind_aggregations={"dwell": "sum"})

    def identity(ingested_ms: int, **fields: object) -> int:
        click = events_pb2.Click(request_id="r", item_id="i", **fields)  # type: ignore[arg-type]
        columns = click_columns([Record(3, ingested_ms, [click])], rule)
        assert columns.identity is not None
        return int(columns.identity[0])

    beat = {"kind": "dwell", "occurred_at_ms": 5, "reward": 0.5}
    assert identity(7, **beat) == identity(8, **beat)
    others = [{"occurred_at_ms": 6}, {"reward": 0.25}, {"kind": "click"}, {"event_id": "e"}, {"event_id": "f"}]
    assert len({identity(7, **(beat | other)) for other in [{}, *others]}) == 6
    named = beat | {"event_id": "e"}
    assert identity(7, **named) == identity(9, **(named | {"occurred_at_ms": 6, "reward": 1.0}))
    columns = click_columns([Record(3, 7, [events_pb2.Click(request_id="r", item_id="i")])], JoinRule())
    assert columns.kind is columns.identity is None
