"""Chunks of two source partitions, handed on side by side in the order of ingestion.

To a worker that catches up the broker hands whatever it has; clicks are fewer bytes, so their topic would be read
through long before the impressions, and the joiner would have to give up clicks whose impression is still to come.

Invariants: what is taken of one partition was ingested before what is left of the other, give or take `SLACK_MS`,
unless the other has been read to its end; a chunk that does not follow the one before is never handed on; whatever
can be told apart by time only waits while the other partition is known to have something older.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from faust.types import TP

from streams.kafka.chunk import Chunk

# Shorter than anything the joiner forgets after, longer than two fetches of one moment are apart.
SLACK_MS = 100


class SideBySide:
    """What was fetched of some partitions and not yet committed.

    Args:
        tps: the partitions.

    Attributes:
        missed: partitions of which something between two chunks was lost, after `take`.
    """

    def __init__(self, tps: Sequence[TP]) -> None:
        self._waiting: dict[TP, deque[Chunk]] = {tp: deque() for tp in tps}
        self.missed: set[TP] = set()

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(self._waiting.values())

    @property
    def size(self) -> int:
        """Bytes of everything that waits."""
        return sum(chunk.size for chunks in self._waiting.values() for chunk in chunks)

    def add(self, chunk: Chunk) -> None:
        """A chunk has come."""
        self._waiting[TP(chunk.topic, chunk.partition)].append(chunk)

    def chunks_of(self, tp: TP) -> int:
        """How many chunks of a partition wait."""
        return len(self._waiting[tp])

    def clear(self) -> None:
        """Forget everything."""
        for chunks in self._waiting.values():
            chunks.clear()

    def take(
        self,
        positions: Mapping[TP, int],
        ends: Mapping[TP, int | None],
        clocks_ms: Mapping[TP, int],
        *,
        limit_bytes: int,
    ) -> list[Chunk]:
        """What may be committed next; empty if it must wait for the other partition.

        Args:
            positions: offset of the next record to be committed.
            ends: end of each partition as last seen; None before the first answer.
            clocks_ms: when the last committed record of each was ingested.
            limit_bytes: to be taken at once, as far as records of one time allow.
        """
        self.missed = {tp for tp, chunks in self._waiting.items() if self._lost(chunks, positions[tp])}
        until_ms = min(self._reach_ms(tp, positions[tp], ends[tp], clocks_ms[tp]) for tp in self._waiting)
        until_ms += SLACK_MS
        if self.size > limit_bytes:
            first = [chunks[0] for chunks in self._waiting.values() if chunks]
            taken = self._take_until(
                positions, min([until_ms, *(_filled_ms(chunk, limit_bytes) for chunk in first)])
            )
            if taken:
                return taken
            until_ms = min([until_ms, *map(_last_ms, first)])  # times that do not ascend cannot be cut at
        return self._take_until(positions, until_ms)

    def _take_until(self, positions: Mapping[TP, int], until_ms: float) -> list[Chunk]:
        return [chunk for tp in self._waiting for chunk in self._take_of(tp, positions[tp], until_ms)]

    def _lost(self, chunks: deque[Chunk], position: int) -> bool:
        """Drop what is behind the position, and everything where something before it is missing."""
        while chunks and chunks[0].start < position:
            chunks.popleft()
        if not chunks or chunks[0].start == position:
            return False
        chunks.clear()
        return True

    def _reach_ms(self, tp: TP, position: int, end: int | None, clock_ms: int) -> float:
        """Everything of the partition that was ingested up to here is at hand."""
        chunks = self._waiting[tp]
        if end is not None and (chunks[-1].end if chunks else position) >= end:
            return math.inf
        return _last_ms(chunks[-1]) if chunks else clock_ms

    def _take_of(self, tp: TP, position: int, until_ms: float) -> list[Chunk]:
        chunks, taken = self._waiting[tp], []
        while chunks and chunks[0].start == position:
            chunk = chunks[0]
            if _last_ms(chunk) <= until_ms:
                taken.append(chunks.popleft())
                position = chunk.end
                continue
            count = bisect_right(chunk.records, until_ms, key=lambda record: record.timestamp)
            if count:
                cut = chunk.records[count].offset
                taken.append(replace(chunk, end=cut, records=chunk.records[:count]))
                chunks[0] = replace(chunk, start=cut, records=chunk.records[count:])
            break
        return taken


def _filled_ms(chunk: Chunk, limit_bytes: int) -> int:
    """When what is left of a chunk reaches the limit, as if its records were of one size."""
    at = math.ceil(len(chunk.records) * min(limit_bytes / chunk.size, 1.0))
    return chunk.records[max(at, 1) - 1].timestamp


def _last_ms(chunk: Chunk) -> int:
    return chunk.records[-1].timestamp
