"""Learner partitions over topics in memory, so that they can crash at any step, hundreds of times in a test."""

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bandits.backend_numpy import NumpyBackend
from bandits.sums import UNIT
from streams.artifact_dir import Artifacts
from streams.kafka import learner_recovery
from streams.kafka.at_once import all_at_once
from streams.kafka.chunk import Chunk
from streams.kafka.graph_shelf import GraphShelf
from streams.kafka.learner_partition import LearnerPartition
from streams.kafka.learner_rounds import LearnerRounds
from streams.kafka.side_threads import disk_threads
from streams.kafka.worker_settings import WorkerSettings
from streams.topics import TopicNames

NAMES = TopicNames("simulated")


class Crash(BaseException):
    """The process ends here."""


class Topics:
    """Partitions of records; reads as `LogReader` does, writes as `Sender` does.

    Attributes:
        writes_left: a crash comes after so many more records; None = never.
    """

    def __init__(self, n_partitions):
        self.n_partitions = n_partitions
        self.records = {}
        self.ends = {}
        self.writes_left = None

    def append(self, topic, partition, key, value):
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left < 0:
                raise Crash
        at = self.ends.get((topic, partition), 0)
        self.ends[topic, partition] = at + 1
        record = SimpleNamespace(offset=at, key=key, value=value, timestamp=0, headers=())
        self.records.setdefault((topic, partition), []).append(record)
        return at

    def compact(self, topic, partition):
        """Keep the last record of each key, none of those that are gone."""
        last = {record.key: record for record in self.records.get((topic, partition), [])}
        kept = sorted(last.values(), key=lambda record: record.offset)
        self.records[topic, partition] = [record for record in kept if record.value is not None]

    async def partitions(self, topic):
        return self.n_partitions

    async def bounds(self, tps):
        return {tp: (0, self.ends.get(tuple(tp), 0)) for tp in tps}

    async def read(self, stretches):
        for tp, (start, end) in stretches.items():
            yield tp, [r for r in self.records.get(tuple(tp), []) if start <= r.offset < end]

    async def send_batches(self, topic, rows):
        offsets = {}
        for number, pairs in rows.items():
            await asyncio.sleep(0)  # others have their turn, as they have while a broker answers
            offsets[number] = [self.append(topic, number, key, value) for key, value in pairs]
        return offsets


class Worker:
    """The learner partitions of one worker.

    Args:
        topics: what it reads and writes.
        folder: of its stores.
        graphs: directory of artifacts.
        wanted: the graph it begins with.
        generation: of the group.
    """

    def __init__(self, topics, folder, graphs, wanted, generation):
        self.topics, self.disk = topics, disk_threads()
        settings = WorkerSettings(
            bootstrap="", graph=graphs, data_dir=Path(folder), graph_watch_s=0, stall_timeout_ms=0, backend="numpy"
        )
        around = SimpleNamespace(
            settings=settings,
            names=NAMES,
            consumer=SimpleNamespace(thread=SimpleNamespace(is_sure=True)),
            sender=topics,
            rows_sender=topics,
            disk=self.disk,
            backend=NumpyBackend(),
            ledger_partitions=topics.n_partitions,
        )
        shelf = GraphShelf(Artifacts([graphs]), topics.n_partitions, around.backend, wanted)
        self.learners = [LearnerPartition(number, around, shelf) for number in range(topics.n_partitions)]
        self.rounds = LearnerRounds(around)
        self.shelf, self.generation = shelf, generation

    async def recover(self):
        for learner in self.learners:
            await learner_recovery.recover(learner, self.topics, generation=self.generation)
            self.rounds.partitions.append(learner)
            self.rounds._changed.append((learner.shared, learner.unpublished()))
        self.shelf.drop_unused()

    async def step(self, records, *, publish):
        """A round of at most so many records of each partition; with another one while its rows are published."""
        taken = self._take(records)
        await self.rounds.commit(taken)
        if publish:
            await all_at_once([self.rounds.publish(), self._fold_meanwhile(records)])
        return bool(taken)

    async def _fold_meanwhile(self, records):
        await asyncio.sleep(0)
        await self.rounds.commit(self._take(records))

    def _take(self, records):
        taken = []
        for learner in self.learners:
            start = learner.learner.position
            ledger = self.topics.records.get((NAMES.outcomes, learner.number), [])
            piece = [r for r in ledger if start <= r.offset < start + records]
            if piece:
                end = piece[-1].offset + 1
                taken.append((learner, [Chunk(NAMES.outcomes, learner.number, start, end, piece)]))
        return taken

    def end(self, *, wipe=False):
        for learner in self.learners:
            learner.close()
        self.disk.close()
        if wipe:
            shutil.rmtree(self.learners[0].around.settings.data_dir, ignore_errors=True)


