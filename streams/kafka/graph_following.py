"""How a worker comes under other graphs: it puts marks of them into the ledger, and goes on when it reads them.

Invariants: nothing changes but by a mark in the ledger; an artifact is loaded before its mark is written; what was
in force before does not come back because a worker was restarted, so that a restart undoes no operator's order.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import structlog

from bandits.artifact import read_manifest
from bandits.graph import Graph
from freshet.v1 import kafka_state_pb2
from streams.artifact_dir import OVERLAP, NewestGraph
from streams.kafka.graph_marks import GRAPH_KEY, encode_graph_mark
from streams.kafka.graph_shelf import GraphShelf
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.partition import Surroundings
from streams.kafka.sender import Outgoing
from streams.overlap_folder import overlap_name

_TIDY_S = 1.0

log = structlog.get_logger("freshet.kafka")


class GraphFollowing:
    """Follows a watched directory.

    Args:
        around: what all partitions share.
        shelf: the graphs.
        newest: looks into the directory; None = only what operators ask for comes into force.
        learners: gives the partitions that are owned and recovered.
    """

    def __init__(
        self,
        around: Surroundings,
        shelf: GraphShelf,
        newest: NewestGraph | None,
        learners: Callable[[], Sequence[LearnerPartition]],
    ) -> None:
        self._around = around
        self._shelf = shelf
        self._newest = newest
        self._learners = learners

    async def begin(self, learners: Sequence[LearnerPartition]) -> None:
        """Ask for the wanted graph in partitions that have been taken over, where it has never been in force."""
        wanted = self._shelf.wanted.version
        # Without a directory of graphs, whoever started the worker under this one has asked for it just now.
        asked = self._around.settings.graph_dir is None
        await self._ask([one for one in learners if asked or wanted not in one.past_graphs])

    async def run(self) -> None:
        """Ask for the newest graph that is placed in the directory, until cancelled."""
        newest = self._newest
        while True:
            await asyncio.sleep(self._around.settings.graph_watch_s or _TIDY_S)
            self._shelf.drop_unused()
            if newest is None:
                continue
            try:
                found = await asyncio.to_thread(newest.look)
            except (ValueError, OSError) as error:  # a damaged graph, or a directory that cannot be read
                log.error("graph refused", reason=str(error))
                continue
            if found is not None:
                _, self._shelf.wanted = found
                self._shelf.add(self._shelf.wanted)
                await self._ask(self._learners())

    async def _ask(self, learners: Sequence[LearnerPartition]) -> None:
        wanted = self._shelf.wanted
        others = [learner for learner in learners if learner.version != wanted.version]
        if not others:
            return
        overlap = await asyncio.to_thread(self._overlap_with, wanted)
        log.info("another graph is asked for", version=wanted.version, partitions=[one.number for one in others])
        marks = [
            kafka_state_pb2.GraphMark(version=wanted.version, from_version=learner.version, overlap=overlap)
            for learner in others
        ]
        topic = self._around.names.outcomes
        await self._around.sender.send(
            [
                Outgoing(topic, learner.number, GRAPH_KEY, encode_graph_mark(mark))
                for learner, mark in zip(others, marks, strict=True)
            ]
        )

    def _overlap_with(self, graph: Graph) -> str:
        """The name of the overlap map that lies within an artifact; empty if there is none."""
        try:
            return overlap_name(self._shelf.artifacts.folder(graph.version) / OVERLAP)
        except (LookupError, ValueError, OSError):
            return ""


def keep_copy(artifact: Path, data_dir: Path) -> Path:
    """Keep a copy of an artifact with the stores, which go on under it when another one has taken its place.

    Returns:
        The directory of all copies.

    Raises:
        OSError: it cannot be written.
    """
    copies = data_dir / "graphs"
    try:
        version = read_manifest(artifact).version
    except ValueError:
        return copies  # damaged: it is not what the worker goes by, or it has been refused
    folder = copies / quote(version, safe="").replace(".", "%2E")
    if not folder.exists():
        copies.mkdir(parents=True, exist_ok=True)
        draft = copies / f".{folder.name}.tmp"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(artifact, draft, ignore=shutil.ignore_patterns(".*"))
        draft.rename(folder)
    return copies
