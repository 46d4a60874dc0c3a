"""A server in Kafka mode: it follows the workers, sends feedback, and outlives the broker."""

import time
from pathlib import Path

import pytest
from kafka_broker import LocalBroker

from bandits.backend import choose_backend
from freshet.v1 import events_pb2
from server.kafka_loop import KafkaLoop
from server.kafka_producer import partition_of
from server.snapshot import Snapshot
from streams.embedded import LoopLimits, QueueFull
from tests.kafka.cluster import Cluster
from tests.kafka.test_worker_equality import hash_of


def wait_for(condition, timeout_s: float = 20.0) -> None:
    """Wait until something holds; fail if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)


def make_loop(cluster: Cluster, snapshot: Snapshot, **limits: int) -> KafkaLoop:
    return KafkaLoop(
        cluster.bootstrap,
        names=cluster.names,
        limits=LoopLimits(**limits),
        graph=cluster.graph,
        on_change=snapshot.apply,
    )


def events(count: int) -> tuple[events_pb2.ImpressionBatch, events_pb2.ClickBatch]:
    """One impression and click each of many requests."""
    context = {"cluster_ids": [0, 1], "weights": [0.5, 0.25]}
    shown = [
        events_pb2.Impression(request_id=f"q{i}", context=context, items=[{"item_id": f"item-{i % 60}"}])
        for i in range(count)
    ]
    clicked = [events_pb2.Click(request_id=f"q{i}", item_id=f"item-{i % 60}") for i in range(count)]
    return events_pb2.ImpressionBatch(impressions=shown), events_pb2.ClickBatch(clicks=clicked)


def test_feedback_comes_back_as_parameters(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """What a server accepts is learned once by the workers and is in its snapshot and in that of a later server."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=4, item_partitions=4)
    snapshot, later = Snapshot(choose_backend("numpy")), Snapshot(choose_backend("numpy"))
    loop = make_loop(cluster, snapshot)
    second = make_loop(cluster, later)
    try:
        cluster.start(0)
        loop.start()
        assert loop.wait_until_ready(20)
        shown, clicked = events(300)
        loop.offer_clicks(clicked).result(20)
        loop.offer_impressions(shown).result(20)
        wait_for(lambda: snapshot.current is not None and snapshot.current.totals == (300, 300.0))
        wait_for(lambda: loop.status().ledger_end == loop.status().applied_position)
        assert loop.state_hash() == hash_of(cluster.graph, cluster.learned())
        second.start()
        assert second.wait_until_ready(20)
        assert later.current is not None
        assert later.current.totals == (300, 300.0)
        assert second.state_hash() == loop.state_hash()
    finally:
        loop.stop(grace_s=5)
        second.stop(grace_s=5)
        cluster.stop()


@pytest.mark.timeout(120)
def test_server_outlives_the_broker(own_broker: LocalBroker, tmp_path: Path) -> None:
    """With the broker gone the snapshot stays and is known to be stale, feedback is refused when full."""
    cluster = Cluster(own_broker.bootstrap, "outage", tmp_path, source_partitions=2, item_partitions=2)
    snapshot = Snapshot(choose_backend("numpy"))
    loop = make_loop(cluster, snapshot, max_queued_events=100)
    try:
        cluster.start(0)
        loop.start()
        assert loop.wait_until_ready(20)
        shown, clicked = events(50)
        loop.offer_impressions(shown).result(20)
        loop.offer_clicks(clicked).result(20)
        wait_for(lambda: snapshot.current.totals == (50, 50.0))
        wait_for(lambda: loop.status().ledger_end == loop.status().applied_position)
        own_broker.kill9()
        wait_for(lambda: loop.status().ledger_end > loop.status().applied_position)
        assert snapshot.current.totals == (50, 50.0)
        assert loop.status().failed is None
        waiting = loop.offer_impressions(shown)
        with pytest.raises(QueueFull):
            loop.offer_impressions(events(80)[0])
        own_broker.start()
        waiting.result(30)  # a repeat: it counts nothing
        more = events(60)
        loop.offer_impressions(more[0]).result(30)
        loop.offer_clicks(more[1]).result(30)
        wait_for(lambda: snapshot.current.totals == (60, 60.0), timeout_s=40)
        wait_for(lambda: loop.status().ledger_end == loop.status().applied_position)
    finally:
        loop.stop(grace_s=5)
        cluster.stop()


def test_feedback_goes_where_other_producers_send_it() -> None:
    """The partition of a request is that of Kafka's Java client, so both sides of a join meet."""
    # Hashes from the tests of Apache Kafka itself (clients, UtilsTest.testMurmur2).
    java = {
        "21": -973932308,
        "foobar": -790332482,
        "a-little-bit-long-string": -985981536,
        "a-little-bit-longer-string": -1486304829,
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    }
    assert {key: partition_of(key, 1024) for key in java} == {
        key: (murmur & 0x7FFFFFFF) % 1024 for key, murmur in java.items()
    }
