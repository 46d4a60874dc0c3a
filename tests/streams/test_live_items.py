"""Items added, changed and retired while the loop learns: exact, durable, and cheap whatever the graph's size."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.graph_edit import GraphEdit
from bandits.learner import Learner
from bandits.sums import D, N, state_hash
from server.snapshot import Snapshot
from streams.embedded import EmbeddedLoop, LoopLimits
from streams.failpoints import EXIT_CODE
from streams.graph_history import graph_folder
from streams.store import GRAPH, Store
from streams.verify import verify_store
from tests.streams.loops import ITEMS, clicked, make_graph, offer, open_loop, settle, shown, started

ROOT = Path(__file__).parents[2]
NAMES = [*ITEMS, *(f"new-{n}" for n in range(6))]


def upsert(version: str, **rows: list[int]) -> GraphEdit:
    names = [name.replace("_", "-") for name in rows]
    return GraphEdit(version, names, list(rows.values()))


def sums_by_name(learner: Learner) -> dict[str, dict[int, list[int]]]:
    """Sums of what counts: of items by cluster, -1 for the item itself."""
    graph, sums = learner.graph, learner.sums
    found = {}
    names = dict.fromkeys(NAMES)
    for name, number in zip(names, graph.lookup([*names], retired=True).tolist(), strict=True):
        if number >= 0:
            row = slice(int(graph.item_ptr[number]), int(graph.item_ptr[number + 1]))
            clusters = graph.edge_cluster[row].tolist()
            found[name] = dict(zip(clusters, sums.edge[row].tolist(), strict=True)) | {
                -1: sums.item[number].tolist()
            }
    return found


def learner_of(loop: EmbeddedLoop) -> Learner:
    learner = loop._committer.learner
    assert learner is not None
    return learner


def check_after_restart(folder: Path, loop: EmbeddedLoop) -> EmbeddedLoop:
    """The loop after a restart: the same graph, the same sums, and those that the ledger gives."""
    loop.stop(grace_s=10)  # first: an artifact may be written anew, and sums of retired items go then
    learner = learner_of(loop)
    live, before = state_hash(learner.graph, learner.sums), sums_by_name(learner)
    result = verify_store(folder, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    again = started(folder, limits=loop._limits)
    now = learner_of(again)
    assert (now.graph.version, again.state_hash(), result.state_hash) == (learner.graph.version, live, live)
    assert sums_by_name(now) == before
    assert np.array_equal(now.row_position, learner.row_position)
    return again


def test_a_new_item_starts_unseen_and_learns(tmp_path: Path) -> None:
    """Its edges have nothing before it is shown, and what it is shown from then on."""
    loop = started(tmp_path)
    settle(offer(loop, shown("r0", *ITEMS, "new-0"), clicked("r0", "new-0")))
    graph = loop.edit_graph(upsert("v1+1", new_0=[1, 2]))
    assert (graph.version, graph.n_live_items) == ("v1+1", 7)
    assert sums_by_name(learner_of(loop))["new-0"] == {1: [0, 0, 0], 2: [0, 0, 0], -1: [0, 0]}
    settle(offer(loop, shown("r1", "new-0"), clicked("r1", "new-0")))
    assert sums_by_name(learner_of(loop))["new-0"][-1] == [1, 1 << 15]
    check_after_restart(tmp_path, loop).stop(grace_s=10)


def test_surviving_edges_keep_their_sums_and_dead_ones_do_not_come_back(tmp_path: Path) -> None:
    """An item attached elsewhere is the same item: what it knows of old clusters stays, what it lost is lost."""
    loop = started(tmp_path)
    settle(offer(loop, shown("r0", *ITEMS, context=((1, 5), (3, 7))), clicked("r0", "item-1")))
    before = sums_by_name(learner_of(loop))["item-1"]
    loop.edit_graph(upsert("v1+1", item_1=[2, 3]))
    assert sums_by_name(learner_of(loop))["item-1"] == {2: [0, 0, 0], 3: before[3], -1: before[-1]}
    loop = check_after_restart(tmp_path, loop)
    loop.edit_graph(upsert("v1+2", item_1=[1, 3]))
    assert sums_by_name(learner_of(loop))["item-1"] == {1: [0, 0, 0], 3: before[3], -1: before[-1]}
    check_after_restart(tmp_path, loop).stop(grace_s=10)


def test_a_retired_item_goes_on_learning_in_case_it_comes_back(tmp_path: Path) -> None:
    """Clicks on slates shown before still count; its sums are kept until the graph is written anew."""
    loop = started(tmp_path)
    settle(offer(loop, shown("r0", "item-1")))
    graph = loop.edit_graph(GraphEdit("v1+1", retired=["item-1"]))
    assert graph.lookup(["item-1"]).tolist() == [-1]
    settle(offer(loop, clicked("r0", "item-1")))
    loop = check_after_restart(tmp_path, loop)
    loop.edit_graph(upsert("v1+2", item_1=[1, 3, 5, 7]))
    assert sums_by_name(learner_of(loop))["item-1"][-1] == [1, 1 << 15]
    check_after_restart(tmp_path, loop).stop(grace_s=10)


def test_an_edit_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    """A catalogue is sent again and again."""
    loop = started(tmp_path)
    loop.edit_graph(upsert("v1+1", new_0=[2, 1]))
    switches = loop._committer.head.graph_switches
    assert loop.edit_graph(upsert("v1+2", new_0=[1, 2], item_1=[1, 3, 5, 7])).version == "v1+1"
    assert loop.edit_graph(GraphEdit("v1+3", retired=["nobody"])).version == "v1+1"
    assert loop._committer.head.graph_switches == switches
    loop.stop(grace_s=10)


def test_an_edit_writes_what_it_changes(tmp_path: Path) -> None:
    """No artifact is written for an edit, and no rows but those of its items."""
    loop = started(tmp_path)
    settle(offer(loop, shown("r0", *ITEMS)))
    loop.edit_graph(upsert("v1+1", item_1=[1]))
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == ["v1"]
    loop.stop(grace_s=10)
    store = Store(tmp_path / "store", read_only=True)
    records = [value for _, value in store.numbered(GRAPH)]
    store.close()
    assert len(records[-1]) < 100


def wait_for(folder: Path, loop: EmbeddedLoop, bases: int) -> None:
    """Wait until the artifact has been written anew so often."""
    for _ in range(1_000):
        if loop._committer.head.graph_base and len(list((folder / "graphs").iterdir())) > bases:
            edits = learner_of(loop).graph.edits
            if edits is None or len(edits.numbers) < loop._limits.max_edited_items:
                return
        time.sleep(0.01)
    raise AssertionError("the artifact was not written anew")


def served_is_learned(snapshot: Snapshot, learner: Learner) -> bool:
    """Whether the server reads the learner's sums, wherever these count."""
    parameters, graph = snapshot.current, learner.graph
    assert parameters is not None
    assert parameters.graph is graph
    used = np.ones(graph.n_items, np.bool_) if graph.edits is None else graph.edits.in_use
    edges = np.repeat(used, np.diff(graph.item_ptr))
    served = parameters.read(lambda sums, _: (sums.edge[edges], sums.item[used]))
    same_edges = np.array_equal(served[0], learner.sums.edge[edges])
    return same_edges and np.array_equal(served[1], learner.sums.item[used])


