"""Marks of graphs in the ledger: from which record of a partition on facts count on the edges of another artifact.

Invariants: the ledger alone says which graph a partition is under, so whoever folds it comes to the same sums;
marks may be repeated; whoever does not know of them takes one for a fence of nobody.
"""

import numpy as np
from google.protobuf.message import DecodeError

from bandits.outcomes import Outcomes
from freshet.v1 import kafka_state_pb2
from streams.kafka.catalogue import CATALOGUE
from streams.outcome_codec import COLUMNS, encode_outcomes

GRAPH_KEY = b"graph"
"""Key of these ledger records, by which they are found without being read; others have none."""

_ORDER_KEY = b"\xffgraph "  # no item id begins with that byte, because it is no UTF-8

_NOTHING = Outcomes(
    joiner_partition=CATALOGUE,
    sequence=0,
    impressions_position=0,
    clicks_position=0,
    item_ids=[],
    **dict.fromkeys(COLUMNS, np.empty(0, np.int64)),  # type: ignore[arg-type]
)


def encode_graph_mark(mark: kafka_state_pb2.GraphMark) -> bytes:
    """A mark as a ledger record; it is sent with the key GRAPH_KEY."""
    delivery = kafka_state_pb2.OutcomeDelivery(fence=True, graph=mark.SerializeToString())
    return encode_outcomes(_NOTHING) + delivery.SerializeToString()


def graph_mark_of(delivery: kafka_state_pb2.OutcomeDelivery) -> kafka_state_pb2.GraphMark | None:
    """The mark that a ledger record holds, None if it is another record.

    Raises:
        ValueError: it holds nonsense.
    """
    if delivery.joiner_partition != CATALOGUE or not delivery.graph:
        return None
    try:
        mark = kafka_state_pb2.GraphMark.FromString(delivery.graph)
    except DecodeError as error:
        raise ValueError(f"graph: expected a GraphMark, got {len(delivery.graph)} bytes") from error
    if not mark.version:
        raise ValueError("graph: expected a GraphMark with a version, got none")
    return mark


def changes(mark: kafka_state_pb2.GraphMark, version: str) -> bool:
    """Whether a mark changes anything where this version is in force; trials never do.

    A mark that no operator asked for counts only under the graph that it was written under, so that one that comes
    twice, or late, does not go back.
    """
    if mark.trial or mark.version == version:
        return False
    return mark.asked or mark.from_version == version


def order_key(deployment: str) -> bytes:
    """Key of an operator's order in the items topic, which deployments may share."""
    return _ORDER_KEY + deployment.encode()


def is_order(key: bytes | None) -> bool:
    """Whether a key of the items topic is that of an order."""
    return (key or b"").startswith(_ORDER_KEY)


def order_of(value: bytes | None) -> kafka_state_pb2.GraphOrder | None:
    """An operator's order, None if the bytes are none."""
    try:
        order = kafka_state_pb2.GraphOrder.FromString(value or b"")
    except DecodeError:
        return None
    return order if order.version else None
