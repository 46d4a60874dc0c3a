"""A member of the group that comes back under its own name, and one that has been replaced.

Invariant: of two processes with one name the group knows the newer; the older ends and never joins again, or they
would replace each other for ever.

A static member (KIP-345) that dies and comes back within its session takes its partitions over at once, and nobody
else's are moved. The client asks for that by `group_instance_id`, but its heartbeats (version 1) do not carry it,
so the broker can only tell a replaced member that it is unknown, as it would tell one that was silent for too long;
and an unknown member joins again. So before a member joins again it asks by a heartbeat that carries the name.
"""

import asyncio
import time
from typing import Any

import structlog
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct
from aiokafka.protocol.group import HeartbeatResponse_v1
from aiokafka.protocol.types import Int32, Schema, String

FENCED_INSTANCE_ID = 82

_PAUSE_S = 0.2

log = structlog.get_logger("freshet.kafka")


class _HeartbeatResponse(HeartbeatResponse_v1):  # type: ignore[misc]  # aiokafka has no types
    API_VERSION = 3


class _HeartbeatStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = _HeartbeatResponse
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class _NamedHeartbeat(Request[_HeartbeatStruct]):  # type: ignore[misc]
    API_KEY = 12

    def __init__(self, group: str, generation: int, member_id: str, instance_id: str) -> None:
        self._fields = (group, generation, member_id, instance_id)

    def build(self, request_struct_class: type[_HeartbeatStruct]) -> Any:
        """The request in the version that was agreed on."""
        return request_struct_class(*self._fields)


class NamedCoordinator(GroupCoordinator):  # type: ignore[misc]
    """A coordinator that does not join again once its name belongs to another process.

    Attributes:
        replaced: another process has this name now; the worker must end.
        sure_until_s: by the monotonic clock; until then the group cannot have given the partitions to another
            worker, as the session runs at least from the last heartbeat that was answered.
    """

    replaced = False
    sure_until_s = 0.0
    _former = (-1, "")

    @classmethod
    def take_over(cls, coordinator: GroupCoordinator) -> None:
        """Turn a fresh coordinator, which has not joined yet, into one of this class."""
        coordinator.__class__ = cls

    def check(self) -> None:
        """Tell what keeps the member from working; to be called from the client's thread.

        Raises:
            KafkaError: the group does not accept this member.
        """
        try:
            self.check_errors()
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("trying to join again", error=repr(error))

    def reset_generation(self) -> None:
        """Forget the membership; what it was is asked about before joining again."""
        if self.member_id:
            self._former = (self.generation, self.member_id)
        super().reset_generation()

    async def _do_heartbeat(self) -> Any:
        asked_s = time.monotonic()
        answered = await super()._do_heartbeat()
        if answered:
            self.sure_until_s = asked_s + self._session_timeout_ms / 1000
        return answered

    async def _do_rejoin_group(self, subscription: Any) -> Any:
        if self._group_instance_id is not None:
            try:
                self.replaced = self.replaced or await self._is_replaced()
            except KafkaError:
                await asyncio.sleep(_PAUSE_S)
                return False  # called again
        if self.replaced:
            await self._closing  # the worker ends
            return False
        return await super()._do_rejoin_group(subscription)

    async def _is_replaced(self) -> bool:
        generation, member_id = (self.generation, self.member_id) if self.member_id else self._former
        if not member_id:
            return False  # it has never joined
        answer = await self._send_req(
            _NamedHeartbeat(self.group_id, generation, member_id, self._group_instance_id)
        )
        return bool(answer.error_code == FENCED_INSTANCE_ID)
