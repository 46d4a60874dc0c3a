"""The life of an item in the exploration lane: who may be shown for what is not known yet, and who no longer.

Only an item in the lane is ranked by an optimistic or drawn score; any other is ranked by its mean. All of it
follows from the sums and the time, so that there is nothing else to store and replies can be explained.

Invariants: pure functions of their arguments; the picking of slates is not touched, so propensities stay as exact
as the picker's; leaving the lane never raises an item's score in a mode whose scores are above their mean.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from bandits.policies import CandidateSums, Scores
from bandits.sums import UNIT, A, N, S, Sums

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

IN_LANE, GRADUATED, KNOWN, OLD, ITEM_CAP, CLUSTER_CAP, SPENT = range(7)
STATES = ("in_lane", "graduated", "known", "old", "item_cap", "cluster_cap", "budget_spent")
"""Names of the states; the first that applies, from GRADUATED on, is an item's."""

# Modes whose scores say nothing but the mean, or nothing at all: there is no lane in them.
_PLAIN_MODES = ("exploit", "epsilon_greedy", "uniform")


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
    """

    graduate_rewards: float | None = None
    graduate_width: float | None = None
    max_age_ms: float | None = None
    max_item_impressions: float | None = None
    max_cluster_impressions: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected above 0, got {value}")


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


def settled(scores: Scores, states: Int8) -> Scores:
    """Scores with the mean in place of the score for all who are not in the lane."""
    return replace(scores, score=np.where(states == IN_LANE, scores.score, scores.mean))


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
