"""From embeddings to a graph."""

import dataclasses

import numpy as np
import pytest

from bandits.context import attach_items, resolve_embeddings
from bandits.nearest import largest_products
from streams.corpus.build import build_corpus
from streams.corpus.clusters import ClusterSettings, cluster_users
from streams.corpus.errors import CorpusError
from streams.corpus.report import count_graph, report_graph

pytest.importorskip("faiss")

SETTINGS = ClusterSettings(n_clusters=12, seed=5, iterations=6)


def mixture(n, *, seed, dim=8, groups=12):
    """Rows around `groups` directions that do not depend on the seed, and the group of each."""
    centres = np.random.default_rng(0).standard_normal((groups, dim))
    rng = np.random.default_rng(seed)
    group = np.arange(n) % groups
    return (centres[group] + 0.2 * rng.standard_normal((n, dim))).astype(np.float32), group


def build(**changes):
    arguments = {
        "users": mixture(600, seed=1)[0],
        "items": mixture(200, seed=2)[0],
        "item_ids": [f"i{number}" for number in range(200)],
        "clusters": SETTINGS,
        "top_w": 10,
    }
    return build_corpus(**(arguments | changes))


def test_clusters_are_directions_of_users():
    """Centroids have length 1, and users of one true group share a cluster."""
    users, group = mixture(600, seed=1)
    centroids = cluster_users(users, SETTINGS)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-6)
    nearest = (users @ centroids.T).argmax(axis=1)
    together = [np.bincount(nearest[group == number]).max() / 50 for number in range(12)]
    assert np.mean(together) > 0.8


def test_clustering_improves_on_its_start():
    """Iterations bring users nearer to their centroid."""
    users, _ = mixture(600, seed=1)
    unit = users / np.linalg.norm(users, axis=1, keepdims=True)
    cosine = [
        (unit @ cluster_users(users, dataclasses.replace(SETTINGS, iterations=n)).T).max(axis=1).mean()
        for n in (1, 8)
    ]
    assert cosine[1] > cosine[0]


def test_edges_are_the_nearest_items_of_each_centroid():
    """The graph holds what `attach_items` says of its centroids."""
    graph = build().graph
    edge_item, edge_cluster = attach_items(mixture(200, seed=2)[0], graph.centroids, top_w=10)
    got = {
        (cluster, int(item))
        for cluster in range(graph.n_clusters)
        for item in graph.cluster_item[graph.cluster_ptr[cluster] : graph.cluster_ptr[cluster + 1]]
    }
    assert got == set(zip(edge_cluster.tolist(), edge_item.tolist(), strict=True))


def test_the_version_names_the_contents():
    """Another seed, item or id gives another version; the same input the same."""
    base = build().graph.version
    assert build().graph.version == base
    items, _ = mixture(200, seed=3)
    others = [
        build(clusters=dataclasses.replace(SETTINGS, seed=6)),
        build(items=items),
        build(item_ids=[f"j{number}" for number in range(200)]),
        build(top_w=11),
    ]
    assert len({base, *(corpus.graph.version for corpus in others)}) == 5


def test_a_sample_stands_for_all_users():
    """No more users than `sample` are clustered, and their clusters fit the others too."""
    users, _ = mixture(6_000, seed=1)
    centroids = cluster_users(users, dataclasses.replace(SETTINGS, sample=300))
    unit = users / np.linalg.norm(users, axis=1, keepdims=True)
    assert (unit @ centroids.T).max(axis=1).mean() > 0.8


def test_equal_users_make_no_equal_clusters():
    """Users repeated many times are one place for a centroid, not many."""
    users = np.repeat(mixture(14, seed=1)[0], 40, axis=0)
    centroids = cluster_users(users, SETTINGS)
    assert len(np.unique(centroids, axis=0)) == 12


def test_items_that_no_cluster_chose_find_their_nearest():
    """With M = 2 every item has two clusters or more, those few had are its nearest, and no edge is lost."""
    items, _ = mixture(200, seed=2)
    plain, filled = build().graph, build(least_clusters=2).graph
    assert np.diff(plain.item_ptr).min() == 0
    nearest, _ = largest_products(items, plain.centroids, 2)
    for item in range(200):
        before, after = (
            set(g.edge_cluster[g.item_ptr[item] : g.item_ptr[item + 1]].tolist()) for g in (plain, filled)
        )
        assert after == (before | set(nearest[item].tolist()) if len(before) < 2 else before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": mixture(600, seed=1, dim=7)[0]}, "expected equal dimensions, got 7 and 8"),
        ({"item_ids": ["a"]}, "item ids: expected 200, one per item embedding, got 1"),
        ({"users": np.zeros((600, 8), np.float32)}, "expected directions, got 600 rows of zeros"),
        ({"users": np.ones((600, 8), np.float32)}, "expected 12 distinct directions or more, got 1"),
    ],
)
def test_a_corpus_that_does_not_fit_is_refused(changes, message):
    """What does not fit is named before anything is built."""
    with pytest.raises(CorpusError, match=message):
        build(**changes)


def test_the_report_counts_what_brute_force_counts():
    """Degrees, coverage by W and unreached items equal those of loops over sets."""
    users = mixture(600, seed=1)[0][np.arange(600) % 12 < 3]  # so that some clusters have no user
    corpus = build(top_w=16)
    graph, items = corpus.graph, mixture(200, seed=2)[0]
    counts = count_graph(corpus, users, k=2, seed=0)
    report = report_graph(corpus, counts)

    clusters, _ = resolve_embeddings(users, graph.centroids, k=2, temperature=1.0)
    seen = set(clusters.ravel().tolist())
    rows = {cluster: graph.items_around(np.array([cluster], np.int32)).tolist() for cluster in range(12)}
    covered = {item for cluster in rows for item in rows[cluster]}
    reached = {item for cluster in seen for item in rows[cluster]}
    assert report.clusters_without_users == 12 - len(seen)
    assert report.items_without_cluster == 200 - len(covered)
    assert counts.unreached.tolist() == sorted(set(range(200)) - reached)
    assert report.items_unreached == 200 - len(reached)
    assert report.coverage_by_w[16] == report.coverage == len(covered) / 200
    fewer, _ = attach_items(items, graph.centroids, top_w=4)
    assert report.coverage_by_w[4] == len(set(fewer.tolist())) / 200
    assert report.users_of_cluster.mean == pytest.approx(len(users) * 2 / 12)
    assert report.items_of_cluster.least == report.items_of_cluster.most == 16
