"""Faults around the workers: brokers that stop or die, owners that sleep and wake too late, lying offsets."""

import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
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
def test_of_two_workers_with_one_name_the_older_ends(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """A worker sleeps within its session while another of its name takes over; it wakes and must not win."""
    cluster = Cluster(
        kafka, topic_prefix, tmp_path, source_partitions=4, item_partitions=4, session_timeout_ms=8_000
    )
    source = cluster.feed(27)
    try:
        old = cluster.start(0)
        source.step(50)
        source.flush()
        cluster.wait_until_learned()
        feed_for(source, 1)
        cluster.workers.pop(0)
        source.step(200)  # work in its buffers
        source.flush()
        old.send_signal(signal.SIGSTOP)
        cluster.start(0, disk="another")
        feed_for(source, 4)
        old.send_signal(signal.SIGCONT)
        feed_for(source, 2)
        assert old.wait(30) == 70
        assert 'another process has joined the group as "w0"' in cluster.last_words(200)
        assert cluster.workers[0].poll() is None, "the newer one must stay"
        source.finish()
        cluster.wait_until_learned(60)
    finally:
        old.kill()
        old.wait(10)
        cluster.stop()
        source.close()


@pytest.mark.timeout(60)
def test_a_worker_that_comes_back_does_not_wait_for_its_session(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Killed and started again under its name, a worker works long before its session could have ended."""
    cluster = Cluster(
        kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2, session_timeout_ms=40_000
    )
    source = cluster.feed(28)
    try:
        cluster.start(0)
        source.step(50)
        source.flush()
        cluster.wait_until_learned()
        cluster.kill(0)
        cluster.start(0)
        source.step(50)
        source.finish()
        cluster.wait_until_learned(20)
    finally:
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


@pytest.mark.timeout(120)
def test_deleted_records_are_not_passed_over_silently(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """A worker whose next records are deleted refuses with both offsets, until it is told to accept the gap."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=1)
    source = cluster.feed(24)
    try:
        cluster.start(0)
        source.step(50)
        source.flush()
        cluster.wait_until_learned()
        cluster.kill(0)
        before = end_of(kafka, cluster.names.clicks)
        source.step(50)
        source.flush()
        end = end_of(kafka, cluster.names.clicks)
        with KafkaAdminClient(bootstrap_servers=kafka) as admin:
            admin.delete_records({TopicPartition(cluster.names.clicks, 0): end})
        refused = cluster.start(0)
        assert refused.wait(30) == 70
        assert f"is at offset {before}, but the broker has deleted everything before {end}" in cluster.last_words()
        cluster.settings["accept_gap"] = True
        cluster.start(0)
        late = cluster.feed(25)
        late.requests = 10_000
        late.step(50)
        late.finish()
        late.close()
        deadline = time.monotonic() + 30
        while sum(n for n, _ in cluster.learned().items.values()) != shown_items(cluster):
            assert time.monotonic() < deadline, cluster.last_words()
            time.sleep(0.2)
    finally:
        cluster.stop()
        source.close()


@pytest.mark.timeout(60)
def test_a_told_worker_stops_in_order(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """SIGTERM under load ends the worker with exit code 0, and another continues exactly where it was."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    source = cluster.feed(26)
    try:
        cluster.start(0)
        source.step(50)
        source.flush()
        cluster.wait_until_learned()
        feed_for(source, 0.5)
        assert cluster.kill(0, signal.SIGTERM) == 0, cluster.last_words(40)
        cluster.start(1)
        source.finish()
        cluster.wait_until_learned()
    finally:
        cluster.stop()
        source.close()


def end_of(bootstrap: str, topic: str) -> int:
    """End of the only partition of a topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    try:
        return consumer.end_offsets([TopicPartition(topic, 0)])[TopicPartition(topic, 0)]
    finally:
        consumer.close()


def shown_items(cluster: Cluster) -> int:
    """Impressions of the items of the graph, all of which must have been learned."""
    return sum(n for n, _ in cluster.expected().items.values())
