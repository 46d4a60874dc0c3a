"""The compiled path is the definition, only faster: every mode, setting and shape against the NumPy functions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.special import ndtri

from bandits.backend_numpy import NumpyBackend
from bandits.context import Context, fixed_point_weights
from bandits.drawn_propensity import ACCURACY, propensity_over_draws
from bandits.draws import COARSE_REDRAWS, TIES, bits, coarse_normals, normals, uniforms
from bandits.graph import Graph, build_graph
from bandits.graph_edit import GraphEdit, edited
from bandits.numba_draws import key_bits, key_uniform, normal_quantile, stream_key
from bandits.policies import DRAWN_MODES, PolicySettings, score
from bandits.slates import beyond_means, pick
from bandits.slates_numba import CompiledSlates, compiled_policy
from bandits.sums import UNIT, Sums

N_CLUSTERS, N_ITEMS = 200, 300
MODES = ("exploit", "ucb", "thompson", "epsilon_greedy", "uniform", "randomized_ucb")
POLICIES = st.builds(
    PolicySettings,
    alpha=st.sampled_from([0.0, 0.3, 100.0]),
    thompson_scale=st.sampled_from([0.0, 0.3]),
    prior_mean=st.sampled_from([0.0, 0.2]),
    prior_strength=st.sampled_from([0.0, 2.0**-30, 3.0]),
    epsilon=st.sampled_from([0.0, 0.3, 1.0]),
    estimator=st.sampled_from(["diagonal", "averaged"]),
    optimism=st.sampled_from([0.0, 0.55]),
    edge_strength=st.sampled_from([1e-3, 2.5]),
    item_strength=st.sampled_from([1.0, 40.0]),
    pooled_mean=st.sampled_from([1e-9, 0.0123, 0.97]),
)


def make_graph(rng: np.random.Generator) -> Graph:
    """Rows of every length, empty and whole ones among them."""
    degrees = rng.choice([0, 1, 5, 17, 63, 64, 65, N_CLUSTERS], N_ITEMS)
    edges = [(item, c) for item, size in enumerate(degrees) for c in rng.choice(N_CLUSTERS, size, replace=False)]
    item, cluster = np.array(edges).T
    ids = [f"i{number}" for number in range(N_ITEMS)]
    return build_graph(
        version="v1", centroids=[], n_clusters=N_CLUSTERS, item_ids=ids, edge_item=item, edge_cluster=cluster
    )


GRAPH = make_graph(np.random.default_rng(0))


def make_sums(rng: np.random.Generator, unseen: float) -> Sums:
    """Sums as if learned, with edges that were never shown, and many that are equal."""
    x = rng.integers(1, UNIT + 1, GRAPH.n_edges)
    count = rng.choice([1, 2, 1_000, 1_000_000], GRAPH.n_edges, p=[0.4, 0.3, 0.29, 0.01])
    edge = np.stack([count * x, count * x * x, rng.integers(0, 3, GRAPH.n_edges) * x * UNIT], axis=1)
    edge[rng.random(GRAPH.n_edges) < 0.3] = (UNIT, UNIT * UNIT, UNIT * UNIT // 2)
    edge[rng.random(GRAPH.n_edges) < unseen] = 0
    shown = rng.integers(0, 1_000, N_ITEMS)
    return Sums(edge, np.stack([shown, rng.integers(0, 3, N_ITEMS) * shown * UNIT // 4], axis=1))


def make_context(rng: np.random.Generator, k: int) -> Context:
    clusters = np.sort(rng.choice(N_CLUSTERS, k, replace=False)).astype(np.int32)
    return Context(clusters, fixed_point_weights(rng.random(k)) / UNIT)


def defined(
    sums: Sums, items: Any, context: Context, mode: str, policy: PolicySettings, *, size: int, seed: int, **how: Any
) -> tuple[Any, ...]:
    """The slate as the NumPy functions make it."""
    gathered = NumpyBackend().gather(GRAPH, sums, items, context)
    scores = score(mode, gathered, policy, seed)
    slate = pick(scores.score, keys=gathered.keys, slate_size=size, seed=seed, **how)
    propensity = slate.propensity
    if mode in DRAWN_MODES and len(slate.chosen):
        propensity = propensity_over_draws(slate, scores, gathered, policy, mode=mode, seed=seed, draws=10, **how)
    at, explored = slate.chosen, slate.explored
    if mode not in ("exploit", "epsilon_greedy"):
        explored = explored | beyond_means(scores.mean, at)
    return at, np.stack([scores.score[at], scores.mean[at], scores.width[at], propensity]), explored


@settings(max_examples=300, deadline=None)
@given(data=st.data(), policy=POLICIES, mode=st.sampled_from(MODES), seed=st.integers(0, 2**64 - 1))
def test_a_compiled_slate_equals_the_definition_bit_for_bit(
    data: st.DataObject, policy: PolicySettings, mode: str, seed: int
) -> None:
    """Whatever the mode, the settings, the sizes and the ties: the same items, numbers and propensities."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    if policy.prior_strength and data.draw(st.booleans()):
        policy = replace(policy, unseen="prior")
    sums = make_sums(rng, data.draw(st.sampled_from([0.0, 0.01, 1.0])))
    context = make_context(rng, data.draw(st.sampled_from([1, 2, 10, 64])))
    n = data.draw(st.sampled_from([1, 2, 9, 60, N_ITEMS]))
    items = rng.choice(N_ITEMS, n, replace=False).astype(np.int32)
    size = data.draw(st.sampled_from([0, 1, 5, 10, 49, 70, 1_000]))
    top_m = data.draw(st.sampled_from([1, 2, 7, 60, 5_000]))
    share = policy.epsilon if mode == "epsilon_greedy" else data.draw(st.sampled_from([0.0, 0.0, 0.2, 1.0]))
    compiled = compiled_policy(mode, policy, top_m=top_m, explore_share=share)
    assert compiled is not None
    slates = data.draw(st.sampled_from([CompiledSlates, CompiledSlates.following]))(GRAPH, sums)
    made = slates.fill(items, context, compiled, slate_size=size, seed=seed, redraws=10)
    told = defined(sums, items, context, mode, policy, size=size, seed=seed, top_m=top_m, explore_share=share)
    for one, other in zip(made, told, strict=True):
        np.testing.assert_array_equal(one, other)


