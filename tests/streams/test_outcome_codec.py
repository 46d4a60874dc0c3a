"""The ledger's record format: round trips, the public message, hostile bytes."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.join_rule import MAX_HALF_LIFE_MS, MIN_HALF_LIFE_MS
from bandits.outcomes import Outcomes
from freshet.v1 import outcomes_pb2
from streams.outcome_codec import LedgerError, decode_outcomes, decode_run, encode_outcomes, parse_record
from tests.streams.hostile_bytes import damaged

COLUMNS = {
    "context_ends": "context_ends",
    "context_clusters": "context_cluster",
    "context_x": "context_x",
    "item": "item",
    "context": "context",
    "impressions": "impressions",
    "reward": "reward",
    "cause_topic": "cause_topic",
    "cause_offset": "cause_offset",
    "cause_index": "cause_index",
}
OPTIONAL = ("opening", "gamma", "shown_ms")


@st.composite
def outcome_records(draw: st.DrawFn) -> Outcomes:
    """Any record that a joiner may write."""
    contexts = draw(
        st.lists(st.dictionaries(st.integers(0, 2**31 - 1), st.integers(1, 2**15), max_size=4), max_size=4)
    )
    items = draw(st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=4))
    count = draw(st.integers(0, 6)) if contexts and items else 0
    pairs = [pair for context in contexts for pair in sorted(context.items())]

    def column(low: int, high: int, dtype: type = np.int64) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)), dtype)

    def optional(low: int, high: int) -> np.ndarray | None:
        return column(low, high) if count and draw(st.booleans()) else None

    shown_ms = optional(0, 2**53)
    return Outcomes(
        joiner_partition=draw(st.integers(0, 2**32 - 1)),
        sequence=draw(st.integers(0, 2**63 - 1)),
        impressions_position=draw(st.integers(0, 2**63 - 1)),
        clicks_position=draw(st.integers(0, 2**63 - 1)),
        item_ids=items,
        context_ends=np.cumsum([len(context) for context in contexts], dtype=np.int64),
        context_cluster=np.array([cluster for cluster, _ in pairs], np.int32),
        context_x=np.array([x for _, x in pairs], np.int64),
        item=column(0, max(len(items) - 1, 0), np.int32),
        context=column(0, max(len(contexts) - 1, 0), np.int32),
        impressions=column(0, 1),
        reward=column(0, 2**32 - 1),
        cause_topic=column(0, 1, np.int32),
        cause_offset=column(0, 2**63 - 1),
        cause_index=column(0, 2**31 - 1, np.int32),
        opening=optional(-1, 1),
        gamma=optional(1, 2**15),
        shown_ms=shown_ms,
        half_life_ms=0 if shown_ms is None else draw(st.integers(MIN_HALF_LIFE_MS, MAX_HALF_LIFE_MS)),
        clock_ms=draw(st.integers(0, 2**53)),
        clock_start_ms=draw(st.integers(0, 2**53)),
    )


def assert_equal(one: Outcomes, other: Outcomes) -> None:
    for name, value in vars(one).items():
        if isinstance(value, np.ndarray):
            assert value.dtype == getattr(other, name).dtype, name
            assert value.tolist() == getattr(other, name).tolist(), name
        else:
            assert value == getattr(other, name), name


@given(outcomes=outcome_records())
@settings(max_examples=100, deadline=None)
def test_a_record_survives_the_ledger(outcomes: Outcomes) -> None:
    """Every field and dtype comes back, at the ends of its range too."""
    assert_equal(decode_outcomes(encode_outcomes(outcomes)), outcomes)


@given(outcomes=outcome_records())
@settings(max_examples=60, deadline=None)
def test_the_ledger_is_written_as_the_public_message_says(outcomes: Outcomes) -> None:
    """Any reader with OutcomeBatch sees the columns; what any writer makes of OutcomeBatch is read."""
    record = encode_outcomes(outcomes)
    public = outcomes_pb2.OutcomeBatch.FromString(record)
    assert len(UnknownFieldSet(public)) == 0
    assert public.item_ids == outcomes.item_ids
    for name in ("joiner_partition", "sequence", "impressions_position", "clicks_position"):
        assert getattr(public, name) == getattr(outcomes, name)
    for field, name in COLUMNS.items():
        assert list(getattr(public, field)) == getattr(outcomes, name).tolist(), field
    for name in OPTIONAL:
        column = getattr(outcomes, name)
        coded = [] if column is None else [2 if value == -1 else value for value in column.tolist()]
        assert list(getattr(public, name)) == coded, name
    assert_equal(decode_outcomes(public.SerializeToString()), outcomes)


def test_every_field_of_the_public_message_is_known_to_the_columns() -> None:
    """The two messages have the same fields under the same numbers, each column of equal wire type."""
    batch, twin = outcomes_pb2.OutcomeBatch.DESCRIPTOR, outcomes_pb2.OutcomeColumns.DESCRIPTOR
    assert {f.name: f.number for f in batch.fields} == {f.name: f.number for f in twin.fields}
    for field in batch.fields:
        fixed = field.is_repeated and field.type in (field.TYPE_FIXED32, field.TYPE_FIXED64)
        assert fixed == (field.name in (*COLUMNS, *OPTIONAL))
        assert twin.fields_by_name[field.name].type == (field.TYPE_BYTES if fixed else field.type)
        assert not fixed or field.is_packed


def small() -> Outcomes:
    i32 = np.int32
    return Outcomes(
        *(2, 9, 7, 300, ["a", "b"]),
        context_ends=np.array([2, 3]),
        context_cluster=np.array([4, 5, 1], i32),
        context_x=np.array([9, 1 << 15, 1]),
        item=np.array([0, 1, 1], i32),
        context=np.array([0, 1, 1], i32),
        impressions=np.array([1, 0, 1]),
        reward=np.array([0, 1 << 15, 3]),
        cause_topic=np.array([0, 1, 0], i32),
        cause_offset=np.array([6, 299, 6]),
        cause_index=np.array([0, 4, 1], i32),
    )


def test_damaged_records_are_refused_or_whole() -> None:
    """Whatever is cut or flipped: LedgerError, or columns that fit together and numbers within their ranges."""
    refused = 0
    for data in damaged(encode_outcomes(small())):
        try:
            got = decode_outcomes(data)
        except LedgerError:
            refused += 1
            continue
        count = len(got.item)
        assert {len(c) for c in (got.context, got.impressions, got.reward, got.cause_topic)} == {count}
        assert {len(c) for c in (got.cause_offset, got.cause_index)} == {count}
        assert (
            len(got.context_cluster) == len(got.context_x) == (got.context_ends[-1] if len(got.context_ends) else 0)
        )
        assert not count or (got.item.max() < len(got.item_ids) and got.context.max() < len(got.context_ends))
        for column, low, high in ((got.impressions, 0, 1), (got.context_x, 1, 1 << 15), (got.reward, 0, 2**32 - 1)):
            assert not len(column) or low <= column.min() <= column.max() <= high
    assert refused > 100


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 2, "format: expected 1, got 2"),
        ("context", [0, 2, 1], "context: expected numbers below 2"),
        ("item", [0, 1, 2], "item: expected numbers below 2"),
        ("item", [0, 1, 2**31], "item: expected numbers below 2"),
        ("item", [0, 1], "context: expected 2 entries as in item, got 3"),
        ("reward", [1], "reward: expected 3 entries as in item, got 1"),
        ("cause_index", [], "cause_index: expected 3 entries as in item, got 0"),
        ("context_ends", [3, 2], "context_ends: expected ascending"),
        ("context_ends", [2, 4], "context_ends: expected the last to be 3"),
        ("context_ends", [2, 2], "context_ends: expected the last to be 3"),
        ("context_x", [1, 2], "context_ends: expected ascending ends of parallel columns"),
        ("context_x", [1, 0, 1], "context_x: expected 1 to 32768, got 0 to 1"),
        ("context_x", [1, 32769, 1], "context_x: expected 1 to 32768, got 1 to 32769"),
        ("context_clusters", [5, 4, 1], "context_clusters: expected to ascend within a context"),
        ("context_clusters", [4, 4, 1], "context_clusters: expected to ascend within a context"),
        ("context_clusters", [4, 2**31, 1], "context_clusters: expected 0 to"),
        ("impressions", [1, 0, 2], "impressions: expected 0 to 1, got 0 to 2"),
        ("cause_topic", [0, 1, 2], "cause_topic: expected 0 to 1, got 0 to 2"),
        ("cause_offset", [0, 2**63, 1], "cause_offset: expected 0 to"),
        ("opening", [0, 1], "opening: expected none or 3 entries as in item, got 8 bytes"),
        ("opening", [0, 1, 3], "opening: expected 0 to 2, got 0 to 3"),
        ("gamma", [1, 0, 5], "gamma: expected 1 to 32768, got 0 to 5"),
        ("shown_ms", [1, 2, 3], "shown_ms: expected the time of each fact exactly where half_life_ms is set"),
        ("half_life_ms", 60_000, "shown_ms: expected the time of each fact exactly where half_life_ms is set"),
    ],
)
def test_a_record_that_does_not_fit_together_is_refused_by_field(field: str, value: Any, message: str) -> None:
    """One wrong column names itself."""
    public = outcomes_pb2.OutcomeBatch.FromString(encode_outcomes(small()))
    if isinstance(value, list):
        del getattr(public, field)[:]
        getattr(public, field).extend(value)
    else:
        setattr(public, field, value)
    with pytest.raises(LedgerError, match=message):
        decode_outcomes(public.SerializeToString())


def test_a_ledger_error_is_a_value_error_and_hides_protobufs_own() -> None:
    """Callers need one exception."""
    with pytest.raises(ValueError, match="got 2 bytes that are none") as caught:
        decode_outcomes(b"\xff\xff")
    assert isinstance(caught.value.__cause__, DecodeError)


@given(records=st.lists(outcome_records(), max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_run_of_records_holds_what_each_of_them_holds(records: list[Outcomes]) -> None:
    """Read together or each alone: the same facts of the same items in the same contexts, in order."""
    run = decode_run([parse_record(encode_outcomes(record)) for record in records])
    starts = np.concatenate([[0], run.context_ends])

    def context(number: int) -> list[tuple[int, int]]:
        own = slice(starts[number], starts[number + 1])
        return list(zip(run.context_cluster[own].tolist(), run.context_x[own].tolist(), strict=True))

    at = 0
    for number, record in enumerate(records):
        alone = np.concatenate([[0], record.context_ends])
        for fact in range(len(record)):
            own = slice(alone[record.context[fact]], alone[record.context[fact] + 1])
            expected = list(zip(record.context_cluster[own].tolist(), record.context_x[own].tolist(), strict=True))
            assert run.item_ids[run.item[at]] == record.item_ids[record.item[fact]]
            assert context(run.context[at]) == expected
            for name, absent in (("opening", 0), ("gamma", 1 << 15), ("shown_ms", 0)):
                in_run, in_record = getattr(run, name), getattr(record, name)
                expected_value = absent if in_record is None else in_record[fact]
                assert (absent if in_run is None else in_run[at]) == expected_value, name
            assert run.half_life_ms is None or run.half_life_ms[at] == record.half_life_ms
            assert (run.record[at], run.impressions[at], run.reward[at]) == (
                number,
                record.impressions[fact],
                record.reward[fact],
            )
            at += 1
    assert at == len(run.item)


def test_a_run_is_refused_for_any_record_that_alone_would_be() -> None:
    """A damaged record does not hide among good ones."""
    good = encode_outcomes(small())
    refused = 0
    for data in damaged(good):
        try:
            decode_outcomes(data)
        except LedgerError:
            refused += 1
            with pytest.raises(LedgerError):
                decode_run([parse_record(record) for record in (good, data, good)])
    assert refused > 100
