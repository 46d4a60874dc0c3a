"""One worker that says how far it is. Run by the benchmarks as a process of its own, with JSON settings.

Settings are those of `WorkerSettings`, and `watch`: what to do besides working.
    "end"      tell "begun" at the first seek, "done" when what was in the topics then is learned and published
    "stages"   as "end", with CPU seconds by stage of the main thread
    "ready"    tell "ready" when every partition runs, then go on
    "steady"   as "ready"; then tell "steady" again and again, with what the last seconds were spent on
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STARTED_S = time.time()

import numpy as np  # noqa: E402 - what is imported from here on is part of the time to ready
import uvloop  # noqa: E402
from faust.types import TP  # noqa: E402

from bandits.backend import choose_backend  # noqa: E402
from bandits.sums import Sums  # noqa: E402
from benchmarks.catalogue import TINY, make_facts, make_graph  # noqa: E402
from benchmarks.kafka_stages import StageClock, watch_stages  # noqa: E402
from streams.kafka.joiner_partition import JoinerPartition  # noqa: E402
from streams.kafka.learner_partition import LearnerPartition  # noqa: E402
from streams.kafka.transport import ChunkConsumer  # noqa: E402
from streams.kafka.worker import Worker  # noqa: E402
from streams.kafka.worker_settings import WorkerSettings  # noqa: E402

_POLL_S = 0.01
_STEADY_S = 10.0


def tell(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, "at_s": time.time(), **more}), flush=True)


class Probe:
    """Looks at a worker from its own event loop."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.begun: tuple[float, float, dict[str, float]] | None = None
        self.started: dict[TP, float] = {}

    def note_starts(self, begin: Callable[[], None]) -> None:
        """Remember when each partition is told where to start; `begin` at the first of a source."""
        original = ChunkConsumer.start_from
        names = self.worker._names

        async def start_from(consumer: ChunkConsumer, tp: TP, offset: int) -> None:
            self.started.setdefault(tp, time.time())
            if self.begun is None and tp.topic in (names.impressions, names.clicks):
                begin()
                self.begun = (time.perf_counter(), time.process_time(), thread_seconds())
            await original(consumer, tp, offset)

        ChunkConsumer.start_from = start_from  # type: ignore[method-assign]

    def owned(self, kind: type) -> list[Any]:
        return [p for p in dict.fromkeys(self.worker.partitions.values()) if isinstance(p, kind)]

    async def until_running(self) -> None:
        wanted = 0
        while not wanted or len(self.started) < wanted:
            await asyncio.sleep(_POLL_S)
            wanted = len(self.worker.partitions)

    async def until_done(self) -> dict[str, float]:
        """Wait until what the topics hold is learned; seconds of each thing."""
        thread = self.worker._consumer.thread
        marks = {}
        for name, kind in (("joined", JoinerPartition), ("learned", LearnerPartition)):
            tps = [tp for partition in self.owned(kind) for tp in partition.tps]
            ends = {tp: end for tp, (_, end) in (await thread.bounds(tps)).items()}
            while any(p.positions()[tp] < ends[tp] for p in self.owned(kind) for tp in p.tps) or any(
                p.state.head.sent < p.state.joiner.sequence for p in self.owned(JoinerPartition)
            ):
                await asyncio.sleep(_POLL_S)
            marks[f"{name}_s"] = time.perf_counter() - self.begun[0]
        while any(p.learner.position > p.head.published_position for p in self.owned(LearnerPartition)):
            await asyncio.sleep(_POLL_S)
        wall_s, cpu_s, threads = self.begun
        now = thread_seconds()
        return marks | {
            "wall_s": time.perf_counter() - wall_s,
            "cpu_s": time.process_time() - cpu_s,
            "threads": {name: now[name] - threads.get(name, 0) for name in now},
        }


def thread_seconds() -> dict[str, float]:
    """CPU seconds of each thread; native ones together."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spent: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        name = names.get(int(task.name), "native")
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        spent[name] = spent.get(name, 0) + seconds
    return spent


def warm_up(settings: WorkerSettings) -> None:
    """Have the compiled code loaded, which takes a fraction of a second once in a worker's life."""
    facts = make_facts(make_graph(TINY, np.random.default_rng(1)), 10, np.random.default_rng(1))
    graph = make_graph(TINY, np.random.default_rng(1))
    choose_backend(settings.backend).add(graph, Sums.zeros(graph), facts)


async def _run(settings: WorkerSettings, watch: str) -> None:
    worker = Worker(settings)
    probe = Probe(worker)
    clock = StageClock()
    if watch in ("stages", "steady"):
        watch_stages(clock)
    probe.note_starts(clock.reset)
    imported_s = time.time() - _STARTED_S
    if watch != "ready":
        warm_up(settings)
    await worker.start()
    joined_s = time.time() - _STARTED_S
    await probe.until_running()
    names = worker._names
    if watch == "ready":
        learners = [at for tp, at in probe.started.items() if tp.topic == names.outcomes]
        tell(
            "ready",
            imported_s=imported_s,
            started_s=joined_s,
            learners_s=max(learners) - _STARTED_S,
            ready_s=time.time() - _STARTED_S,
            rows=sum(
                int((shared.row_position > 0).sum()) for shared in {p.shared for p in probe.owned(LearnerPartition)}
            ),
            pending=sum(p.state.joiner.pending_rows for p in probe.owned(JoinerPartition)),
        )
        await probe.until_done()
        tell("done")
        await asyncio.sleep(3600)
    while watch == "steady":
        clock.reset()
        before, cpu_s = thread_seconds(), time.process_time()
        tell("ready")
        await asyncio.sleep(_STEADY_S)
        now = thread_seconds()
        threads = {name: now[name] - before.get(name, 0) for name in now}
        tell("steady", stages=clock.spent(), threads=threads, cpu_s=time.process_time() - cpu_s, wall_s=_STEADY_S)
    done = await probe.until_done()
    facts = sum(partition.learner.facts_applied for partition in probe.owned(LearnerPartition))
    tell("done", facts=facts, stages=clock.spent(), **done)
    await worker.stop()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asked = given.pop("watch")
    uvloop.install()
    asyncio.run(_run(WorkerSettings(**given | {name: Path(given[name]) for name in ("graph", "data_dir")}), asked))
