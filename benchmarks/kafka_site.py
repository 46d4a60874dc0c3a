"""A place to measure Kafka mode in: a broker of its own, topics that are filled beforehand, child processes.

Invariants: everything lies in one temporary folder on a disk, not in memory, and is removed at the end; no process
outlives the block; what a child reports are lines of JSON on its standard output.
"""

import argparse
import asyncio
import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient

from bandits.artifact import save_graph
from bandits.graph import Graph
from benchmarks.kafka_events import Source
from freshet.v1 import events_pb2, recommender_pb2, recommender_pb2_grpc
from server.demo.child import ServerProcess
from streams.topics import TopicNames, TopicSettings, init_topics, plan_topics

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy" / "kafka"))

from kafka_broker import LocalBroker, free_port

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a new topic has no leader for a moment

PARTITIONS = 8
_BATCH_BYTES = 64 << 10  # as a producer with a linger of some milliseconds makes them
_SEND_AT_ONCE = 32
_READY_WITHIN_S = 60.0


class Child:
    """A process that reports in lines of JSON."""

    def __init__(self, module: str, settings: dict, log: Path) -> None:
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(settings)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=Path(__file__).parents[1],
            )
        self._log = log
        self._buffer = b""

    def expect(self, event: str, timeout_s: float = 120) -> dict:
        """The next line that tells of an event; lines before it are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                told = json.loads(line) if line.startswith(b'{"event"') else {}  # the log goes there too
                if told.get("event") == event:
                    return told
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self.process.stdout], [], [], left_s)[0]:
                raise TimeoutError(f"no {event!r} within {timeout_s} s\n{self._last_words()}")
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                raise RuntimeError(f"ended before {event!r}\n{self._last_words()}")
            self._buffer += piece

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-15:])


class Site:
    """Broker, folder, graph and children."""

    def __init__(self, bootstrap: str, folder: Path, graph: Graph, partitions: int) -> None:
        self.bootstrap, self.folder, self.graph, self.partitions = bootstrap, folder, graph, partitions
        self.children: list[Child] = []
        save_graph(graph, folder / "graph")

    def make_topics(self, prefix: str) -> None:
        names = TopicNames(prefix)
        settings = TopicSettings(names=names, source_partitions=self.partitions, item_partitions=self.partitions)
        assert init_topics(self.bootstrap, plan_topics(settings), timeout_s=30).ok

    def drop_topics(self, prefix: str) -> None:
        with KafkaAdminClient(bootstrap_servers=self.bootstrap) as admin:
            admin.delete_topics([name for name in admin.list_topics() if name.startswith(prefix + ".")])

    def fill(self, prefix: str, source: Source) -> None:
        asyncio.run(fill(self.bootstrap, prefix, source))

    def worker(self, prefix: str, **settings: object) -> Child:
        given = {
            "bootstrap": self.bootstrap,
            "prefix": prefix,
            "graph": str(self.folder / "graph"),
            "data_dir": str(self.folder / f"worker-{prefix}"),
        }
        return self.child("benchmarks.kafka_worker", given | settings)

    def child(self, module: str, settings: dict) -> Child:
        child = Child(module, settings, self.folder / f"{module}.log")
        self.children.append(child)
        return child


@contextmanager
def site(graph: Graph, *, partitions: int = PARTITIONS, heap_mib: int = 768) -> Iterator[Site]:
    """A site with a started broker."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # being told to end cleans up as well
    # The convention for files that should not be in memory: what is measured waits for a disk.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="freshet-bench-") as name:
        broker = LocalBroker(Path(name) / "broker", port=free_port(), heap_mib=heap_mib)
        broker.start()
        made = Site(broker.bootstrap, Path(name), graph, partitions)
        try:
            yield made
        finally:
            for child in made.children:
                if child.process.poll() is None:
                    child.kill()
            broker.kill9()


async def fill(bootstrap: str, prefix: str, source: Source) -> None:
    """Send a source as record batches of at most 64 KiB, or of one record where that is larger."""
    names = TopicNames(prefix)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=1 << 20, max_request_size=1 << 20)
    await producer.start()
    waiting = []
    try:
        for topic, parts in ((names.impressions, source.impressions), (names.clicks, source.clicks)):
            for partition, records in enumerate(parts):
                at = 0
                while at < len(records):
                    batch, size, first = producer.create_batch(), 0, at
                    while at < len(records) and (at == first or size + len(records[at][1]) < _BATCH_BYTES):
                        key, value = records[at]
                        batch.append(timestamp=None, key=key, value=value)
                        size += len(key) + len(value) + 12
                        at += 1
                    batch.close()
                    waiting.append(await producer.send_batch(batch, topic, partition=partition))
                    if len(waiting) >= _SEND_AT_ONCE:
                        await asyncio.gather(*waiting)
                        waiting.clear()
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()


def serve(place: Site, prefix: str) -> ServerProcess:
    """A server that follows the workers of a prefix and answers scores: it listens some time before it can."""
    server = ServerProcess(
        place.folder / "server",
        log_file=place.folder / "server.log",
        arguments=["--graph", str(place.folder / "graph"), "--kafka", place.bootstrap, "--log-level", "warning"],
        environment={"FRESHET_KAFKA__PREFIX": prefix},
    )
    context = events_pb2.ClusterWeights(cluster_ids=[0], weights=[1.0])
    request = recommender_pb2.ScoreRequest(cluster_weights=context, item_ids=[place.graph.item_ids[0]])
    deadline = time.monotonic() + _READY_WITHIN_S
    with grpc.insecure_channel(server.addresses["serving"]) as channel:
        stub = recommender_pb2_grpc.RecommenderServiceStub(channel)
        while True:
            try:
                stub.Score(request, timeout=5)
                return server
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    server.stop()
                    raise
            time.sleep(0.01)


def load() -> str:
    """The load averages, to stand beside a figure."""
    return "/".join(f"{value:.1f}" for value in os.getloadavg()[:2])


def parser(about: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    return made
