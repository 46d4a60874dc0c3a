"""What the slots of a slate earned, by the reward rule that the joiner goes by."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bandits.join_rule import JoinRule
from bandits.reward_rule import RewardBook
from bandits.sums import UNIT
from freshet.v1 import events_pb2
from streams.event_codec import Record, click_columns

Float64 = npt.NDArray[np.float64]


def slot_rewards(
    item_ids: Sequence[str], shown_ms: int, clicks: Sequence[tuple[int, events_pb2.Click]], rule: JoinRule
) -> Float64:
    """Reward of each slot, float64 of shape (S,).

    Args:
        item_ids: of the slots.
        shown_ms: when they were shown, Unix milliseconds.
        clicks: when each came in, and what came; those on other items, and those outside the attribution window,
            earn nothing.
        rule: the rule.
    """
    slots = {item_id: slot for slot, item_id in enumerate(item_ids)}
    own = [(at_ms, click) for at_ms, click in clicks if click.item_id in slots]
    earned = np.zeros(len(item_ids))
    if not own:
        return earned
    columns = click_columns([Record(at, at_ms, [click]) for at, (at_ms, click) in enumerate(own)], rule)
    occurred = np.where(columns.occurred_at_ms == 0, columns.ingested_at_ms, columns.occurred_at_ms)
    delay = occurred - shown_ms
    inside = (delay <= rule.window_ms) & (delay >= -rule.max_skew_ms)
    nothing = np.zeros(len(own), np.int64)
    row = np.array([slots[click.item_id] for _, click in own], np.int64)
    kind = nothing if columns.kind is None else columns.kind
    identity = nothing if columns.identity is None else columns.identity
    moves = RewardBook().judge(rule.rewards, *(column[inside] for column in (row, kind, identity, columns.reward)))
    np.add.at(earned, row[inside], moves.delta / UNIT)
    return earned