class Oracle:
    """The sums as dicts, told what the ledger was told.

    Args:
        graphs: clusters of each item, by version.
        version: the first graph.
    """

    def __init__(self, graphs, version):
        self.graphs, self.version = graphs, version
        self.edges, self.items, self.extra = {}, {}, {}

    def clusters(self, item):
        return self.extra.get(item, self.graphs[self.version].get(item))

    def learn(self, item, context, impressions, reward):
        clusters = self.clusters(item)
        if clusters is None:
            return
        sums = self.items.setdefault(item, [0, 0])
        sums[0] += impressions
        sums[1] += reward
        for cluster, x in context:
            if cluster in clusters:
                edge = self.edges.setdefault((item, cluster), [0, 0, 0])
                edge[0] += x * impressions
                edge[1] += x * x * impressions
                edge[2] += x * reward

    def attach(self, item, clusters):
        self.extra[item] = set(clusters)
        self._keep(lambda name, cluster: name != item or cluster in clusters)

    def switch(self, version, shares=None):
        self.version = version
        graph = self.graphs[version]
        extra = {item: clusters for item, clusters in self.extra.items() if item not in graph}
        if shares is not None:
            largest = {old: max(row, key=lambda new: (row[new], -new)) for old, row in shares.items() if row}
            extra = {item: {largest[c] for c in clusters if c in largest} for item, clusters in extra.items()}
            given = {}
            for (item, old), sums in self.edges.items():
                for new, share in shares[old].items():
                    edge = given.setdefault((item, new), [0, 0, 0])
                    for column, value in enumerate(sums):
                        edge[column] += value * share >> 20
            self.edges = given
        self.extra = extra
        self.items = {item: sums for item, sums in self.items.items() if self.clusters(item) is not None}
        self._keep(lambda name, cluster: cluster in (self.clusters(name) or ()))

    def _keep(self, stays):
        self.edges = {key: sums for key, sums in self.edges.items() if stays(*key)}

    def state(self):
        edges = {key: tuple(sums) for key, sums in self.edges.items() if any(sums)}
        return edges, {item: tuple(sums) for item, sums in self.items.items() if any(sums)}


def state_of(shared):
    """What sums hold, as dicts."""
    edges, items = {}, {}
    graph, sums = shared.graph, shared.sums
    ids, clusters = list(graph.item_ids), graph.edge_cluster.tolist()
    for number in np.flatnonzero(shared.row_position > 0).tolist():
        if sums.item[number].any():
            items[ids[number]] = tuple(sums.item[number].tolist())
        for edge in range(graph.item_ptr[number], graph.item_ptr[number + 1]):
            if sums.edge[edge].any():
                edges[ids[number], clusters[edge]] = tuple(sums.edge[edge].tolist())
    return edges, items


def run(coroutine):
    """The result of a coroutine, in a loop of its own."""
    return asyncio.run(coroutine)


__all__ = ["NAMES", "UNIT", "Crash", "Oracle", "Topics", "Worker", "run", "state_of"]
