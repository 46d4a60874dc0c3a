"""Floods on the real broker: what has no other half is capped, oldest out first and counted, and memory stays."""

import time
from pathlib import Path

import pytest
from kafka import KafkaProducer

from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from tests.kafka import fold
from tests.kafka.cluster import Cluster
from tests.kafka.scale import SCALE
from tests.kafka.test_worker_times import tally_of, verified

LIMIT = 2_000 * SCALE
TIMES = 20
FLOOD = LIMIT * TIMES
PACKED = 500
X = fold.UNIT // 2
# What the allocator and RocksDB's write buffers take, whatever is sent. A row kept by mistake weighs half a kB, so
# that the long form sees it here; in CI the counts do.
SLACK_MB = 160


class Flood:
    """Packed events of one item in one cluster, faster than the worker takes them."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.item = cluster.graph.item_ids[0]
        self.context = {"cluster_ids": [int(cluster.graph.edge_cluster[0])], "weights": [0.5]}
        self.sent = {"rows": 0, "clicks": 0}
        self.producer = KafkaProducer(bootstrap_servers=cluster.bootstrap, linger_ms=5, batch_size=1 << 20)

    def impressions(self, names):
        self.sent["rows"] += len(names)
        for start in range(0, len(names), PACKED):
            batch = events_pb2.ImpressionBatch(
                impressions=[
                    events_pb2.Impression(request_id=name, context=self.context, items=[{"item_id": self.item}])
                    for name in names[start : start + PACKED]
                ]
            )
            self._send(self.cluster.names.impressions, batch)
        self.producer.flush()

    def clicks(self, names):
        self.sent["clicks"] += len(names)
        for start in range(0, len(names), PACKED):
            batch = events_pb2.ClickBatch(
                clicks=[
                    events_pb2.Click(request_id=name, item_id=self.item) for name in names[start : start + PACKED]
                ]
            )
            self._send(self.cluster.names.clicks, batch)
        self.producer.flush()

    def _send(self, topic, batch):
        self.producer.send(topic, batch.SerializeToString(), partition=0, headers=[("test-kind", b"batch")])


def wait_for(condition, cluster, timeout_s=40 + 20 * SCALE):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{cluster.learned().items}\n{cluster.last_words()}"
        time.sleep(0.2)


def consumed(cluster):
    """Offsets that the worker has copied to its group: everything before them is on its disk."""
    with_admin = fold.group_offsets(cluster.bootstrap, f"{cluster.prefix}.worker")
    return {topic: offset for (topic, _), offset in with_admin.items()}


def peak_mb(process):
    """The most memory that a process has held so far, in MB; 0 where the system does not say."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.timeout(120 + 60 * SCALE)
def test_floods_fill_no_memory(kafka, topic_prefix, tmp_path):
    """Impressions without clicks, then clicks without impressions, twenty times what is kept of each."""
    rule = {"max_pending_rows": LIMIT, "max_waiting_clicks": LIMIT}
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=1, rule=rule)
    rule, flood = JoinRule(**rule), Flood(cluster)
    shown, alone = [f"shown-{i}" for i in range(FLOOD)], [f"alone-{i}" for i in range(FLOOD)]

    def learned():
        return cluster.learned().items.get(flood.item, [0, 0])

    def clicks_consumed():
        ends = sum(len(records) for records in fold.read_topic(kafka, cluster.names.clicks).values())
        return consumed(cluster).get(cluster.names.clicks, 0) >= ends

    try:
        worker = cluster.start(0)
        flood.impressions(shown[: 2 * LIMIT])
        wait_for(lambda: learned() == [2 * LIMIT, 0], cluster)
        flood.clicks(alone[: 2 * LIMIT])
        wait_for(clicks_consumed, cluster)
        full_mb = peak_mb(worker)
        flood.impressions(shown[2 * LIMIT :])
        flood.clicks(alone[2 * LIMIT :])
        wait_for(lambda: learned() == [FLOOD, 0] and clicks_consumed(), cluster)
        flooded_mb = peak_mb(worker)
        print(f"{FLOOD:,} of each: {full_mb:.0f} MB when full, {flooded_mb:.0f} MB after")  # noqa: T201 - the figures
        assert flooded_mb < full_mb + SLACK_MB
        assert cluster.kill(0) == -9
        tally, waiting = tally_of(cluster, 0, rule)
        assert tally["rows_evicted"] == FLOOD - LIMIT
        assert (tally["clicks_unmatched"], waiting) == (FLOOD - LIMIT, LIMIT)
        # The newest are kept, even from an empty disk: a click on them counts, and an impression of them.
        cluster.wipe(0)
        cluster.start(0)
        kept = 50
        flood.clicks(shown[-LIMIT : -LIMIT + kept] + shown[-kept:])
        wait_for(lambda: learned() == [FLOOD, 2 * kept * fold.UNIT], cluster)
        flood.impressions(alone[-kept:])
        wait_for(lambda: learned() == [FLOOD + kept, 3 * kept * fold.UNIT], cluster)
        assert cluster.learned().edges[flood.item, int(cluster.graph.edge_cluster[0])] == [
            (FLOOD + kept) * X,
            (FLOOD + kept) * X * X,
            3 * kept * X * fold.UNIT,
        ]
        counts = verified(cluster, rule)
        assert counts["clicks_joined"] == 3 * kept
        assert (
            counts["clicks_joined"] + counts["clicks_unmatched"] + counts["clicks_waiting"] == flood.sent["clicks"]
        )
        assert counts["impressions_accepted"] == flood.sent["rows"]
        # Those beyond the limit are gone for good.
        flood.clicks(shown[:kept])
        wait_for(clicks_consumed, cluster)
        assert learned() == [FLOOD + kept, 3 * kept * fold.UNIT]
    finally:
        cluster.stop()
        flood.producer.close()


@pytest.mark.timeout(120 + 60 * SCALE)
def test_a_backlog_is_joined_as_if_there_had_been_none(kafka, topic_prefix, tmp_path):
    """Clicks are fewer bytes than impressions and come sooner; catching up, none is given up for being early."""
    rule = {"max_pending_rows": LIMIT, "max_waiting_clicks": LIMIT}
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=1, rule=rule)
    flood = Flood(cluster)
    shown = [f"shown-{i}" for i in range(FLOOD)]
    try:
        for start in range(0, FLOOD, PACKED):
            flood.impressions(shown[start : start + PACKED])
            flood.clicks(shown[start : start + PACKED])
            time.sleep(0.02)  # topics may be a tenth of a second apart, which must be less than what is kept
        cluster.start(0)
        wait_for(lambda: cluster.learned().items.get(flood.item, [0, 0])[0] == FLOOD, cluster)
        cluster.wait_until_learned(20)
        verified(cluster, JoinRule(**rule))
    finally:
        cluster.stop()
        flood.producer.close()
