"""What workers cannot make good: a full disk, deleted records. They say so in one sentence and stop."""

import pytest
from kafka import KafkaAdminClient, TopicPartition

from bandits.join_rule import JoinRule
from tests.kafka.cluster import Cluster
from tests.kafka.test_worker_faults import end_of
from tests.kafka.test_worker_times import verified

LARGEST_BYTES = 300_000


@pytest.mark.timeout(120)
def test_a_full_disk_stops_the_worker_before_it_commits(kafka, topic_prefix, tmp_path):
    """A store that cannot be written ends the process with one sentence; with room again, nothing is lost."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    source = cluster.feed(seed=14)
    try:
        cluster.settings["largest_file_bytes"] = LARGEST_BYTES
        worker = cluster.start(0)
        source.step(3_000)
        source.flush()
        assert worker.wait(60) == 70
        said = cluster.last_words(1)
        assert "the store in" in said
        assert "cannot be written: IO error" in said
        largest = max(path.stat().st_size for path in tmp_path.glob("worker-0/*/*.log"))
        assert largest <= LARGEST_BYTES
        del cluster.settings["largest_file_bytes"]
        cluster.start(0)
        source.finish()
        cluster.wait_until_learned(60)
        verified(cluster, JoinRule())
    finally:
        cluster.stop()
        source.close()


def delete_records(bootstrap, ends):
    """Delete the only partitions of topics up to some offsets, as retention would."""
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        admin.delete_records({TopicPartition(topic, 0): end for topic, end in ends.items()})


@pytest.mark.timeout(120)
def test_facts_that_no_row_includes_are_missed(kafka, topic_prefix, tmp_path):
    """Ledger records deleted before they were learned are not passed over: refused with both offsets."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=1)
    source, names = cluster.feed(seed=17), cluster.names
    try:
        dies = cluster.start(0, failpoint="learner-folded")
        source.step(50)
        source.flush()
        assert dies.wait(30) == 77
        end = end_of(kafka, names.outcomes)
        delete_records(kafka, {names.outcomes: end})
        refused = cluster.start(0)
        assert refused.wait(30) == 70
        assert "the rows include the ledger up to 0, but the broker has deleted everything" in cluster.last_words()
        assert f"before {end}" in cluster.last_words()
    finally:
        cluster.stop()
        source.close()


@pytest.mark.timeout(120)
def test_deleted_sources_an_empty_disk_needs_are_missed(kafka, topic_prefix, tmp_path):
    """A worker without a store that cannot join up to where the ledger is refuses with both offsets."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=1)
    source, names = cluster.feed(seed=18), cluster.names
    try:
        cluster.start(0)
        source.step(50)
        source.flush()
        cluster.wait_until_learned()
        cluster.kill(0)
        needed = end_of(kafka, names.clicks)
        source.step(50)
        source.flush()
        end = end_of(kafka, names.clicks)
        delete_records(kafka, {names.clicks: end})
        cluster.wipe(0)
        refused = cluster.start(0)
        assert refused.wait(30) == 70
        assert f"recovery needs offset {needed}, but the broker has deleted everything" in cluster.last_words()
        assert f"before {end}" in cluster.last_words()
    finally:
        cluster.stop()
        source.close()


@pytest.mark.timeout(120)
def test_a_forgotten_ledger_swallows_nothing(kafka, topic_prefix, tmp_path):
    """Sequences that learners have applied are not used again when neither ledger nor disk remembers them."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=1, item_partitions=1)
    source, names = cluster.feed(seed=19), cluster.names
    try:
        cluster.start(0)
        for _ in range(4):  # as many micro-batches
            source.step(20)
            source.flush()
            cluster.wait_until_learned()
        cluster.stop()
        cluster.wipe(0)
        before = cluster.learned()
        forgotten = (names.outcomes, names.impressions, names.clicks)
        delete_records(kafka, {topic: end_of(kafka, topic) for topic in forgotten})
        refused = cluster.start(0)
        assert refused.wait(30) == 70
        assert "learners have applied its batches up to" in cluster.last_words()
        assert "but the broker has deleted those after 0 from the ledger" in cluster.last_words()
        cluster.settings["accept_gap"] = True
        cluster.start(0)
        later = cluster.feed(seed=20)
        later.requests = 10_000
        later.step(30)
        later.finish()
        later.close()
        expected = cluster.expected()
        for key, (n, s) in before.items.items():
            also = expected.items.get(key, [0, 0])
            expected.items[key] = [n + also[0], s + also[1]]
        for edge, values in before.edges.items():
            also = expected.edges.get(edge, [0, 0, 0])
            expected.edges[edge] = [one + other for one, other in zip(values, also, strict=True)]
        cluster.wait_until_learned(expected=expected)
    finally:
        cluster.stop()
        source.close()
