"""Real logs as JSON from a plain producer, learned by two workers, served by two servers."""

import json
import os
import subprocess
import sys
import time

import grpc
import pytest
from kafka import KafkaProducer

from bandits.artifact import save_graph
from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from freshet.v1 import operations_pb2, operations_pb2_grpc
from streams.logs import read_kuairand, read_open_bandit
from streams.replay import replay
from streams.topics import TopicNames, TopicSettings, init_topics, plan_topics


class Programs:
    """Processes of the `freshet` program, ended at the end."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []

    def start(self, name, *arguments):
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-m", "server", *arguments]
            self.running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log))
        return self.running[-1]

    def serve(self, name, bootstrap, prefix):
        """A server over Kafka that is ready; its addresses by name."""
        process = self.start(
            name,
            *("serve", "--kafka", bootstrap, "--graph", str(self.folder / "graph"), "--json"),
            *("--address", "127.0.0.1:0", "--operations-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
            *("--data-dir", str(self.folder / name), "--kafka-prefix", prefix, "--backend", "numpy"),
        )
        return json.loads(process.stdout.readline())["addresses"]

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(60)
            process.stdout.close()


def produce(bootstrap, prefix, log):
    """What anybody's producer would send: JSON, one event a record, keyed by request."""
    names = TopicNames(prefix)
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=262_144)
    for row in range(len(log)):
        clusters, weights = log.context_of(row)
        key = log.request_ids[row].encode()
        shown = {
            "request_id": log.request_ids[row],
            "context": {"cluster_ids": clusters.tolist(), "weights": weights.tolist()},
            "items": [{"item_id": log.item_ids[row], "position": int(log.position[row])}],
        }
        producer.send(names.impressions, key=key, value=json.dumps(shown).encode())
        if log.clicked[row]:
            click = {"request_id": log.request_ids[row], "item_id": log.item_ids[row]}
            producer.send(names.clicks, key=key, value=json.dumps(click).encode())
    producer.flush(120)
    producer.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["kuairand", "open-bandit"])
def test_two_workers_and_two_servers_learn_what_the_replay_learns(kafka, topic_prefix, data_dir, tmp_path, name):
    """Both servers end with the state hash of the one-process replay of the same log."""
    rows = int(os.environ.get("FRESHET_TEST_ROWS", "20000"))
    if name == "kuairand":
        log = read_kuairand(data_dir / "kuairand").first(rows)
    else:
        log = read_open_bandit(data_dir / "obd" / "random/all/all.csv")
    save_graph(log.graph, tmp_path / "graph")
    clean = replay(
        log,
        rule=JoinRule(),
        backend=choose_backend("numpy"),
        batch_rows=5_000,
        clock=lambda: 0.0,
        progress=lambda rows: None,
    )
    settings = TopicSettings(names=TopicNames(topic_prefix), source_partitions=4, item_partitions=4)
    assert init_topics(kafka, plan_topics(settings), timeout_s=30).ok
    programs = Programs(tmp_path)
    try:
        for number in range(2):
            programs.start(
                f"worker-{number}",
                *("worker", "--bootstrap", kafka, "--prefix", topic_prefix, "--graph", str(tmp_path / "graph")),
                *("--data-dir", str(tmp_path / f"worker-{number}"), "--name", f"w{number}", "--backend", "numpy"),
            )
        addresses = [programs.serve(f"server-{number}", kafka, topic_prefix)["operations"] for number in range(2)]
        # A server that says it is ready has read the parameters to their end.
        assert all(_status(address).graph_version == log.graph.version for address in addresses)
        produce(kafka, topic_prefix, log)
        for address in addresses:
            assert _hash_when_learned(address, clean.state_hash) == clean.state_hash
    finally:
        programs.stop()


def _status(address):
    with grpc.insecure_channel(address) as channel:
        operations = operations_pb2_grpc.OperationsServiceStub(channel)
        return operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=10)


def _hash_when_learned(address, expected, timeout_s=120):
    """The state hash of a server once it is the expected one, or after the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        status = _status(address)
        assert status.plumbing == "kafka"
        if status.state_hash == expected or time.monotonic() > deadline:
            return status.state_hash
        time.sleep(0.2)
