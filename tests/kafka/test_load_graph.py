"""LoadGraph on Kafka: every worker and server goes on under another graph, or none does; no sum is lost."""

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bandits.artifact import load_graph, save_graph
from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from bandits.overlap import OverlapMap
from freshet.v1 import events_pb2
from streams.artifact_dir import OVERLAP
from streams.embedded import EmbeddedLoop, LoopLimits
from streams.overlap_folder import load_overlap, save_overlap
from tests.kafka import fold
from tests.kafka.cluster import Cluster
from tests.kafka.test_follower import wait_for
from tests.kafka.test_graph_switch import Following, other_graph
from tests.kafka.test_live_items import verify

SWAPS = ["v3", "test-1", "v2", "v3", "v2"]
Taught = tuple[str, str, int, int]


def events() -> Iterator[Taught]:
    """Requests one after the other: id, item, and two clusters."""
    for number in itertools.count():
        yield f"r{number}", f"item-{number % 12}", number % 3, 3 + number % 4


def teach_embedded(loop: EmbeddedLoop, request_id: str, item_id: str, *clusters: int) -> None:
    """What `Server.teach` sends, to a loop in this process."""
    context = {"cluster_ids": clusters, "weights": [0.5] * len(clusters)}
    shown = events_pb2.Impression(request_id=request_id, context=context, items=[{"item_id": item_id}])
    clicked = events_pb2.Click(request_id=request_id, item_id=item_id)
    loop.offer_impressions(events_pb2.ImpressionBatch(impressions=[shown])).result(20)
    loop.offer_clicks(events_pb2.ClickBatch(clicks=[clicked])).result(20)


class Reading:
    """Threads that read a server's replies, and what they saw.

    Args:
        server: to be read.
        ids: items of each version.
    """

    def __init__(self, server: Following, ids: dict[str, set[str]]) -> None:
        self.mixed: list[object] = []
        self.versions: set[str] = set()
        self._stop = threading.Event()
        self._server, self._ids = server, ids
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.wait(0.002):
            graph = self._server.parameters.graph
            self.versions.add(graph.version)
            offered = {graph.item_ids[n] for n in graph.items_around(np.arange(12, dtype=np.int32)).tolist()}
            if not offered <= self._ids[graph.version]:
                self.mixed.append((graph.version, offered - self._ids[graph.version]))


@pytest.mark.timeout(180)
def test_operators_switch_all_workers_and_servers_or_none(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """A switch that inherits sums leaves the state of the embedded loop; one that a worker has no artifact for is
    refused; of five under load no reading mixes versions, and rows are the ledger's fold, those of no item gone."""
    graphs, lacking = tmp_path / "graphs", tmp_path / "lacking"
    cluster = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=2, graph_watch_s=0)
    made = {"test-1": cluster.graph} | {f"v{n}": other_graph(f"v{n}", first=n, count=40) for n in (2, 3)}
    for folder, version in itertools.product((graphs, lacking), made):
        folder.mkdir(exist_ok=True)
        save_graph(made[version], folder / (version if folder is graphs or version != "v3" else ".v3"))
    shares = OverlapMap(np.arange(0, 25, 2), np.arange(24, dtype=np.int32) % 12, np.full(24, 1 << 19), 12)
    for folder in (graphs, lacking):
        save_overlap(shares, folder / "v2" / OVERLAP, old=made["test-1"], new=made["v2"])
    stored = load_overlap(graphs / "v2" / OVERLAP)
    embedded = EmbeddedLoop(
        tmp_path / "embedded",
        rule=JoinRule(),
        limits=LoopLimits(),
        backend=choose_backend("numpy"),
        graph=cluster.graph,
        on_change=lambda change: None,
        clock_ms=lambda: int(time.time() * 1000),
    )
    embedded.start()
    feed = events()
    servers: list[Following] = []
    try:
        for number, folder in enumerate((graphs, lacking)):
            cluster.settings["graph_dir"] = str(folder)
            cluster.start(number)
        servers = [Following(cluster, graphs, cluster.graph) for _ in range(2)]
        one, two = servers

        def teach_both(count: int) -> None:
            for event in itertools.islice(feed, count):
                one.teach(*event)
                teach_embedded(embedded, *event)
            wait_for(lambda: one.loop.state_hash() == embedded.state_hash(), 40)

        teach_both(24)
        switched = [loop.load_graph(load_graph(graphs / "v2"), stored) for loop in (embedded, one.loop)]
        assert switched[0] == switched[1]
        assert one.loop.state_hash() == embedded.state_hash()
        teach_both(12)

        with pytest.raises(ValueError, match=r"no artifact of graph v3 in .*lacking"):
            one.loop.load_graph(load_graph(graphs / "v3"))
        said = one.loop.graph_partitions()
        assert {part.graph_version for part in said} == {"v2"}
        assert {part.worker: bool(part.refusal) for part in said} == {"w0": False, "w1": True}
        assert {server.parameters.graph.version for server in servers} == {"v2"}

        (lacking / ".v3").rename(lacking / "v3")
        readings = [Reading(server, {v: set(graph.item_ids) for v, graph in made.items()}) for server in servers]
        stop = threading.Event()

        def load() -> None:
            while not stop.wait(0.02):
                two.teach(*next(feed))

        loading = threading.Thread(target=load)
        loading.start()
        try:
            for version in SWAPS:
                one.loop.load_graph(load_graph(graphs / version))
                wait_for(lambda v=version: two.parameters.graph.version == v, 40)
        finally:
            stop.set()
            for thread in (*readings, loading):
                (thread.stop if isinstance(thread, Reading) else thread.join)()
        assert [reading.mixed for reading in readings] == [[], []]
        assert all(reading.versions >= set(SWAPS) for reading in readings)
        two.teach("last", "item-10", 0, 3)
        for _ in range(5):  # until nothing is on its way any longer
            wait_for(lambda: one.loop.status().ledger_end == one.loop.status().applied_position, 40)
            held = {server.loop.state_hash() for server in servers}
            expected = verify(cluster, str(graphs))["state_hash"]
            if held == {expected}:
                break
        assert held == {expected}
        assert rows_of(cluster) <= set(made["v2"].item_ids)
    finally:
        for server in servers:
            server.loop.stop(grace_s=5)
        embedded.stop(grace_s=5)
        cluster.stop()


def rows_of(cluster: Cluster) -> set[str]:
    """Items that the parameters topic has a row of."""
    last = {
        record.key: record.value
        for records in fold.read_topic(cluster.bootstrap, cluster.names.parameters).values()
        for record in records
    }
    return {key.decode() for key, value in last.items() if value is not None and key[:1] != b"\xff"}
