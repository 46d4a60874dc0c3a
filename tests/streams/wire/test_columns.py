"""Columns straight from the bytes: equal to those by way of messages, whatever comes."""

import random
from dataclasses import fields, replace

import numpy as np
import pytest

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams.event_codec import click_columns, impression_columns
from streams.kafka.source_codec import click_decoder, impression_decoder
from streams.wire.json_values import nearest
from tests.streams.wire import odd_json, odd_records
from tests.streams.wire.odd_records import NOW_MS, Stored

RULE = JoinRule(kind_weights={"click": 1.0, "dwell": 0.3, "é": 2.0}, reward_cap=1.5)
SEVERAL = JoinRule(kind_weights={"dwell": 0.3, "é": 2.0}, kind_aggregations={"dwell": "sum"}, reward_cap=1.5)
HOME = replace(RULE, surfaces=("home", "é"))
UNNAMED = replace(SEVERAL, surfaces=("x" * 64, ""))
RULES = (RULE, SEVERAL, HOME, UNNAMED)
TOPICS = ("impressions", "clicks")
SEEDS = range(8)
_JSON = [("Content-Type", b"application/json")]
FORMS = {"protobuf": odd_records, "json": odd_json}


def decoder_of(topic, rule=RULE):
    return impression_decoder(rule) if topic == "impressions" else click_decoder(rule)


def by_messages(topic, records, clock_ms, rule=RULE):
    """The definition: columns of messages that were validated one by one."""
    decoded = decoder_of(topic, rule).decode(records, clock_ms=clock_ms)
    if topic == "impressions":
        return decoded, impression_columns(decoded.records, rule)
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


def drawn(form, topic, rng, oddness, n):
    """Values of that many records: single events, and every fifth or so a batch."""
    source = FORMS[form]
    event = source.impression if topic == "impressions" else source.click
    return [source.batch(rng, event, oddness) if rng.random() < 0.2 else event(rng, oddness) for _ in range(n)]


def stored(values, rng):
    """Records with gaps in their offsets and a clock that jumps; a header says what a blank at the start hides."""
    offsets = np.cumsum([rng.randint(1, 3) for _ in values]).tolist()
    return [
        Stored(value, offset, NOW_MS + rng.randint(-5_000, 5_000), _JSON if value and value[:1] == b" " else [])
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("oddness", [0.0, 0.1, 0.6])
def test_columns_from_bytes_equal_those_from_messages(form, topic, seed, oddness):
    """Events in every form that producers may write, valid or not, give the same columns and the same refusals."""
    rng = random.Random(f"{form}-{topic}-{seed}-{oddness}")
    records = stored(drawn(form, topic, rng, oddness, 120), rng)
    assert assert_same(topic, records, rule=RULES[seed % len(RULES)]) > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_bytes_are_read_as_the_slow_way_reads_them(form, topic, seed):
    """Bits that flipped and bytes that were lost or put in change nothing in what is taken and what is refused."""
    rng = random.Random(f"mutated-{form}-{topic}-{seed}")
    whole = drawn(form, topic, rng, 0.02, 25)
    assert_same(topic, stored([odd_records.mutated(value, rng) for value in whole for _ in range(8)], rng))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("topic", TOPICS)
def test_every_cut_is_read_as_the_slow_way_reads_it(form, topic):
    """A record that ends anywhere is taken or refused as by way of messages."""
    rng = random.Random(5)
    for value in drawn(form, topic, rng, 0.0, 6):
        assert_same(topic, stored([value[:size] for size in range(len(value) + 1)], rng))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("topic", TOPICS)
def test_usual_events_do_not_take_the_slow_way(monkeypatch, form, topic):
    """Valid events as usual producers write them are read by the compiled pass, all of them."""
    rng = random.Random(11)
    records = stored(drawn(form, topic, rng, 0.0, 300), rng)
    assert assert_same(topic, records) > 300
    assert handed_over(monkeypatch, topic, records) == 0


def test_forms_may_be_mixed():
    """Protobuf and JSON, good and bad, in one chunk come out in the order of the log."""
    rng = random.Random(3)
    values = [value for form in FORMS for value in drawn(form, "impressions", rng, 0.2, 60)]
    rng.shuffle(values)
    assert_same("impressions", stored([*values, b"", None, b" "], rng))


@pytest.mark.parametrize("seed", range(4))
def test_decimals_are_the_nearest_floats(seed):
    """Whatever its digits and exponent, a decimal becomes the float64 that Python makes of it, or is left."""
    rng = random.Random(seed)
    read = 0
    for _ in range(3_000):
        number = rng.randrange(10 ** rng.randint(1, 19))
        if rng.random() < 0.3:  # next to the middle between two floats
            number = (rng.randrange(2**53, 2**54) * 2 + 1) * 5 ** rng.randint(0, 3) + rng.randint(-1, 1)
        exponent = rng.randint(-30, 25)
        got = nearest(np.uint64(number), exponent)
        assert got in (-1.0, float(f"{number}e{exponent}")), (number, exponent)
        read += got >= 0
    assert read > 1_500


def test_modes_have_no_gaps():
    """The compiled pass knows the largest mode only: a number left out below it would pass there."""
    assert sorted(events_pb2.Mode.values()) == list(range(len(events_pb2.Mode.values())))
