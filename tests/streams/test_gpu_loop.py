"""The loop and its tools with sums on a GPU: the same state as on the processor, whoever reads it and when."""

from pathlib import Path

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.backend_cupy import CupyBackend
from bandits.cupy_device import open_device
from bandits.graph_edit import GraphEdit
from bandits.sums import state_hash
from server.snapshot import Snapshot
from streams.kafka.catalogue import Edited
from streams.kafka.shared_sums import SharedSums
from streams.row_codec import encode_rows
from streams.verify import verify_store
from tests.bandits.cuda.emulation import EmulatedCupy
from tests.bandits.cuda.test_resident_sums import record_of
from tests.bandits.test_graph_edit import random_graph
from tests.streams.loops import clicked, model_hash, offer, settle, shown, started


@pytest.fixture
def backend() -> CupyBackend:
    """A GPU that takes every batch."""
    return CupyBackend(open_device(EmulatedCupy()))


def test_a_loop_on_a_gpu_serves_stores_and_verifies_the_same_state(tmp_path: Path, backend: CupyBackend) -> None:
    """Rows are published and stored after each micro-batch, items move, the process starts anew: I1 and I5 hold."""
    snapshot = Snapshot(backend.processor)
    loop = started(tmp_path, snapshot.apply, backend=backend)
    events = [shown(f"r{n}", f"item-{n % 6}", f"item-{(n + 1) % 6}") for n in range(40)]
    settle(offer(loop, *events[:20], clicked("r3", "item-3"), clicked("r4", "item-5")))
    loop.edit_graph(GraphEdit("v2", ["item-1", "new"], [[1, 2, 3], [2]], retired=["item-4"]))
    settle(offer(loop, *events[20:], shown("r40", "new"), clicked("r40", "new"), clicked("r25", "item-1")))
    state = loop.state_hash()
    parameters = snapshot.current
    assert parameters is not None
    loop.stop(grace_s=10)
    assert backend.facts_on_device > 80
    for other in (backend, choose_backend("numpy")):
        result = verify_store(tmp_path, backend=other, progress=lambda done, of: None)
        assert result.ok, result.checks
        assert result.state_hash == state
    again = started(tmp_path, backend=backend)
    settle(offer(again, shown("r41", "new"), clicked("r41", "new")))
    learned = again.state_hash()
    again.stop(grace_s=10)
    assert learned != state
    assert (
        verify_store(tmp_path, backend=choose_backend("numpy"), progress=lambda done, of: None).state_hash
        == learned
    )


def test_a_loop_on_a_gpu_learns_what_the_model_says(tmp_path: Path, backend: CupyBackend) -> None:
    """The sums are those of a plain dict."""
    loop = started(tmp_path, backend=backend)
    events = [shown(f"r{n}", f"item-{n % 6}") for n in range(30)] + [clicked("r7"), clicked("r8", "item-2")]
    settle(offer(loop, *events))
    state = loop.state_hash()
    graph = loop._committer.learner.graph  # type: ignore[union-attr]
    loop.stop(grace_s=10)
    assert state == model_hash(graph, events)


@pytest.mark.parametrize("seed", range(6))
def test_sums_that_partitions_share_are_the_same_on_a_gpu(seed: int, backend: CupyBackend) -> None:
    """A worker's partitions come, go, learn and edit the graph: rows to be published are equal, byte for byte."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, n_items=12, n_clusters=6)
    names = [*graph.item_ids, "new-1", "new-2"]
    workers = [SharedSums.empty(graph, 2, own) for own in (backend, choose_backend("numpy"))]
    learners = [[worker.learner(number) for number in range(2)] for worker in workers]
    for step in range(1, 25):
        action, number = rng.choice(["apply", "apply", "edit", "clear", "publish"]), int(rng.integers(2))
        if action == "apply":
            record = record_of(names, graph.n_clusters, step)
            assert np.array_equal(*[own[number].apply(record, offset=step) for own in learners])
        elif action == "edit":
            clusters = tuple(np.sort(rng.choice(6, rng.integers(1, 5), replace=False)).tolist())
            change = {str(rng.choice(names)): Edited(step, clusters, 0, retired=bool(rng.random() < 0.2))}
            assert np.array_equal(*[worker.edit(change, number=number, position=step) for worker in workers])
        elif action == "clear":
            for worker in workers:
                worker.clear(number)
        else:
            items = np.arange(workers[0].graph.n_items, dtype=np.int32)
            rows = [encode_rows(own.graph, own.sums, own.row_position, items) for own in workers]
            assert rows[0] == rows[1]
    hashes = {state_hash(worker.graph, worker.sums) for worker in workers}
    assert len(hashes) == 1
    assert backend.facts_on_device