def test_numbers_beyond_the_largest_are_given_as_it() -> None:
    """A reply holds no infinity (I6), whoever fills the slate."""
    items = np.arange(N_ITEMS, dtype=np.int32)
    compiled = compiled_policy("ucb", PolicySettings(), top_m=1, explore_share=0.0, largest=1e9)
    assert compiled is not None
    unseen = CompiledSlates(GRAPH, make_sums(np.random.default_rng(0), 1.0))
    _, numbers, _ = unseen.fill(
        items, make_context(np.random.default_rng(0), 10), compiled, slate_size=5, seed=1, redraws=1
    )
    assert numbers[0].tolist() == numbers[2].tolist() == [1e9] * 5


def test_no_candidates_make_an_empty_slate() -> None:
    """All excluded is no error."""
    compiled = compiled_policy("ucb", PolicySettings(), top_m=1, explore_share=0.5)
    assert compiled is not None
    slates = CompiledSlates(GRAPH, Sums.zeros(GRAPH))
    context = make_context(np.random.default_rng(0), 3)
    chosen, numbers, explored = slates.fill(
        np.empty(0, np.int32), context, compiled, slate_size=5, seed=1, redraws=1
    )
    assert (len(chosen), numbers.shape, len(explored)) == (0, (4, 0), 0)


def test_a_mode_without_loops_says_so() -> None:
    """Beta Thompson inverts a distribution function that has no compiled twin: it falls back."""
    assert compiled_policy("beta_thompson", PolicySettings(), top_m=1, explore_share=0.0) is None


@njit
def _draw_all(seed, stream, keys):  # type: ignore[no-untyped-def]
    offset, factor = stream_key(seed, stream)
    drawn, even, normal = np.empty(len(keys), np.uint64), np.empty(len(keys)), np.empty(len(keys))
    for at in range(len(keys)):
        drawn[at], even[at] = key_bits(offset, factor, keys[at]), key_uniform(offset, factor, keys[at])
        normal[at] = normal_quantile(even[at])
    return drawn, even, normal


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_compiled_draws_are_the_draws(seed: int) -> None:
    """One seed gives one slate whichever path fills it, so bits, uniforms and normals agree to the last bit."""
    keys = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    drawn, even, normal = _draw_all(np.uint64(seed), TIES, keys)
    assert np.array_equal(drawn, bits(seed, TIES, keys))
    assert np.array_equal(even, uniforms(seed, TIES, keys))
    assert np.array_equal(normal, normals(seed, TIES, keys))


