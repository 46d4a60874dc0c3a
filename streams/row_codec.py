"""Parameter rows: `freshet.v1.ItemParameters` to and from arrays, whole micro-batches of rows at a time.

One format on disk and on the parameters topic. Rows are written in one compiled pass over the sums, and read in
one; a message object each is made only where that pass found one among them that is rare or wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bandits.arena import ranges
from bandits.graph import Graph
from bandits.join_rule import MAX_HALF_LIFE_MS
from bandits.sums import OPEN, Int32, Int64, Sums, locate
from freshet.v1 import parameters_pb2
from streams.limits import MAX_TIME_MS
from streams.wire.row_reader import BYTES_OF_AN_EDGE, read_rows, write_places
from streams.wire.row_writer import NO_EPOCH, measure_rows, write_rows

EXTRA_FIELDS = ("open", "excess", "past_a", "past_d", "past_b", "past_excess")  # the columns of `Sums.extra`


Message = parameters_pb2.ItemParametersColumns


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of some items, concatenated.

    Attributes:
        item_ids: of each row.
        edge_ends: int64; the edges of row i are edge_ends[i-1]:edge_ends[i].
        cluster: int32 of each edge.
        edge: int64 of shape (n_edges, 3): a, d, b.
        item: int64 of shape (n_rows, 2): n, s.
        position: int64 of shape (n_rows,): ledger position included.
        extra: int64 of shape (n_edges, 6), as `Sums.extra`; None where no row has any.
        times: int64 of shape (n_rows, 2), as `Sums.times`; None where `extra` is.
        edited_at: int64 of shape (n_rows,), 0 where the catalogue has not changed the item; None where it has none.
    """

    item_ids: Sequence[str]
    edge_ends: Int64
    cluster: Int32
    edge: Int64
    item: Int64
    position: Int64
    extra: Int64 | None = None
    times: Int64 | None = None
    edited_at: Int64 | None = None


def encode_rows(
    graph: Graph, sums: Sums, row_position: Int64, items: Int32, epochs: Int64 | None = None
) -> list[bytes]:
    """Bytes of the rows of some items, in the order of `items`.

    Args:
        graph: numbers the items.
        sums: of it.
        row_position: int64 of shape (n_items,).
        items: numbers.
        epochs: int64 of shape (len(items),), of the owner that writes each; None = rows say nothing of that.
    """
    sums = sums.at_rest()
    if epochs is None:
        epochs = np.full(len(items), NO_EPOCH)
    ends = np.zeros(len(items) + 1, np.int64)
    measure_rows(graph.item_ptr, items, epochs, ends[1:])
    out = np.empty(int(ends[-1]), np.uint8)
    write_rows(graph.item_ptr, graph.edge_cluster, sums.edge, sums.item, row_position, items, epochs, out)
    data = out.data
    encoded = [bytes(data[start:end]) for start, end in pairwise(ends.tolist())]
    if sums.extra is not None and sums.times is not None:
        for place, behind in enumerate(_extra_fields(graph, sums.extra, sums.times, items)):
            encoded[place] += behind
    return encoded


def decode_rows(item_ids: Sequence[str], encoded: Sequence[bytes]) -> Rows:
    """Rows from their bytes; unknown fields are ignored.

    Raises:
        ValueError: bytes that are no ItemParameters, or whose columns differ in length or hold a number below
            zero; the item is named.
    """
    return _usual_rows(item_ids, encoded) or _any_rows(item_ids, encoded)


