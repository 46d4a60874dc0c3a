"""Large graphs, facts and requests for the benchmarks, made without a loop per item.

A catalogue has topics of 64 clusters; an item has 32 edges within its topic, a user K clusters of one topic. So
about half of a user's clusters are edges of a candidate, as where candidates were retrieved around the user.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.aligned import aligned
from bandits.context import Context
from bandits.graph import Graph
from bandits.sums import Facts, Int32, Sums

TOPIC = 64
DEGREE = 32
K = 10
_PATTERNS = 4096


@dataclass(frozen=True)
class Size:
    """How large a catalogue is."""

    items: int
    clusters: int


FULL = Size(items=1_000_000, clusters=20_000)
TINY = Size(items=2_000, clusters=640)


def make_graph(size: Size, rng: np.random.Generator) -> Graph:
    """The item-major half of a graph; ids are numbers, hashes are drawn, nothing is retrieved from it."""
    patterns = np.argsort(rng.random((_PATTERNS, TOPIC)), axis=1)[:, :DEGREE]
    patterns = np.sort(patterns, axis=1).astype(np.int32)
    topic = rng.integers(0, size.clusters // TOPIC, size.items, dtype=np.int32)
    edge_cluster = patterns[rng.integers(0, _PATTERNS, size.items)] + topic[:, None] * np.int32(TOPIC)
    graph = Graph(
        version="benchmark",
        centroids=np.empty((size.clusters, 0), np.float32),
        item_ids=range(size.items),  # type: ignore[arg-type]  # a million strings are not what is measured
        item_ptr=np.arange(0, size.items * DEGREE + 1, DEGREE),
        edge_cluster=aligned(edge_cluster.ravel()),
        cluster_ptr=np.zeros(size.clusters + 1, np.int64),
        cluster_item=np.empty(0, np.int32),
        cluster_edge=np.empty(0, np.int64),
    )
    vars(graph)["item_hashes"] = rng.integers(0, 1 << 63, (size.items, 2)).astype(np.uint64)
    return graph


def learned_sums(graph: Graph, rng: np.random.Generator) -> Sums:
    """Sums as after a hundred impressions and five clicks an edge."""
    x = rng.integers(1 << 10, 1 << 15, graph.n_edges)
    edge = np.stack([100 * x, 100 * x * x, 5 * x << 15], axis=1)
    item = np.stack([np.full(graph.n_items, 300), rng.integers(0, 30, graph.n_items) << 15], axis=1)
    return Sums(edge, item)


def make_facts(graph: Graph, count: int, rng: np.random.Generator) -> Facts:
    """One impression of a random item each, in a context of K of the item's own edges; every tenth is clicked."""
    item = rng.integers(0, graph.n_items, count).astype(np.int32)
    rows = graph.edge_cluster.reshape(-1, DEGREE)[item]
    own = np.sort(np.argsort(rng.random(rows.shape), axis=1)[:, :K], axis=1)
    return Facts(
        item=item,
        context=np.arange(count, dtype=np.int32),
        impressions=np.ones(count, np.int64),
        reward=(rng.random(count) < 0.1).astype(np.int64) << 15,
        context_ptr=np.arange(0, count * K + 1, K),
        context_cluster=np.take_along_axis(rows, own, axis=1).ravel(),
        context_x=rng.integers(1, (1 << 15) + 1, count * K),
    )


@dataclass(frozen=True, eq=False)
class Request:
    """Candidates and the user they are for."""

    items: Int32
    context: Context


def make_requests(graph: Graph, count: int, candidates: int, rng: np.random.Generator) -> list[Request]:
    """Users, each with distinct candidates of their topic."""
    topic = graph.edge_cluster[::DEGREE] // TOPIC
    order = np.argsort(topic, kind="stable").astype(np.int32)
    ends = np.searchsorted(topic[order], np.arange(graph.n_clusters // TOPIC + 1))
    made = []
    for chosen in rng.integers(0, graph.n_clusters // TOPIC, count).tolist():
        items = rng.permutation(order[ends[chosen] : ends[chosen + 1]])[:candidates]
        clusters = chosen * TOPIC + np.sort(rng.permutation(TOPIC)[:K])
        made.append(Request(items, Context(clusters.astype(np.int32), softmax(rng.normal(size=K)))))
    return made


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()
