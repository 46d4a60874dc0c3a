"""Impressions in flight on real workers: windows close when the topics fall silent, and verification agrees."""

import os
import subprocess
import sys
import time

from tests.kafka import fold
from tests.kafka.cluster import Cluster

WINDOW_MS = 4_000


def in_flight(cluster):
    """Edges of the published rows on which something is in flight."""
    records = fold.read_topic(cluster.bootstrap, cluster.names.parameters).values()
    rows = {record.key: record.value for found in records for record in found if record.key[:1] != b"\xff"}
    parsed = [fold.parameters_pb2.ItemParameters.FromString(value) for value in rows.values()]
    return sum(amount != 0 for row in parsed for amount in row.open)


def verify(cluster, folder, **settings):
    rule = {f"FRESHET_JOIN__{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "server", "verify", "--kafka", cluster.bootstrap, "--prefix", cluster.prefix]
    command += ["--graph", str(folder / "graph"), "--backend", "numpy"]
    done = subprocess.run(command, env=os.environ | rule, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_windows_close_when_the_topics_fall_silent(kafka, topic_prefix, tmp_path):
    """Published first as in flight, then as counted, once, with the sums of impressions that count at once."""
    rule = {"resolution": "at_close", "window_ms": WINDOW_MS}
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2, rule=rule)
    source = cluster.feed(seed=11)
    try:
        cluster.start(0)
        source.step(40)
        source.finish()
        until_s = time.monotonic() + 30
        while not in_flight(cluster):
            assert time.monotonic() < until_s, cluster.last_words()
            time.sleep(0.1)
        verify(cluster, tmp_path, **rule)
        cluster.wait_until_learned(60)
        assert in_flight(cluster) == 0
        verify(cluster, tmp_path, **rule)
    finally:
        cluster.stop()
        source.close()


def test_positions_and_forgetting_are_the_same_on_every_path(kafka, topic_prefix, tmp_path):
    """Rows, ledger and sources agree bit for bit, after a worker has lost its disk; impressions count once."""
    rule = {"position_gammas": [1.0, 0.6, 0.3], "half_life_ms": 60_000}
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2, rule=rule)
    source = cluster.feed(seed=12)
    try:
        cluster.start(0)
        source.step(60)
        source.flush()
        time.sleep(2)
        cluster.kill(0)
        cluster.wipe(0)
        cluster.start(0)
        source.step(60)
        source.finish()
        expected, until_s = cluster.expected().items, time.monotonic() + 60
        while cluster.learned().items != expected:
            assert time.monotonic() < until_s, cluster.last_words()
            time.sleep(0.2)
        verify(cluster, tmp_path, **rule)
    finally:
        cluster.stop()
        source.close()