@pytest.mark.parametrize("seed", range(4))
def test_random_edits_between_random_events_equal_the_ledger(tmp_path: Path, seed: int) -> None:
    """Upserts, retirements, artifacts loaded and written anew, restarts: served, stored and recomputed agree."""
    rng = np.random.default_rng(seed)
    snapshot = Snapshot(choose_backend("numpy"))
    limits = LoopLimits(max_edited_items=5)
    loop = started(tmp_path, snapshot.apply, limits=limits)
    for step in range(60):
        items = [NAMES[n] for n in rng.choice(len(NAMES), 3, replace=False)]
        context = tuple((int(c), int(rng.integers(1, 1 << 15))) for c in np.sort(rng.choice(8, 3, replace=False)))
        settle(offer(loop, shown(f"r{step}", *items, context=context), clicked(f"r{step}", items[0])))
        what = rng.random()
        if what < 0.4:
            rows = [rng.choice(8, int(rng.integers(0, 5)), replace=False).tolist() for _ in items[1:]]
            loop.edit_graph(GraphEdit(f"e+{step}", items[1:], rows, retired=items[:1]))
        elif what < 0.6:
            loop.edit_graph(GraphEdit(f"e+{step}", retired=items))
        elif what < 0.65:
            loop.load_graph(make_graph(f"load-{step}", leave_out=[("item-1", 1)]))
        elif what < 0.75:
            loop = check_after_restart(tmp_path, loop)
            loop._committer._on_change = snapshot.apply
            loop._committer.publish_all()
        same = loop._on_writer(lambda: served_is_learned(snapshot, learner_of(loop)))  # noqa: B023 - done at once
        assert same, f"seed {seed}, step {step}"
    check_after_restart(tmp_path, loop).stop(grace_s=10)


