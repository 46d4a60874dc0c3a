"""Publishes new items while users use the server: in portions, over the earlier part of the run.

Invariant: an item is known to the users' world before the server can show it.
"""

import time

import grpc
import numpy as np

from freshet.v1 import events_pb2, operations_pb2, operations_pb2_grpc
from server.channels import ClientTls, open_channel
from server.demo.held_out_scene import HeldOutScene
from server.demo.users import RETRY_WHAT_IS_TURNED_AWAY
from server.limits import MAX_CHANGED_ITEMS

FROM, UNTIL = 0.1, 0.5  # of the run's slates
_PORTIONS = 20
_CALL_DEADLINE_S = 30.0


class NotPublished(RuntimeError):
    """The server did not take new items; the message says why."""


class Publisher:
    """Gives new items to a server.

    Args:
        address: of its operations service.
        scene: whose new items they are.
        slates: of the whole run.
        tls: what to connect with; None = plain text.
    """

    def __init__(self, address: str, scene: HeldOutScene, *, slates: int, tls: ClientTls | None = None) -> None:
        self._channel = open_channel(address, tls, options=[("grpc.service_config", RETRY_WHAT_IS_TURNED_AWAY)])
        self._upsert = operations_pb2_grpc.OperationsServiceStub(self._channel).UpsertItems
        self._scene = scene
        count = len(scene.world.new_items)
        portions = max(1, min(_PORTIONS, count))
        portions = max(portions, -(-count // MAX_CHANGED_ITEMS))
        self._portions = [part for part in np.array_split(np.arange(count), portions) if len(part)]
        self._due = [slates * (FROM + (UNTIL - FROM) * number / portions) for number in range(portions)]
        self._done = 0

    def publish_due(self) -> None:
        """Publish what is due after the slates so far.

        Raises:
            NotPublished: the server does not take it.
        """
        while self._done < len(self._portions) and self._scene.exposure.slates >= self._due[self._done]:
            self._publish(self._portions[self._done])
            self._done += 1

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _publish(self, rows: "np.typing.NDArray[np.int64]") -> None:
        world = self._scene.world
        now_ms = time.time_ns() // 1_000_000
        items = [
            events_pb2.Item(
                item_id=world.item_ids[world.new_items[row]],
                embedding=events_pb2.Embedding(values=world.new_embeddings[row]),
                published_at_ms=now_ms,
            )
            for row in rows.tolist()
        ]
        self._scene.publish(world.new_items[rows])
        try:
            self._upsert(operations_pb2.UpsertItemsRequest(items=items), timeout=_CALL_DEADLINE_S)
        except grpc.RpcError as error:
            raise NotPublished(f"UpsertItems: {error.code().name}: {error.details()}") from error
