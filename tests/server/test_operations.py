"""What operators see and change, while callers are served."""

import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from bandits.artifact import save_graph
from bandits.sums import Sums
from freshet.v1 import events_pb2, operations_pb2
from server.item_views import top_items, uncertainty
from tests.server.conftest import Start
from tests.server.messages import (
    DEADLINE_S,
    click,
    clicks,
    impression,
    impressions,
    recommend_request,
    refusal,
    score_request,
    violations,
)
from tests.server.serving import N_CLUSTERS, N_ITEMS, Client, small_graph

IDS = [f"item-{j}" for j in range(N_ITEMS)]
Order = operations_pb2.ItemOrder


def status_of(client: Client) -> operations_pb2.GetStatusResponse:
    return client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)


def teach(client: Client, request_id: str, *item_ids: str, clicked: tuple[str, ...] = ()) -> None:
    """Show items once in every cluster, and click some of them."""
    everywhere = events_pb2.ClusterWeights(cluster_ids=range(N_CLUSTERS), weights=[1.0] * N_CLUSTERS)
    shown = impression(request_id, *item_ids, context=everywhere)
    client.feedback.LogImpressions(impressions(shown), timeout=DEADLINE_S)
    if clicked:
        client.feedback.LogClicks(clicks(*(click(request_id, i) for i in clicked)), timeout=DEADLINE_S)


def listed(client: Client, order: Order.ValueType, limit: int = 0) -> list[str]:
    request = operations_pb2.ListItemsRequest(order=order, limit=limit)
    return [view.item_id for view in client.operations.ListItems(request, timeout=DEADLINE_S).items]


def test_items_are_listed_by_what_is_asked_for(start: Start) -> None:
    """By impressions, by mean, by uncertainty; ties by number."""
    _, client = start()
    for turn in range(3):
        teach(client, f"r{turn}", *IDS[: turn + 1], clicked=("item-1",) if turn else ())
    assert listed(client, operations_pb2.ITEM_ORDER_IMPRESSIONS, 4) == ["item-0", "item-1", "item-2", "item-3"]
    assert listed(client, operations_pb2.ITEM_ORDER_MEAN, 1) == ["item-1"]
    unseen = listed(client, operations_pb2.ITEM_ORDER_UNSPECIFIED)
    assert unseen == IDS[3:23]
    assert listed(client, operations_pb2.ITEM_ORDER_UNCERTAINTY, 1_000) == [*IDS[3:], "item-2", "item-1", "item-0"]


def test_an_item_is_shown_with_its_sums(start: Start) -> None:
    """Sums in fixed point, clusters ascending, mean and width in natural units, and the position they include."""
    _, client = start()
    teach(client, "r0", "item-5", clicked=("item-5",))
    teach(client, "r1", "item-5")
    answer = client.operations.GetItem(operations_pb2.GetItemRequest(item_id="item-5"), timeout=DEADLINE_S)
    view, graph = answer.item, small_graph()
    row = graph.edge_cluster[graph.item_ptr[5] : graph.item_ptr[6]]
    assert list(view.parameters.cluster_ids) == row.tolist()
    assert list(view.parameters.a) == [2 * 2**15] * len(row)
    assert list(view.parameters.d) == [2 * 2**30] * len(row)
    assert list(view.parameters.b) == [2**30] * len(row)
    assert (view.parameters.n, view.parameters.s, view.mean) == (2, 2**15, 0.5)
    assert view.uncertainty == pytest.approx(2**-0.5)
    assert [view.parameters.position] == list(answer.parameters_position)
    assert (
        refusal(client.operations.GetItem, operations_pb2.GetItemRequest(item_id="x"))[0]
        is grpc.StatusCode.NOT_FOUND
    )


@pytest.mark.parametrize("seed", range(5))
def test_top_items_equal_a_full_sort(seed: int) -> None:
    """The partition finds what sorting everything would, ties by number included."""
    rng = np.random.default_rng(seed)
    graph = small_graph()
    sums = Sums(rng.integers(0, 3, (graph.n_edges, 3)) << 30, rng.integers(0, 4, (graph.n_items, 2)))
    widths = uncertainty(graph, sums)
    for number in range(graph.n_items):
        d = sums.edge[graph.item_ptr[number] : graph.item_ptr[number + 1], 1] / 2**30
        assert widths[number] == (1e9 if (d == 0).any() else pytest.approx((1 / np.sqrt(d)).max()))
    expected = sorted(range(graph.n_items), key=lambda number: (-widths[number], number))
    for limit in (1, 7, graph.n_items, 1_000):
        assert top_items(graph, sums, order=1, limit=limit) == expected[:limit]


