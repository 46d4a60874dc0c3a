"""How source records are read: nothing is taken for what it is not."""

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams.kafka.source_codec import click_decoder, impression_decoder, is_batch

NOW_MS = 1_700_000_000_000
IMPRESSIONS, CLICKS = impression_decoder(JoinRule()), click_decoder(JoinRule())


@dataclass
class Stored:
    """A record as the client hands it over."""

    value: bytes | None
    headers: list = field(default_factory=list)
    offset: int = 5
    timestamp: int = NOW_MS
    timestamp_type: int = 1
    key: bytes | None = None


def read(decoder, value, *headers):
    """Events and reasons of one record."""
    decoded = decoder.decode([Stored(value, list(headers))], clock_ms=0)
    events = [event for record in decoded.records for event in record.events]
    return events, [refused.reason for refused in decoded.refused]


def impression(request_id="r", **fields):
    given = {"context": {"cluster_ids": [1], "weights": [0.5]}, "items": [{"item_id": "i"}]} | fields
    return events_pb2.Impression(request_id=request_id, **given)


ids = st.text(min_size=1, max_size=40).filter(lambda text: len(text.encode()) <= 256)
impressions = st.builds(impression, ids)
clicks = st.builds(lambda r, i: events_pb2.Click(request_id=r, item_id=i), ids, ids)


@given(impressions)
def test_one_impression_is_never_taken_for_a_batch(one):
    """Whatever its ids are, a valid impression has fields that no batch has."""
    assert not is_batch(one.SerializeToString())
    assert read(IMPRESSIONS, one.SerializeToString()) == ([one], [])


@given(st.lists(impressions, min_size=1, max_size=4))
def test_a_batch_of_impressions_is_never_taken_for_one(many):
    """A batch is read as a batch, even where its bytes would also pass for one event."""
    value = events_pb2.ImpressionBatch(impressions=many).SerializeToString()
    assert is_batch(value)
    assert read(IMPRESSIONS, value)[0] == many


@given(clicks, st.lists(clicks, min_size=1, max_size=4))
def test_clicks_and_their_batches_are_told_apart(one, many):
    """The same holds for clicks."""
    assert read(CLICKS, one.SerializeToString()) == ([one], [])
    assert read(CLICKS, events_pb2.ClickBatch(clicks=many).SerializeToString())[0] == many


def test_an_id_that_is_itself_a_message_is_an_id():
    """A request_id whose bytes are those of an impression does not make its record a batch."""
    inner = impression("x").SerializeToString()
    nasty = impression("r")
    data = b"\x0a" + bytes([len(inner)]) + inner + nasty.SerializeToString()[3:]
    assert not is_batch(data)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ({"requestId": "r", "context": {"clusterIds": [1], "weights": [0.5]}, "items": [{"itemId": "i"}]}, 1),
        (json.loads('{"impressions": [' + ",".join(['{"a": 1}'] * 2) + "]}"), 0),
    ],
)
def test_json_takes_both_spellings_of_fields(value, count):
    """Field names of the schema and their camelCase are the same; what is no impression is refused one by one."""
    events, reasons = read(IMPRESSIONS, json.dumps(value).encode())
    assert len(events) == count
    assert len(reasons) == (0 if count else 2)


def test_json_and_protobuf_give_the_same_event():
    """Numbers as strings, enum names and unknown fields do not change what an event is."""
    one = impression("r", occurred_at_ms=NOW_MS - 5, mode=events_pb2.MODE_UCB, policy="ucb")
    as_json = {
        "request_id": "r",
        "occurred_at_ms": str(NOW_MS - 5),
        "context": {"cluster_ids": [1], "weights": [0.5]},
        "items": [{"item_id": "i", "colour": "red"}],
        "mode": "MODE_UCB",
        "policy": "ucb",
    }
    assert read(IMPRESSIONS, json.dumps(as_json).encode()) == ([one], [])
    assert read(IMPRESSIONS, json.dumps([as_json]).encode()) == ([one], [])
    assert read(IMPRESSIONS, b" " + json.dumps(as_json).encode(), ("Content-Type", b"application/json")) == (
        [one],
        [],
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(value):
    """No bytes stop the stream: every record gives events or one reason."""
    for decoder in (IMPRESSIONS, CLICKS):
        events, reasons = read(decoder, value)
        assert events or reasons


def test_every_cut_of_a_batch_is_refused():
    """A record that was cut anywhere gives no event that was not sent."""
    many = [impression(f"r{i}") for i in range(3)]
    value = events_pb2.ImpressionBatch(impressions=many).SerializeToString()
    for length in range(len(value)):
        events, _ = read(IMPRESSIONS, value[:length])
        assert events == many[: len(events)]


def test_a_late_event_is_no_mistake_of_its_producer():
    """Too old is for the joiner to count; in the future is refused, with how far."""
    late = impression(occurred_at_ms=NOW_MS - 10 * JoinRule().max_delay_ms)
    assert read(IMPRESSIONS, late.SerializeToString()) == ([late], [])
    early = impression(occurred_at_ms=NOW_MS + 10 * JoinRule().max_skew_ms)
    assert "in the future" in read(IMPRESSIONS, early.SerializeToString())[1][0]


def test_ingestion_time_never_runs_backwards():
    """A broker's clock that is set back does not make a later record older than an earlier one."""
    records = [Stored(impression("a").SerializeToString()), Stored(impression("b").SerializeToString())]
    records[1].timestamp -= 60_000
    decoded = IMPRESSIONS.decode(records, clock_ms=NOW_MS + 1)
    assert [record.ingested_at_ms for record in decoded.records] == [NOW_MS + 1, NOW_MS + 1]
