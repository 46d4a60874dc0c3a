"""OperationsService: what operators ask and do. A separate role on a listener of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from bandits.sums import Sums
from freshet.v1 import operations_pb2, operations_pb2_grpc
from server import limits
from server.errors import Refused, invalid_field, no_graph
from server.graph_changes import GraphChanges
from server.item_views import top_items, views_of
from server.loops import LearnsElsewhere, Loop
from server.requests import check_text
from server.snapshot import Parameters, Snapshot
from server.vitals import Vitals
from streams.embedded import LoopFailed
from streams.store import StoreError

# The calls that change something; each is logged.
CHANGES = frozenset({"FreezeLearning", "LoadGraph", "UpsertItems", "RetireItems"})


class OperationsService(operations_pb2_grpc.OperationsServiceServicer):
    """Shows and changes what the server works with.

    Args:
        loop: learns.
        snapshot: the parameters served.
        changes: of the graph.
        refusal: why the latest artifact in the watched directory was refused; empty if it was not.
        vitals: how the server is doing.
        version: release of the server.
        plumbing: "embedded" or "kafka".
        policy_name: gives the name of the default policy, as replies name it.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        snapshot: Snapshot,
        changes: GraphChanges,
        refusal: Callable[[], str],
        vitals: Vitals,
        version: str,
        plumbing: str,
        policy_name: Callable[[], str],
    ) -> None:
        self._loop = loop
        self._snapshot = snapshot
        self._changes = changes
        self._refusal = refusal
        self._vitals = vitals
        self._version = version
        self._plumbing = plumbing
        self._policy_name = policy_name

    def GetItem(  # noqa: N802 - the name of the RPC
        self, request: operations_pb2.GetItemRequest, context: grpc.ServicerContext
    ) -> operations_pb2.GetItemResponse:
        """One item with all its sums."""
        check_text("item_id", request.item_id, smallest=1)
        parameters = self._parameters()
        number = int(parameters.graph.lookup([request.item_id])[0])
        if number < 0:
            raise Refused(grpc.StatusCode.NOT_FOUND, "item_id: the graph does not know it", reason="unknown_item")
        views, position = _views(parameters, lambda _: [number])
        return operations_pb2.GetItemResponse(
            item=views[0], graph_version=parameters.graph.version, parameters_position=[position]
        )

    def ListItems(  # noqa: N802 - the name of the RPC
        self, request: operations_pb2.ListItemsRequest, context: grpc.ServicerContext
    ) -> operations_pb2.ListItemsResponse:
        """The top items by an order."""
        orders = operations_pb2.ItemOrder.values()
        if request.order not in orders:
            raise invalid_field("order", f"an ItemOrder, 0 to {max(orders)}", request.order)
        if request.limit > limits.MAX_LISTED_ITEMS:
            expected = f"0 (= {limits.DEFAULT_LISTED_ITEMS}) to {limits.MAX_LISTED_ITEMS}"
            raise invalid_field("limit", expected, request.limit)
        limit = request.limit or limits.DEFAULT_LISTED_ITEMS
        parameters = self._parameters()
        views, position = _views(
            parameters, lambda sums: top_items(parameters.graph, sums, order=request.order, limit=limit)
        )
        return operations_pb2.ListItemsResponse(
            items=views, graph_version=parameters.graph.version, parameters_position=[position]
        )

    def GetStatus(  # noqa: N802 - the name of the RPC
        self, request: operations_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> operations_pb2.GetStatusResponse:
        """Graph, positions, lag, staleness, backend."""
        vitals = self._vitals.sample()
        try:
            state_hash = self._loop.state_hash()
        except LoopFailed:  # its status is what the operator needs most then
            state_hash = ""
        return operations_pb2.GetStatusResponse(
            version=self._version,
            plumbing=self._plumbing,
            backend=vitals.loop.backend,
            graph_version=vitals.graph_version,
            clusters=vitals.clusters,
            items=vitals.items,
            edges=vitals.edges,
            parameters_position=[vitals.position] if vitals.ready else [],
            ledger_end=[vitals.loop.ledger_end],
            staleness_ms=round(vitals.staleness_s * 1_000),
            learning_frozen=vitals.loop.frozen,
            queued_events=vitals.loop.queued_events,
            pending_impressions=vitals.loop.pending_impressions,
            impressions_in_flight=vitals.loop.in_flight,
            counts=vitals.loop.counts,
            state_hash=state_hash,
            default_policy=self._policy_name(),
            graph_refusal=self._refusal(),
            graph_partitions=self._loop.graph_partitions() if isinstance(self._loop, LearnsElsewhere) else [],
        )

    def FreezeLearning(  # noqa: N802 - the name of the RPC
        self, request: operations_pb2.FreezeLearningRequest, context: grpc.ServicerContext
    ) -> operations_pb2.FreezeLearningResponse:
        """Stop or resume learning, durably."""
        with loop_errors():
            self._loop.freeze(request.frozen)
        return operations_pb2.FreezeLearningResponse(frozen=request.frozen)

    def LoadGraph(  # noqa: N802 - the name of the RPC
        self, request: operations_pb2.LoadGraphRequest, context: grpc.ServicerContext
    ) -> operations_pb2.LoadGraphResponse:
        """Switch to another graph artifact."""
        with loop_errors():
            graph, switch = self._changes.load(request.path, overlap_path=request.overlap_path)
        return operations_pb2.LoadGraphResponse(
            graph_version=graph.version,
            edges_kept=switch.kept,
            edges_added=switch.added,
            edges_dropped=switch.dropped,
        )

    def UpsertItems(  # noqa: N802 - the name of the RPC
        self, request: operations_pb2.UpsertItemsRequest, context: grpc.ServicerContext
    ) -> operations_pb2.UpsertItemsResponse:
        """Add items, or attach them elsewhere, without a rebuild."""
        with loop_errors():
            graph = self._changes.upsert(request.items)
        return operations_pb2.UpsertItemsResponse(graph_version=graph.version)

    def RetireItems(  # noqa: N802 - the name of the RPC
        self, request: operations_pb2.RetireItemsRequest, context: grpc.ServicerContext
    ) -> operations_pb2.RetireItemsResponse:
        """Take items out of every reply."""
        with loop_errors():
            graph, unknown = self._changes.retire(list(request.item_ids))
        return operations_pb2.RetireItemsResponse(graph_version=graph.version, unknown_item_ids=unknown)

    def _parameters(self) -> Parameters:
        parameters = self._snapshot.current
        if parameters is None:
            raise no_graph()
        return parameters


def _views(
    parameters: Parameters, choose: Callable[[Sums], list[int]]
) -> tuple[list[operations_pb2.ItemView], int]:
    """Views of the items that `choose` picks from all sums, and their position."""

    def read(sums: Sums, position: int) -> tuple[list[operations_pb2.ItemView], int]:
        return views_of(parameters.graph, sums, choose(sums), position=position), position

    return parameters.read(read)


@contextmanager
def loop_errors() -> Iterator[None]:
    """Turn a stopped loop, or a disk that cannot take the change, into UNAVAILABLE."""
    try:
        yield
    except (LoopFailed, StoreError, OSError) as error:
        raise Refused(grpc.StatusCode.UNAVAILABLE, f"nothing was changed: {error}", reason="loop_failed") from None
