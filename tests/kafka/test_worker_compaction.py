"""Compaction that takes everything it may, and what is restored from what it leaves."""

import time

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource

from bandits.join_rule import JoinRule
from streams.kafka.parameter_rows import is_fence
from tests.kafka import fold
from tests.kafka.cluster import Cluster
from tests.kafka.scale import SCALE
from tests.kafka.test_worker_times import verified

FORCED = {
    "segment.bytes": str(1 << 20),
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.0001",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "100",
    "delete.retention.ms": "0",
}


def rows_of(cluster):
    """The records of the only partition of the parameters topic."""
    return fold.read_topic(cluster.bootstrap, cluster.names.parameters)[0]


def feed_until(cluster, source, condition, timeout_s=60):
    """Steady events of new requests until something holds of the parameters topic."""
    deadline = time.monotonic() + timeout_s
    while not condition(rows_of(cluster)):
        assert time.monotonic() < deadline, f"never compacted\n{cluster.last_words()}"
        source.step(3)
        source.flush()
        time.sleep(0.3)


def compact(bootstrap, topic):
    """Make the broker compact a topic as soon and as far as it can."""
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        admin.alter_configs([ConfigResource("TOPIC", topic, FORCED)])


@pytest.mark.timeout(120 + 60 * SCALE)
def test_compaction_brings_no_zombie_back(kafka, topic_prefix, tmp_path):
    """Of an item compaction leaves only a replaced owner's late row; an empty disk is restored all the same."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=1)
    source = cluster.feed(seed=16)
    producer = KafkaProducer(bootstrap_servers=kafka)
    compact(kafka, cluster.names.parameters)
    try:
        for _ in range(SCALE):
            cluster.start(0)
            source.step(30)
            source.flush()
            cluster.wait_until_learned()
            early = {row.key: row for row in rows_of(cluster) if not is_fence(row.key) and row.key != b"\xff"}
            feed_until(cluster, source, lambda rows: len(rows) < rows[-1].offset / 2)
            cluster.kill(0)
            cluster.wipe(0)
            cluster.start(0)
            source.step(60)
            source.finish()
            cluster.wait_until_learned()
            # What the frozen owner had sent before it was replaced arrives only now.
            late = [row for row in early.values() if row.value != last_of(rows_of(cluster), row.key).value]
            assert late
            for row in late:
                producer.send(cluster.names.parameters, row.value, key=row.key, partition=0)
            producer.flush()
            zombies = {(row.key, row.value) for row in late}
            cluster.kill(0)
            grow(cluster, producer)
            assert zombies <= {(row.key, row.value) for row in rows_of(cluster)}
            assert cluster.learned().difference(cluster.expected()), "the fault did not show"
            cluster.wipe(0)
            cluster.start(0)
            cluster.wait_until_learned(60)
            verified(cluster, JoinRule())
            cluster.kill(0)
    finally:
        cluster.stop()
        source.close()
        producer.close()


def last_of(rows, key):
    """The newest row of an item."""
    return [row for row in rows if row.key == key][-1]


def grow(cluster, producer):
    """Write marks as the last owner would until every row but the newest of each item is gone."""
    deadline = time.monotonic() + 60
    while True:
        rows = rows_of(cluster)
        items = [row.key for row in rows if row.key[:1] != b"\xff"]
        if len(items) == len(set(items)):
            return
        assert time.monotonic() < deadline, "never compacted"
        mark = last_of(rows, b"\xff")
        producer.send(cluster.names.parameters, mark.value, key=mark.key, partition=0)
        producer.flush()
        time.sleep(0.3)