def _usual_rows(item_ids: Sequence[str], encoded: Sequence[bytes]) -> Rows | None:
    """Rows without what few of them have, all of which are right; else None."""
    if len(item_ids) != len(encoded):
        raise ValueError(f"expected an item for each row, got {len(item_ids)} and {len(encoded)}")
    data = np.frombuffer(b"".join(encoded), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    room = len(data) // BYTES_OF_AN_EDGE
    cluster, edge = np.empty(4 * room, np.uint8), np.empty((room, 3), np.int64)
    scalars, edge_ends = np.zeros((len(encoded), 3), np.int64), np.empty(len(encoded), np.int64)
    if not read_rows(data, ends, cluster, edge, scalars, edge_ends):
        return None
    count = int(edge_ends[-1]) if len(edge_ends) else 0
    clusters = cluster.view("<i4")[:count].astype(np.int32, copy=False)
    return Rows(item_ids, edge_ends, clusters, edge[:count], scalars[:, :2], scalars[:, 2])


def _any_rows(item_ids: Sequence[str], encoded: Sequence[bytes]) -> Rows:
    messages = [_parse(item_id, data) for item_id, data in zip(item_ids, encoded, strict=True)]
    degrees = np.array([len(message.cluster_ids) // 4 for message in messages], np.int64)
    cluster = np.frombuffer(b"".join(message.cluster_ids for message in messages), "<u4").astype(np.int32)
    columns = [b"".join(getattr(message, name) for message in messages) for name in ("a", "d", "b")]
    edge = np.column_stack([np.frombuffer(column, "<i8") for column in columns]).astype(np.int64)
    _refuse_negative(item_ids, degrees, edge)
    scalars = np.array([(message.n, message.s, message.position) for message in messages], np.int64).reshape(-1, 3)
    extra, times = _extra(messages, degrees)
    if extra is not None:
        _refuse_negative(item_ids, degrees, extra[:, OPEN + 1 :])  # less than nothing may be in flight, see `Sums`
    edited_at = np.array([message.edited_at for message in messages], np.int64)
    return Rows(
        item_ids,
        np.cumsum(degrees),
        cluster,
        edge,
        scalars[:, :2],
        scalars[:, 2],
        extra,
        times,
        edited_at if edited_at.any() else None,
    )


def place_rows(graph: Graph, rows: Rows, sums: Sums, row_position: Int64) -> int:
    """Write rows into the sums of a graph; how many edges of theirs the graph does not have (they are left out).

    A row that is older than the one in place is skipped, so that restoring is monotonic.
    """
    sums.release()
    number = graph.lookup(rows.item_ids, retired=True).astype(np.int64)
    if rows.extra is None and sums.extra is None:
        return int(
            write_places(
                number,
                rows.position,
                rows.edge_ends,
                rows.cluster,
                rows.edge,
                rows.item,
                graph.item_ptr,
                graph.edge_cluster,
                sums.edge,
                sums.item,
                row_position,
            )
        )
    degrees = np.diff(rows.edge_ends, prepend=0)
    at = np.flatnonzero(number >= 0)
    at = at[rows.position[at] >= row_position[number[at]]]
    fresh = at[np.argsort(rows.position[at], kind="stable")]  # of several rows of an item the newest is placed last
    row_position[number[fresh]] = rows.position[fresh]
    sums.item[number[fresh]] = rows.item[fresh]
    element = ranges((rows.edge_ends - degrees)[fresh], degrees[fresh])
    owner = np.repeat(number[fresh], degrees[fresh])
    edge = locate(graph, owner, rows.cluster[element][:, None])[:, 0]
    found = edge >= 0
    sums.edge[edge[found]] = rows.edge[element[found]]
    if rows.extra is not None and rows.times is not None:
        sums.with_extra()
    if sums.extra is not None and sums.times is not None:
        sums.extra[edge[found]] = 0 if rows.extra is None else rows.extra[element[found]]
        sums.times[number[fresh]] = 0 if rows.times is None else rows.times[fresh]
    return int(np.count_nonzero(~found))


def _refuse_negative(item_ids: Sequence[str], degrees: Int64, edge: Int64) -> None:
    if len(edge) and edge.min() < 0:
        first = int(np.argmax((edge < 0).any(axis=1)))
        name = item_ids[int(np.searchsorted(np.cumsum(degrees), first, side="right"))]
        raise ValueError(f'row "{name}": expected sums of at least 0, got {edge[first].min()}')


def _extra_fields(graph: Graph, extra: Int64, times: Int64, items: Int32) -> list[bytes]:
    """What follows the fields that every row has: columns that are not 0, and times."""
    fields: list[bytes] = [b""] * len(items)
    starts, ends = graph.item_ptr[items].tolist(), graph.item_ptr[items + 1].tolist()
    with_any = np.zeros(len(items), np.bool_)
    sizes = np.diff(graph.item_ptr)[items]
    edges = ranges(graph.item_ptr[items], sizes)
    with_any[np.repeat(np.arange(len(items)), sizes)[extra[edges].any(axis=1)]] = True
    with_any |= times[items].any(axis=1)
    for at in np.flatnonzero(with_any).tolist():
        rows = extra[starts[at] : ends[at]]
        message = Message(half_life_ms=int(times[items[at], 0]), latest_ms=int(times[items[at], 1]))
        for column in np.flatnonzero(rows.any(axis=0)).tolist():
            setattr(message, EXTRA_FIELDS[column], rows[:, column].astype("<i8").tobytes())
        fields[at] = message.SerializeToString()
    return fields


def _extra(messages: Sequence[Message], degrees: Int64) -> tuple[Int64 | None, Int64 | None]:
    """Extra columns and times, None where no row has any."""
    times = np.array([(message.half_life_ms, message.latest_ms) for message in messages], np.int64).reshape(-1, 2)
    parts = [[getattr(message, name) for message in messages] for name in EXTRA_FIELDS]
    if not times.any() and not any(any(column) for column in parts):
        return None, None
    extra = np.zeros((int(degrees.sum()), len(EXTRA_FIELDS)), np.int64)
    for number, column in enumerate(parts):
        given = np.repeat([bool(data) for data in column], degrees)
        extra[given, number] = np.frombuffer(b"".join(column), "<i8")
    return extra, times


def _parse(item_id: str, data: bytes) -> parameters_pb2.ItemParametersColumns:
    message = parameters_pb2.ItemParametersColumns()
    try:
        message.ParseFromString(data)
    except Exception as error:
        raise ValueError(
            f'row "{item_id}": expected ItemParameters, got {len(data)} bytes that are none'
        ) from error
    degree = len(message.cluster_ids) // 4
    if len(message.cluster_ids) % 4 or any(len(c) != 8 * degree for c in (message.a, message.d, message.b)):
        raise ValueError(f'row "{item_id}": expected a, d, b parallel to {degree} cluster_ids')
    if any(len(getattr(message, name)) not in (0, 8 * degree) for name in EXTRA_FIELDS):
        raise ValueError(f'row "{item_id}": expected {", ".join(EXTRA_FIELDS)} parallel to cluster_ids or absent')
    if not 0 <= message.latest_ms <= MAX_TIME_MS or not 0 <= message.half_life_ms <= MAX_HALF_LIFE_MS:
        raise ValueError(f'row "{item_id}": expected latest_ms and half_life_ms within their ranges')
    if min(message.n, message.s, message.position) < 0:
        raise ValueError(f'row "{item_id}": expected n, s and position of at least 0')
    return message
