"""The life of an item in the exploration lane: who may be shown for what is not known yet, and who no longer.

Only an item in the lane is ranked by an optimistic or drawn score, or drawn for a slot; any other is ranked by its
mean. Of those in the lane the first, which are still owed impressions, have slots reserved for them.

Invariants: pure functions of their arguments; an item outside the lane is never explored, in whatever mode; leaving
the lane never raises an item's score in a mode whose scores are above their mean.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from bandits.policies import CandidateSums, Scores
from bandits.reserved_slots import Pools
from bandits.sums import UNIT, A, N, S, Sums

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

IN_LANE, GRADUATED, KNOWN, OLD, ITEM_CAP, CLUSTER_CAP, SPENT, FIRST = range(8)
STATES = (
    *("in_lane", "graduated", "known", "old", "item_cap", "cluster_cap", "budget_spent", "first_impressions"),
)
"""Names of the states; the first that applies, from GRADUATED to CLUSTER_CAP, is an item's. FIRST is told of items
in the lane that are owed impressions, SPENT of all items of a surface; neither is among an item's own."""

FIRST_POOL, LANE_POOL = 1, 2  # of `bandits.reserved_slots`

# Modes whose scores are the mean: a slot that is not drawn is not explored.
_PLAIN_MODES = ("exploit", "epsilon_greedy")


@dataclass(frozen=True, kw_only=True)
class LifeCycle:
    """When an item leaves the lane; None = never for that reason.

    Attributes:
        graduate_rewards: so many rewards in all.
        graduate_width: so small a width in the context at hand.
        max_age_ms: so long after it was published; items of unknown age do not grow old.
        max_item_impressions: so many impressions in all.
        max_cluster_impressions: so many impressions of items in the lane, weighted by context, in each of the
            user's clusters where the item has an edge.
        first_impressions: so many impressions are owed to each new item in the lane.
        first_max_age_ms: new is what was published no longer ago; items of unknown age are not. None = all are.
        first_share: of a slate's slots that go to items that are owed some, 0 < share <= 1.
    """

    graduate_rewards: float | None = None
    graduate_width: float | None = None
    max_age_ms: float | None = None
    max_item_impressions: float | None = None
    max_cluster_impressions: float | None = None
    first_impressions: float | None = None
    first_max_age_ms: float | None = None
    first_share: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected above 0, got {value}")
        if self.first_share > 1:
            raise ValueError(f"first_share: expected at most 1, got {self.first_share}")

    @property
    def closes_lane(self) -> bool:
        """Whether an item can leave the lane."""
        others = replace(self, first_impressions=None, first_max_age_ms=None, first_share=1.0)
        return others != LifeCycle(first_share=1.0)


def has_lane(mode: str) -> bool:
    """Whether a mode ranks by more than the mean."""
    return mode not in _PLAIN_MODES


def item_states(rules: LifeCycle, item: Int64, published_ms: Int64 | None, *, now_ms: int) -> Int8:
    """States of items as far as their own sums and age say.

    Args:
        rules: when items leave.
        item: int64 of shape (n, 2), item sums.
        published_ms: int64 of shape (n,), 0 = unknown; None = of none.
        now_ms: the time.
    """
    age = None if published_ms is None else np.where(published_ms > 0, now_ms - published_ms, 0)
    return _states(rules, item[:, N].astype(np.float64), item[:, S] / UNIT, age)


def cluster_impressions(graph: Graph, sums: Sums, states: Int8) -> Float64:
    """Weighted impressions of items in the lane by cluster, float64 of shape (n_clusters,); O(edges).

    Args:
        graph: the graph.
        sums: its sums.
        states: int8 of shape (n_items,), as `item_states` gives them.
    """
    counts = (states == IN_LANE) if graph.edits is None else (states == IN_LANE) & graph.edits.live
    mine = np.repeat(counts, np.diff(graph.item_ptr))
    total = np.bincount(graph.edge_cluster[mine], sums.edge[mine, A] / UNIT, graph.n_clusters)
    return total.astype(np.float64)  # whole numbers where there are no edges


