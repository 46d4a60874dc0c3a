"""`freshet verify --kafka` and `freshet replay --from-kafka`: the topics recomputed from each other."""

import json
import subprocess
import sys

from kafka import KafkaProducer

from freshet.v1 import outcomes_pb2
from tests.kafka import fold
from tests.kafka.cluster import Cluster
from tests.kafka.test_worker_equality import hash_of


def freshet(*arguments):
    """Exit code and JSON of a command."""
    command = [sys.executable, "-m", "server", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_sound_topics_pass_and_a_forged_fact_is_found(kafka, topic_prefix, tmp_path):
    """Rows, ledger and sources agree after real workers; one fact too many in the ledger does not go unnoticed."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=4, item_partitions=2)
    source = cluster.feed(seed=7)
    topics = ("--prefix", topic_prefix, "--graph", str(tmp_path / "graph"), "--backend", "numpy")
    try:
        for number in range(2):
            cluster.start(number)
        for _ in range(3):
            source.step(60)
        source.finish()
        cluster.wait_until_learned()
        expected = hash_of(cluster.graph, cluster.learned())

        code, result, errors = freshet("verify", "--kafka", kafka, *topics)
        assert code == 0, (result, errors)
        assert result["ok"]
        assert result["state_hash"] == result["folded_hash"] == expected

        code, report, errors = freshet("replay", "--from-kafka", kafka, *topics)
        assert code == 0, errors
        assert report["state_hash"] == expected
        assert report["rows"] > 0

        _forge_fact(kafka, cluster)
        code, result, _ = freshet("verify", "--kafka", kafka, *topics)
        assert code == 1
        assert {check["name"] for check in result["checks"] if not check["ok"]}
    finally:
        cluster.stop()
        source.close()


def _forge_fact(bootstrap, cluster):
    """A ledger record of a further batch, which no source record explains."""
    cluster.stop()
    partition, records = next(
        (number, found) for number, found in fold.read_topic(bootstrap, cluster.names.outcomes).items() if found
    )
    batches = [record.value for record in records if outcomes_pb2.OutcomeBatch.FromString(record.value).item]
    forged = outcomes_pb2.OutcomeBatch.FromString(batches[-1])
    forged.sequence += 1_000
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.send(cluster.names.outcomes, value=forged.SerializeToString(), partition=partition)
    producer.flush(30)
    producer.close()
