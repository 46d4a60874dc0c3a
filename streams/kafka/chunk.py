"""A chunk: what one fetch brought of one partition, and the place of it in the log.

Invariant: `end` is where the next chunk starts. Offsets between `start` and `end` that hold no record (transaction
markers, compacted records) belong to the chunk, so that contiguous chunks leave nothing out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from faust import Schema
from faust.types import AppT, EventT


class LogRecord(Protocol):
    """A record as the client hands it over."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Records of one partition.

    Attributes:
        topic, partition: where they come from.
        start: offset that was fetched from.
        end: offset of the next fetch.
        records: in the order of their offsets, start <= offset < end.
    """

    topic: str
    partition: int
    start: int
    end: int
    records: Sequence[LogRecord]

    @cached_property
    def size(self) -> int:
        """Bytes of the values, and one for each chunk and record, so that nothing is free."""
        return 1 + sum(len(record.value or b"") + 1 for record in self.records)


class ChunkSchema(Schema[Any, Any]):
    """Hands tuples of chunks to agents as they are: no codec runs on them."""

    def compile(self, app: AppT, **_: Any) -> Any:
        """The function that makes an event of a message."""

        async def decode(message: Any, *, propagate: bool = False) -> EventT[Any]:
            return app.create_event(None, message.value, None, message)

        return decode