def test_the_tails_of_compiled_normals_are_the_tails() -> None:
    """Draws out to eight standard deviations take three formulas; each is the library's."""
    far = 10.0 ** -np.linspace(0.1, 15.9, 20_000)
    for share in (far, 1 - far):
        assert np.array_equal(_quantiles(share), ndtri(share))


@njit
def _quantiles(shares):  # type: ignore[no-untyped-def]
    values = np.empty(len(shares))
    for at in range(len(shares)):
        values[at] = normal_quantile(shares[at])
    return values


def test_coarse_normals_are_normal_and_do_not_depend_on_their_number() -> None:
    """Redraws are as many as asked for; a longer row begins with the shorter one."""
    keys = np.random.default_rng(0).integers(0, 2**64, 1_000, dtype=np.uint64)
    drawn = coarse_normals(3, COARSE_REDRAWS, keys, 101)
    assert drawn.shape == (101, 1_000)
    assert np.array_equal(drawn[:7], coarse_normals(3, COARSE_REDRAWS, keys, 7))
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.01
    between = drawn @ drawn.T / 1_000 - np.eye(101)
    assert np.abs(between).max() < 0.25


@settings(max_examples=150, deadline=None)
@given(data=st.data(), policy=POLICIES, mode=st.sampled_from(MODES), seed=st.integers(0, 2**64 - 1))
def test_a_slate_of_what_is_around_equals_the_slate_of_those_items(
    data: st.DataObject, policy: PolicySettings, mode: str, seed: int
) -> None:
    """One pass over the edges of the clusters finds the same items, scores and slate, in edited graphs too."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    graph, sums = GRAPH, make_sums(rng, data.draw(st.sampled_from([0.0, 0.01, 1.0])))
    if data.draw(st.booleans()):
        graph = edited(
            GRAPH, GraphEdit("v2", ["i3", "i4", "new"], [[0, 1], [5], [1, 7, 199]], retired=["i9", "i10"])
        )
        more = len(graph.edge_cluster) - len(GRAPH.edge_cluster)
        x = rng.integers(1, UNIT, more)
        item = np.zeros((graph.n_items - N_ITEMS, 2), np.int64)
        sums = Sums(
            np.concatenate([sums.edge, np.stack([x, x * x, x * 7], axis=1)]), np.concatenate([sums.item, item])
        )
    context = make_context(rng, data.draw(st.sampled_from([1, 3, 10])))
    share = policy.epsilon if mode == "epsilon_greedy" else data.draw(st.sampled_from([0.0, 0.2]))
    compiled = compiled_policy(mode, policy, top_m=data.draw(st.sampled_from([1, 7])), explore_share=share)
    assert compiled is not None
    slates, items = CompiledSlates(graph, sums), graph.items_around(context.cluster_ids)
    size = data.draw(st.sampled_from([1, 10, 1_000]))
    for _ in range(2):  # the table that is used again is left clean
        chosen, numbers, explored, count = slates.fill_around(
            context, compiled, slate_size=size, seed=seed, draws=lambda _: 10
        )
    expected = slates.fill(items, context, compiled, slate_size=size, seed=seed, redraws=10)
    assert count == len(items)
    assert chosen.tolist() == items[expected[0]].tolist()
    np.testing.assert_array_equal(numbers[:3], expected[1][:3])
    # Chances of others are multiplied, and those of a crowd sampled, in the order in which candidates were found.
    np.testing.assert_allclose(numbers[3], expected[1][3], rtol=1e-4, atol=ACCURACY / 10)
    np.testing.assert_array_equal(explored, expected[2])


def test_around_clusters_without_items_there_is_nothing() -> None:
    """A user of an empty cluster gets an empty slate."""
    graph = build_graph(version="v", centroids=[], n_clusters=2, item_ids=["i"], edge_item=[0], edge_cluster=[0])
    compiled = compiled_policy("thompson", PolicySettings(), top_m=1, explore_share=0.5)
    assert compiled is not None
    nobody = Context(np.array([1], np.int32), np.ones(1))
    slates = CompiledSlates(graph, Sums.zeros(graph))
    chosen, numbers, explored, count = slates.fill_around(nobody, compiled, slate_size=3, seed=1, draws=lambda _: 1)
    assert (len(chosen), numbers.shape, len(explored), count) == (0, (4, 0), 0, 0)
