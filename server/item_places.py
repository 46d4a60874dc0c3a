"""Where an item is attached: the clusters it names, those nearest to its embedding, or to that of its content.

Invariant: whatever a caller sends is checked by field path; one bad item, and nothing of its request is attached.
"""

from collections.abc import Sequence

import numpy as np

from bandits.context import InvalidContext
from bandits.graph import Graph
from bandits.graph_edit import nearest_clusters
from bandits.sums import Int32
from freshet.v1 import events_pb2
from server import limits
from server.errors import invalid_field
from server.requests import check_distinct
from streams.corpus.errors import CorpusError
from streams.corpus.item_place import ItemPlace


class ItemPlaces:
    """Finds the clusters of items.

    Args:
        tower: embeds items by their attributes; None = an item comes with an embedding or clusters.
    """

    def __init__(self, tower: ItemPlace | None) -> None:
        self._tower = tower

    def clusters(self, graph: Graph, items: Sequence[events_pb2.Item], *, field: str = "items") -> list[Int32]:
        """Distinct clusters of each item.

        Raises:
            Refused: INVALID_ARGUMENT naming the first bad field.
        """
        return [self._one(graph, item, f"{field}[{at}]") for at, item in enumerate(items)]

    def _one(self, graph: Graph, item: events_pb2.Item, field: str) -> Int32:
        place = item.WhichOneof("place")
        if place == "cluster_ids":
            return _named(graph, item.cluster_ids.values, f"{field}.cluster_ids.values")
        if place == "embedding":
            given = item.embedding.values
            return _nearest(graph, np.fromiter(given, np.float32, len(given)), f"{field}.embedding")
        if self._tower is None or not item.attributes:
            more = " or, with item_tower set, attributes" if self._tower is None else " or attributes"
            raise invalid_field(f"{field}.place", f"embedding, cluster_ids{more}", "neither")
        return self._by_content(graph, self._tower, item, f"{field}.attributes")

    def _by_content(self, graph: Graph, tower: ItemPlace, item: events_pb2.Item, field: str) -> Int32:
        columns = [column.name for column in tower.encoder.columns]
        table = {name: [item.attributes.get(name, "")] for name in columns}
        if not any(cells[0] for cells in table.values()):
            raise invalid_field(field, f"at least one of {', '.join(columns)}", ", ".join(sorted(item.attributes)))
        try:
            embedding = tower.embed(table)[0]
        except CorpusError as error:
            raise invalid_field(field, "what the tower was trained on", str(error)) from None
        return _nearest(graph, embedding, field)


def _nearest(graph: Graph, embedding: "np.typing.NDArray[np.float32]", field: str) -> Int32:
    try:
        nearest: Int32 = nearest_clusters(graph, embedding[None, :])[0]
    except InvalidContext as error:
        path = error.field.replace("values[0]", "values", 1)
        raise invalid_field(f"{field}.{path}", error.expected, error.got) from None
    return nearest


def _named(graph: Graph, ids: Sequence[int], field: str) -> Int32:
    if not 1 <= len(ids) <= limits.MAX_ITEM_CLUSTERS:
        raise invalid_field(field, f"1 to {limits.MAX_ITEM_CLUSTERS} clusters", f"{len(ids)} clusters")
    values = np.fromiter(ids, np.int64, len(ids))
    if values.max() >= graph.n_clusters:
        at = int(np.argmax(values >= graph.n_clusters))
        raise invalid_field(f"{field}[{at}]", f"0 <= id < {graph.n_clusters}", values[at])
    check_distinct(field, ids)
    return values.astype(np.int32)
