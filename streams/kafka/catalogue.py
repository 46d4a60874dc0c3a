"""The catalogue on Kafka: items as their topic has them, as marks in the ledger, and as rows tell of them.

An item's way: the items topic, in any partition; a mark in the ledger partition of the item, put there by whoever
owns it; the row that the learner publishes once it has read the mark. Servers offer an item when they have read its
row. So whatever is learned of an item lies behind its mark.

Invariants: bytes from outside are data, and what is wrong with them is told; equal marks in the same order give
equal graphs, whoever reads them and however often they are repeated.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError

from bandits.context import InvalidContext
from bandits.graph import Float32, Graph
from bandits.graph_edit import GraphEdit, nearest_clusters
from bandits.outcomes import Outcomes
from freshet.v1 import events_pb2, kafka_state_pb2, parameters_pb2
from streams.corpus.errors import CorpusError
from streams.corpus.item_place import ItemPlace
from streams.limits import MAX_ID_BYTES
from streams.outcome_codec import COLUMNS, encode_outcomes

CATALOGUE = 2**32 - 1
"""In place of a joiner partition: no fence of a joiner, but a mark of the catalogue."""

MAX_ITEM_CLUSTERS = 1_024


EDITED_TAG = bytes([17 << 3 & 0x7F | 0x80 | 1, 1])
"""Two bytes that a row with `edited_at` holds somewhere: most rows need not be parsed to know they have none."""


class BadItem(ValueError):
    """A record of the items topic that says nothing usable; the message says what was expected."""


@dataclass(frozen=True)
class Edited:
    """How the catalogue has changed an item since the artifact.

    Attributes:
        at: ledger position from which on its edges are these.
        clusters: of its edges, ascending.
        published_ms: when it was published, Unix milliseconds; 0 = unknown.
        retired: whether it has been taken out of replies.
    """

    at: int
    clusters: tuple[int, ...]
    published_ms: int
    retired: bool

    def behind(self) -> bytes:
        """What a row of the item ends with."""
        return parameters_pb2.ItemParametersColumns(
            edited_at=self.at, published_at_ms=self.published_ms, retired=self.retired
        ).SerializeToString()

    def to_bytes(self) -> bytes:
        """As a store keeps it."""
        return parameters_pb2.ItemParameters(
            cluster_ids=self.clusters, edited_at=self.at, published_at_ms=self.published_ms, retired=self.retired
        ).SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Edited":
        """From what `to_bytes` gave, or from a row."""
        message = parameters_pb2.ItemParameters.FromString(data)
        return cls(message.edited_at, tuple(message.cluster_ids), message.published_at_ms, message.retired)


def item_id_of(key: bytes | None) -> str:
    """The item that a record of the items topic speaks of.

    Raises:
        BadItem: the key is no id.
    """
    if not key or len(key) > MAX_ID_BYTES:
        raise BadItem(f"key: expected an item id of 1 to {MAX_ID_BYTES} bytes, got {len(key or b'')}")
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise BadItem("key: expected an item id in UTF-8, got other bytes") from None


def catalogue_mark(
    graph: Graph,
    key: bytes | None,
    value: bytes | None,
    *,
    partition: int,
    offset: int,
    tower: ItemPlace | None = None,
) -> kafka_state_pb2.CatalogueMark:
    """What a record of the items topic amounts to under a graph.

    Args:
        graph: says clusters and centroids.
        key: of the record, the item's id.
        value: an `Item` as protobuf or JSON; None retires the item.
        partition: of the record.
        offset: of the record.
        tower: places items that come with attributes alone; None = they are refused.

    Raises:
        BadItem: it amounts to nothing.
    """
    item_id = item_id_of(key)
    mark = kafka_state_pb2.CatalogueMark(partition=partition, offset=offset, item_id=item_id)
    if value is None:
        mark.retired = True
        return mark
    item = _item(value)
    if item.item_id and item.item_id != item_id:
        raise BadItem(f"item_id: expected {item_id} as the key, got {item.item_id}")
    mark.cluster_ids.extend(_clusters(graph, item, tower))
    mark.published_at_ms = item.published_at_ms
    return mark


def encode_mark(mark: kafka_state_pb2.CatalogueMark) -> bytes:
    """A mark as a ledger record; whoever does not know of marks takes it for a fence of nobody."""
    none = Outcomes(
        joiner_partition=CATALOGUE,
        sequence=0,
        impressions_position=0,
        clicks_position=0,
        item_ids=[],
        **dict.fromkeys(COLUMNS, np.empty(0, np.int64)),  # type: ignore[arg-type]
    )
    delivery = kafka_state_pb2.OutcomeDelivery(fence=True, catalogue=mark.SerializeToString())
    return encode_outcomes(none) + delivery.SerializeToString()


def mark_of(delivery: kafka_state_pb2.OutcomeDelivery, graph: Graph) -> kafka_state_pb2.CatalogueMark | None:
    """The mark that a ledger record holds, None if it is another record.

    Raises:
        ValueError: it holds nonsense.
    """
    if delivery.joiner_partition != CATALOGUE or not delivery.catalogue:
        return None
    try:
        mark = kafka_state_pb2.CatalogueMark.FromString(delivery.catalogue)
    except DecodeError as error:
        raise ValueError(f"catalogue: expected a CatalogueMark, got {len(delivery.catalogue)} bytes") from error
    _check_clusters(graph, mark.cluster_ids)
    return mark


def edited_by(mark: kafka_state_pb2.CatalogueMark, graph: Graph, *, at: int) -> Edited | None:
    """What becomes of an item by a mark; None where an unknown item is retired.

    Args:
        mark: the mark.
        graph: before it.
        at: ledger position behind the mark.
    """
    if not mark.retired:
        return Edited(at, tuple(sorted(mark.cluster_ids)), mark.published_at_ms, retired=False)
    number = int(graph.lookup([mark.item_id], retired=True)[0])
    if number < 0:
        return None
    row = graph.edge_cluster[graph.item_ptr[number] : graph.item_ptr[number + 1]]
    published = 0 if graph.published_ms is None else int(graph.published_ms[number])
    return Edited(at, tuple(row.tolist()), published, retired=True)


def edited_at(row: bytes) -> int:
    """From which ledger position on the edges of a row's item are these; 0 = since the artifact, or no row."""
    try:
        message = parameters_pb2.ItemParametersColumns.FromString(row)
    except DecodeError:
        return 0
    return int(message.edited_at)


