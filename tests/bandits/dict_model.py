"""What joiner and sums must do, as a slow program over dicts: one event at a time, no columns, unlimited memory."""

from collections import Counter
from dataclasses import dataclass, field

from bandits.graph import Graph
from bandits.join_rule import JoinRule
from bandits.sums import UNIT
from tests.bandits.event_columns import Clicked, Event, Fact, Shown

Key = tuple[str, str]
LARGEST = 2**63 - 1


@dataclass
class Row:
    """A shown item that counted."""

    slate: Shown
    item: str
    occurred_ms: int
    rewarded: bool = False
    counted: list[Clicked] = field(default_factory=list)
    earned: int = 0


class DictJoiner:
    """The joiner's rules, applied to events in order; memory is unlimited."""

    def __init__(self, rule: JoinRule) -> None:
        self.rule = rule
        self.rows: dict[Key, Row] = {}
        self.every: list[Row] = []
        self.waiting: dict[Key, list[Clicked]] = {}
        self.facts: Counter[Fact] = Counter()
        self.counts: Counter[str] = Counter()

    def take(self, event: Event) -> None:
        occurred_ms = event.occurred_ms or event.ingested_ms
        kind = "impressions" if isinstance(event, Shown) else "clicks"
        size = len(event.items) if isinstance(event, Shown) else 1
        late = event.ingested_ms - occurred_ms > self.rule.max_delay_ms
        passed = isinstance(event, Shown) and event.passed
        if passed and occurred_ms - event.ingested_ms <= self.rule.max_skew_ms:
            self.counts["impressions_other_surface"] += size
        if late and not passed:
            self.counts[f"{kind}_late"] += size
        elif late:
            pass
        elif occurred_ms - event.ingested_ms > self.rule.max_skew_ms:
            self.counts[f"{kind}_dead"] += size
        elif isinstance(event, Shown):
            for item in event.items:
                self.show(event, item, occurred_ms)
        else:
            self.click(event)

    def show(self, slate: Shown, item: str, occurred_ms: int) -> None:
        key = (slate.request, item)
        before = self.rows.get(key)
        if before and slate.ingested_ms - before.slate.ingested_ms <= self.rule.row_retention_ms:
            self.counts["impressions_duplicate"] += not slate.passed
            return
        self.rows[key] = Row(slate, item, occurred_ms)
        if not slate.passed:
            self.counts["impressions_accepted"] += 1
            self.facts[(item, slate.context, 1, 0, (0, slate.offset, slate.index))] += 1
            self.every.append(self.rows[key])
        for click in self.waiting.pop(key, []):
            if slate.ingested_ms - click.ingested_ms > self.rule.click_retention_ms:
                self.counts["clicks_unmatched"] += 1
            else:
                self.judge(click, self.rows[key])

    def click(self, click: Clicked) -> None:
        key = (click.request, click.item)
        row = self.rows.get(key)
        if row and click.ingested_ms - row.slate.ingested_ms <= self.rule.row_retention_ms:
            self.judge(click, row)
        else:
            self.waiting.setdefault(key, []).append(click)

    def judge(self, click: Clicked, row: Row) -> None:
        delay_ms = (click.occurred_ms or click.ingested_ms) - row.occurred_ms
        if row.slate.passed:
            self.counts["clicks_other_surface"] += 1
        elif not -self.rule.max_skew_ms <= delay_ms <= self.rule.window_ms:
            self.counts["clicks_late"] += 1
        elif self.rule.several_count:
            self.weigh(click, row)
        elif row.rewarded:
            self.counts["clicks_duplicate"] += 1
        else:
            row.rewarded, row.earned = True, click.reward
            self.counts["clicks_joined"] += 1
            self.facts[(click.item, row.slate.context, 0, click.reward, (1, click.offset, click.index))] += 1

    def weigh(self, click: Clicked, row: Row) -> None:
        """The reward is worked out anew from all reactions that counted so far."""
        aggregation = self.rule.kind_aggregations.get(click.kind, "first")
        of_kind = [other for other in row.counted if other.kind == click.kind]
        again = aggregation == "sum" and any(other.identity == click.identity for other in of_kind)
        shut = (of_kind and aggregation == "first") or (
            self.rule.across_kinds == "first" and row.counted and not of_kind
        )
        if again or shut:
            self.counts["clicks_duplicate"] += 1
            return
        if of_kind and self.worth(click.kind, [*of_kind, click]) == self.worth(click.kind, of_kind):
            self.counts["clicks_absorbed"] += 1
            return
        row.counted.append(click)
        self.counts["clicks_joined"] += 1
        kinds = {other.kind for other in row.counted}
        values = [self.worth(kind, [other for other in row.counted if other.kind == kind]) for kind in kinds]
        total = sum(values) if self.rule.across_kinds == "sum" else max(values)
        gain, row.earned = -row.earned, min(total, round(self.rule.reward_cap * UNIT))
        gain += row.earned
        self.facts[(click.item, row.slate.context, 0, gain, (1, click.offset, click.index))] += 1

    def worth(self, kind: str, clicks: list[Clicked]) -> int:
        """What reactions of one kind amount to."""
        rewards = [click.reward for click in clicks]
        how = {"first": lambda all_: all_[0], "sum": sum, "max": max}
        total = how[self.rule.kind_aggregations.get(kind, "first")](rewards)
        return min(total, round(self.rule.cap_of(kind) * UNIT))

    def finish(self, clock_ms: int) -> dict[str, int]:
        """Counts as of a time, and the number of clicks that still wait."""
        oldest_ms = clock_ms - self.rule.click_retention_ms
        left = [click.ingested_ms >= oldest_ms for clicks in self.waiting.values() for click in clicks]
        counts = self.counts.copy()
        counts["clicks_unmatched"] += left.count(False)
        return {name: n for name, n in (counts | Counter(waiting=left.count(True))).items() if n}


def dict_sums(graph: Graph, facts: Counter[Fact]) -> tuple[dict[tuple[str, int], list[int]], dict[str, list[int]]]:
    """Sums (a, d, b) of each (item, cluster) and (n, s) of each item, in Python's unlimited integers, saturated."""
    edges: dict[tuple[str, int], list[int]] = {}
    items = {item: [0, 0] for item in graph.item_ids}
    for number, item in enumerate(graph.item_ids):
        for cluster in graph.edge_cluster[graph.item_ptr[number] : graph.item_ptr[number + 1]].tolist():
            edges[item, cluster] = [0, 0, 0]
    for (item, context, shown, reward, _), times in facts.items():
        if item not in items:
            continue
        for column, term in enumerate((shown, reward)):
            items[item][column] += times * term
        for cluster, x in context:
            for column, term in enumerate((x * shown, x * x * shown, x * reward)):
                if (item, cluster) in edges:
                    edges[item, cluster][column] += times * term
    for table in (edges, items):
        for key, sums in table.items():
            table[key] = [min(value, LARGEST) for value in sums]  # type: ignore[index]
    return edges, items
