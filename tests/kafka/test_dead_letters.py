"""Bad records on the real broker: one dead letter each, the stream goes on, and replay brings them back."""

import json
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner
from kafka import KafkaProducer

from server.commands.replay_dlq import replay_dlq
from tests.kafka import fold
from tests.kafka.cluster import Cluster

BAD = [("test-kind", b"bad")]
ROOT = Path(__file__).parents[2]


def letters_of(cluster: Cluster, topic: str) -> list:
    read = fold.read_topic(cluster.bootstrap, cluster.names.dead_letters(topic))
    return [record for records in read.values() for record in records]


def wait_for_letters(cluster: Cluster, topic: str, count: int) -> list:
    deadline = time.monotonic() + 20
    while len(found := letters_of(cluster, topic)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} letters\n{cluster.last_words()}"
        time.sleep(0.2)
    time.sleep(0.5)
    return letters_of(cluster, topic)


def test_bad_records_become_one_dead_letter_each(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """Garbage, wrong types, nulls and bad events between good ones: each is refused once, with its place."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    source = cluster.feed(11)
    producer = KafkaProducer(bootstrap_servers=kafka)
    good = {"request_id": "g", "context": {"cluster_ids": [1], "weights": [0.5]}, "items": [{"item_id": "item-2"}]}
    bad = [
        b"\xff\xfe garbage",
        b"{not json",
        None,
        b"",
        b"[]",
        b'{"impressions": 3}',
        json.dumps(good | {"occurred_at_ms": -5}).encode(),
        json.dumps(good | {"occurred_at_ms": 10**15}).encode(),
        json.dumps(good | {"mode": 99}).encode(),
        json.dumps(good | {"context": {"cluster_ids": [1], "weights": [7]}}).encode(),
        b"x" * 900_000,
    ]
    try:
        cluster.start(0)
        source.step(30)
        for value in bad:
            producer.send(cluster.names.impressions, value, key=b"k", partition=1, headers=BAD)
        mixed = {"impressions": [good | {"request_id": "m1"}, good | {"items": []}, good | {"request_id": "m2"}]}
        producer.send(
            cluster.names.impressions,
            json.dumps(mixed).encode(),
            key=b"k",
            partition=1,
            headers=BAD,
        )
        producer.flush()
        source.step(30)
        source.finish()
        found = wait_for_letters(cluster, cluster.names.impressions, len(bad) + 1)
        assert len(found) == len(bad) + 1
        headers = [dict(letter.headers) for letter in found]
        assert all(header["freshet-reason"] and header["freshet-partition"] == b"1" for header in headers)
        assert len({(header["freshet-offset"], header.get("freshet-index")) for header in headers}) == len(found)
        assert {letter.value for letter in found} >= set(bad)
        assert [header.get("freshet-index") for header in headers].count(b"1") == 1
        # Both good events of the mixed batch were learned.
        deadline = time.monotonic() + 20
        expected = cluster.expected().items["item-2"][0] + 2
        while cluster.learned().items["item-2"][0] != expected:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        cluster.stop()
        source.close()
        producer.close()


def test_replay_sends_letters_again(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """What is refused for an undeclared kind is learned after `replay-dlq`, once, however often that runs."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2)
    producer = KafkaProducer(bootstrap_servers=kafka)
    shown = {"request_id": "r", "context": {"cluster_ids": [1], "weights": [0.5]}, "items": [{"item_id": "item-2"}]}
    click = {"request_id": "r", "item_id": "item-2", "kind": "purchase"}
    try:
        cluster.start(0)
        producer.send(cluster.names.impressions, json.dumps(shown).encode(), key=b"r")
        producer.send(cluster.names.clicks, json.dumps(click).encode(), key=b"r")
        producer.flush()
        wait_for_letters(cluster, cluster.names.clicks, 1)
        cluster.kill(0)
        cluster.settings["rule"] = {"kind_weights": {"click": 1.0, "purchase": 0.5}}
        cluster.start(0)
        arguments = ["--bootstrap", kafka, "--prefix", topic_prefix, "--source", "clicks", "--json"]
        for _ in range(2):
            result = CliRunner().invoke(replay_dlq, arguments, catch_exceptions=False)
            assert result.exit_code == 0
            assert json.loads(result.stdout)["sent"] == 1
        deadline = time.monotonic() + 20
        while cluster.learned().items.get("item-2") != [1, fold.UNIT // 2]:
            assert time.monotonic() < deadline, cluster.learned().items
            time.sleep(0.2)
        time.sleep(0.5)
        assert cluster.learned().items["item-2"] == [1, fold.UNIT // 2]
    finally:
        cluster.stop()
        producer.close()


def test_the_documented_producer_is_learned_from(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """The example of the documentation needs nothing from us but the schema."""
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=4, item_partitions=4)
    try:
        cluster.start(0)
        example = ROOT / "docs" / "kafka_producer_example.py"
        subprocess.run([sys.executable, str(example), kafka, topic_prefix], check=True, timeout=60)
        deadline = time.monotonic() + 20
        while cluster.learned().items != {"item-1": [1, fold.UNIT]}:
            assert time.monotonic() < deadline, cluster.last_words()
            time.sleep(0.2)
    finally:
        cluster.stop()
