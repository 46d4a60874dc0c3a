"""Records of a source topic to columns: the compiled pass against the way by messages, on the same records."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from bandits.events import Clicks, Impressions
from bandits.join_rule import JoinRule
from benchmarks.kafka_events import ENCODINGS, make_source
from benchmarks.measure import ROUNDS, Result, interleaved, ratios
from streams.event_codec import click_columns, impression_columns
from streams.kafka.source_codec import click_decoder, impression_decoder

TITLE = "Decode: records into columns"
ABOUT = (
    "Slates of five items, K = 10, a click on every fifth, in the four encodings that producers may use; packed "
    "records hold 200 slates. Decode, validate and columns together, impressions and clicks, by item-impression. "
    "By messages: parsed into messages that are validated one by one. Both ways read the same records in the same "
    "rounds; their columns are compared value by value."
)
_NOW_MS = 1_700_000_000_000


@dataclass
class _Record:
    """A record as the client hands it over."""

    offset: int
    value: bytes
    timestamp: int = _NOW_MS
    timestamp_type: int = 1
    key: bytes | None = None
    headers: tuple[()] = ()


def run(quick: bool) -> list[Result]:
    slates, rounds = (40, 2) if quick else (4_000, ROUNDS)
    return [result for encoding in ENCODINGS for result in _compare(encoding, slates, rounds)]


def _compare(encoding: str, slates: int, rounds: int) -> list[Result]:
    source = make_source(encoding, slates=slates, items=20_000, clusters=1_024, partitions=1, seed=7)
    records = [
        [_Record(offset, value) for offset, (_, value) in enumerate(topic[0])]
        for topic in (source.impressions, source.clicks)
    ]
    rule = JoinRule()
    shown, clicked = impression_decoder(rule), click_decoder(rule)

    def by_messages(_: int) -> tuple[Impressions, Clicks]:
        impressions = impression_columns(shown.decode(records[0], clock_ms=0).records, rule)
        return impressions, click_columns(clicked.decode(records[1], clock_ms=0).records, rule)

    def compiled(_: int) -> tuple[Impressions, Clicks]:
        return shown.columns(records[0], clock_ms=0).events, clicked.columns(records[1], clock_ms=0).events

    assert len(by_messages(0)[0].item_ids) == source.item_impressions
    for one, other in zip(by_messages(0), compiled(0), strict=True):
        _assert_equal(one, other)
    contenders: dict[str, Callable[[int], object]] = {"by messages": by_messages, "compiled": compiled}
    spent = interleaved(contenders, rounds=rounds)
    each = [
        Result.of(f"{name}, {encoding}", [s / source.item_impressions * 1e6 for s in spent[name]], "us/item")
        for name in spent
    ]
    return [*each, Result.of(f"by messages / compiled, {encoding}", ratios(*spent.values()), "x")]


def _assert_equal(one: Impressions | Clicks, other: Impressions | Clicks) -> None:
    for column in fields(one):
        wanted, got = getattr(one, column.name), getattr(other, column.name)
        if isinstance(wanted, np.ndarray):
            assert np.array_equal(wanted, got), column.name
        else:
            assert wanted == got, column.name
