"""Stored changes of the joiner: round trips and hostile bytes."""

import random

import numpy as np
import pytest

from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.joiner_change import JoinerChange
from freshet.v1 import state_pb2
from streams.change_codec import decode_change, encode_change
from tests.bandits.event_columns import columns
from tests.bandits.test_joiner_model import cut, random_stream
from tests.bandits.test_reward_rules import rules, stream
from tests.streams.hostile_bytes import damaged


def changes(seed: int) -> list[JoinerChange]:
    rng = random.Random(seed)
    several = rules(rng) if seed % 2 else None
    rule = several or JoinRule(window_ms=50, max_delay_ms=30, max_skew_ms=5)
    joiner, made = Joiner(rule), []
    for batch in cut(stream(rng, several, 60) if several else random_stream(rng, 60), 0, rng):
        made.append(joiner.join(*columns(batch))[1])
        joiner.apply(made[-1])
    return made


@pytest.mark.parametrize("seed", range(5))
def test_a_change_survives_the_store(seed: int) -> None:
    """Every number, key, column and count comes back; dead letters are stored on their own."""
    for change in changes(seed):
        back = decode_change(encode_change(change))
        for name, value in vars(change).items():
            got = getattr(back, name)
            if isinstance(value, np.ndarray):
                assert got.tolist() == value.tolist(), name
            elif name != "dead":
                assert got == value, name
        assert back.dead == []


def test_a_change_of_the_layout_before_is_read() -> None:
    """A store that an earlier release has written: ids as strings, whole columns."""
    for change in changes(2):
        message = state_pb2.JoinerChangeColumns.FromString(encode_change(change))
        message.format = 0
        for name in ("row_occurred_ms", "row_ingested_ms", "row_context", "context_ends", "context_x"):
            setattr(message, name, getattr(change, name).astype("<i8").tobytes())
        message.context_cluster = change.context_cluster.astype("<i4").tobytes()
        for name, keys in (("row", change.row_keys), ("click", change.click_keys)):
            getattr(message, f"{name}_request_ids").extend(keys.request)
            getattr(message, f"{name}_item_ids").extend(keys.item)
        back = decode_change(message.SerializeToString())
        again = decode_change(encode_change(change))
        for name, value in vars(again).items():
            got = getattr(back, name)
            assert got.tolist() == value.tolist() if isinstance(value, np.ndarray) else got == value, name


def test_damaged_changes_are_refused_or_whole() -> None:
    """Whatever is cut or flipped: ValueError, or columns that fit together."""
    change = max(changes(3)[:6], key=lambda change: len(change.row_keys) + len(change.click_keys))
    refused = 0
    for data in damaged(encode_change(change)):
        try:
            got = decode_change(data)
        except ValueError:
            refused += 1
            continue
        assert {len(got.row_keys)} == {len(c) for c in (got.row_occurred_ms, got.row_ingested_ms, got.row_context)}
        assert {len(got.click_keys)} == {len(c) for c in (got.click_reward, got.click_offset, got.click_index)}
        assert len({len(c) for c in (got.reward_row, got.reward_kind, got.reward_value, got.reward_total)}) == 1
        assert len(got.context_cluster) == len(got.context_x)
        assert (np.diff(got.context_ends, prepend=0) >= 0).all()
    assert refused > 100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row_request_ids": ["r"]}, "none"),
        ({"row_request_ids": ["r"], "row_item_ids": ["i"]}, "row_occurred_ms: expected 1 entries, got 0"),
        ({"click_index": b"\0" * 4}, "click_index: expected 0 entries, got 1"),
        ({"rewarded": b"\0" * 7}, "none"),
        ({"context_ends": np.int64(1).tobytes()}, "context_ends: expected the last to be 0"),
        ({"context_x": np.int64(1).tobytes()}, "context_ends: expected the last to be 0"),
        ({"context_ends": np.array([1, 0]).tobytes()}, "context_ends: expected to ascend from 0"),
        ({"context_ends": np.array([-1, 0]).tobytes()}, "context_ends: expected to ascend from 0"),
        ({"tally": {"unheard_of": 1}}, "none"),
    ],
)
def test_a_change_that_does_not_fit_together_is_refused(fields: dict[str, object], message: str) -> None:
    """One wrong column names itself."""
    with pytest.raises(ValueError, match=message):
        decode_change(state_pb2.JoinerChangeColumns(**fields).SerializeToString())  # type: ignore[arg-type]
