"""Exploration kept within bounds: items leave the lane, clusters and surfaces have budgets.

Invariants: what a reply was scored under is a function of the sums, the time and the budgets at that moment; a
budget is exceeded by no more than the slates in flight when it is spent; with nothing set, nothing of this runs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bandits.context import Context
from bandits.graph import Graph, Int32
from bandits.life_cycle import (
    IN_LANE,
    SPENT,
    STATES,
    Bool,
    Int8,
    Int64,
    LifeCycle,
    candidate_states,
    cluster_impressions,
    has_lane,
    item_states,
)
from bandits.policies import CandidateSums, Scores, score
from server.limits import MAX_SURFACES
from server.scoring import FilledSlate, SlateRules, fill_slate
from server.snapshot import Parameters

ANY_SURFACE = "*"
_REST = 20  # the share of one part in so many may be spent on looking at all items


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """How many items may be explored.

    Attributes:
        items: by surface, items of slates in each window; `ANY_SURFACE` for each of those that are not named.
        window_ms: length of a window, which begins with the first slate after the last.
    """

    items: Mapping[str, int]
    window_ms: int


@dataclass(eq=False)
class _Window:
    until_ms: int = 0
    left: int = 0
    explored: int = 0  # since the start


class Exploration(Collector):
    """Fills slates within the rules of the life cycle.

    Args:
        rules: when items leave the lane.
        budgets: of the surfaces.
        clock_ms: Unix milliseconds.
    """

    def __init__(self, rules: LifeCycle, budgets: Budgets, *, clock_ms: Callable[[], int]) -> None:
        self._rules = rules
        self._budgets = budgets
        self._clock_ms = clock_ms
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()
        self._open: tuple[Graph | None, Bool | None] = (None, None)
        self._counts = np.zeros(len(STATES), np.int64)
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
    ) -> tuple[FilledSlate, int, str]:
        """As `Parameters.fill`, and the mode that was used: exploit where the budget is spent."""
        surface = self._named(surface)
        if self._spent(surface):
            slate, position = parameters.fill(
                items,
                context,
                mode="exploit",
                slate_size=slate_size,
                seed=seed,
                rules=replace(rules, explore_share=0.0),
            )
            return slate, position, "exploit"
        reading = parameters.gather(items, context)
        states = np.zeros(len(items), np.int8)

        def lane(scores: Scores) -> Int8:
            states[:] = self._states(parameters.graph, items, context, reading.sums, scores)
            return states

        slate = fill_slate(
            reading.sums,
            mode=mode,
            slate_size=slate_size,
            seed=seed,
            rules=rules,
            lane=lane if has_lane(mode) else None,
        )
        explored = slate.explored | (states[slate.chosen] == IN_LANE) if has_lane(mode) else slate.explored
        self._spend(surface, int(np.count_nonzero(explored)))
        return slate, reading.position, mode

    def state(
        self,
        graph: Graph,
        item: Int32,
        context: Context,
        sums: CandidateSums,
        *,
        mode: str,
        surface: str,
        seed: int,
        rules: SlateRules,
    ) -> int:
        """State of one item, the only one in `sums`; IN_LANE in modes that have no lane."""
        if not has_lane(mode):
            return IN_LANE
        if self._spent(self._named(surface)):
            return SPENT
        return int(self._states(graph, item, context, sums, score(mode, sums, rules.policy, seed))[0])

    def look(self, parameters: Parameters) -> None:
        """Count items by state and the impressions of clusters; O(edges), so it rests in between."""
        began_s = time.monotonic()
        if began_s < self._next_look_s:
            return
        graph, now_ms = parameters.graph, self._clock_ms()
        states = parameters.read(
            lambda sums, _: item_states(self._rules, sums.item, graph.published_ms, now_ms=now_ms)
        )
        live = states if graph.edits is None else states[graph.edits.live]
        self._counts = np.bincount(live, minlength=len(STATES))
        cap = self._rules.max_cluster_impressions
        if cap is not None:
            explored = parameters.read(lambda sums, _: cluster_impressions(graph, sums, states))
            self._open = (graph, explored < cap)
        self._next_look_s = time.monotonic() + _REST * (time.monotonic() - began_s)

    def collect(self) -> Iterator[Metric]:
        """Items by state, items explored and what is left of the budgets."""
        items = GaugeMetricFamily("freshet_exploration_items", "Items by state in the lane.", labels=["state"])
        for name, count in zip(STATES[:-1], self._counts.tolist(), strict=False):
            items.add_metric([name], count)
        yield items
        closed = self._open[1]
        count = 0 if closed is None else int(np.count_nonzero(~closed))
        yield GaugeMetricFamily(
            "freshet_exploration_closed_clusters", "Clusters that have had their exploration.", value=count
        )
        explored = CounterMetricFamily(
            "freshet_exploration_items_explored", "Items of slates that were explored.", labels=["surface"]
        )
        left = GaugeMetricFamily(
            "freshet_exploration_budget_left_items", "What is left of the window's budget.", labels=["surface"]
        )
        with self._lock:
            for surface, window in self._windows.items():
                explored.add_metric([surface or "none"], window.explored)
                if self._budget(surface) is not None:
                    left.add_metric([surface or "none"], window.left)
        yield explored
        yield left

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def _states(self, graph: Graph, items: Int32, context: Context, sums: CandidateSums, scores: Scores) -> Int8:
        age: Int64 | None = None
        if self._rules.max_age_ms is not None and graph.published_ms is not None:
            published = graph.published_ms[items]
            age = np.where(published > 0, self._clock_ms() - published, 0)
        known, all_open = self._open
        same = known is not None and all_open is not None and len(all_open) == graph.n_clusters
        open_clusters = all_open[context.cluster_ids] if same and all_open is not None else None
        return candidate_states(self._rules, sums, scores.width, age_ms=age, open_clusters=open_clusters)

    def _named(self, surface: str) -> str:
        """The surface, or the one of all that are too many to be told apart."""
        with self._lock:
            if surface in self._windows or surface in self._budgets.items:
                return surface
            return surface if len(self._windows) < MAX_SURFACES else "other"

    def _budget(self, surface: str) -> int | None:
        return self._budgets.items.get(surface, self._budgets.items.get(ANY_SURFACE))

    def _spent(self, surface: str) -> bool:
        budget = self._budget(surface)
        if budget is None:
            return False
        with self._lock:
            return self._window(surface, budget).left <= 0

    def _spend(self, surface: str, count: int) -> None:
        with self._lock:
            window = self._window(surface, self._budget(surface) or 0)
            window.left -= count
            window.explored += count

    def _window(self, surface: str, budget: int) -> _Window:
        window = self._windows.setdefault(surface, _Window())
        now_ms = self._clock_ms()
        if now_ms >= window.until_ms:
            window.until_ms, window.left = now_ms + self._budgets.window_ms, budget
        return window
