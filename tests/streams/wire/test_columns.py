"""Columns straight from the bytes: equal to those by way of messages, whatever comes."""

import random
from dataclasses import fields

import numpy as np
import pytest

from bandits.join_rule import JoinRule
from streams.event_codec import click_columns, impression_columns
from streams.kafka.source_codec import click_decoder, impression_decoder
from tests.streams.wire import odd_records
from tests.streams.wire.odd_records import NOW_MS, Stored

RULE = JoinRule(kind_weights={"click": 1.0, "dwell": 0.3, "é": 2.0}, reward_cap=1.5)
SEVERAL = JoinRule(kind_weights={"dwell": 0.3, "é": 2.0}, kind_aggregations={"dwell": "sum"}, reward_cap=1.5)
SEEDS = range(12)
EVENTS = {"impressions": odd_records.impression, "clicks": odd_records.click}


def decoder_of(topic, rule=RULE):
    return impression_decoder(rule) if topic == "impressions" else click_decoder(rule)


def by_messages(topic, records, clock_ms, rule=RULE):
    """The definition: columns of messages that were validated one by one."""
    decoded = decoder_of(topic, rule).decode(records, clock_ms=clock_ms)
    if topic == "impressions":
        return decoded, impression_columns(decoded.records)
    return decoded, click_columns(decoded.records, rule)


def assert_same(topic, records, clock_ms=0, rule=RULE):
    """Both ways agree on columns, refusals and the clock; returns the number of events."""
    decoded, wanted = by_messages(topic, records, clock_ms, rule)
    got = decoder_of(topic, rule).columns(records, clock_ms=clock_ms)
    assert got.clock_ms == decoded.clock_ms
    assert got.refused == decoded.refused
    for column in fields(wanted):
        one, other = getattr(wanted, column.name), getattr(got.events, column.name)
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.tolist()) == (other.dtype, other.tolist()), column.name
        else:
            assert one == other, column.name
    return len(wanted)


def stored(values, rng):
    """Records with gaps in their offsets and a clock that jumps."""
    offsets = np.cumsum([rng.randint(1, 3) for _ in values]).tolist()
    return [
        Stored(value, offset, NOW_MS + rng.randint(-5_000, 5_000))
        for value, offset in zip(values, offsets, strict=True)
    ]


def handed_over(monkeypatch, topic, records):
    """How many records the compiled pass left to the slow way."""
    decoder, count = decoder_of(topic), [0]
    slow = decoder.decode

    def counting(records, *, clock_ms):
        count[0] += len(records)
        return slow(records, clock_ms=clock_ms)

    monkeypatch.setattr(decoder, "decode", counting)
    decoder.columns(records, clock_ms=0)
    return count[0]


@pytest.mark.parametrize("topic", EVENTS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("oddness", [0.0, 0.1, 0.6])
def test_columns_from_bytes_equal_those_from_messages(topic, seed, oddness):
    """Events in every form that protobuf allows, valid or not, give the same columns and the same refusals."""
    rng = random.Random(f"{topic}-{seed}-{oddness}")
    event = EVENTS[topic]
    values = [
        odd_records.batch(rng, event, oddness) if rng.random() < 0.2 else event(rng, oddness) for _ in range(150)
    ]
    assert assert_same(topic, stored(values, rng), rule=SEVERAL if seed % 3 == 0 else RULE) >= 10


@pytest.mark.parametrize("topic", EVENTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_bytes_are_read_as_protobuf_reads_them(topic, seed):
    """Bits that flipped and bytes that were lost or put in change nothing in what is taken and what is refused."""
    rng = random.Random(f"mutated-{topic}-{seed}")
    event = EVENTS[topic]
    whole = [odd_records.batch(rng, event, 0.02) if rng.random() < 0.2 else event(rng, 0.02) for _ in range(30)]
    values = [odd_records.mutated(value, rng) for value in whole for _ in range(10)]
    assert_same(topic, stored(values, rng))


@pytest.mark.parametrize("topic", EVENTS)
def test_every_cut_is_read_as_protobuf_reads_it(topic):
    """A record that ends anywhere is taken or refused as by way of messages."""
    rng = random.Random(5)
    for value in (EVENTS[topic](rng, 0.0), odd_records.batch(rng, EVENTS[topic], 0.0)):
        assert_same(topic, stored([value[:size] for size in range(len(value) + 1)], rng))


@pytest.mark.parametrize("topic", EVENTS)
def test_usual_events_do_not_take_the_slow_way(monkeypatch, topic):
    """Valid events as every protobuf library writes them are read by the compiled pass, all of them."""
    rng = random.Random(11)
    event = EVENTS[topic]
    values = [odd_records.batch(rng, event, 0.0) if rng.random() < 0.3 else event(rng, 0.0) for _ in range(300)]
    assert handed_over(monkeypatch, topic, stored(values, rng)) == 0
    assert assert_same(topic, stored(values, rng)) > 300
