"""Sums that clusters made anew inherit, held against later events."""

from dataclasses import dataclass

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.context import fixed_point_weights, resolve_embeddings
from bandits.graph import Graph, build_graph
from bandits.overlap import carried_centroids, inherit_sums, overlap_map
from bandits.sums import UNIT, A, B, Facts, Sums, locate
from streams.corpus.clusters import ClusterSettings, cluster_users
from streams.corpus.features import Column, fit_features
from streams.corpus.readers import read_table
from streams.logs.event_log import principal_axes, unit_rows


@dataclass(frozen=True, eq=False)
class Events:
    user: np.ndarray
    item: np.ndarray
    clicked: np.ndarray

    def part(self, start, end):
        return Events(self.user[start:end], self.item[start:end], self.clicked[start:end])


@dataclass(frozen=True, eq=False)
class Clustering:
    """A graph of all edges and the context of every user."""

    graph: Graph
    ids: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, users, n_items, *, n_clusters, seed, start=None):
        centroids = cluster_users(users, ClusterSettings(n_clusters=n_clusters, seed=seed), start=start)
        edges = np.indices((n_clusters, n_items)).reshape(2, -1)
        ids = [str(item) for item in range(n_items)]
        graph = build_graph(
            version="v", centroids=centroids, item_ids=ids, edge_item=edges[1], edge_cluster=edges[0]
        )
        return cls(graph, *resolve_embeddings(users, centroids, k=5, temperature=0.1))

    def fold(self, events):
        who, context = np.unique(events.user, return_inverse=True)
        facts = Facts(
            item=events.item.astype(np.int32),
            context=context.astype(np.int32),
            impressions=np.ones(len(events.item), np.int64),
            reward=events.clicked.astype(np.int64) * UNIT,
            context_ptr=np.arange(len(who) + 1, dtype=np.int64) * self.ids.shape[1],
            context_cluster=np.ascontiguousarray(self.ids[who].ravel()),
            context_x=fixed_point_weights(self.weights[who]).ravel(),
        )
        sums = Sums.zeros(self.graph)
        choose_backend("numpy").add(self.graph, sums, facts)
        return sums

    def predict(self, sums, events, prior):
        """Sum of w * b / a over the user's clusters, edges and item pulled to the prior by one impression."""
        edge = locate(self.graph, events.item, self.ids[events.user])
        mean = (sums.edge[edge, B] / UNIT**2 + prior) / (sums.edge[edge, A] / UNIT + 1)
        return (self.weights[events.user] * mean).sum(axis=1)


def losses(predicted, events):
    predicted = np.clip(predicted, 1e-6, 1 - 1e-6)
    return -np.where(events.clicked == 1, np.log(predicted), np.log(1 - predicted))


def compare(users, moved_users, events, n_items, cut, *, n_clusters):
    """Losses on later events: kept clusters, inherited sums, and nothing known.

    The new clusters are those of `moved_users`, started from where the old clusters' users are now, or anywhere.
    """
    past, later = events.part(0, cut), events.part(cut, len(events.item))
    old = Clustering.of(users, n_items, n_clusters=n_clusters, seed=0)
    learned, prior = old.fold(past), past.clicked.mean()
    found = {"kept": losses(old.predict(learned, later, prior), later)}
    seen = np.unique(past.user)
    before = (old.ids[seen], old.weights[seen])
    for name, start in {
        "inherited": carried_centroids(before, moved_users[seen], n_old=n_clusters),
        "from anywhere": None,
    }.items():
        new = Clustering.of(moved_users, n_items, n_clusters=n_clusters, seed=1, start=start)
        overlap = overlap_map(before, (new.ids[seen], new.weights[seen]), n_old=n_clusters, n_new=n_clusters)
        inherited = inherit_sums(old.graph, learned, new.graph, overlap)
        assert (inherited.item == learned.item).all()
        found[name] = losses(new.predict(inherited, later, prior), later)
    found["cold"] = losses(new.predict(Sums.zeros(new.graph), later, prior), later)
    return found


def check(found):
    """What inheriting gains on a cold restart, and that it costs nothing to speak of against kept clusters."""
    mean = {name: loss.mean() for name, loss in found.items()}
    gain = mean["cold"] - mean["kept"]
    assert gain > 0.02
    assert mean["inherited"] - mean["kept"] < 0.05 * gain
    assert mean["from anywhere"] - mean["kept"] < 0.3 * gain


def test_inherited_sums_predict_simulated_clicks():
    """Tastes drift and the space is turned: inherited sums predict as kept clusters do, and cold ones do not."""
    pytest.importorskip("faiss")
    rng = np.random.default_rng(4)
    users = unit_rows(rng.standard_normal((2_000, 6)).astype(np.float32))
    tastes = unit_rows(users + 0.15 * rng.standard_normal(users.shape).astype(np.float32))
    turn, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    liked = rng.standard_normal((40, 6))
    user, item = rng.integers(2_000, size=80_000), rng.integers(40, size=80_000)
    chance = 1 / (1 + np.exp(1.5 - 2.5 * (tastes[user] * liked[item]).sum(axis=1)))
    events = Events(user, item, (rng.random(80_000) < chance).astype(np.int64))
    check(compare(users, (tastes @ turn).astype(np.float32), events, 40, 60_000, n_clusters=32))


def test_inherited_sums_predict_real_clicks(data_dir):
    """On the last fifth of KuaiRand, inherited sums predict as kept clusters do, and cold ones do not."""
    pytest.importorskip("faiss")
    folder = data_dir / "kuairand"
    profiles = read_table(folder / "user_features_pure.csv.gz", ("user_id",))
    columns = [Column(name) for name in profiles if name.endswith("_range")]
    columns += [Column(f"onehot_feat{number}") for number in (0, 1, 2, 4, 6, 9, 10, 11)]
    users = principal_axes(fit_features(columns, profiles).encode(profiles), 16)
    events = read_table(folder / "impressions.csv.gz", ("user_id", "video_id", "is_click"))
    row = {name: number for number, name in enumerate(profiles["user_id"])}
    videos, item = np.unique(events["video_id"], return_inverse=True)
    user = np.array([row[name] for name in events["user_id"]])
    log = Events(user, item, np.array(events["is_click"], np.int64))
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))
    moved = (users @ turn).astype(np.float32)
    check(compare(users, moved, log, len(videos), int(len(item) * 0.8), n_clusters=64))
