"""Marks of graphs in the ledger: crashes, empty disks and replaced owners leave rows that are its fold."""

import random

import numpy as np
import pytest

from bandits.artifact import save_graph
from bandits.backend_numpy import NumpyBackend
from bandits.graph import build_graph
from bandits.outcomes import Outcomes
from bandits.overlap import OverlapMap
from freshet.v1 import kafka_state_pb2
from streams.artifact_dir import OVERLAP, Artifacts
from streams.kafka import learner_recovery, learner_rounds
from streams.kafka.catalogue import encode_mark
from streams.kafka.graph_marks import GRAPH_KEY, encode_graph_mark
from streams.kafka.graph_shelf import GraphShelf
from streams.kafka.ledger import Place, encode_parts, partitions_of
from streams.kafka.ledger_fold import bounds_of, fold_ledger, hash_of_rows, read_marks
from streams.overlap_folder import load_overlap, save_overlap
from tests.kafka import feed
from tests.kafka.simulated_learners import NAMES, UNIT, Crash, Oracle, Topics, Worker, run, state_of

N_CLUSTERS, N_ITEMS, N_PARTITIONS = 6, 10, 2
STEPS = [
    "learner-folded",
    "learner-one-written",
    "learner-written",
    "learner-published",
    "learner-marked",
    "learner-restored",
    "learner-rows-written",
    "learner-fenced",
]


