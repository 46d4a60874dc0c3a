"""Loads what graph marks need before a round is folded, and waits where it is not there yet.

Invariant: a mark is never passed over because its artifact is missing: the ledger says what graph facts count on,
so the partition stands still until the artifact is placed, and the operator is told which.
"""

import asyncio
import time
from collections.abc import Sequence

import structlog

from streams.artifact_dir import NoArtifact
from streams.kafka.chunk import Chunk, LogRecord
from streams.kafka.graph_marks import GRAPH_KEY, changes, graph_mark_of
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.ledger import decode_delivery
from streams.kafka.partition import WorkerError

_LOOK_S = 0.5

log = structlog.get_logger("freshet.kafka")


async def load_marked(taken: Sequence[tuple[LearnerPartition, Sequence[Chunk]]]) -> None:
    """Load the graphs that a round's marks name.

    Raises:
        WorkerError: one of them cannot be had.
    """
    for partition, chunks in taken:
        version = partition.version
        for chunk in chunks:
            for record in chunk.records:
                if record.key == GRAPH_KEY:
                    version = await _load(partition, version, record)


async def load_or_wait(partition: LearnerPartition, version: str, overlap: str = "") -> None:
    """Load a graph for a partition; while it is missing or damaged, look for it again and again.

    Raises:
        WorkerError: it has not come for as long as a partition may stand still.
    """
    settings = partition.around.settings
    until_s, told = time.monotonic() + settings.stall_timeout_ms / 1000, ""
    while True:
        try:
            await partition.shelf.load_aside(version, partition.number, overlap)
            return
        except (NoArtifact, ValueError, OSError) as error:
            reason = str(error)
        if told != reason:
            log.error("waiting for a graph", partition=partition.number, version=version, reason=reason)
            told = reason
        if time.monotonic() > until_s:
            raise WorkerError(
                f"{partition.ledger.topic}[{partition.number}] is under graph {version}, which cannot be loaded: "
                f"{reason}; place it in the graph directory of this worker"
            )
        await asyncio.sleep(_LOOK_S)


async def _load(partition: LearnerPartition, version: str, record: LogRecord) -> str:
    """Load what one mark needs; the version that is in force behind it."""
    try:
        mark = graph_mark_of(decode_delivery(record.value or b""))
    except ValueError:
        return version  # told when it is folded
    if mark is None or not changes(mark, version):
        return version
    await load_or_wait(partition, mark.version, mark.overlap)
    return mark.version