def candidate_states(
    rules: LifeCycle,
    sums: CandidateSums,
    width: Float64,
    *,
    age_ms: Int64 | None,
    open_clusters: Bool | None,
) -> Int8:
    """States of n candidates in one context.

    Args:
        rules: when items leave.
        sums: of the candidates over the K clusters of the context.
        width: float64 of shape (n,), of their scores.
        age_ms: int64 of shape (n,), 0 where it is not known; None = of none.
        open_clusters: bool of shape (K,), False for clusters that have had their exploration; None = all are open.
    """
    states = _states(rules, sums.n, sums.s, age_ms)
    if rules.graduate_width is not None:
        states = _first(states, np.asarray(width <= rules.graduate_width), KNOWN)
    if open_clusters is not None and not open_clusters.all():
        states = _first(states, np.asarray(~(sums.edge & open_clusters).any(axis=1)), CLUSTER_CAP)
    return states


@dataclass(frozen=True, eq=False)
class Bounds:
    """What bounds the exploration of n candidates in one request.

    Attributes:
        rules: when items leave the lane.
        age_ms: int64 of shape (n,), 0 where it is not known; None = of none.
        open_clusters: bool of shape (K,), as `candidate_states` takes it.
        owed: bool of shape (n,), candidates that are owed first impressions; None = none of them.
        spent: the budget is spent: slates are ranked by means, and nobody is explored.
    """

    rules: LifeCycle
    age_ms: Int64 | None = None
    open_clusters: Bool | None = None
    owed: Bool | None = None
    spent: bool = False

    def states(self, sums: CandidateSums, width: Float64) -> Int8:
        """As `candidate_states`."""
        return candidate_states(self.rules, sums, width, age_ms=self.age_ms, open_clusters=self.open_clusters)

    def pools(self, states: Int8, explore_share: float) -> Pools:
        """Whom slots are reserved for.

        Those in the lane are drawn as often as if any candidate could be and draws of others were void; of them,
        those that are owed impressions have `first_share` of the slots besides.

        Args:
            states: int8 of shape (n,).
            explore_share: probability that a slot is explored.
        """
        of = np.where(states == IN_LANE, np.int8(LANE_POOL), np.int8(0))
        share = 0.0
        if self.owed is not None and self.owed.any():
            of[self.owed & (of == LANE_POOL)] = FIRST_POOL
            share = self.rules.first_share
        n, first, lane = max(1, len(of)), np.count_nonzero(of == FIRST_POOL), np.count_nonzero(of == LANE_POOL)
        explored = min(explore_share, 1.0 - share) if first else explore_share
        first_share = share + explored * first / n if first else 0.0
        if not explored:
            of[of == LANE_POOL] = 0
        return Pools(of, (first_share, explored * lane / n))


def settled(mode: str, scores: Scores, states: Int8) -> Scores:
    """Scores with the mean in place of the score for all who are not in the lane.

    Where nothing ranks (`uniform`), those in the lane come before them, in random order.
    """
    inside = scores.score if mode != "uniform" else np.inf
    return replace(scores, score=np.where(states == IN_LANE, inside, scores.mean))


def _states(rules: LifeCycle, n: Float64, s: Float64, age_ms: Int64 | None) -> Int8:
    states = np.zeros(len(n), np.int8)
    if rules.graduate_rewards is not None:
        states = _first(states, np.asarray(s >= rules.graduate_rewards), GRADUATED)
    if rules.max_age_ms is not None and age_ms is not None:
        states = _first(states, np.asarray(age_ms > rules.max_age_ms), OLD)
    if rules.max_item_impressions is not None:
        states = _first(states, np.asarray(n >= rules.max_item_impressions), ITEM_CAP)
    return states


def _first(states: Int8, applies: Bool, state: int) -> Int8:
    """`state` where nothing else is the case and it applies."""
    found: Int8 = np.where((states == IN_LANE) & applies, np.int8(state), states)
    return found