class Deployment:
    """Topics, artifacts and a worker that ends whenever it is told to; the oracle hears what the ledger is told.

    Args:
        folder: for everything.
        rng: decides.
        overlap: whether artifacts come with an overlap map.
    """

    def __init__(self, folder, rng, *, overlap):
        self.folder, self.rng = folder, rng
        self.topics = Topics(N_PARTITIONS)
        (folder / "graphs").mkdir()
        self.graphs = {f"v{n}": self._graph(f"v{n}") for n in range(4)}
        clusters = {version: feed.edges_of(graph) for version, graph in self.graphs.items()}
        self.oracles = [Oracle(clusters, "v0") for _ in range(N_PARTITIONS)]
        for version, graph in self.graphs.items():
            save_graph(graph, folder / "graphs" / version)
        self.shares, self.overlap = self._overlap() if overlap else (None, "")
        self.sequence = self.requests = self.generation = self.orders = 0
        self.worker = None
        first = kafka_state_pb2.GraphMark(version="v0", from_version="v0")  # says what the ledger begins under
        for partition in range(N_PARTITIONS):
            self.topics.append(NAMES.outcomes, partition, GRAPH_KEY, encode_graph_mark(first))

    def _graph(self, version):
        rng = self.rng
        names = rng.sample([f"item-{n}" for n in range(N_ITEMS + 4)], N_ITEMS)
        rows = [rng.sample(range(N_CLUSTERS), rng.randint(1, 4)) for _ in names]
        return build_graph(
            version=version,
            centroids=[],
            n_clusters=N_CLUSTERS,
            item_ids=names,
            edge_item=np.repeat(np.arange(len(names)), [len(row) for row in rows]),
            edge_cluster=np.concatenate(rows),
        )

    def _overlap(self):
        shares = {}
        for old in range(N_CLUSTERS):
            new = sorted(self.rng.sample(range(N_CLUSTERS), self.rng.randint(1, 3)))
            cuts = sorted(self.rng.sample(range(1, 1 << 20), len(new) - 1))
            parts = np.diff([0, *cuts, 1 << 20]).tolist()
            shares[old] = dict(zip(new, parts, strict=True))
        ptr = np.cumsum([0, *map(len, shares.values())])
        clusters = np.array([c for row in shares.values() for c in row], np.int32)
        units = np.array([s for row in shares.values() for s in row.values()], np.int64)
        folder = self.folder / "graphs" / "v1" / OVERLAP
        one = self.graphs["v0"]  # all graphs have no centroids and equally many clusters: any of them will do
        save_overlap(OverlapMap(ptr, clusters, units, N_CLUSTERS), folder, old=one, new=one)
        return shares, load_overlap(folder).name

    def learn(self):
        """A joiner's micro-batch goes into the ledger."""
        self.sequence += 1
        rng, names = self.rng, [f"item-{n}" for n in range(N_ITEMS + 5)]
        shown = rng.sample(names, rng.randint(1, 5))
        contexts, rewards = [], []
        for item in shown:
            clusters = sorted(rng.sample(range(N_CLUSTERS), 3))
            contexts.append([(c, rng.randint(1, UNIT)) for c in clusters])
            rewards.append(rng.choice([0, UNIT, rng.randint(1, UNIT)]))
            oracle = self.oracles[int(partitions_of([item], N_PARTITIONS)[0])]
            oracle.learn(item, contexts[-1], 1, rewards[-1])
        count = len(shown)
        flat = [pair for context in contexts for pair in context]
        outcomes = Outcomes(
            joiner_partition=0,
            sequence=self.sequence,
            impressions_position=0,
            clicks_position=0,
            item_ids=shown,
            context_ends=np.cumsum([len(context) for context in contexts]),
            context_cluster=np.array([cluster for cluster, _ in flat], np.int32),
            context_x=np.array([x for _, x in flat], np.int64),
            item=np.arange(count, dtype=np.int32),
            context=np.arange(count, dtype=np.int32),
            impressions=np.ones(count, np.int64),
            reward=np.array(rewards, np.int64),
            cause_topic=np.zeros(count, np.int32),
            cause_offset=np.zeros(count, np.int64),
            cause_index=np.zeros(count, np.int32),
        )
        parts = encode_parts(outcomes, Place(0, 0, 0), N_PARTITIONS)
        for partition, value in parts.items():
            self.topics.append(NAMES.outcomes, partition, None, value)

    def attach(self):
        """The catalogue attaches an item."""
        item, clusters = f"item-{self.rng.randint(0, N_ITEMS + 4)}", self.rng.sample(range(N_CLUSTERS), 2)
        partition = int(partitions_of([item], N_PARTITIONS)[0])
        self.orders += 1
        mark = kafka_state_pb2.CatalogueMark(offset=self.orders, item_id=item, cluster_ids=sorted(clusters))
        for _ in range(self.rng.choice([1, 1, 2])):
            self.topics.append(NAMES.outcomes, partition, None, encode_mark(mark))
        self.oracles[partition].attach(item, clusters)

    def switch(self):
        """Partitions go on under another graph, each at its own record; marks may come twice, or too late."""
        version = self.rng.choice([*self.graphs])
        overlap = self.overlap if self.rng.random() < 0.5 else ""
        self.orders += 1
        for partition in self.rng.sample(range(N_PARTITIONS), self.rng.randint(1, N_PARTITIONS)):
            oracle = self.oracles[partition]
            asked = self.rng.random() < 0.5
            before = oracle.version if asked or self.rng.random() < 0.8 else "v9"
            mark = kafka_state_pb2.GraphMark(
                version=version, from_version=before, overlap=overlap, asked=asked, offset=self.orders
            )
            for _ in range(self.rng.choice([1, 1, 2])):
                self.topics.append(NAMES.outcomes, partition, GRAPH_KEY, encode_graph_mark(mark))
            if before == oracle.version != version:
                oracle.switch(version, self.shares if overlap else None)
            if self.rng.random() < 0.5:
                self.learn()

    def start(self, disk="disk"):
        self.generation += 1
        wanted = self.graphs[self.rng.choice([*self.graphs])] if self.generation > 1 else self.graphs["v0"]
        graphs = self.folder / "graphs"
        self.worker = Worker(self.topics, self.folder / disk, graphs, wanted, self.generation)
        run(self.worker.recover())

    def check(self):
        """Rows, sums, ledger and oracle agree."""
        run(self._drain())
        edges, items = {}, {}
        for oracle in self.oracles:
            more = oracle.state()
            edges, items = edges | more[0], items | more[1]
        found = [state_of(shared) for shared in {learner.shared for learner in self.worker.learners}]
        assert {k: v for one, _ in found for k, v in one.items()} == edges
        assert {k: v for _, one in found for k, v in one.items()} == items
        assert run(self._hashes()) == 1

    async def _drain(self):
        while await self.worker.step(50, publish=True):
            pass

    async def _hashes(self):
        shelves = [
            GraphShelf(Artifacts([self.folder / "graphs"]), N_PARTITIONS, NumpyBackend(), self.graphs["v0"])
            for _ in range(2)
        ]
        bounds = await bounds_of(self.topics, NAMES.parameters)
        marks = await read_marks(self.topics, bounds)
        rows = await hash_of_rows(self.topics, bounds, shelves[0], marks)
        fold = await fold_ledger(self.topics, NAMES, shelves[1], marks)
        return len({rows, fold.hash_at_marks, fold.hash_at_end})


