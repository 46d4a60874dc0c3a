"""Exploration kept within bounds: items leave the lane, clusters and surfaces have budgets, new items have slots.

Invariants: what a reply was scored under is a function of the sums, the time, the budgets and what was shown of new
items at that moment; a budget is exceeded by no more than the slates in flight when it is spent; where nothing
bounds the candidates at hand, slates are filled as if nothing of this were set.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bandits.context import Context
from bandits.graph import Graph, Int32
from bandits.life_cycle import (
    FIRST,
    IN_LANE,
    SPENT,
    STATES,
    Bool,
    Bounds,
    Int64,
    LifeCycle,
    has_lane,
)
from bandits.policies import CandidateSums
from server.budget_windows import Budgets, Spending
from server.first_impressions import FirstImpressions, ShownElsewhere
from server.lane_watch import ClosedClusters
from server.limits import MAX_SURFACES, SENT_INFINITY
from server.scoring import Explanation, FilledSlate, SlateRules, fill_slate
from server.snapshot import Parameters, Torn

ANY_SURFACE = "*"
_REST = 20  # the share of one part in so many may be spent on looking at all items


class Exploration(Collector):
    """Fills slates within the rules of the life cycle.

    Args:
        rules: when items leave the lane, and what is owed to those in it.
        budgets: of the surfaces.
        spending: of them.
        closed: clusters that have had theirs.
        hold_ms: how long a slate may be on its way to the learner and back.
        clock_ms: Unix milliseconds.
        shown: what other processes have shown of new items; None = there are none.
    """

    def __init__(
        self,
        rules: LifeCycle,
        budgets: Budgets,
        *,
        spending: Spending,
        closed: ClosedClusters,
        hold_ms: int,
        clock_ms: Callable[[], int],
        shown: ShownElsewhere | None = None,
    ) -> None:
        self._rules = rules
        self._budgets = budgets
        self._spending = spending
        self._closed = closed
        self._clock_ms = clock_ms
        self._first: FirstImpressions | None = None
        if rules.first_impressions is not None:
            self._first = FirstImpressions(
                rules.first_impressions,
                max_age_ms=rules.first_max_age_ms,
                hold_ms=hold_ms,
                clock_ms=clock_ms,
                elsewhere=shown,
            )
        # By surface, since the start: items explored, and slots of items that are owed impressions.
        self._explored: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._next_look_s = 0.0

    def fill(
        self,
        parameters: Parameters,
        items: Int32,
        context: Context,
        *,
        mode: str,
        surface: str,
        slate_size: int,
        seed: int,
        rules: SlateRules,
    ) -> tuple[FilledSlate, int, str, Bounds | None]:
        """As `Parameters.fill`, the mode that was used (exploit where the budget is spent), and the bounds."""
        surface = self._named(surface)
        spent = self._spent(surface)
        if spent:
            mode, rules = "exploit", replace(rules, explore_share=0.0)
        if spent or not self._bind(parameters.graph, items):
            slate, position = parameters.fill(
                items, context, mode=mode, slate_size=slate_size, seed=seed, rules=rules
            )
            if not spent:
                self.filled(surface, mode, len(slate.chosen), int(np.count_nonzero(slate.explored)))
            return slate, position, mode, Bounds(self._rules, spent=True) if spent else None
        reading = parameters.gather(items, context)
        slate, bounds = self.fill_bound(
            parameters,
            items,
            context,
            reading.sums,
            mode=mode,
            surface=surface,
            slate_size=slate_size,
            seed=seed,
            rules=rules,
        )
        return slate, reading.position, mode, bounds

    def fill_bound(
        self,
        parameters: Parameters,
        items: Int32,
        context: Context,
        sums: CandidateSums,
        *,
        mode: str,
        surface: str,
        slate_size: int,
        seed: int,
        rules: SlateRules,
    ) -> tuple[FilledSlate, Bounds]:
        """A slate of candidates that something may bind, from their gathered sums, and the bounds."""
        surface = self._named(surface)
        bounds = self.bounds(parameters.graph, items, context, sums)
        slate = fill_slate(
            sums,
            mode=mode,
            slate_size=slate_size,
            seed=seed,
            rules=rules,
            bounds=bounds,
            compiles=parameters.compiles,
        )
        self._spend(surface, slate.exploring or 0, slate.first)
        if self._first:
            chosen = slate.chosen
            self._first.show(parameters.graph, items[chosen], sums.n[chosen])
        return slate, bounds

    def spent(self, surface: str) -> Bounds | None:
        """The bounds of all slates of a surface whose budget is spent; None where it is not."""
        return Bounds(self._rules, spent=True) if self._spent(self._named(surface)) else None

    def bound(self, graph: Graph, items: Int32, ends: Int64) -> Bool:
        """Which of some slates have a candidate that something may bind, bool of shape (S,).

        Args:
            graph: the graph.
            items: int32, candidates of all slates one after the other.
            ends: int64 of shape (S,), where each slate's end.
        """
        if self._rules.closes_lane:
            return np.ones(len(ends), np.bool_)
        owed = self._first.may_be_owed(graph, items) if self._first else None
        if owed is None:
            return np.zeros(len(ends), np.bool_)
        before = np.concatenate([[0], np.cumsum(owed)])
        return np.asarray(np.diff(before[ends], prepend=0) > 0)

    def passes(
        self, graph: Graph, surface: str, *, items: Int32 | None = None, around: Int32 | None = None
    ) -> bool:
        """Whether nothing bounds a slate: it may be filled in any way, if `filled` is told.

        Args:
            graph: the graph.
            surface: as the caller names it.
            items: int32 of shape (n,), the candidates; or
            around: int32 of shape (K,), the clusters of the user whose candidates they are.
        """
        if self._spent(self._named(surface)):
            return False
        if items is not None:
            return not self._bind(graph, items)
        owed = self._first is not None and around is not None and self._first.around(graph, around)
        return not (self._rules.closes_lane or owed)

    def filled(self, surface: str, mode: str, items: int, explored: int) -> None:
        """Count slates of so many items that nothing bounded, of which so many were explored by a draw."""
        self._spend(self._named(surface), items if has_lane(mode) else explored, 0)

    def bounds(self, graph: Graph, items: Int32, context: Context, sums: CandidateSums) -> Bounds:
        """What bounds the exploration of some candidates now.

        Args:
            graph: the graph.
            items: int32 of shape (n,).
            context: the resolved user.
            sums: of the candidates.
        """
        age: Int64 | None = None
        if self._rules.max_age_ms is not None and graph.published_ms is not None:
            published = graph.published_ms[items]
            age = np.where(published > 0, self._clock_ms() - published, 0)
        open_clusters = self._closed.open_among(graph, context.cluster_ids)
        owed = self._first.owed(graph, items, sums.n) if self._first else None
        return Bounds(self._rules, age, open_clusters, owed)

    def explained(
        self,
        graph: Graph,
        item: Int32,
        context: Context,
        sums: CandidateSums,
        *,
        mode: str,
        surface: str,
        told: Explanation,
    ) -> tuple[str, float]:
        """State of one item, the only one in `sums`, and the score that it is ranked by."""
        if self._spent(self._named(surface)):
            return STATES[SPENT], told.mean
        bounds = self.bounds(graph, item, context, sums)
        state = int(bounds.states(sums, np.array([told.width]))[0])
        if state != IN_LANE:
            return STATES[state], told.mean
        ranked = SENT_INFINITY if mode == "uniform" and self._rules.closes_lane else told.score
        return STATES[FIRST if bounds.owed is not None else IN_LANE], ranked

    @property
    def closes_lane(self) -> bool:
        """Whether items can leave the lane, so that something may bind any slate."""
        return self._rules.closes_lane

    def _bind(self, graph: Graph, items: Int32) -> bool:
        """Whether anything bounds some candidates, or is owed to one of them."""
        if self._rules.closes_lane:
            return True
        return self._first is not None and self._first.may_be_owed(graph, items) is not None

    def warm_up(self, rules: SlateRules) -> None:
        """Compile what fills bounded slates, or read it from the cache on disk, before the first caller comes."""
        one = np.ones((1, 1))
        keys, edge = np.zeros(1, np.uint64), np.ones((1, 1), np.bool_)
        sums = CandidateSums(one[0], edge, one, one, one, one[0], one[0], keys)
        bounds = Bounds(self._rules)
        fill_slate(sums, mode="exploit", slate_size=1, seed=0, rules=rules, bounds=bounds, compiles=True)

    def look(self, parameters: Parameters) -> None:
        """Find who is owed impressions; O(items) under a new graph, so it rests in between."""
        began_s = time.monotonic()
        if self._first is None or began_s < self._next_look_s:
            return
        with suppress(Torn):  # the next sample looks again
            self._first.look(parameters)
        self._next_look_s = time.monotonic() + _REST * (time.monotonic() - began_s)

    def collect(self) -> Iterator[Metric]:
        """Items explored, and what is left of the budgets."""
        explored = CounterMetricFamily(
            "freshet_exploration_items_explored", "Items of slates that were explored.", labels=["surface"]
        )
        left = GaugeMetricFamily(
            "freshet_exploration_budget_left_items", "What is left of the window's budget.", labels=["surface"]
        )
        slots = CounterMetricFamily(
            "freshet_exploration_first_slots",
            "Slots drawn for items that are owed impressions.",
            labels=["surface"],
        )
        with self._lock:
            counted = dict(self._explored)
        for surface, (items, first) in counted.items():
            slots.add_metric([surface or "none"], first)
            explored.add_metric([surface or "none"], items)
            budget = self._budget(surface)
            if budget is not None:
                left.add_metric([surface or "none"], budget - self._spending.spent(surface))
        yield explored
        yield left
        if self._first:
            yield slots
            yield GaugeMetricFamily(
                "freshet_exploration_first_owed_items",
                "Items that are owed impressions.",
                value=self._first.owed_items,
            )
            yield GaugeMetricFamily(
                "freshet_exploration_first_in_flight",
                "Impressions of such items, shown and not yet known.",
                value=self._first.in_flight,
            )

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def _named(self, surface: str) -> str:
        """The surface, or the one of all that are too many to be told apart."""
        with self._lock:
            if surface in self._explored or surface in self._budgets.items:
                return surface
            return surface if len(self._explored) < MAX_SURFACES else "other"

    def _budget(self, surface: str) -> int | None:
        return self._budgets.items.get(surface, self._budgets.items.get(ANY_SURFACE))

    def _spent(self, surface: str) -> bool:
        budget = self._budget(surface)
        return budget is not None and self._spending.spent(surface) >= budget

    def _spend(self, surface: str, count: int, first: int) -> None:
        with self._lock:
            explored, slots = self._explored.get(surface, (0, 0))
            self._explored[surface] = explored + count, slots + first
        if self._budget(surface) is not None:
            self._spending.spend(surface, count)
