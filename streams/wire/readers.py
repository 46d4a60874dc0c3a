"""Records of a source topic to columns in one compiled pass; ids stay bytes.

Invariants: a record is read whole or handed over; what is read equals what comes of it by way of messages
(`streams.kafka.source_codec`); events keep the order of the records. A reader compiles its scan when it is made, or
loads it from the cache on disk, so that no event waits for the compiler.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bandits.events import Clicks, Impressions
from bandits.join_rule import JoinRule
from bandits.texts import Texts
from freshet.v1 import events_pb2
from streams.event_codec import priced_clicks
from streams.wire.scan import scan_clicks, scan_impressions
from streams.wire.sinks import (
    CONTEXT_END,
    EVENT_AT,
    EVENT_SIZE,
    INDEX,
    ITEM_AT,
    ITEM_SIZE,
    ITEMS_END,
    KIND,
    KNOWN_AT,
    KNOWN_SIZE,
    OCCURRED,
    RECORD,
    REQUEST_AT,
    REQUEST_SIZE,
    SLATES,
    SURFACE,
    UNNAMED,
    Int64,
    UInt8,
    bounds_of,
    clicked_sink,
    shown_sink,
    vocabulary_of,
)

_NO_SURFACE = 2  # entries of `_learned`: that of no name, and that of a name that is none of the rule's
_NO_RECORD: Int64 = np.empty(0, np.int64)

Outcome = npt.NDArray[np.uint8]
Columns_co = TypeVar("Columns_co", Impressions, Clicks, covariant=True)


class Reader(Protocol[Columns_co]):
    """Reads what it can of some records."""

    def read(
        self, values: Sequence[bytes], offset: Int64, now_ms: Int64, outcome: Outcome
    ) -> tuple[Columns_co, Int64]:
        """Events of all records that are to be tried.

        Args:
            values: of each record.
            offset: int64 of shape (n_records,), place of each in its log.
            now_ms: int64 of shape (n_records,), when the log took each; never decreasing.
            outcome: uint8 of shape (n_records,), see `streams.wire.sinks`; TRY becomes DONE or HAND_OVER.

        Returns:
            The events, and the number of the record of each.
        """


class ImpressionReader:
    """Reads freshet.impressions.v1."""

    def __init__(self, rule: JoinRule) -> None:
        self._bounds = bounds_of(rule)
        self._learned = np.array(["" in rule.surfaces, False, *(bool(name) for name in rule.surfaces)])
        self._words = vocabulary_of(events_pb2.Impression, "impressions", list(rule.surfaces))
        self.read(*_nothing())

    def read(
        self, values: Sequence[bytes], offset: Int64, now_ms: Int64, outcome: Outcome
    ) -> tuple[Impressions, Int64]:
        """See `Reader.read`."""
        data, ends = _joined(values)
        out = shown_sink(len(data))
        scan_impressions(data, ends, now_ms, self._bounds, self._words, out, outcome)
        if not out.ended[SLATES]:
            return Impressions.none(), _NO_RECORD
        n_slates, n_rows, n_elements, n_items = out.ended.tolist()
        slate = out.slate[:n_slates].T
        item, known = out.item[:n_rows], out.known[:n_items].T.copy()
        record = slate[RECORD].copy()
        impressions = Impressions(
            request_ids=Texts(data, slate[REQUEST_AT].copy(), slate[REQUEST_SIZE].copy()),
            occurred_at_ms=slate[OCCURRED].copy(),
            ingested_at_ms=now_ms[record],
            offset=offset[record],
            index=slate[INDEX].astype(np.int32),
            item_ends=slate[ITEMS_END].copy(),
            item_ids=Texts(data, known[KNOWN_AT].take(item), known[KNOWN_SIZE].take(item)),
            context_ends=slate[CONTEXT_END].copy(),
            context_cluster=out.cluster[:n_elements].copy(),
            context_x=out.x[:n_elements].copy(),
            position=out.position[:n_rows].copy(),
            passed=~self._learned[slate[SURFACE] - UNNAMED] if len(self._learned) > _NO_SURFACE else None,
        )
        return impressions, record


class ClickReader:
    """Reads freshet.clicks.v1."""

    def __init__(self, rule: JoinRule) -> None:
        self._rule = rule
        self._bounds = bounds_of(rule)
        self._names = list(rule.kind_weights)
        self._words = vocabulary_of(events_pb2.Click, "clicks", self._names)
        self._default = self._names.index("click") + 1 if "click" in self._names else 0
        self.read(*_nothing())

    def read(self, values: Sequence[bytes], offset: Int64, now_ms: Int64, outcome: Outcome) -> tuple[Clicks, Int64]:
        """See `Reader.read`."""
        data, ends = _joined(values)
        out = clicked_sink(len(data))
        scan_clicks(data, ends, now_ms, self._bounds, self._words, self._default, out, outcome)
        if not out.ended[0]:
            return Clicks.none(), _NO_RECORD
        n_clicks = int(out.ended[0])
        click = out.click[:n_clicks].T
        record = click[RECORD].copy()
        clicks = priced_clicks(
            self._rule,
            request_ids=Texts(data, click[REQUEST_AT].copy(), click[REQUEST_SIZE].copy()),
            item_ids=Texts(data, click[ITEM_AT].copy(), click[ITEM_SIZE].copy()),
            kind=click[KIND],
            raw=out.reward[:n_clicks],
            event_ids=Texts(data, click[EVENT_AT], click[EVENT_SIZE]) if self._rule.several_count else [],
            occurred_at_ms=click[OCCURRED].copy(),
            ingested_at_ms=now_ms[record],
            offset=offset[record],
            index=click[INDEX].astype(np.int32),
        )
        return clicks, record


def _joined(values: Sequence[bytes]) -> tuple[UInt8, Int64]:
    # A copy that may be written to, as the scan does.
    return np.frombuffer(bytearray().join(values), np.uint8), np.cumsum(
        np.fromiter(map(len, values), np.int64, len(values))
    )


def _nothing() -> tuple[list[bytes], Int64, Int64, Outcome]:
    one = np.zeros(1, np.int64)
    return [b"\0"], one, one, np.zeros(1, np.uint8)
