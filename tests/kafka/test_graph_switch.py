"""Another artifact while workers learn and servers score: no reply mixes versions, shared edges keep their sums."""

import threading
from pathlib import Path

import numpy as np
import pytest

from bandits.artifact import save_graph
from bandits.backend import choose_backend
from bandits.graph import Graph, build_graph
from bandits.graph_edit import GraphEdit
from server.kafka_loop import KafkaLoop
from server.snapshot import Snapshot
from streams.embedded import LoopLimits
from tests.kafka import feed
from tests.kafka.cluster import Cluster
from tests.kafka.test_follower import wait_for
from tests.kafka.test_live_items import Server, verify


def other_graph(version: str, *, first: int, count: int) -> Graph:
    """Items `first` and further with the edges that they have in the test graph, and one more each."""
    graph = feed.make_graph()
    rows = [
        graph.edge_cluster[graph.item_ptr[n] : graph.item_ptr[n + 1]].tolist() for n in range(first, first + count)
    ]
    rows = [[*row, next(c for c in range(graph.n_clusters) if c not in row)] for row in rows]
    return build_graph(
        version=version,
        centroids=[],
        n_clusters=graph.n_clusters,
        item_ids=[f"item-{n}" for n in range(first, first + count)],
        edge_item=np.repeat(np.arange(count), [len(row) for row in rows]),
        edge_cluster=np.concatenate(rows),
    )


class Following(Server):
    """A server that follows its workers to other artifacts."""

    def __init__(self, cluster: Cluster, graphs: Path, graph: Graph) -> None:
        self.snapshot = Snapshot(choose_backend("numpy"))
        self.loop = KafkaLoop(
            cluster.bootstrap,
            names=cluster.names,
            limits=LoopLimits(),
            graph=graph,
            graph_dir=graphs,
            on_change=self.snapshot.apply,
        )
        self.loop.start()
        assert self.loop.wait_until_ready(30)


@pytest.mark.timeout(180)
def test_a_placed_artifact_takes_over_without_a_restart(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """Two workers and two servers follow three artifacts under load: every reading is of the version it names; what
    was learned of items in all of them, and of one that the catalogue added, stays; a late server agrees, and so
    does the ledger folded anew."""
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    cluster = Cluster(
        kafka,
        topic_prefix,
        tmp_path,
        source_partitions=2,
        item_partitions=3,
        graph_dir=str(graphs),
        graph_watch_s=0.2,
    )
    made = {"test-1": cluster.graph} | {f"v{n}": other_graph(f"v{n}", first=n, count=40) for n in (2, 3)}
    ids = {version: set(graph.item_ids) for version, graph in made.items()}
    servers: list[Following] = []
    stop = threading.Event()
    wrong: list[object] = []
    versions: set[str] = set()
    try:
        cluster.start(0)
        cluster.start(1)
        servers = [Following(cluster, graphs, cluster.graph) for _ in range(2)]
        one = servers[0]
        wait_for(lambda: len(one.loop.graph_partitions()) == 3, 60)  # workers have taken them over
        one.loop.edit_graph(GraphEdit("any", ["added"], [[0, 5]], retired=["item-20"]))
        wait_for(lambda: all(server.has("added") for server in servers))

        def read(server: Following) -> None:
            while not stop.wait(0.002):
                graph = server.parameters.graph
                base = graph.version.split("+")[0]
                versions.add(base)
                offered = {graph.item_ids[n] for n in graph.items_around(np.arange(12, dtype=np.int32)).tolist()}
                if not offered <= ids[base] | {"added"}:
                    wrong.append((graph.version, offered - ids[base]))

        readers = [threading.Thread(target=read, args=(server,)) for server in servers]
        for reader in readers:
            reader.start()
        shown = 0
        for version in ("v2", "v3"):
            for _ in range(10):
                servers[shown % 2].teach(f"r{shown}", "item-10", 0, 3)
                servers[shown % 2].teach(f"a{shown}", "added", 0, 3)
                shown += 1
            save_graph(made[version], graphs / version)
            for server in servers:
                wait_for(lambda s=server, v=version: s.parameters.graph.version.split("+")[0] == v, 60)
        stop.set()
        for reader in readers:
            reader.join()
        assert wrong == []
        assert versions == {"test-1", "v2", "v3"}
        servers.append(Following(cluster, graphs, cluster.graph))
        for server in servers:
            wait_for(
                lambda s=server: (s.impressions_of("item-10"), s.impressions_of("added")) == (shown, shown), 60
            )
            assert not server.has("item-20")
            assert not server.has("item-1")
        assert len({server.parameters.graph.version for server in servers}) == 1
        damaged = graphs / "v4"
        save_graph(other_graph("v4", first=5, count=3), damaged)
        (damaged / "edge_cluster.npy").write_bytes(b"")
        servers[0].teach("last", "item-10", 0, 3)
        wait_for(lambda: all(server.impressions_of("item-10") == shown + 1 for server in servers), 60)
        assert all(server.parameters.graph.version.startswith("v3") for server in servers)
        wait_for(lambda: servers[0].loop.status().ledger_end == servers[0].loop.status().applied_position)
        result = verify(cluster, str(graphs))
        assert {server.loop.state_hash() for server in servers} == {result["state_hash"]}
    finally:
        stop.set()
        for server in servers:
            server.loop.stop(grace_s=5)
        cluster.stop()
