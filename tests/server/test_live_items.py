"""Items that come and go while callers are served: where they are attached, and that replies know at once."""

import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from freshet.v1 import events_pb2, operations_pb2
from server.app import StartError
from streams.corpus.features import Column, fit_features
from streams.corpus.item_place import ItemPlace
from streams.corpus.towers import ITEM_PARAMETERS
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, one_hot, recommend_request, refusal, violations
from tests.server.serving import DIM, N_CLUSTERS, Client, small_graph


def upsert(client: Client, *items: events_pb2.Item) -> str:
    request = operations_pb2.UpsertItemsRequest(items=items)
    return client.operations.UpsertItems(request, timeout=DEADLINE_S).graph_version


def retire(client: Client, *item_ids: str) -> str:
    request = operations_pb2.RetireItemsRequest(item_ids=item_ids)
    return client.operations.RetireItems(request, timeout=DEADLINE_S).graph_version


def item(item_id: str, *clusters: int, **changes: object) -> events_pb2.Item:
    return events_pb2.Item(item_id=item_id, cluster_ids=events_pb2.ClusterIds(values=clusters), **changes)


def clusters_of(client: Client, item_id: str) -> list[int]:
    answer = client.operations.GetItem(operations_pb2.GetItemRequest(item_id=item_id), timeout=DEADLINE_S)
    return list(answer.item.parameters.cluster_ids)


def save_tower(folder: Path) -> ItemPlace:
    """A tower of made-up weights that tells genres apart."""
    rng = np.random.default_rng(3)
    encoder = fit_features(
        [Column("genre", "tags"), Column("length", "number")],
        {"genre": ["jazz", "jazz", "rock", "rock,jazz"], "length": ["1", "2", "3", "4"]},
    )
    shapes = {"item_content": (encoder.width, 5), "item_bias": (5,), "item_out": (5, DIM), "item_out_bias": (DIM,)}
    assert {*shapes, "item_id"} == set(ITEM_PARAMETERS)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    place = ItemPlace(encoder, arrays)
    folder.mkdir()
    place.save(folder)
    return place


def test_an_item_is_placed_by_what_is_known_of_it(start: Start, tmp_path: Path) -> None:
    """By embedding and by content alike: to the nearest centroids, and Recommend offers it there, unseen."""
    place = save_tower(tmp_path / "tower")
    _, client = start(item_tower=tmp_path / "tower")
    embedding = place.embed({"genre": ["rock"], "length": ["3"]})[0]
    upsert(
        client,
        events_pb2.Item(item_id="content", attributes={"genre": "rock", "length": "3", "studio": "x"}),
        events_pb2.Item(item_id="embedded", embedding=events_pb2.Embedding(values=embedding.tolist())),
    )
    graph = small_graph()
    count = round(graph.n_edges / graph.n_items)
    nearest = np.sort(np.argsort(-(graph.centroids @ embedding))[:count]).tolist()
    assert clusters_of(client, "content") == clusters_of(client, "embedded") == nearest
    request = recommend_request(slate_size=1_000, cluster_weights=one_hot(nearest[0]))
    reply = client.recommender.Recommend(request, timeout=DEADLINE_S)
    offered = {one.item_id: one.width for one in reply.items}
    assert offered["content"] == offered["embedded"] == 1e9


@pytest.mark.parametrize(
    ("attributes", "field", "expected"),
    [
        ({}, "items[0].place", "or attributes"),
        ({"studio": "x"}, "items[0].attributes", "at least one of genre, length"),
        ({"length": "long"}, "items[0].attributes", "what the tower was trained on"),
    ],
)
def test_content_that_says_nothing_is_refused(
    start: Start, tmp_path: Path, attributes: dict[str, str], field: str, expected: str
) -> None:
    """An item at a place that means nothing would be shown to the wrong users."""
    save_tower(tmp_path / "tower")
    _, client = start(item_tower=tmp_path / "tower")
    request = operations_pb2.UpsertItemsRequest(items=[events_pb2.Item(item_id="new", attributes=attributes)])
    code, status = refusal(client.operations.UpsertItems, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    (named, told), *_ = violations(status)
    assert named == field
    assert expected in told


def test_without_a_tower_an_item_needs_a_place(start: Start) -> None:
    """The refusal says which setting would take it."""
    _, client = start()
    items = [events_pb2.Item(item_id="new", attributes={"genre": "rock"})]
    _, status = refusal(client.operations.UpsertItems, operations_pb2.UpsertItemsRequest(items=items))
    assert "item_tower" in violations(status)[0][1]


def test_a_damaged_tower_stops_the_start(start: Start, tmp_path: Path) -> None:
    """One sentence, before any caller is let in."""
    (tmp_path / "tower").mkdir()
    with pytest.raises(StartError, match=r"item_tower.npz: expected a file"):
        start(item_tower=tmp_path / "tower")


def test_edits_under_load_never_mix_versions(start: Start) -> None:
    """While items come and go, each reply of one cluster's items is exactly those of the version that it names."""
    _, client = start()
    request = recommend_request(slate_size=1_000, cluster_weights=one_hot(N_CLUSTERS - 1))
    before = {one.item_id for one in client.recommender.Recommend(request, timeout=DEADLINE_S).items}
    expected = {"v1": before}
    seen: list[tuple[str, set[str]]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            reply = client.recommender.Recommend(request, timeout=DEADLINE_S)
            seen.append((reply.graph_version, {one.item_id for one in reply.items}))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    now = set(before)
    for turn in range(60):
        name = f"new-{turn % 7}"
        if name in now:
            now = now - {name}
            version = retire(client, name)
        else:
            now = now | {name}
            version = upsert(client, item(name, N_CLUSTERS - 1, turn % 3))
        expected[version] = now
        # The call has returned: the next reply is of this version.
        reply = client.recommender.Recommend(request, timeout=DEADLINE_S)
        assert (reply.graph_version, {one.item_id for one in reply.items}) == (version, now)
    stop.set()
    for reader in readers:
        reader.join()
    assert len(expected) == 61
    wrong = [(version, items ^ expected[version]) for version, items in seen if items != expected[version]]
    assert wrong == []
    assert len({version for version, _ in seen}) > 10


def test_a_retired_item_is_unknown_to_every_call(start: Start) -> None:
    """Score lists it as unknown, Recommend does not offer it, operators do not find it, and it may come back."""
    _, client = start()
    retire(client, "item-3")
    everything = client.recommender.Recommend(recommend_request(slate_size=1_000), timeout=DEADLINE_S)
    assert "item-3" not in {one.item_id for one in everything.items}
    code, _ = refusal(client.operations.GetItem, operations_pb2.GetItemRequest(item_id="item-3"))
    assert code is grpc.StatusCode.NOT_FOUND
    listed = client.operations.ListItems(operations_pb2.ListItemsRequest(limit=1_000), timeout=DEADLINE_S)
    assert "item-3" not in {view.item_id for view in listed.items}
    status = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    assert status.items == small_graph().n_items - 1
    upsert(client, item("item-3", 1))
    assert clusters_of(client, "item-3") == [1]