def test_frozen_learning_takes_feedback_and_learns_it_later(start: Start) -> None:
    """While frozen, accepted feedback changes nothing that is served; resuming learns all of it."""
    _, client = start()
    frozen = operations_pb2.FreezeLearningRequest(frozen=True)
    assert client.operations.FreezeLearning(frozen, timeout=DEADLINE_S).frozen
    teach(client, "r", "item-0", clicked=("item-0",))
    status = status_of(client)
    assert status.learning_frozen
    assert status.ledger_end[0] > status.parameters_position[0]
    before = client.recommender.Score(score_request("item-0"), timeout=DEADLINE_S)
    assert (before.items[0].mean, before.items[0].width) == (0, 1e9)
    assert not client.operations.FreezeLearning(operations_pb2.FreezeLearningRequest(), timeout=DEADLINE_S).frozen
    after = client.recommender.Score(score_request("item-0"), timeout=DEADLINE_S)
    assert after.items[0].mean == 1.0
    assert list(status_of(client).parameters_position) == list(status_of(client).ledger_end)


def test_status_tells_the_graph_and_the_positions(start: Start) -> None:
    """Everything that an operator compares between servers is there."""
    _, client = start()
    teach(client, "r", "item-0")
    status = status_of(client)
    graph = small_graph()
    assert (status.version, status.plumbing, status.backend) == ("0.1.0", "embedded", "numpy")
    assert (status.graph_version, status.clusters) == ("v1", N_CLUSTERS)
    assert (status.items, status.edges) == (graph.n_items, graph.n_edges)
    assert list(status.parameters_position) == list(status.ledger_end)
    assert status.staleness_ms < 1_000
    assert len(status.state_hash) == 32
    assert status.pending_impressions == 1
    assert status.default_policy == "ucb(alpha=0.3, estimator=averaged)"


def test_another_graph_keeps_what_was_learned(start: Start, tmp_path: Path) -> None:
    """Edges in both graphs keep their sums; the counts say how many; replies name the new version."""
    _, client = start()
    teach(client, "r", "item-1", clicked=("item-1",))
    new = small_graph("v2", n_items=10)
    save_graph(new, tmp_path / "graphs" / "v2")
    answer = client.operations.LoadGraph(operations_pb2.LoadGraphRequest(path="v2"), timeout=DEADLINE_S)
    assert answer.graph_version == "v2"
    assert answer.edges_kept + answer.edges_added == new.n_edges
    assert answer.edges_kept + answer.edges_dropped == small_graph().n_edges
    reply = client.recommender.Score(score_request("item-1", "item-30"), timeout=DEADLINE_S)
    assert (reply.graph_version, reply.items[0].mean, list(reply.unknown_item_ids)) == ("v2", 1.0, ["item-30"])


@pytest.mark.parametrize("path", ["..", "../data", "/etc", "v1/../../data", "link", "v\0"])
def test_graphs_are_loaded_from_their_directory_only(start: Start, tmp_path: Path, path: str) -> None:
    """Neither dots, absolute paths nor links lead out of the directory."""
    _, client = start()
    (tmp_path / "graphs" / "link").symlink_to(tmp_path)
    code, status = refusal(client.operations.LoadGraph, operations_pb2.LoadGraphRequest(path=path))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(status)[0][0] == "path"


def test_a_damaged_graph_is_refused_and_the_old_one_served(start: Start, tmp_path: Path) -> None:
    """FAILED_PRECONDITION says what is damaged; nothing changes."""
    _, client = start()
    damaged = tmp_path / "graphs" / "damaged"
    save_graph(small_graph("damaged"), damaged)
    largest = max(damaged.iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-1] ^= 1
    largest.write_bytes(content)
    for path in ("damaged", "missing"):
        code, status = refusal(client.operations.LoadGraph, operations_pb2.LoadGraphRequest(path=path))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert path in status.message
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).graph_version == "v1"


