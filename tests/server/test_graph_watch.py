"""A watched directory: what is placed there is in force within seconds, or refused; nothing learned is lost."""

import shutil
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from bandits.artifact import MANIFEST, save_graph
from bandits.backend import choose_backend
from bandits.overlap import OverlapMap
from freshet.v1 import operations_pb2
from server.app import App
from server.settings import SettingsError
from streams.overlap_folder import save_overlap
from streams.verify import verify_store
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, click, clicks, impression, impressions, refusal, score_request
from tests.server.serving import N_CLUSTERS, Client, make_settings, small_graph, until

LOOK_S = 0.05


def status_of(client: Client) -> operations_pb2.GetStatusResponse:
    return client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)


def place(graphs: Path, version: str, *, n_items: int = 30, first: int = 0) -> Path:
    """Put an artifact under its version, as an atomic rename would."""
    save_graph(small_graph(version, n_items=n_items, first=first), graphs / version)
    return graphs / version


def loads(app: App, result: str) -> float:
    return app.metrics.registry.get_sample_value("freshet_graph_loads_total", {"result": result}) or 0


def has_looked(app: App) -> None:
    """Wait for the first look, which passes over what has been in force before."""
    until(lambda: app._watch is not None and not app._watch._first)


def test_a_new_artifact_is_put_in_force(start: Start, tmp_path: Path) -> None:
    """Without a call; sums of edges in both stay; it is counted."""
    app, client = start(graph_watch_s=LOOK_S)
    client.feedback.LogImpressions(impressions(impression("r", "item-1")), timeout=DEADLINE_S)
    place(tmp_path / "graphs", "v2")
    until(lambda: status_of(client).graph_version == "v2")
    item = operations_pb2.GetItemRequest(item_id="item-1")
    assert client.operations.GetItem(item, timeout=DEADLINE_S).item.parameters.n == 1
    until(lambda: loads(app, "loaded") == 1)
    assert loads(app, "refused") == 0