@pytest.fixture
def crashes(monkeypatch):
    """Which failpoint ends the process: set `name` and after how many passings."""
    plan = {"name": "", "left": 0}

    def failpoint(name):
        if name == plan["name"]:
            plan["left"] -= 1
            if plan["left"] < 0:
                plan["name"] = ""
                raise Crash

    for module in (learner_rounds, learner_recovery):
        monkeypatch.setattr(module, "failpoint", failpoint)
    return plan


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("seed", [4, 25, 27])
def test_crashes_around_switches_leave_the_fold_of_the_ledger(tmp_path, crashes, seed, overlap):
    """Facts, items and graphs change while the worker crashes at any step, mid-publication, loses its disk, or goes
    on writing after it was replaced: rows and sums are what plain dicts make of the ledger."""
    rng = random.Random(seed)
    deployment = Deployment(tmp_path, rng, overlap=overlap)
    topics = deployment.topics
    deployment.start()
    for _ in range(25):
        crashes["name"], topics.writes_left = "", None
        for _ in range(rng.randint(1, 4)):
            rng.choice([deployment.learn, deployment.learn, deployment.attach, deployment.switch])()
        crash = rng.random() < 0.4
        if crash and rng.random() < 0.5:
            crashes |= {"name": rng.choice(STEPS), "left": rng.randint(0, 2)}
        elif crash:
            topics.writes_left = rng.randint(0, 8)
        try:
            for _ in range(rng.randint(0, 3)):
                run(deployment.worker.step(rng.randint(1, 6), publish=rng.random() < 0.5))
            if rng.random() < 0.2:
                raise Crash
        except Crash:
            _restart(deployment, crashes)
        if rng.random() < 0.3:
            topics.compact(NAMES.parameters, rng.randrange(N_PARTITIONS))
    crashes["name"], topics.writes_left = "", None
    deployment.check()
    replaced = deployment.worker
    deployment.start("another-disk")
    for _ in range(4):
        deployment.learn()
        deployment.switch()
    deployment.check()
    run(replaced.step(3, publish=True))  # rows of items that may be gone, behind their tombstones
    replaced.end()
    for partition in range(N_PARTITIONS):
        topics.compact(NAMES.parameters, partition)
    deployment.worker.end(wipe=True)
    deployment.start("another-disk")
    deployment.check()
    deployment.worker.end()


def _restart(deployment, crashes):
    rng, topics = deployment.rng, deployment.topics
    while True:
        topics.writes_left = None
        deployment.worker.end(wipe=rng.random() < 0.4)
        if rng.random() < 0.3:
            crashes |= {"name": rng.choice(STEPS[-3:]), "left": rng.randint(0, 1)}
        try:
            deployment.start()
            return
        except Crash:
            continue
