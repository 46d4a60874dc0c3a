"""The best items of many requests at once on a GPU: scored and ranked where the sums are, and few come back.

Invariants: the order is that of `bandits.slates.pick` by rank, ties included; means and widths have the bits of the
processor, and so have scores, but for the draws of `thompson`, which are within `TOLERANCE`; candidates around a
user are those of `Graph.items_around`.

A launch and its transfers cost some tens of microseconds whatever they do, as much as the processor needs for a
slate: this is for hundreds of slates at a time, of a log or of a stream of packed queries.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.cupy_device import DeviceArray
from bandits.cupy_sums import ResidentSums
from bandits.draws import COARSE_QUANTILES
from bandits.graph import Graph
from bandits.slates_numba import CompiledPolicy
from bandits.sums import Float64, Int32, Int64

TOLERANCE = 1e-12  # relative; the logarithm of the device may differ in its last bit
_TILE, _TILE_PER_KEPT = 256, 4  # members ranked against each other at a time; so each pass keeps a quarter at most


@dataclass(frozen=True, eq=False)
class Users:
    """The users of Q requests, as columns.

    Attributes:
        context_ptr: int64 of shape (Q + 1,), ends of each user's clusters.
        cluster: int32 of shape (context_ptr[-1],), ascending within a user.
        weight: float64 parallel to `cluster`.
        seed: uint64 of shape (Q,), of each request's draws.
    """

    context_ptr: Int64
    cluster: Int32
    weight: Float64
    seed: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.seed)


@dataclass(frozen=True, eq=False)
class Best:
    """The best items of each of Q requests, best first.

    Attributes:
        item: int32 of shape (Q, kept), -1 where a request has no more candidates.
        numbers: float64 of shape (Q, kept, 3): score, mean and width.
        found: int64 of shape (Q,), how many candidates there were.
    """

    item: Int32
    numbers: Float64
    found: Int64


class DeviceSlates:
    """Ranks candidates by the sums of one graph on a device.

    Args:
        resident: the sums; as they are when a method is called.
    """

    def __init__(self, resident: ResidentSums) -> None:
        self._resident, self._device = resident, resident.device
        self._quantiles = self._device.upload(COARSE_QUANTILES)
        self._source: DeviceArray = None
        self._live: DeviceArray = None
        self._graph: Graph | None = None

    def best(self, users: Users, item_ptr: Int64, item: Int32, policy: CompiledPolicy, *, keep: int) -> Best:
        """Rank candidates.

        Args:
            users: of each request.
            item_ptr: int64 of shape (Q + 1,), ends of each request's candidates.
            item: int32 of shape (item_ptr[-1],), numbers within the graph, distinct within a request.
            policy: how; its picking (`top_m`, `explore_share`) is not applied.
            keep: how many of each request, 1 or more.

        Raises:
            DeviceFull: the batch does not fit.
        """
        device, rows, count = self._device, self._resident.rows, len(item)
        numbers, tie, member = self._scores(count)
        request_ptr, items, *user = device.move((item_ptr, np.int64), (item, np.int32), *_columns(users, policy))
        device.launch(
            "score_candidates", count, rows.item_ptr, rows.edge_cluster, rows.edge_sums, rows.item_sums,
            rows.item_key, request_ptr, np.int32(len(users)), items, *user, self._quantiles, numbers, tie, member,
        )  # fmt: skip
        items_there = device.upload(np.ascontiguousarray(item, np.int32))
        return self._ranked(item_ptr, items_there, numbers, tie, member, keep, np.diff(item_ptr))

    def best_around(self, users: Users, policy: CompiledPolicy, *, keep: int) -> Best:
        """Rank the items around each user: all that have an edge to any of the user's clusters.

        Args:
            users: of each request; clusters are within the graph.
            policy: as of `best`.
            keep: how many of each request, 1 or more.

        Raises:
            DeviceFull: the batch does not fit.
        """
        device, rows = self._device, self._resident.rows
        self._follow_graph()
        pieces = _Pieces.of(self._resident.graph, users)
        count = int(pieces.ptr[-1])
        numbers, tie, member = self._scores(count)
        items, found = device.empty(max(count, 1), np.int32), device.filled(max(len(users), 1), 0, np.int32)
        attached, ptr, start, request, rank, *user = device.move(
            (pieces.attached, np.int32), (pieces.ptr, np.int64), (pieces.start, np.int64),
            (pieces.request, np.int32), (pieces.rank, np.int32), *_columns(users, policy),
        )  # fmt: skip
        device.launch(
            "score_around", count, rows.item_ptr, rows.edge_cluster, rows.edge_sums, rows.item_sums, rows.item_key,
            self._source, attached, self._live, ptr, start, request, rank, np.int32(len(pieces.start)), *user,
            self._quantiles, items, numbers, tie, member, found,
        )  # fmt: skip
        counts = device.read(found)[: len(users)].astype(np.int64)
        return self._ranked(pieces.request_ptr, items, numbers, tie, member, keep, counts)

    def _scores(self, count: int) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        size = max(count, 1)
        empty = self._device.empty
        return empty((size, 3), np.float64), empty(size, np.uint64), empty(size, np.int32)

    def _ranked(
        self,
        place_ptr: Int64,
        items: DeviceArray,
        numbers: DeviceArray,
        tie: DeviceArray,
        member: DeviceArray,
        keep: int,
        found: Int64,
    ) -> Best:
        """Tile by tile, until each request is one tile."""
        device, requests = self._device, len(place_ptr) - 1
        tile = max(_TILE, _TILE_PER_KEPT * keep)
        while True:
            tiles = np.maximum(-(-np.diff(place_ptr) // tile), 1)
            kept_ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(tiles * keep)])
            kept = device.filled(max(int(kept_ptr[-1]), 1), 0xFF, np.int32)
            from_, to = device.move((place_ptr, np.int64), (kept_ptr, np.int64))
            device.launch(
                "rank_tiles", int(place_ptr[-1]), numbers, tie, from_, np.int32(requests), member, np.int32(tile),
                np.int32(keep), to, kept,
            )  # fmt: skip
            place_ptr, member = kept_ptr, kept
            if tiles.max(initial=1) == 1:
                break
        count = requests * keep
        chosen_item = device.empty(max(count, 1), np.int32)
        chosen_numbers = device.empty((max(count, 1), 3), np.float64)
        device.launch("read_chosen", count, member, np.int64(count), items, numbers, chosen_item, chosen_numbers)
        return Best(
            device.read(chosen_item)[:count].reshape(requests, keep),
            device.read(chosen_numbers)[:count].reshape(requests, keep, 3),
            found,
        )

    def _follow_graph(self) -> None:
        """Have the other orientation of the graph on the device, and which of its items count."""
        graph = self._resident.graph
        if graph is self._graph:
            return
        if self._graph is None or graph.cluster_item is not self._graph.cluster_item:
            self._source = self._device.upload(graph.cluster_item)
        live = np.ones(graph.n_items, np.uint8) if graph.edits is None else graph.edits.live.astype(np.uint8)
        self._live = self._device.upload(live)
        self._graph = graph


def _columns(users: Users, policy: CompiledPolicy) -> list[tuple[npt.NDArray[np.generic], npt.DTypeLike]]:
    return [
        (users.context_ptr, np.int32),
        (users.cluster, np.int32),
        (users.weight, np.float64),
        (users.seed, np.uint64),
        (policy.row, np.float64),
    ]


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Where the items around the users stand: as the kernel `score_around` takes it.

    Attributes:
        ptr: int64 of shape (pieces + 1,), places that each piece fills.
        start: int64 of shape (pieces,), where it starts in the graph's list, or -1 - start in `attached`.
        request: of each piece.
        rank: which of the request's clusters a piece is of.
        attached: int32, what edits of the graph have attached to clusters of these users.
        request_ptr: int64 of shape (Q + 1,), places of each request.
    """

    ptr: Int64
    start: Int64
    request: Int64
    rank: Int64
    attached: Int32
    request_ptr: Int64

    @classmethod
    def of(cls, graph: Graph, users: Users) -> "_Pieces":
        clusters, degrees = users.cluster, np.diff(users.context_ptr)
        request = np.repeat(np.arange(len(users)), degrees)
        rank = np.arange(len(clusters)) - np.repeat(users.context_ptr[:-1], degrees)
        start = graph.cluster_ptr[clusters]
        sizes = graph.cluster_ptr[clusters + 1] - start
        attached = np.empty(0, np.int32)
        if graph.edits is not None and graph.edits.attached:
            # Of each cluster that has any the list once, however many users share it.
            own, place = np.unique(clusters, return_inverse=True)
            lists = [graph.edits.attached.get(cluster, attached) for cluster in own.tolist()]
            more = np.fromiter(map(len, lists), np.int64, len(lists))
            begins = np.cumsum(more) - more
            attached = np.concatenate([attached, *lists]).astype(np.int32)
            # The pieces of a request lie together: the graph's and the attached one of each cluster.
            start = np.column_stack([start, -1 - begins[place]]).ravel()
            sizes = np.column_stack([sizes, more[place]]).ravel()
            request, rank = np.repeat(request, 2), np.repeat(rank, 2)
        ptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        first = np.searchsorted(request, np.arange(len(users) + 1))
        return cls(ptr, start, request, rank, attached, ptr[first])