def test_after_many_edits_the_artifact_is_written_anew(tmp_path: Path) -> None:
    """A restart reads few edits; sums stay; retired items are gone for good; the version stays."""
    loop = started(tmp_path, limits=LoopLimits(max_edited_items=4))
    settle(offer(loop, shown("r0", *ITEMS, "new-1"), clicked("r0", "item-1")))
    loop.edit_graph(GraphEdit("v1+1", retired=["item-0"]))
    loop.edit_graph(upsert("v1+2", item_1=[1], new_0=[0], new_1=[5]))
    wait_for(tmp_path, loop, 1)
    learner = learner_of(loop)
    assert (learner.graph.version, learner.graph.edits) == ("v1+2", None)
    assert "item-0" not in sums_by_name(learner)
    assert sums_by_name(learner)["item-1"][-1] == [1, 1 << 15]
    loop = check_after_restart(tmp_path, loop)
    loop.edit_graph(upsert("v1+3", item_0=[0]))
    assert sums_by_name(learner_of(loop))["item-0"] == {0: [0, 0, 0], -1: [0, 0]}
    check_after_restart(tmp_path, loop).stop(grace_s=10)


def run(folder: Path, failpoint: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.streams.editing_process", str(folder)]
    environment = os.environ | {"FRESHET_FAILPOINT": failpoint}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    "failpoint",
    [
        *(f"{name}:{time}" for name in ("switch_encoded", "switch_written", "switch_published") for time in (2, 5)),
        "compacted:1",
    ],
)
def test_a_crash_at_any_step_of_an_edit_loses_and_doubles_nothing(tmp_path: Path, failpoint: str) -> None:
    """What was acknowledged is in force; what was not may be made again; the sums are those of the ledger."""
    crashed = run(tmp_path, failpoint)
    assert crashed.returncode == EXIT_CODE, crashed.stderr
    done = int((crashed.stdout.split() or ["0"])[-1])
    result = verify_store(tmp_path, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    loop = open_loop(tmp_path, limits=LoopLimits(max_edited_items=3))
    graph = loop.graph
    loop.start()
    assert loop.state_hash() == result.state_hash
    loop.stop(grace_s=10)
    assert graph is not None
    # Edit number n adds new-n and retires new-(n-1).
    live = [n for n in range(12) if graph.lookup([f"new-{n}"])[0] >= 0]
    assert live in ([done - 1] if done else [], [done]), (live, done)
    finished = run(tmp_path, "")
    assert finished.returncode == 0, finished.stderr
    loop = started(tmp_path, limits=LoopLimits(max_edited_items=3))
    learner = learner_of(loop)
    assert [n for n in range(12) if learner.graph.lookup([f"new-{n}"])[0] >= 0] == [11]
    number = int(learner.graph.lookup(["item-1"])[0])
    row = slice(int(learner.graph.item_ptr[number]), int(learner.graph.item_ptr[number + 1]))
    assert learner.sums.item[number, N] > 0
    assert learner.sums.edge[row, D].any()
    check_after_restart(tmp_path, loop).stop(grace_s=10)


def test_an_edited_version_is_never_an_artifacts(tmp_path: Path) -> None:
    """A folder is made for artifacts alone; going back to the artifact undoes the edits."""
    loop = started(tmp_path)
    loop.edit_graph(upsert("v1+1", new_0=[1]))
    loop.load_graph(make_graph())
    assert not graph_folder(tmp_path, "v1+1").exists()
    assert learner_of(loop).graph.lookup(["new-0"]).tolist() == [-1]
    check_after_restart(tmp_path, loop).stop(grace_s=10)
