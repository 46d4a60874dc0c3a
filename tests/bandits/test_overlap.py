"""What sums a graph inherits when its clusters are made anew."""

import numpy as np
import pytest

from bandits.context import resolve_embeddings
from bandits.graph import build_graph
from bandits.overlap import SHARE_BITS, carried_centroids, inherit_sums, overlap_map
from bandits.sums import LARGEST, Sums, locate, state_hash

WHOLE = 1 << SHARE_BITS


def complete(n_clusters, item_ids):
    """A graph with every edge."""
    edges = np.indices((n_clusters, len(item_ids))).reshape(2, -1)
    return build_graph(
        version="v",
        centroids=[],
        n_clusters=n_clusters,
        item_ids=item_ids,
        edge_item=edges[1],
        edge_cluster=edges[0],
    )


def one_hot(clusters):
    ids = np.array(clusters)[:, None]
    return ids, np.ones(ids.shape)


def rows_of(overlap):
    """The map as a matrix of shares."""
    matrix = np.zeros((len(overlap.ptr) - 1, overlap.n_new), np.int64)
    owner = np.repeat(np.arange(len(overlap.ptr) - 1), np.diff(overlap.ptr))
    matrix[owner, overlap.cluster] = overlap.share
    return matrix


def random_world(seed=0, *, n_users=400, dim=4, n_old=12, n_new=9, k=3, temperature=0.1):
    """Users of a sphere in two clusterings."""
    rng = np.random.default_rng(seed)
    users = rng.standard_normal((n_users, dim)).astype(np.float32)
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    return [
        resolve_embeddings(users, users[rng.permutation(n_users)[:n]], k=k, temperature=temperature)
        for n in (n_old, n_new)
    ]


