"""Faults around the workers: brokers that stop or die, owners that sleep and wake too late, lying offsets."""

import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.structs import OffsetAndMetadata
from kafka_broker import LocalBroker

from tests.kafka.cluster import Cluster


def feed_for(source, seconds: float) -> None:
    """Steady events for a while."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        source.step(5)
        time.sleep(0.05)


@pytest.mark.timeout(120)
def test_a_broker_that_sleeps_or_dies_loses_nothing(own_broker: LocalBroker, tmp_path: Path) -> None:
    """The broker is frozen for longer than a session, then killed and restarted, under a steady feed."""
    cluster = Cluster(own_broker.bootstrap, "faults", tmp_path, source_partitions=4, item_partitions=4)
    source = cluster.feed(21)
    try:
        workers = [cluster.start(0), cluster.start(1)]
        feed_for(source, 4)
        own_broker.pause()
        feed_for(source, 4)
        own_broker.resume()
        feed_for(source, 2)
        own_broker.kill9()
        time.sleep(2)
        own_broker.start()
        feed_for(source, 2)
        source.finish()
        for number, worker in enumerate(workers):
            if worker.poll() is not None:  # a supervisor would do this
                cluster.workers.pop(number)
                cluster.start(number)
        cluster.wait_until_learned(60)
    finally:
        cluster.stop()
        source.close()


@pytest.mark.timeout(120)
def test_a_zombie_changes_nothing(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """A worker sleeps past its session in the middle of work, others take over, and it wakes while they write."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=4, item_partitions=4)
    source = cluster.feed(22)
    try:
        cluster.start(0)
        feed_for(source, 4)
        zombie = cluster.workers[0]
        for _ in range(2):
            source.step(200)  # work in its buffers
            source.flush()
            zombie.send_signal(signal.SIGSTOP)
            if 1 not in cluster.workers:
                cluster.start(1)
            feed_for(source, 3.5)
            zombie.send_signal(signal.SIGCONT)
            feed_for(source, 2.5)
        source.finish()
        if zombie.poll() is not None:
            cluster.workers.pop(0)
        cluster.wait_until_learned(60)
    finally:
        zombie.send_signal(signal.SIGCONT)
        cluster.stop()
        source.close()


@pytest.mark.timeout(120)
def test_the_offsets_of_the_group_decide_nothing(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """Somebody moves the group's committed offsets to the start and far ahead while the worker is away."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    source = cluster.feed(23)
    group = f"{topic_prefix}.worker"
    try:
        for offset in (0, 10_000):
            cluster.start(0)
            source.step(100)
            source.flush()
            cluster.wait_until_learned()
            cluster.kill(0)
            source.step(100)
            source.flush()
            move_offsets(kafka, group, [cluster.names.impressions, cluster.names.outcomes], offset)
        cluster.start(0)
        source.finish()
        cluster.wait_until_learned(60)
    finally:
        cluster.stop()
        source.close()


def move_offsets(bootstrap: str, group: str, topics: list[str], offset: int) -> None:
    """As an admin tool would; the group must be empty, so its last member's session must have ended."""
    wanted = {TopicPartition(topic, p): OffsetAndMetadata(offset, "", -1) for topic in topics for p in range(2)}
    deadline = time.monotonic() + 20
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        while True:
            try:
                admin.alter_group_offsets(group, wanted)
                stored = admin.list_group_offsets(group)[group]
                assert {stored[tp].offset for tp in wanted} == {offset}
                return
            except Exception:
                assert time.monotonic() < deadline
                time.sleep(0.3)
