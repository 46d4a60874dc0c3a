"""A graph in shared memory: written once, then an entry for each edit; read back as a graph that owns no array.

Invariant: the graph that is read back equals the one that was written, number by number, after any edits; what it
holds of its own is a list of ids, and what has been edited.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from bandits.graph import Edits, Graph
from server.processes.segment import Segment, Sizes

Int32 = npt.NDArray[np.int32]
_LENGTH = struct.Struct("<I")
_NO_IDS: dict[str, int] = {}


class Full(RuntimeError):
    """An edit does not fit into the segment: make another."""


def sizes_of(graph: Graph, *, compiled: bool) -> Sizes:
    """What a segment must hold for a graph and edits of it.

    Args:
        graph: the graph.
        compiled: whether ids are found, and slates filled, by compiled loops.
    """
    base = base_of(graph)
    slots, rows = 0, {"lines": 0, "cluster_rows": 0}
    if compiled:
        from server.processes.shared_rows import room_of

        slots, rows = 1 << max(1, (2 * base.n_items).bit_length()), room_of(graph, base)
    return Sizes.with_room(
        items=graph.n_items,
        edges=graph.n_edges,
        clusters=graph.n_clusters,
        dim=graph.centroids.shape[1],
        base_items=base.n_items,
        base_edges=base.n_edges,
        id_bytes=sum(len(item_id.encode()) for item_id in base.item_ids),
        slots=slots,
        **rows,
    )


def base_of(graph: Graph) -> Graph:
    """The graph before any edit."""
    return graph.edits.base if graph.edits is not None else graph


def write_graph(segment: Segment, graph: Graph) -> bytes:
    """Put a graph into an empty segment; its entry in the log."""
    base, arrays = base_of(graph), segment.arrays
    for name in ("centroids", "cluster_ptr", "cluster_item", "cluster_edge"):
        arrays[name][...] = getattr(base, name)
    ids = [item_id.encode() for item_id in base.item_ids]
    arrays["id_pool"][:] = np.frombuffer(b"".join(ids), np.uint8)
    np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)), out=arrays["id_starts"][1:])
    if segment.sizes.slots:
        from server.lane.find_ids import fill_slots

        arrays["id_slots"][:] = -1
        fill_slots(np.ascontiguousarray(base.item_hashes), arrays["id_slots"])
    arrays["item_ptr"][0] = 0
    _append(segment, graph, items=0, edges=0)
    return _entry(base, graph, base_version=base.version)


def write_edit(segment: Segment, old: Graph, new: Graph) -> bytes:
    """Put what an edit has appended into the segment; its entry in the log.

    Raises:
        Full: there is no room.
    """
    if new.n_items > segment.sizes.items or new.n_edges > segment.sizes.edges:
        raise Full
    _append(segment, new, items=old.n_items, edges=old.n_edges)
    return _entry(old, new)


def append_log(segment: Segment, entry: bytes, at: int) -> int:
    """Put an entry behind the log, which ends at `at`; where it ends now.

    Raises:
        Full: there is no room.
    """
    log, end = segment.arrays["log"], at + _LENGTH.size + len(entry)
    if end > len(log):
        raise Full
    log[at:end] = np.frombuffer(_LENGTH.pack(len(entry)) + entry, np.uint8)
    return end


class GraphReader:
    """Reads the graph of a segment, edit by edit.

    Args:
        segment: with a state to be read.

    Attributes:
        graph: as of the last entry read.
        log_bytes: where that ends.
    """

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._ids: list[str] = []  # of numbers behind those of the base, shared by all graphs that were read
        self.log_bytes = 0
        self._base = self.graph = self._read_base()

    def follow(self, end: int) -> Graph:
        """The graph as the entries up to `end` make it, where a whole state says that they end."""
        for entry, at in self._entries(end):
            self.graph = self._edited(entry)
            self.log_bytes = at
        return self.graph

    def _entries(self, end: int) -> Iterator[tuple[dict[str, Any], int]]:
        log, at = self._segment.arrays["log"], self.log_bytes
        while at < end:
            (length,) = _LENGTH.unpack(log[at : at + _LENGTH.size].tobytes())
            at += _LENGTH.size + length
            yield orjson.loads(log[at - length : at].tobytes()), at

    def _read_base(self) -> Graph:
        segment = self._segment
        sizes, arrays = segment.sizes, segment.arrays
        entry, _ = next(self._entries(_LENGTH.size))
        data, starts = arrays["id_pool"].tobytes(), arrays["id_starts"].tolist()
        graph = Graph(
            version=entry["base_version"],
            centroids=arrays["centroids"],
            item_ids=[data[start:end].decode() for start, end in pairwise(starts)],
            item_ptr=arrays["item_ptr"][: sizes.base_items + 1],
            edge_cluster=arrays["edge_cluster"][: sizes.base_edges],
            cluster_ptr=arrays["cluster_ptr"],
            cluster_item=arrays["cluster_item"],
            cluster_edge=arrays["cluster_edge"],
            published_ms=arrays["published_ms"][: sizes.base_items] if entry["base_published"] else None,
        )
        _freeze(graph)
        vars(graph)["item_hashes"] = arrays["item_hashes"][: sizes.base_items]
        if sizes.slots:
            self._find_ids(graph)
        return graph

    def _find_ids(self, graph: Graph) -> None:
        from server.lane.id_index import IdTable, share_table

        arrays = self._segment.arrays
        share_table(graph, IdTable(arrays["id_slots"], graph.item_hashes, arrays["id_pool"], arrays["id_starts"]))

    def _edited(self, entry: Mapping[str, Any]) -> Graph:
        """The graph after one entry."""
        old, base, arrays = self.graph, self._base, self._segment.arrays
        n_items, n_edges = entry["items"], entry["edges"]
        changed: dict[str, int] = entry["numbers"]
        if entry["version"] == old.version:  # the first entry of a graph without edits
            return old
        before = old.edits.numbers if old.edits is not None else _NO_IDS
        live = np.ones(n_items, np.bool_)
        live[: old.n_items] = old.edits.live if old.edits is not None else True
        live[old.n_items :] = False
        for item_id, number in changed.items():
            gone = before[item_id] if item_id in before else base.index.get(item_id, -1)
            if gone >= 0:
                live[gone] = False
            if number >= 0:
                live[number] = True
        kept = dict(old.edits.kept) if old.edits is not None else {}
        kept |= entry["kept"]
        for item_id in entry["freed"]:
            kept.pop(item_id, None)
        self._ids += entry["ids"]
        graph = replace(
            old,
            version=entry["version"],
            item_ids=[*base.item_ids, *self._ids] if entry["ids"] else old.item_ids,
            item_ptr=arrays["item_ptr"][: n_items + 1],
            edge_cluster=arrays["edge_cluster"][:n_edges],
            published_ms=arrays["published_ms"][:n_items] if entry["published"] else None,
            edits=Edits(
                base=base,
                numbers={**before, **changed},
                kept=kept,
                live=live,
                attached=self._attached(old, n_items, n_edges),
                storage=None,
            ),
        )
        _freeze(graph)
        vars(graph)["item_hashes"] = arrays["item_hashes"][:n_items]
        return graph

    def _attached(self, old: Graph, n_items: int, n_edges: int) -> dict[int, Int32]:
        attached = dict(old.edits.attached) if old.edits is not None else {}
        arrays = self._segment.arrays
        degrees = np.diff(arrays["item_ptr"][old.n_items : n_items + 1])
        item = np.repeat(np.arange(old.n_items, n_items, dtype=np.int32), degrees)
        cluster = arrays["edge_cluster"][old.n_edges : n_edges]
        order = np.argsort(cluster, kind="stable")
        for one, part in _runs(cluster[order], item[order]):
            held = attached.get(one)
            attached[one] = part if held is None else np.concatenate([held, part])
        return attached


def _append(segment: Segment, graph: Graph, *, items: int, edges: int) -> None:
    """Put what a graph has behind so many items and edges behind them."""
    arrays = segment.arrays
    arrays["item_ptr"][items + 1 : graph.n_items + 1] = graph.item_ptr[items + 1 :]
    arrays["edge_cluster"][edges : graph.n_edges] = graph.edge_cluster[edges:]
    arrays["item_hashes"][items : graph.n_items] = graph.item_hashes[items:]
    if graph.published_ms is not None:
        arrays["published_ms"][items : graph.n_items] = graph.published_ms[items:]


def _entry(old: Graph, new: Graph, *, base_version: str = "") -> bytes:
    """What has changed between two graphs, the second of which is the first after edits."""
    numbers, kept = (old.edits.numbers, old.edits.kept) if old.edits is not None else (_NO_IDS, _NO_IDS)
    later_numbers, later_kept = (new.edits.numbers, new.edits.kept) if new.edits is not None else (_NO_IDS, _NO_IDS)
    entry: dict[str, Any] = {
        "version": new.version,
        "items": new.n_items,
        "edges": new.n_edges,
        "published": new.published_ms is not None,
        "ids": list(new.item_ids[old.n_items : new.n_items]),
        "numbers": dict(later_numbers.items() - numbers.items()),
        "kept": dict(later_kept.items() - kept.items()),
        "freed": list(kept.keys() - later_kept.keys()),
    }
    if base_version:
        entry |= {"base_version": base_version, "base_published": old.published_ms is not None}
    return orjson.dumps(entry)


def _runs(keys: Int32, values: Int32) -> Iterator[tuple[int, Int32]]:
    """Values by key, which ascend."""
    if len(keys):
        distinct, starts = np.unique(keys, return_index=True)
        yield from zip(distinct.tolist(), np.split(values, starts[1:]), strict=True)


def _freeze(graph: Graph) -> None:
    for array in (graph.centroids, graph.item_ptr, graph.edge_cluster):
        array.setflags(write=False)
    for array in (graph.cluster_ptr, graph.cluster_item, graph.cluster_edge):
        array.setflags(write=False)
