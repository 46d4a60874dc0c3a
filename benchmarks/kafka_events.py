"""Feedback for the benchmarks on Kafka: a catalogue with topics, popular and unpopular items, four encodings.

Invariants: the events depend on the seed alone; a user's clusters and the slate lie in one topic of the catalogue,
so that about half of the clusters are edges of a shown item; the first `PROBES` items are shown by probes only.
"""

import json
from dataclasses import dataclass

import numpy as np

from bandits.graph import Graph, build_graph
from freshet.v1 import events_pb2

TOPIC, DEGREE, K, ITEMS_A_SLATE = 64, 32, 10, 5
SLATES_A_CLICK = 5
PROBES = 2_000
ENCODINGS = ("protobuf", "json", "protobuf packed", "json packed")
_SLATES_A_RECORD = 200


def make_graph(items: int, clusters: int, *, seed: int = 1) -> Graph:
    """Items of 32 edges, all of an item's clusters in one topic; the probes' items are in topic 0."""
    rng = np.random.default_rng(seed)
    topic = topics_of(items, clusters)
    own = np.argsort(rng.random((items, TOPIC)), axis=1)[:, :DEGREE]
    own[:PROBES] = np.arange(DEGREE)
    return build_graph(
        version=f"benchmark-{items}",
        centroids=[],
        n_clusters=clusters,
        item_ids=[f"item-{number}" for number in range(items)],
        edge_item=np.repeat(np.arange(items), DEGREE),
        edge_cluster=(own + topic[:, None] * TOPIC).ravel(),
    )


def topics_of(items: int, clusters: int) -> np.ndarray:
    """Topic of each item: 0 for the probes' items, the others in turn."""
    topic = 1 + np.arange(items) % (clusters // TOPIC - 1)
    topic[:PROBES] = 0
    return topic


@dataclass(frozen=True)
class Source:
    """What two topics are filled with: for each partition the records' values, in order.

    Attributes:
        impressions, clicks: values by partition, with their keys.
        item_impressions: shown items in all of it.
        slates: slates in all of it.
    """

    impressions: list[list[tuple[bytes, bytes]]]
    clicks: list[list[tuple[bytes, bytes]]]
    item_impressions: int
    slates: int


def make_source(
    encoding: str,
    *,
    slates: int,
    items: int,
    clusters: int,
    partitions: int,
    seed: int,
    prefix: str = "r",
    even: bool = False,
) -> Source:
    """Slates and a click on the top item of every fifth, spread evenly over the partitions.

    Args:
        encoding: one of `ENCODINGS`.
        slates: how many.
        items, clusters: of the graph.
        partitions: of both topics.
        seed: of everything random.
        prefix: of the request ids.
        even: items in turn instead of by popularity (Zipf, exponent 1).
    """
    rng = np.random.default_rng(seed)
    shown = _shown(rng, slates, items, clusters, even=even)
    topic = topics_of(items, clusters)[shown[:, 0]]
    context = topic[:, None] * TOPIC + np.argsort(rng.random((slates, TOPIC)), axis=1)[:, :K]
    weights = np.full(K, 1 / K, np.float32).tolist()
    impressions: list[list[events_pb2.Impression]] = [[] for _ in range(partitions)]
    clicks: list[list[events_pb2.Click]] = [[] for _ in range(partitions)]
    for number, (slate, clusters_of_user) in enumerate(zip(shown.tolist(), context.tolist(), strict=True)):
        impressions[number % partitions].append(
            events_pb2.Impression(
                request_id=f"{prefix}-{number}",
                context=events_pb2.ClusterWeights(cluster_ids=clusters_of_user, weights=weights),
                items=[
                    events_pb2.ShownItem(item_id=f"item-{item}", position=position, propensity=0.25)
                    for position, item in enumerate(slate)
                ],
            )
        )
        if number % SLATES_A_CLICK == 0:
            click = events_pb2.Click(request_id=f"{prefix}-{number}", item_id=f"item-{slate[0]}")
            clicks[number % partitions].append(click)
    return Source(
        [_encoded(part, encoding, "impressions") for part in impressions],
        [_encoded(part, encoding, "clicks") for part in clicks],
        slates * ITEMS_A_SLATE,
        slates,
    )


def _shown(rng: np.random.Generator, slates: int, items: int, clusters: int, *, even: bool) -> np.ndarray:
    """Item numbers of shape (slates, 5), distinct and of one topic within a slate."""
    topics = clusters // TOPIC - 1
    ordinary = (items - PROBES) // (topics * ITEMS_A_SLATE) * topics * ITEMS_A_SLATE
    if even:
        first = np.arange(slates) % (ordinary // ITEMS_A_SLATE)
        first = first // topics * topics * ITEMS_A_SLATE + first % topics
    else:
        odds = 1 / np.arange(1, ordinary + 1)
        first = rng.permutation(ordinary)[rng.choice(ordinary, slates, p=odds / odds.sum())]
    return PROBES + (first[:, None] + topics * np.arange(ITEMS_A_SLATE)) % ordinary


def _encoded(events: list, encoding: str, name: str) -> list[tuple[bytes, bytes]]:
    if "packed" not in encoding:
        encode = _as_json if encoding == "json" else lambda event: event.SerializeToString()
        return [(event.request_id.encode(), encode(event)) for event in events]
    records = []
    for start in range(0, len(events), _SLATES_A_RECORD):
        batch = events[start : start + _SLATES_A_RECORD]
        if encoding == "json packed":
            value = b'{"%s":[%s]}' % (name.encode(), b",".join(map(_as_json, batch)))
        else:
            message = events_pb2.ImpressionBatch if name == "impressions" else events_pb2.ClickBatch
            value = message(**{name: batch}).SerializeToString()
        records.append((b"batch", value))
    return records


def _as_json(event: events_pb2.Impression | events_pb2.Click) -> bytes:
    """As a producer without our schema would write it."""
    if isinstance(event, events_pb2.Click):
        return json.dumps({"request_id": event.request_id, "item_id": event.item_id}).encode()
    return json.dumps(
        {
            "request_id": event.request_id,
            "context": {
                "cluster_ids": list(event.context.cluster_ids),
                "weights": [round(weight, 6) for weight in event.context.weights],
            },
            "items": [
                {"item_id": item.item_id, "position": item.position, "propensity": item.propensity}
                for item in event.items
            ],
        },
        separators=(",", ":"),
    ).encode()
