"""The simulated world: reproducible, in range, drifting as stated, and a graph can be built from it."""

import numpy as np
import pytest

from bandits.context import resolve_embedding
from bandits.graph import build_graph
from bandits.simulator.world import HIGHEST, LOWEST, World, WorldSettings

SMALL = WorldSettings(n_clusters=12, n_items=80, dim=8, top_w=9, k=3)
DRIFTING = WorldSettings(n_clusters=40, n_items=500, half_life_steps=100.0)


def tastes(world: World, step: float) -> np.ndarray:
    """Logarithms of theta where nothing was clipped, standardised."""
    logs = np.log(world.theta(step) / world._base)
    return (logs - logs.mean()) / logs.std()


def test_equal_seeds_make_equal_worlds() -> None:
    """A world is a function of seed and settings, and theta of the step, whatever was asked before."""
    one, two = World(3, DRIFTING), World(3, DRIFTING)
    two.theta(777.0)
    for step in (0.0, 40.0, 777.0):
        assert np.array_equal(one.theta(step), two.theta(step))
    assert not np.array_equal(one.theta(), World(4, DRIFTING).theta())
    users = [world.users(np.random.default_rng(1), 5).embeddings for world in (one, two)]
    assert np.array_equal(*users)


def test_probabilities_stay_in_range_and_depend_on_affinity() -> None:
    """Every theta lies within its bounds, and items near a centroid are clicked more."""
    world = World(0)
    theta = world.theta()
    assert theta.min() >= LOWEST
    assert theta.max() <= HIGHEST
    cosine = world.centroids @ world.items.T
    assert theta[cosine > 0.6].mean() > 3 * theta[cosine < 0.2].mean()


def test_contexts_are_those_a_server_resolves() -> None:
    """A user's clusters and weights equal what the embedding resolves to over the same centroids."""
    world = World(5, SMALL)
    users = world.users(np.random.default_rng(0), 20)
    for embedding, ids, weights in zip(users.embeddings, users.cluster_ids, users.weights, strict=True):
        context = resolve_embedding(embedding, world.centroids, k=SMALL.k, temperature=SMALL.temperature)
        assert context.cluster_ids.tolist() == ids.tolist()
        assert context.weights.tolist() == weights.tolist()


def test_probabilities_and_best_slate_match_brute_force() -> None:
    """p_j = sum of w theta per user, and no slate beats the best one."""
    world = World(1, SMALL)
    users = world.users(np.random.default_rng(2), 6)
    p = world.probabilities(users.cluster_ids, users.weights, np.arange(SMALL.n_items))
    best = world.best_possible(users.cluster_ids, users.weights, 4)
    theta = world.theta()
    for row in range(6):
        expected = users.weights[row] @ theta[users.cluster_ids[row]]
        assert p[row] == pytest.approx(expected, rel=1e-12)
        assert best[row] == pytest.approx(np.sort(expected)[-4:].sum(), rel=1e-12)
    own = world.probabilities(users.cluster_ids[0], users.weights[0], np.array([7, 3]))
    assert own == pytest.approx(p[0, [7, 3]], rel=1e-12)


@pytest.mark.parametrize("start", [0.0, 150.0, 900.0])
def test_tastes_keep_half_their_correlation_over_a_half_life(start: float) -> None:
    """From a knot, the correlation after one half-life is 1/2, and the spread never changes."""
    world = World(9, DRIFTING)
    later = np.corrcoef(tastes(world, start).ravel(), tastes(world, start + 100.0).ravel())[0, 1]
    assert later == pytest.approx(0.5, abs=0.03)
    spreads = [np.log(world.theta(start + offset) / world._base).std() for offset in (0.0, 50.0, 100.0)]
    assert spreads == pytest.approx([0.3] * 3, abs=0.02)


def test_drift_is_continuous() -> None:
    """A small step moves theta a little, also across a knot; without drift nothing moves."""
    world = World(9, DRIFTING)
    for step in (0.0, 149.95, 1000.0):
        assert np.abs(world.theta(step + 0.1) - world.theta(step)).max() < 0.005
    still = World(9, SMALL)
    assert np.array_equal(still.theta(0.0), still.theta(1e6))


def test_items_arrive_in_order_of_their_numbers() -> None:
    """A quarter is there at the start, all at the end, and a graph holds what has arrived."""
    settings = WorldSettings(n_clusters=6, n_items=80, dim=8, top_w=5, k=2, share_at_start=0.25, arrival_steps=100)
    world = World(2, settings)
    assert len(world.available(0)) == 20
    assert len(world.available(100)) == 80
    sizes = [len(world.available(step)) for step in range(101)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 20
    item_ids, edge_item, edge_cluster, centroids = world.edges(50)
    graph = build_graph(
        version="v", centroids=centroids, item_ids=item_ids, edge_item=edge_item, edge_cluster=edge_cluster
    )
    assert graph.n_items == sizes[50]
    assert graph.n_edges == 6 * 5
    assert graph.item_ids[3] == world.item_ids[3]


def test_the_graph_holds_the_items_users_like() -> None:
    """Items of a user's clusters are clicked far more than items at random, or learning would show nothing."""
    world = World(0)
    item_ids, edge_item, edge_cluster, centroids = world.edges()
    graph = build_graph(
        version="v", centroids=centroids, item_ids=item_ids, edge_item=edge_item, edge_cluster=edge_cluster
    )
    users = world.users(np.random.default_rng(0), 50)
    every = np.arange(graph.n_items)
    p = world.probabilities(users.cluster_ids, users.weights, every)
    near = [row[graph.items_around(ids)].mean() for row, ids in zip(p, users.cluster_ids, strict=True)]
    assert np.mean(near) > 1.5 * p.mean()
    around = graph.items_around(users.cluster_ids[0])
    reachable = world.best_possible(users.cluster_ids[0], users.weights[0], 5, items=around)
    assert reachable > 0.8 * world.best_possible(users.cluster_ids[0], users.weights[0], 5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("n_items", 0), ("k", -1), ("temperature", 0.0), ("half_life_steps", -1.0), ("share_at_start", 0.5)],
)
def test_impossible_settings_are_refused_by_name(setting: str, value: float) -> None:
    """A setting out of range names itself; items to come need steps to arrive in."""
    with pytest.raises(ValueError, match="arrival_steps" if setting == "share_at_start" else setting):
        WorldSettings(**{setting: value})


def test_steps_before_the_start_are_refused() -> None:
    """There is no theta before step 0."""
    with pytest.raises(ValueError, match="step: expected 0 or more, got -1"):
        World(0, SMALL).theta(-1.0)