def test_whole_clusters_map_by_the_share_of_their_users():
    """Without overlap the map is the share of users that went from one cluster to the other."""
    old, new = one_hot([0, 0, 0, 0, 1, 1]), one_hot([2, 2, 2, 0, 1, 1])
    matrix = rows_of(overlap_map(old, new, n_old=3, n_new=3))
    assert matrix.tolist() == [[WHOLE // 4, 0, 3 * WHOLE // 4], [0, WHOLE, 0], [0, 0, 0]]


def test_shares_of_a_cluster_are_one_whole():
    """Whatever is rounded or left out, the shares of a cluster with users add up to 1 exactly."""
    old, new = random_world()
    for iterations in (0, 30):
        overlap = overlap_map(old, new, n_old=12, n_new=9, iterations=iterations)
        assert rows_of(overlap).sum(axis=1).tolist() == [WHOLE] * 12
        assert (overlap.share > 0).all()


def test_equal_clusters_map_to_themselves():
    """Overlapping contexts blur co-membership; sharpening finds that nothing has changed but the numbers."""
    old, _ = random_world(temperature=0.5)
    moved = np.random.default_rng(1).permutation(12)
    again = (moved[old[0]], old[1])
    own = {
        iterations: rows_of(overlap_map(old, again, n_old=12, n_new=12, iterations=iterations))[
            np.arange(12), moved
        ].mean()
        for iterations in (0, 5, 30)
    }
    assert own[0] < 0.6 * WHOLE
    assert own[0] < own[5] < own[30]
    assert own[30] > 0.98 * WHOLE


def test_the_map_explains_the_new_contexts():
    """Old weights through the map come nearer to the new weights than through co-membership."""
    old, new = random_world(temperature=0.5)
    dense = [np.zeros((400, n)) for n in (12, 9)]
    for matrix, (ids, weights) in zip(dense, (old, new), strict=True):
        np.put_along_axis(matrix, ids.astype(np.int64), weights, axis=1)
    errors = [
        np.abs(dense[0] @ rows_of(overlap_map(old, new, n_old=12, n_new=9, iterations=n)) / WHOLE - dense[1]).sum()
        for n in (0, 30)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_carried_centroids_are_the_mean_users_of_the_old_clusters():
    """Each lies at the mean of its users, by their weights; one without users at the mean of all."""
    old = (np.array([[0, 1], [0, 1], [1, 3]]), np.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]))
    users = np.array([[1.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    expected = [[3, 0], [0.5 / 0.75, 0.75 / 0.75], [5 / 3, 1], [0, 3]]
    np.testing.assert_allclose(carried_centroids(old, users, n_old=4), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"users: expected shape \(3, dim\)"):
        carried_centroids(old, users[:2], n_old=4)


def test_inherited_sums_are_those_of_whole_numbers():
    """Every edge holds the sum of floor(sum * share) over Python integers; items keep their totals."""
    old, new = random_world()
    overlap = overlap_map(old, new, n_old=12, n_new=9)
    rng = np.random.default_rng(0)
    before, after = complete(12, ["a", "b", "gone"]), complete(9, ["new", "b", "a"])
    sums = Sums.zeros(before)
    sums.edge[:] = rng.integers(0, [[1 << 40, 1 << 58, 5]], sums.edge.shape)
    sums.edge[::4] = 0
    sums.item[:] = [[7, 8], [9, 10], [11, 12]]
    got = inherit_sums(before, sums, after, overlap)
    assert got.item.tolist() == [[0, 0], [9, 10], [7, 8]]
    expected = {}
    matrix = rows_of(overlap)
    for item in ("a", "b"):
        for cluster in range(12):
            values = sums.edge[locate(before, before.lookup([item]), np.array([[cluster]]))[0, 0]]
            for target in np.flatnonzero(matrix[cluster]):
                key = (after.index[item], target)
                given = [int(value) * int(matrix[cluster, target]) // WHOLE for value in values]
                expected[key] = [
                    total + part for total, part in zip(expected.get(key, [0] * 3), given, strict=True)
                ]
    for (item, cluster), values in expected.items():
        edge = locate(after, np.array([item]), np.array([[cluster]]))[0, 0]
        assert got.edge[edge].tolist() == values
    assert got.edge.sum() == sum(map(sum, expected.values()))
    lost = sums.edge.sum() - sums.edge[before.item_ptr[2] :].sum() - got.edge.sum()
    assert 0 <= lost <= 3 * 2 * len(overlap.share)


def test_edges_that_the_new_graph_lacks_get_nothing():
    """A share on a cluster without an edge to the item is dropped, not given to another."""
    overlap = overlap_map(one_hot([0, 0]), one_hot([0, 1]), n_old=1, n_new=2)
    old = complete(1, ["a"])
    new = build_graph(version="v", centroids=[], n_clusters=2, item_ids=["a"], edge_item=[0], edge_cluster=[1])
    sums = Sums(np.array([[100, 200, 301]]), np.array([[5, 6]]))
    assert inherit_sums(old, sums, new, overlap).edge.tolist() == [[50, 100, 150]]


def test_inherited_sums_saturate():
    """Two clusters that become one add up to the largest value at most, and it is counted."""
    overlap = overlap_map(one_hot([0, 1]), one_hot([0, 0]), n_old=2, n_new=1)
    old, new = complete(2, ["a"]), complete(1, ["a"])
    sums = Sums(np.array([[LARGEST, 1, LARGEST - 5], [LARGEST, 2, 5]]), np.zeros((1, 2), np.int64), saturated=3)
    got = inherit_sums(old, sums, new, overlap)
    assert got.edge.tolist() == [[LARGEST, 3, LARGEST]]
    assert got.saturated == 4


def test_the_order_of_items_does_not_show():
    """Another numbering of the items, old or new, inherits the same state."""
    old, new = random_world()
    overlap = overlap_map(old, new, n_old=12, n_new=9)
    ids = [f"i{number}" for number in range(20)]
    rng = np.random.default_rng(2)
    values = rng.integers(0, 1 << 40, (20, 12, 3))
    hashes = set()
    for _ in range(3):
        order = rng.permutation(20)
        before, after = (
            complete(12, [ids[at] for at in order]),
            complete(9, [ids[at] for at in rng.permutation(20)]),
        )
        sums = Sums(values[order].reshape(-1, 3), np.zeros((20, 2), np.int64))
        hashes.add(state_hash(after, inherit_sums(before, sums, after, overlap)))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (([[0]], [[1.0]]), ([[0], [1]], [[1.0], [1.0]]), "expected the same users, got 1 and 2"),
        (([[2]], [[1.0]]), ([[0]], [[1.0]]), "old: expected 0 <= cluster < 2"),
        (([[0]], [[1.0]]), ([[-1]], [[1.0]]), "new: expected 0 <= cluster < 2"),
        (([[0]], [[np.nan]]), ([[0]], [[1.0]]), "old: expected finite weights"),
        (([0], [1.0]), ([[0]], [[1.0]]), "old: expected ids and weights of one shape"),
    ],
)
def test_contexts_that_do_not_fit_are_refused(old, new, message):
    """The side that is wrong is named."""
    with pytest.raises(ValueError, match=message):
        overlap_map(old, new, n_old=2, n_new=2)


def test_a_map_of_other_graphs_is_refused():
    """Sums are not moved by a map between other numbers of clusters."""
    overlap = overlap_map(one_hot([0]), one_hot([0]), n_old=1, n_new=1)
    with pytest.raises(ValueError, match="expected 2 to 1 clusters, got 1 to 1"):
        inherit_sums(complete(2, ["a"]), Sums.zeros(complete(2, ["a"])), complete(1, ["a"]), overlap)
