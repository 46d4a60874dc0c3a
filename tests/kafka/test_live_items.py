"""Items that come and go while workers learn and servers score: everybody agrees, and nothing learned is lost."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaProducer

from bandits.artifact import save_graph
from bandits.backend import choose_backend
from bandits.context import Context
from bandits.graph import build_graph
from bandits.graph_edit import GraphEdit, nearest_clusters
from freshet.v1 import events_pb2
from server.kafka_loop import KafkaLoop
from server.snapshot import Parameters, Snapshot
from streams.embedded import LoopLimits
from tests.kafka import fold
from tests.kafka.cluster import Cluster
from tests.kafka.test_follower import wait_for
from tests.kafka.test_verify_topics import freshet
from tests.server.serving import DIM
from tests.server.test_live_items import save_tower

N_CLUSTERS = 12


class Server:
    """A loop and its snapshot."""

    def __init__(self, cluster: Cluster) -> None:
        self.snapshot = Snapshot(choose_backend("numpy"))
        self.loop = KafkaLoop(
            cluster.bootstrap,
            names=cluster.names,
            limits=LoopLimits(),
            graph=cluster.graph,
            on_change=self.snapshot.apply,
        )
        self.loop.start()
        assert self.loop.wait_until_ready(30)

    @property
    def parameters(self) -> Parameters:
        assert self.snapshot.current is not None
        return self.snapshot.current

    def has(self, item_id: str) -> bool:
        return bool(self.parameters.graph.lookup([item_id])[0] >= 0)

    def around(self, cluster: int) -> set[str]:
        graph = self.parameters.graph
        return {graph.item_ids[number] for number in graph.items_around(np.array([cluster], np.int32)).tolist()}

    def impressions_of(self, item_id: str) -> float:
        parameters = self.parameters
        number = parameters.graph.lookup([item_id])
        if number[0] < 0:
            return -1
        return float(parameters.gather(number, Context(np.zeros(1, np.int32), np.ones(1))).sums.n[0])

    def teach(self, request_id: str, item_id: str, *clusters: int) -> None:
        context = {"cluster_ids": clusters, "weights": [0.5] * len(clusters)}
        shown = events_pb2.Impression(request_id=request_id, context=context, items=[{"item_id": item_id}])
        clicked = events_pb2.Click(request_id=request_id, item_id=item_id)
        self.loop.offer_impressions(events_pb2.ImpressionBatch(impressions=[shown])).result(20)
        self.loop.offer_clicks(events_pb2.ClickBatch(clicks=[clicked])).result(20)


@pytest.fixture
def cluster(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(kafka, topic_prefix, tmp_path, source_partitions=2, item_partitions=3)
    yield made
    made.stop()


def verify(cluster: Cluster, *more_graphs: str) -> dict:
    graphs = [part for graph in (str(cluster.folder / "graph"), *more_graphs) for part in ("--graph", graph)]
    code, result, errors = freshet(
        "verify", "--kafka", cluster.bootstrap, "--prefix", cluster.prefix, *graphs, "--backend", "numpy"
    )
    assert code == 0, (result, errors)
    return result


def test_items_are_live_for_workers_and_servers(cluster: Cluster) -> None:
    """A new item is offered by every server and learns; a changed one keeps what it knows; a retired one is
    in no reply; servers name the same version; a later server, a killed and a wiped worker come to the same."""
    cluster.start(0)
    cluster.start(1)
    one, two = Server(cluster), Server(cluster)
    servers = [one, two]
    try:
        wait_for(lambda: len(one.loop.graph_partitions()) == 3, 60)  # workers have taken them over
        graph = one.loop.edit_graph(GraphEdit("any", ["new-1", "new-2"], [[3, 0], [5]], published_ms=[7, 0]))
        assert graph.lookup(["new-1", "new-2"]).min() >= 0
        wait_for(lambda: all(server.has("new-1") and server.has("new-2") for server in servers))
        assert all("new-1" in server.around(3) & server.around(0) for server in servers)
        assert one.parameters.graph.published_ms is not None
        one.teach("r1", "new-1", 0, 3)
        two.teach("r2", "new-1", 0, 4)
        wait_for(lambda: [server.impressions_of("new-1") for server in servers] == [2, 2])
        two.loop.edit_graph(GraphEdit("any", ["new-1", "item-7"], [[0, 4], [1, 2]], retired=["item-3"]))
        wait_for(lambda: all("new-1" in server.around(4) for server in servers))
        assert all("new-1" not in server.around(3) for server in servers)
        wait_for(lambda: not any(server.has("item-3") for server in servers))
        assert [server.impressions_of("new-1") for server in servers] == [2, 2]
        wait_for(lambda: one.parameters.graph.version == two.parameters.graph.version)
        assert one.parameters.graph.version != cluster.graph.version
        hashes = {server.loop.state_hash() for server in servers}
        cluster.kill(0)
        cluster.kill(1)
        cluster.wipe(1)
        cluster.start(0)
        cluster.start(1)
        one.teach("r3", "new-1", 0, 4)
        one.teach("r4", "item-3", 0, 4)
        wait_for(lambda: [server.impressions_of("new-1") for server in servers] == [3, 3], 60)
        servers.append(Server(cluster))
        third = servers[-1].parameters
        wait_for(lambda: third.graph.version == one.parameters.graph.version)
        assert servers[-1].around(4) == one.around(4)
        assert servers[-1].impressions_of("new-1") == 3
        wait_for(lambda: one.loop.status().ledger_end == one.loop.status().applied_position)
        result = verify(cluster)
        assert {server.loop.state_hash() for server in servers} == {result["state_hash"]} != hashes
        one.loop.edit_graph(GraphEdit("any", ["item-3"], [[0, 1]]))  # it comes back, and knows what it knew
        wait_for(lambda: all(server.has("item-3") for server in servers))
        assert one.impressions_of("item-3") >= 1
    finally:
        for server in servers:
            server.loop.stop(grace_s=5)


def test_the_topic_takes_what_catalogues_send(cluster: Cluster) -> None:
    """Protobuf and JSON from a plain producer; what says nothing usable is a dead letter, once."""
    names = cluster.names
    producer = KafkaProducer(bootstrap_servers=cluster.bootstrap)
    records = [
        (b"plain", events_pb2.Item(cluster_ids={"values": [1, 2]}).SerializeToString()),
        (b"json", json.dumps({"item_id": "json", "cluster_ids": {"values": [4]}, "more": 1}).encode()),
        (b"other-id", events_pb2.Item(item_id="x", cluster_ids={"values": [1]}).SerializeToString()),
        (b"too-far", events_pb2.Item(cluster_ids={"values": [N_CLUSTERS]}).SerializeToString()),
        (b"no-place", events_pb2.Item(published_at_ms=1).SerializeToString()),
        (b"embedded", events_pb2.Item(embedding={"values": [1.0]}).SerializeToString()),
        (b"noise", b"\xff\xfe\xfd"),
        (b"\xff\xff", events_pb2.Item(cluster_ids={"values": [1]}).SerializeToString()),
        (b"nobody", None),
        (b"item-5", None),
        (b"last", events_pb2.Item(cluster_ids={"values": [7]}).SerializeToString()),
    ]
    for key, value in records:
        producer.send(names.items, value, key=key)
    producer.flush()
    producer.close()
    cluster.start(0)
    server = Server(cluster)
    try:
        wait_for(lambda: all(map(server.has, ("plain", "json", "last"))) and not server.has("item-5"), 30)
        cluster.kill(0)
        cluster.start(0)
        server.teach("r1", "json", 4, 5)
        wait_for(lambda: server.impressions_of("json") == 1, 60)
        letters = [
            record
            for found in fold.read_topic(cluster.bootstrap, f"{names.items}.dlq").values()
            for record in found
        ]
        assert sorted(record.key for record in letters) == sorted(
            [b"other-id", b"too-far", b"no-place", b"embedded", b"noise", b"\xff\xff"]
        )
        reasons = {record.key: dict(record.headers)["freshet-reason"].decode() for record in letters}
        assert "0 <= id < 12, got 12" in reasons[b"too-far"]
        assert "expected other-id as the key, got x" in reasons[b"other-id"]
        verify(cluster)
    finally:
        server.loop.stop(grace_s=5)


def test_the_tower_of_a_worker_places_items_by_their_content(cluster: Cluster, tmp_path: Path) -> None:
    """What comes with attributes alone is offered around the clusters nearest to it, and learns there; what the
    tower knows nothing of is a dead letter."""
    tower = save_tower(tmp_path / "tower")
    rng = np.random.default_rng(1)
    cluster.graph = build_graph(
        version="with-centroids",
        centroids=rng.normal(size=(N_CLUSTERS, DIM)),
        item_ids=["a", "b"],
        edge_item=[0, 0, 1, 1],
        edge_cluster=[0, 1, 2, 3],
    )
    save_graph(cluster.graph, tmp_path / "centroids")
    shutil.rmtree(cluster.folder / "graph")
    (tmp_path / "centroids").rename(cluster.folder / "graph")
    cluster.settings["item_tower"] = str(tmp_path / "tower")
    names = cluster.names
    with KafkaProducer(bootstrap_servers=cluster.bootstrap) as producer:
        for key, attributes in ((b"known", {"genre": "rock"}), (b"unknown", {"colour": "red"})):
            producer.send(names.items, events_pb2.Item(attributes=attributes).SerializeToString(), key=key)
    cluster.start(0)
    server = Server(cluster)
    try:
        wait_for(lambda: server.has("known"), 30)
        nearest = nearest_clusters(cluster.graph, tower.embed({"genre": ["rock"], "length": [""]}))[0].tolist()
        assert [c for c in range(N_CLUSTERS) if "known" in server.around(c)] == nearest
        server.teach("r1", "known", *nearest)
        wait_for(lambda: server.impressions_of("known") == 1, 30)
        letters = fold.read_topic(cluster.bootstrap, f"{names.items}.dlq")
        assert [record.key for found in letters.values() for record in found] == [b"unknown"]
        verify(cluster)
    finally:
        server.loop.stop(grace_s=5)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [4])
def test_kills_between_edits_and_events_leave_rows_that_verify(cluster: Cluster, seed: int) -> None:
    """Workers killed at every step of a commit, one with its disk emptied, while items come, change and go."""
    rng = random.Random(seed)
    cluster.start(0)
    server = Server(cluster)
    steps = [
        "learner-folded",
        "learner-written",
        "learner-published",
        "learner-marked",
        "learner-restored",
        "learner-fenced",
    ]
    model: dict[str, int] = {}
    producer = KafkaProducer(bootstrap_servers=cluster.bootstrap)
    try:
        for turn, step in enumerate(steps):
            cluster.kill(0)
            if turn % 3 == 2:
                cluster.wipe(0)
            died = cluster.start(0, failpoint=f"{step}:{rng.randint(1, 3)}")
            for number in range(8):
                name = f"new-{rng.randint(0, 5)}"
                clusters = rng.sample(range(N_CLUSTERS), rng.randint(1, 4))
                item = events_pb2.Item(cluster_ids={"values": clusters}).SerializeToString()
                producer.send(cluster.names.items, None if rng.random() < 0.2 else item, key=name.encode())
                producer.flush()
                server.teach(f"r{turn}-{number}", name, *sorted(rng.sample(range(N_CLUSTERS), 2)))
            wait_for(lambda died=died: died.poll() is not None, 40)
            cluster.workers.pop(0)
            cluster.start(0)
            probe = f"probe-{turn}"
            producer.send(
                cluster.names.items,
                events_pb2.Item(cluster_ids={"values": [1]}).SerializeToString(),
                key=probe.encode(),
            )
            producer.flush()
            wait_for(lambda probe=probe: server.has(probe), 60)
            server.teach(f"p{turn}", probe, 1, 2)
            model[probe] = 1
        wait_for(lambda: all(server.impressions_of(probe) == n for probe, n in model.items()), 60)
        wait_for(lambda: server.loop.status().ledger_end == server.loop.status().applied_position)
        assert verify(cluster)["state_hash"] == server.loop.state_hash(), f"seed {seed}"
    finally:
        producer.close()
        server.loop.stop(grace_s=5)
