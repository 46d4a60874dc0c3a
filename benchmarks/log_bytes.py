"""A log's bytes to parameters in one process: packed records decoded, joined, learned; no broker, no disk."""

import time
from collections import Counter
from collections.abc import Sequence

from bandits.backend import choose_backend
from bandits.graph import Graph
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.learner import Learner
from bandits.sums import state_hash
from benchmarks.kafka_events import make_graph, make_source
from benchmarks.measure import ROUNDS, Result
from streams.event_codec import click_columns, impression_columns
from streams.kafka.source_codec import click_decoder, impression_decoder

TITLE = "Log bytes to parameters"
ABOUT = (
    "Packed protobuf records of 200 slates of five items, K = 10, a click on every fifth slate, over 20,000 items "
    "of 32 edges: from the bytes to the sums, in micro-batches of 10,000 item-impressions, by item-impression and "
    "stage; CPU time. Time passes so that rows are forgotten as fast as they come: memory stays what it is after "
    "the first round. The state hash equals that of records read by way of messages and learned by NumPy."
)
_NOW_MS = 1_700_000_000_000
_RECORDS_A_BATCH = 10
_RULE = JoinRule(window_ms=60_000, max_delay_ms=60_000, max_skew_ms=1_000)


class _Record:
    """A record as the client hands it over."""

    def __init__(self, offset: int, value: bytes, timestamp: int) -> None:
        self.offset, self.value, self.timestamp, self.timestamp_type = offset, value, timestamp, 1
        self.key, self.headers = None, ()


class _Log:
    """The same records again and again, at later times and offsets."""

    def __init__(self, slates: int) -> None:
        source = make_source("protobuf packed", slates=slates, items=20_000, clusters=1_024, partitions=1, seed=5)
        self.shown = [value for _, value in source.impressions[0]]
        self.clicked = [value for _, value in source.clicks[0]]
        self.item_impressions = source.item_impressions
        self._spacing_ms = 2 * _RULE.row_retention_ms // len(self.shown) + 1

    def batches(self, number: int) -> list[tuple[list[_Record], list[_Record]]]:
        """The micro-batches of a round: impressions and the clicks on them."""
        clicks_each = -(-len(self.clicked) * _RECORDS_A_BATCH // len(self.shown))
        shown = [self._record(number, len(self.shown), at, value) for at, value in enumerate(self.shown)]
        clicked = [
            self._record(number, len(self.clicked), at, value, at * len(self.shown) // len(self.clicked))
            for at, value in enumerate(self.clicked)
        ]
        clicks = _batched(clicked, clicks_each)
        parts = _batched(shown, _RECORDS_A_BATCH)
        return [(list(part), list(clicks[at]) if at < len(clicks) else []) for at, part in enumerate(parts)]

    def _record(self, number: int, count: int, at: int, value: bytes, when: int | None = None) -> _Record:
        place = number * len(self.shown) + (at if when is None else when)
        return _Record(number * count + at, value, _NOW_MS + place * self._spacing_ms)


class _Fold:
    """Joiner and learner over a log, with the CPU seconds of each stage."""

    def __init__(self, graph: Graph) -> None:
        self.joiner, self.learner = Joiner(_RULE), Learner.empty(graph, choose_backend("auto"))
        self._shown, self._clicked = impression_decoder(_RULE), click_decoder(_RULE)
        self.spent: Counter[str] = Counter()

    def take(self, shown: Sequence[_Record], clicked: Sequence[_Record]) -> None:
        marks = [time.process_time()]
        impressions = self._shown.columns(shown, clock_ms=0).events
        clicks = self._clicked.columns(clicked, clock_ms=0).events
        marks.append(time.process_time())
        outcomes, change = self.joiner.join(impressions, clicks)
        marks.append(time.process_time())
        self.joiner.apply(change)
        marks.append(time.process_time())
        self.learner.apply(outcomes, offset=self.learner.position)
        marks.append(time.process_time())
        for stage, began, ended in zip(_STAGES, marks, marks[1:], strict=False):
            self.spent[stage] += ended - began


_STAGES = ("decode", "join", "remember", "learn")


def _batched(records: Sequence[_Record], size: int) -> list[Sequence[_Record]]:
    return [records[start : start + size] for start in range(0, len(records), size)]


def run(quick: bool) -> list[Result]:
    log = _Log(2_000 if quick else 40_000)
    graph = make_graph(20_000, 1_024)
    fold = _Fold(graph)
    rounds = []
    for number in range(2 if quick else ROUNDS + 1):
        fold.spent.clear()
        for part in log.batches(number):
            fold.take(*part)
        rounds.append({stage: seconds / log.item_impressions * 1e9 for stage, seconds in fold.spent.items()})
        if number == 0:
            assert state_hash(graph, fold.learner.sums) == _by_messages(graph, log)
            pending = fold.joiner.pending_rows
    assert fold.joiner.pending_rows <= 2 * pending
    rounds = rounds[1:]  # the first one fills memory
    whole = Result.of("bytes to parameters", [sum(one.values()) for one in rounds], "ns/item")
    return [whole, *(Result.of(f"of it: {stage}", [one[stage] for one in rounds], "ns/item") for stage in _STAGES)]


def _by_messages(graph: Graph, log: _Log) -> str:
    joiner, learner = Joiner(_RULE), Learner.empty(graph, choose_backend("numpy"))
    shown, clicked = impression_decoder(_RULE), click_decoder(_RULE)
    for offset, (records, clicks) in enumerate(log.batches(0)):
        outcomes, change = joiner.join(
            impression_columns(shown.decode(records, clock_ms=0).records, _RULE),
            click_columns(clicked.decode(clicks, clock_ms=0).records, _RULE),
        )
        joiner.apply(change)
        learner.apply(outcomes, offset=offset)
    return state_hash(graph, learner.sums)
