"""The same feedback gives the same state, however it is spread over partitions and workers."""

from pathlib import Path

import pytest

from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from bandits.sums import Sums, state_hash
from freshet.v1 import events_pb2
from streams.embedded import EmbeddedLoop, LoopLimits
from tests.kafka import feed, fold
from tests.kafka.cluster import Cluster


def hash_of(graph, learned: fold.Learned) -> str:
    """The state hash of what the parameters topic says."""
    sums = Sums.zeros(graph)
    for (item, cluster), values in learned.edges.items():
        number = graph.index[item]
        start = graph.item_ptr[number]
        at = start + graph.edge_cluster[start : graph.item_ptr[number + 1]].tolist().index(cluster)
        sums.edge[at] = values
    for item, values in learned.items.items():
        sums.item[graph.index[item]] = values
    return state_hash(graph, sums)


def embedded_hash(
    cluster: Cluster, folder: Path, rule: JoinRule | None = None, *, clock_ms: int = 1_700_000_000_000
) -> str:
    """What the one-process loop makes of the source log of the topics."""
    loop = EmbeddedLoop(
        folder,
        rule=rule or JoinRule(),
        limits=LoopLimits(),
        backend=choose_backend("numpy"),
        graph=cluster.graph,
        on_change=lambda change: None,
        clock_ms=lambda: clock_ms,
    )
    loop.start()
    try:
        for topic, single, batch, name, offer in (
            (cluster.names.clicks, events_pb2.Click, events_pb2.ClickBatch, "clicks", loop.offer_clicks),
            (
                cluster.names.impressions,
                events_pb2.Impression,
                events_pb2.ImpressionBatch,
                "impressions",
                loop.offer_impressions,
            ),
        ):
            for records in fold.read_topic(cluster.bootstrap, topic).values():
                for record in records:
                    events = fold.events_of(record, single, batch, name)
                    offer(batch(**{name: events})).result(30)
        return loop.state_hash()
    finally:
        loop.stop(grace_s=10)


@pytest.mark.parametrize(("partitions", "item_partitions", "workers"), [(1, 8, 1), (2, 1, 3), (8, 2, 2)])
def test_same_state_as_the_embedded_loop(
    kafka: str, topic_prefix: str, tmp_path: Path, partitions: int, item_partitions: int, workers: int
) -> None:
    """Partitions and workers do not show in the state, and it is the state of the embedded loop, bit for bit."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=partitions, item_partitions=item_partitions)
    source: feed.Feed = cluster.feed(seed=partitions)
    try:
        for number in range(workers):
            cluster.start(number)
        for _ in range(4):
            source.step(60)
        source.finish()
        cluster.wait_until_learned()
        assert hash_of(cluster.graph, cluster.learned()) == embedded_hash(cluster, tmp_path / "embedded")
    finally:
        cluster.stop()
        source.close()
