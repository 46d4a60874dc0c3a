"""Items of the items topic that come with their content alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from bandits.graph import build_graph
from bandits.graph_edit import nearest_clusters
from freshet.v1 import events_pb2
from streams.corpus.item_place import ItemPlace
from streams.kafka.catalogue import BadItem, catalogue_mark
from tests.server.serving import DIM
from tests.server.test_live_items import save_tower

GRAPH = build_graph(
    version="v",
    centroids=np.random.default_rng(1).normal(size=(6, DIM)),
    item_ids=["a", "b"],
    edge_item=[0, 0, 1, 1],
    edge_cluster=[0, 1, 2, 3],
)


def mark(value: bytes, tower: ItemPlace | None) -> list[int]:
    return list(catalogue_mark(GRAPH, b"new", value, partition=0, offset=1, tower=tower).cluster_ids)


def test_an_item_is_placed_by_its_attributes(tmp_path: Path) -> None:
    """At the clusters nearest to the tower's embedding, from protobuf and JSON alike; absent columns are empty."""
    tower = save_tower(tmp_path / "tower")
    embedding = tower.embed({"genre": ["rock"], "length": [""]})
    expected = nearest_clusters(GRAPH, embedding)[0].tolist()
    item = events_pb2.Item(attributes={"genre": "rock", "colour": "red"})
    assert mark(item.SerializeToString(), tower) == expected
    assert mark(json.dumps({"attributes": {"genre": "rock"}}).encode(), tower) == expected


def test_a_place_that_is_given_goes_before_content(tmp_path: Path) -> None:
    """Whoever says where an item belongs is believed."""
    tower = save_tower(tmp_path / "tower")
    item = events_pb2.Item(attributes={"genre": "rock"}, cluster_ids={"values": [4, 2]})
    assert mark(item.SerializeToString(), tower) == [2, 4]


@pytest.mark.parametrize(
    ("attributes", "with_tower", "reason"),
    [
        ({"genre": "rock"}, False, "attributes: expected item_tower to be set for this worker"),
        ({"colour": "red"}, True, "attributes: expected at least one of genre, length, got colour"),
        ({"length": "long"}, True, "attributes: "),
        ({}, True, "place: expected embedding, cluster_ids or attributes, got none of them"),
    ],
)
def test_what_cannot_be_placed_is_told(
    tmp_path: Path, attributes: dict[str, str], with_tower: bool, reason: str
) -> None:
    """The dead letter names the field, what was expected and what came."""
    tower = save_tower(tmp_path / "tower") if with_tower else None
    item = events_pb2.Item(attributes=attributes, published_at_ms=5)
    with pytest.raises(BadItem, match=f"^{reason}"):
        mark(item.SerializeToString(), tower)
