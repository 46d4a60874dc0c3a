"""A simple program that says what must have been learned when times matter: windows, late events, wrong clocks.

It shares no code with the loop. It goes by the times that the broker put on the records, and decides each click by
its own pair of times: it knows no batches, no clock of its own and no order between the two topics.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from freshet.v1 import events_pb2
from tests.kafka import feed, fold

NEVER_SAID = 0
LATEST_MS = 2**53


@dataclass
class Account:
    """What was learned, and where every shown item and every click went.

    Attributes:
        learned: the sums.
        rows: shown items by "accepted", "duplicate", "late", "dead".
        clicks: clicks by "joined", "duplicate", "late", "dead", "alone" (unmatched, or still waiting).
    """

    learned: fold.Learned = field(default_factory=fold.Learned)
    rows: Counter[str] = field(default_factory=Counter)
    clicks: Counter[str] = field(default_factory=Counter)


@dataclass
class _Row:
    occurred_ms: int
    ingested_ms: int
    context: list[tuple[int, float]]
    rewarded: bool = False


def account(cluster, rule) -> Account:
    """Add the source log of a cluster up under a join rule."""
    result = Account()
    edges_of = feed.edges_of(cluster.graph)
    edges, items = defaultdict(lambda: [0, 0, 0]), defaultdict(lambda: [0, 0])
    shown = fold.read_topic(cluster.bootstrap, cluster.names.impressions)
    clicked = fold.read_topic(cluster.bootstrap, cluster.names.clicks)
    for partition in {*shown, *clicked}:
        rows: dict[tuple[str, str], list[_Row]] = defaultdict(list)
        for event, ingested_ms in _events(shown[partition], events_pb2.Impression):
            _take_impression(event, ingested_ms, rule, rows, result, (edges, items, edges_of))
        for event, ingested_ms in _events(clicked[partition], events_pb2.Click):
            _take_click(event, ingested_ms, rule, rows, result, (edges, items, edges_of))
    result.learned.edges = {key: value for key, value in edges.items() if any(value)}
    result.learned.items = {key: value for key, value in items.items() if any(value)}
    return result


def _events(records, kind):
    """Events with the time at which the log took them, which never runs backwards."""
    clock_ms = 0
    batch = events_pb2.ImpressionBatch if kind is events_pb2.Impression else events_pb2.ClickBatch
    for record in records:
        clock_ms = max(clock_ms, record.timestamp)
        for event in fold.events_of(record, kind, batch, batch.DESCRIPTOR.fields[0].name):
            yield event, clock_ms


def _off_time(event, ingested_ms, rule):
    """When it happened, and "dead" or "late" where its clock says that it cannot count."""
    if event.occurred_at_ms == NEVER_SAID:
        return ingested_ms, ""
    if not 0 < event.occurred_at_ms <= LATEST_MS or event.occurred_at_ms - ingested_ms > rule.max_skew_ms:
        return event.occurred_at_ms, "dead"
    return event.occurred_at_ms, "late" if ingested_ms - event.occurred_at_ms > rule.max_delay_ms else ""


def _take_impression(event, ingested_ms, rule, rows, result, sums):
    occurred_ms, off = _off_time(event, ingested_ms, rule)
    for item in event.items:
        earlier = rows[event.request_id, item.item_id]
        if off or (earlier and ingested_ms - earlier[-1].ingested_ms <= _row_life_ms(rule)):
            result.rows[off or "duplicate"] += 1
            continue
        result.rows["accepted"] += 1
        context = list(zip(event.context.cluster_ids, event.context.weights, strict=True))
        earlier.append(_Row(occurred_ms, ingested_ms, context))
        fold.count_shown(item.item_id, context, *sums)


def _take_click(event, ingested_ms, rule, rows, result, sums):
    occurred_ms, off = _off_time(event, ingested_ms, rule)
    if off:
        result.clicks[off] += 1
        return
    click_life_ms = rule.max_delay_ms + 2 * rule.max_skew_ms
    for row in rows[event.request_id, event.item_id]:
        if -click_life_ms <= ingested_ms - row.ingested_ms <= _row_life_ms(rule):
            delay_ms = occurred_ms - row.occurred_ms
            if not -rule.max_skew_ms <= delay_ms <= rule.window_ms:
                result.clicks["late"] += 1
            elif row.rewarded:
                result.clicks["duplicate"] += 1
            else:
                row.rewarded = True
                result.clicks["joined"] += 1
                fold.count_click(event, row.context, *sums)
            return
    result.clicks["alone"] += 1


def _row_life_ms(rule):
    return rule.window_ms + rule.max_delay_ms + 2 * rule.max_skew_ms
