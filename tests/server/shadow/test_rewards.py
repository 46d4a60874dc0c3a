"""A shadowed slot earns what the joiner would learn."""

import pytest

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from server.shadow.rewards import slot_rewards

RULE = JoinRule(
    window_ms=1_000,
    max_skew_ms=10,
    kind_weights={"click": 1.0, "dwell": 0.1},
    reward_cap=2.0,
    kind_aggregations={"dwell": "sum"},
    across_kinds="sum",
)


def click(item_id: str = "a", **fields: object) -> events_pb2.Click:
    return events_pb2.Click(request_id="r", item_id=item_id, **fields)  # type: ignore[arg-type]


def test_kinds_add_up_within_their_cap_and_repeats_do_not() -> None:
    """Weights, sums, the cap and repeated events are those of the reward rule."""
    dwell = {"kind": "dwell", "reward": 4.0}
    clicks = [
        click(),
        click(),  # of a kind whose first counts
        click(event_id="1", **dwell),
        click(event_id="1", **dwell),  # the same again
        click(event_id="2", **dwell),
        click("b", event_id="3", kind="dwell", reward=99.0),
    ]
    earned = slot_rewards(["b", "a", "c"], 5_000, [(5_100, one) for one in clicks], RULE)
    assert earned.tolist() == pytest.approx([2.0, 1.8, 0.0], abs=1e-4)


@pytest.mark.parametrize(
    ("occurred_ms", "in_ms", "reward"),
    [
        (0, 6_000, 1),  # unknown: when it came in
        (0, 6_001, 0),
        (6_000, 9_000, 1),
        (6_001, 9_000, 0),
        (4_990, 5_000, 1),
        (4_989, 5_000, 0),
    ],
)
def test_only_the_attribution_window_counts(occurred_ms: int, in_ms: int, reward: float) -> None:
    """From as much before the slate as clocks may disagree to the end of the window, by the time of the event."""
    assert slot_rewards(["a"], 5_000, [(in_ms, click(occurred_at_ms=occurred_ms))], RULE).tolist() == [reward]
