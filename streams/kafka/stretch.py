"""Two source partitions read side by side in the order of ingestion, each at its own pace."""

from collections import deque
from collections.abc import AsyncIterator, Sequence

from faust.types import TP

from streams.kafka.chunk import Chunk, LogRecord
from streams.kafka.log_reader import LogReader


class Stretch:
    """A stretch of one source partition, taken in parts by time.

    Args:
        reader: used for nothing else meanwhile.
        tp: the partition.
        start: first offset.
        end: offset to stop before.

    Attributes:
        records: read and not yet taken.
    """

    def __init__(self, reader: LogReader, tp: TP, start: int, end: int) -> None:
        self._tp = tp
        self._at = start
        self._pieces: AsyncIterator[tuple[TP, Sequence[LogRecord]]] = reader.read({tp: (start, end)})
        self.records: deque[LogRecord] = deque()

    @property
    def last_ms(self) -> int:
        """When the newest of `records` was ingested."""
        return self.records[-1].timestamp

    async def fill(self) -> bool:
        """Have records, unless there are no more."""
        while not self.records:
            piece = await anext(self._pieces, None)
            if piece is None:
                return False
            self.records.extend(piece[1])
        return True

    def take(self, until_ms: int) -> Chunk | None:
        """What was ingested up to a time; all of it if that is its own last."""
        own = bool(self.records) and until_ms == self.last_ms
        taken: list[LogRecord] = []
        while self.records and (own or self.records[0].timestamp <= until_ms):
            taken.append(self.records.popleft())
        if not taken:
            return None
        start, self._at = self._at, taken[-1].offset + 1
        return Chunk(self._tp.topic, self._tp.partition, start, self._at, taken)