def graph_edit(version: str, items: Mapping[str, Edited]) -> GraphEdit:
    """Items that were changed as an edit of the graph; retired ones stay, as their sums go on.

    Args:
        version: name of the graph after it.
        items: the items.
    """
    return GraphEdit(
        version=version,
        item_ids=[*items],
        clusters=[one.clusters for one in items.values()],
        published_ms=[one.published_ms for one in items.values()],
    )


def _item(value: bytes) -> events_pb2.Item:
    try:
        if value[:1] == b"{":
            return Parse(value, events_pb2.Item(), ignore_unknown_fields=True)
        return events_pb2.Item.FromString(value)
    except (DecodeError, ParseError, UnicodeDecodeError) as error:
        raise BadItem(f"value: expected an Item as protobuf or JSON, got {len(value)} bytes: {error}") from None


def _clusters(graph: Graph, item: events_pb2.Item, tower: ItemPlace | None) -> Iterable[int]:
    place = item.WhichOneof("place")
    if place == "cluster_ids":
        _check_clusters(graph, item.cluster_ids.values)
        if not item.cluster_ids.values:
            raise BadItem(f"cluster_ids: expected 1 to {MAX_ITEM_CLUSTERS} clusters, got none")
        return sorted(item.cluster_ids.values)
    field = place or "attributes"
    if place is None:
        vector = _by_content(item, tower)
    else:
        vector = np.fromiter(item.embedding.values, np.float32, len(item.embedding.values))
    try:
        nearest: list[int] = nearest_clusters(graph, vector[None, :])[0].tolist()
    except InvalidContext as error:
        raise BadItem(f"{field}: expected {error.expected}, got {error.got}") from None
    return nearest


def _by_content(item: events_pb2.Item, tower: ItemPlace | None) -> Float32:
    if not item.attributes:
        raise BadItem("place: expected embedding, cluster_ids or attributes, got none of them")
    if tower is None:
        raise BadItem(
            "attributes: expected item_tower to be set for this worker, or embedding or cluster_ids, got none"
        )
    try:
        return tower.embed_one(item.attributes)
    except CorpusError as error:
        raise BadItem(f"attributes: {error}") from None


def _check_clusters(graph: Graph, clusters: Sequence[int]) -> None:
    if len(clusters) > MAX_ITEM_CLUSTERS or len(set(clusters)) != len(clusters):
        raise BadItem(f"cluster_ids: expected at most {MAX_ITEM_CLUSTERS}, each once, got {len(clusters)}")
    outside = [cluster for cluster in clusters if cluster >= graph.n_clusters]
    if outside:
        raise BadItem(f"cluster_ids: expected 0 <= id < {graph.n_clusters}, got {outside[0]}")