def test_clusters_made_anew_inherit_through_the_map_beside_them(start: Start, tmp_path: Path) -> None:
    """Half of cluster 0 became cluster 1: an edge there has half of the sums, and the item keeps its count."""
    _, client = start(graph_watch_s=LOOK_S)
    client.feedback.LogImpressions(impressions(impression("r", "item-1")), timeout=DEADLINE_S)
    new = small_graph("v2")
    halves = OverlapMap(
        ptr=np.array([0, 2, *range(3, N_CLUSTERS + 2)], np.int64),
        cluster=np.array([0, 1, *range(1, N_CLUSTERS)], np.int32),
        share=np.array([1 << 19, 1 << 19, *[1 << 20] * (N_CLUSTERS - 1)], np.int64),
        n_new=N_CLUSTERS,
    )
    save_graph(new, tmp_path / "v2")
    save_overlap(halves, tmp_path / "v2" / "overlap", old=small_graph(), new=new)
    (tmp_path / "v2").rename(tmp_path / "graphs" / "v2")
    until(lambda: status_of(client).graph_version == "v2")
    item = operations_pb2.GetItemRequest(item_id="item-1")
    row = client.operations.GetItem(item, timeout=DEADLINE_S).item.parameters
    assert dict(zip(row.cluster_ids, row.a, strict=True))[0] == 1 << 14
    assert row.n == 1
    explicit = operations_pb2.LoadGraphRequest(path="v1", overlap_path="v2/overlap")
    assert client.operations.LoadGraph(explicit, timeout=DEADLINE_S).graph_version == "v1"
    row = client.operations.GetItem(item, timeout=DEADLINE_S).item.parameters
    assert dict(zip(row.cluster_ids, row.a, strict=True))[0] == 1 << 13
    code, status = refusal(
        client.operations.LoadGraph, operations_pb2.LoadGraphRequest(path="v2", overlap_path="v1")
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert status.message.startswith("overlap_path: ")


def test_an_artifact_that_is_still_copied_is_waited_for(start: Start, tmp_path: Path) -> None:
    """Copied file by file, the manifest first: it is loaded when it is whole, and refused only while it is not."""
    _, client = start(graph_watch_s=LOOK_S)
    whole = place(tmp_path, "v2")
    part = tmp_path / "graphs" / "v2"
    part.mkdir()
    shutil.copyfile(whole / MANIFEST, part / MANIFEST)
    until(lambda: "no such file" in status_of(client).graph_refusal)
    assert status_of(client).graph_version == "v1"
    for file in whole.iterdir():
        shutil.copyfile(file, part / file.name)
    until(lambda: status_of(client).graph_version == "v2")
    assert status_of(client).graph_refusal == ""


@pytest.mark.parametrize("what", ["damaged", "known version"])
def test_a_bad_artifact_is_refused_once_with_its_reason(start: Start, tmp_path: Path, what: str) -> None:
    """The status and a metric say so, the server goes on, and the next good artifact is taken."""
    app, client = start(graph_watch_s=LOOK_S)
    bad = place(tmp_path, "v1" if what == "known version" else "v2")
    if what == "damaged":
        file = bad / "edge_cluster.npy"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    has_looked(app)
    bad.rename(tmp_path / "graphs" / "bad")
    until(lambda: status_of(client).graph_refusal != "")
    refusal = status_of(client).graph_refusal
    assert ("edge_cluster.npy" if what == "damaged" else '"v1", which is another graph') in refusal
    for _ in range(10):
        client.recommender.Score(score_request(), timeout=DEADLINE_S)
    assert (status_of(client).graph_version, loads(app, "refused")) == ("v1", 1)
    place(tmp_path / "graphs", "v3")
    until(lambda: status_of(client).graph_version == "v3")
    assert status_of(client).graph_refusal == ""


def test_a_restart_does_not_undo_what_was_loaded_by_hand(start: Start, tmp_path: Path) -> None:
    """An artifact that was in force before is not loaded again at start, however new its files are."""
    graphs = tmp_path / "graphs"
    app, client = start(graph_watch_s=LOOK_S)
    place(graphs, "v2")
    until(lambda: status_of(client).graph_version == "v2")
    client.operations.LoadGraph(operations_pb2.LoadGraphRequest(path="v1"), timeout=DEADLINE_S)
    app.stop(1.0)
    app, client = start(graph_watch_s=LOOK_S)
    has_looked(app)
    time.sleep(4 * LOOK_S)
    assert status_of(client).graph_version == "v1"
    place(graphs, "v3")
    until(lambda: status_of(client).graph_version == "v3")


def test_watching_needs_a_directory(tmp_path: Path) -> None:
    """The sentence names the setting."""
    with pytest.raises(SettingsError, match="graph_watch_s: expected graph_dir"):
        make_settings(tmp_path, graph_watch_s=1.0, graph_dir=None)


def test_swaps_under_load_mix_nothing_and_lose_nothing(start: Start, tmp_path: Path) -> None:
    """A new artifact again and again while callers score and send feedback: each reply is of the version it names,
    and the sums of edges that every version has are those of all the feedback."""
    app, client = start(graph_watch_s=LOOK_S)
    sizes = {"v1": (40, 0)} | {f"swap-{turn}": (20 + turn, turn % 4) for turn in range(8)}
    items = {version: {f"item-{first + n}" for n in range(count)} for version, (count, first) in sizes.items()}
    every_id = sorted(set().union(*items.values()))
    stop = threading.Event()
    seen: list[tuple[str, set[str]]] = []
    accepted: list[int] = []

    def read() -> None:
        while not stop.is_set():
            reply = client.recommender.Score(score_request(*every_id), timeout=DEADLINE_S)
            seen.append((reply.graph_version, {one.item_id for one in reply.items}))

    def teach(number: int) -> None:
        count = 0
        while not stop.is_set():
            request_id = f"r{number}-{count}"
            shown = impressions(impression(request_id, "item-10"))
            assert not client.feedback.LogImpressions(shown, timeout=DEADLINE_S).refused
            client.feedback.LogClicks(clicks(click(request_id, "item-10")), timeout=DEADLINE_S)
            count += 1
        accepted.append(count)

    threads = [threading.Thread(target=read) for _ in range(2)]
    threads += [threading.Thread(target=teach, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for version, (count, first) in sizes.items():
        if version != "v1":
            place(tmp_path / "graphs", version, n_items=count, first=first)
            until(lambda version=version: status_of(client).graph_version == version)
    stop.set()
    for thread in threads:
        thread.join()
    mixed = [version for version, returned in seen if returned != items[version]]
    assert mixed == []
    assert {version for version, _ in seen} == set(sizes)
    view = client.operations.GetItem(operations_pb2.GetItemRequest(item_id="item-10"), timeout=DEADLINE_S).item
    assert (view.parameters.n, view.parameters.s) == (sum(accepted), sum(accepted) << 15)
    app.stop(5.0)
    result = verify_store(tmp_path / "data", backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