def test_a_version_is_one_graph_for_ever(start: Start, tmp_path: Path) -> None:
    """Another graph under a version that the store has is refused: a restart could not tell them apart."""
    _, client = start()
    save_graph(small_graph("v1", n_items=5), tmp_path / "graphs" / "other")
    code, status = refusal(client.operations.LoadGraph, operations_pb2.LoadGraphRequest(path="other"))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "v1" in status.message
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).graph_version == "v1"


def test_loading_is_off_without_a_directory(start: Start) -> None:
    """No directory, no loading."""
    _, client = start(graph_dir=None)
    code, status = refusal(client.operations.LoadGraph, operations_pb2.LoadGraphRequest(path="v1"))
    assert (code, "graph_dir" in status.message) == (grpc.StatusCode.FAILED_PRECONDITION, True)


def test_items_come_and_go_without_a_rebuild(start: Start) -> None:
    """A new item can be recommended at once, a retired one no longer; versions never repeat; sums stay."""
    _, client = start()
    teach(client, "r", "item-1", clicked=("item-1",))
    items = [
        events_pb2.Item(item_id="by-cluster", cluster_ids=events_pb2.ClusterIds(values=[0, 5])),
        events_pb2.Item(item_id="by-place", embedding=events_pb2.Embedding(values=[1, 0, 0, 0])),
    ]
    upserted = client.operations.UpsertItems(operations_pb2.UpsertItemsRequest(items=items), timeout=DEADLINE_S)
    score = score_request("by-cluster", "by-place", "item-1")
    reply = client.recommender.Score(score, timeout=DEADLINE_S)
    assert len(reply.items) == 3
    assert reply.graph_version == upserted.graph_version != "v1"
    assert {item.item_id: item.mean for item in reply.items}["item-1"] == 1.0
    retire = operations_pb2.RetireItemsRequest(item_ids=["by-place", "nobody"])
    retired = client.operations.RetireItems(retire, timeout=DEADLINE_S)
    assert list(retired.unknown_item_ids) == ["nobody"]
    assert retired.graph_version not in ("v1", upserted.graph_version)
    around = client.recommender.Recommend(recommend_request(slate_size=1_000), timeout=DEADLINE_S)
    offered = {item.item_id for item in around.items}
    assert "by-cluster" in offered
    assert "by-place" not in offered
    assert retired.graph_version == around.graph_version
    unchanged = client.operations.RetireItems(retire, timeout=DEADLINE_S)
    assert unchanged.graph_version == retired.graph_version


def test_switching_graphs_under_load_never_mixes_versions(start: Start, tmp_path: Path) -> None:
    """Every reply holds exactly the items of the version that it names, at positions that only grow."""
    _, client = start()
    graphs = {"v1": small_graph(), "v2": small_graph("v2", n_items=25, first=20)}
    save_graph(graphs["v2"], tmp_path / "graphs" / "v2")
    every_id = sorted({item_id for graph in graphs.values() for item_id in graph.item_ids})
    stop = threading.Event()
    wrong: list[object] = []
    versions: list[str] = []

    def read() -> None:
        while not stop.is_set():
            reply = client.recommender.Score(score_request(*every_id), timeout=DEADLINE_S)
            versions.append(reply.graph_version)
            returned = {item.item_id for item in reply.items}
            if returned != set(graphs[reply.graph_version].item_ids):
                wrong.append((reply.graph_version, returned))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(20):
        path = "v2" if turn % 2 == 0 else "v1"
        client.operations.LoadGraph(operations_pb2.LoadGraphRequest(path=path), timeout=DEADLINE_S)
        teach(client, f"r{turn}", "item-20")
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert set(versions) == {"v1", "v2"}
    view = client.operations.GetItem(operations_pb2.GetItemRequest(item_id="item-20"), timeout=DEADLINE_S).item
    assert view.parameters.n == 20


def test_the_public_port_serves_no_operations(start: Start) -> None:
    """Operators' calls exist on their own listener only, and scores are not on it."""
    _, client = start()
    for channel, method in (
        (client.serving, "/freshet.v1.OperationsService/GetStatus"),
        (client.operating, "/freshet.v1.RecommenderService/Score"),
        (client.operating, "/freshet.v1.FeedbackService/LogClicks"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(method)(b"", timeout=DEADLINE_S)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
