"""Clusters made anew: sums are inherited through a map, durably, and verify comes to the same."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.context import resolve_embeddings
from bandits.graph import Graph, build_graph
from bandits.graph_edit import GraphEdit
from bandits.overlap import inherit_sums, overlap_map
from bandits.sums import N, state_hash
from streams.overlap_folder import DamagedOverlap, StoredOverlap, clusters_name, load_overlap, save_overlap
from streams.verify import verify_store
from tests.streams.loops import ITEMS, clicked, offer, settle, shown, started

N_CLUSTERS, DIM = 8, 4


def corpus(version: str, seed: int) -> Graph:
    """Every item with every cluster; other centroids for another seed."""
    edges = np.indices((len(ITEMS), N_CLUSTERS)).reshape(2, -1)
    centroids = np.random.default_rng(seed).normal(size=(N_CLUSTERS, DIM))
    return build_graph(
        version=version, centroids=centroids, item_ids=ITEMS, edge_item=edges[0], edge_cluster=edges[1]
    )


OLD, NEW = corpus("old", 1), corpus("new", 2)


def stored(old: Graph = OLD, new: Graph = NEW) -> StoredOverlap:
    users = np.random.default_rng(3).normal(size=(300, DIM)).astype(np.float32)
    contexts = [resolve_embeddings(users, graph.centroids, k=3, temperature=0.5) for graph in (old, new)]
    overlap = overlap_map(*contexts, n_old=N_CLUSTERS, n_new=N_CLUSTERS)
    return StoredOverlap(overlap, clusters_name(old), clusters_name(new))


@pytest.mark.parametrize("edited", [False, True])
def test_inherited_sums_survive_a_restart_and_verify(tmp_path: Path, edited: bool) -> None:
    """What the map gives is in force, on disk and in the fold of the ledger; what comes after adds to it."""
    loop = started(tmp_path, graph=OLD)
    settle(offer(loop, *(shown(f"r{n}", *ITEMS) for n in range(5)), clicked("r1", "item-2")))
    if edited:
        loop.edit_graph(GraphEdit("old+1", ["item-2"], [[1, 2, 5]], retired=["item-4"]))
    learner = loop._committer.learner
    assert learner is not None
    expected = inherit_sums(learner.graph, learner.sums, NEW, stored().overlap)
    loop.load_graph(NEW, stored())
    assert loop.state_hash() == state_hash(NEW, expected)
    assert expected.edge.any()
    settle(offer(loop, shown("later", "item-1")))
    live = loop.state_hash()
    loop.stop(grace_s=10)
    result = verify_store(tmp_path, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    again = started(tmp_path)
    assert again.state_hash() == live == result.state_hash
    learner = again._committer.learner
    assert learner is not None
    assert learner.sums.item[learner.graph.index["item-2"], N] == 5
    again.stop(grace_s=10)


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_map_of_other_clusters_is_refused(tmp_path: Path, side: str) -> None:
    """Sums would go to clusters that mean something else; nothing is changed."""
    loop = started(tmp_path, graph=OLD)
    settle(offer(loop, shown("r", *ITEMS)))
    live, third = loop.state_hash(), corpus("third", 9)
    wrong = stored(old=third) if side == "old" else stored(new=third)
    with pytest.raises(ValueError, match=f"a map of the {side} clusters of {side}"):
        loop.load_graph(NEW, wrong)
    assert loop.state_hash() == live
    loop.stop(grace_s=10)


def test_an_overlap_map_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Every share, and between which clusters it maps."""
    one = stored()
    save_overlap(one.overlap, tmp_path / "map", old=OLD, new=NEW)
    other = load_overlap(tmp_path / "map")
    assert (other.old, other.new, other.overlap.n_new) == (one.old, one.new, N_CLUSTERS)
    for name in ("ptr", "cluster", "share"):
        assert np.array_equal(getattr(other.overlap, name), getattr(one.overlap, name))
    with pytest.raises(FileExistsError):
        save_overlap(one.overlap, tmp_path / "map", old=OLD, new=NEW)


def test_damaged_overlap_maps_are_refused(tmp_path: Path) -> None:
    """Flipped, cut, extended, lost: five hundred damaged copies, each refused or equal."""
    folder, rng = tmp_path / "map", random.Random(6)
    one = stored()
    save_overlap(one.overlap, folder, old=OLD, new=NEW)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused = 0
    for number in range(500):
        name = rng.choice(sorted(whole))
        data = bytearray(whole[name])
        kind = rng.randrange(3)
        if kind == 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[rng.randrange(len(data)) :]
        else:
            data += rng.randbytes(rng.randint(1, 9))
        (folder / name).write_bytes(data)
        try:
            equal = np.array_equal(load_overlap(folder).overlap.share, one.overlap.share)
        except DamagedOverlap:
            refused, equal = refused + 1, True
        assert equal, (number, name)
        (folder / name).write_bytes(whole[name])
    assert refused > 480


@pytest.mark.parametrize("change", [{"format": 2}, {"n_new": "8"}, {"files": []}, {"old": None}])
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """However it came to be, it is told as damage."""
    folder = tmp_path / "map"
    save_overlap(stored().overlap, folder, old=OLD, new=NEW)
    body = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(body | change))
    with pytest.raises(DamagedOverlap, match=r"manifest\.json"):
        load_overlap(folder)
