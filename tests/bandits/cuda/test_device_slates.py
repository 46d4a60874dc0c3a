"""Ranking on a device against scoring and picking in NumPy: the same items in the same order, ties included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.backend_numpy import NumpyBackend
from bandits.context import Context
from bandits.cupy_device import Device
from bandits.cupy_slates import TOLERANCE, Best, DeviceSlates, Users
from bandits.cupy_sums import ResidentSums
from bandits.draws import SEED_LIMIT
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, edited
from bandits.learner import Learner
from bandits.policies import PolicySettings, Scores, score
from bandits.slates import pick
from bandits.slates_numba import compiled_policy
from bandits.sums import Int32, Sums
from benchmarks.catalogue import softmax
from tests.bandits.cuda.test_resident_sums import facts_of
from tests.bandits.test_graph_edit import random_graph

MODES = ("exploit", "ucb", "thompson", "epsilon_greedy", "uniform", "randomized_ucb")
SETTINGS = (
    PolicySettings(),
    PolicySettings(estimator="diagonal", alpha=1.5, thompson_scale=2.0),
    PolicySettings(prior_mean=0.2, prior_strength=3.0, unseen="prior"),
    PolicySettings(prior_mean=0.3, alpha=0.0, thompson_scale=0.0, optimism=0.0, pooled_mean=0.02),
)


def users_of(graph: Graph, count: int, rng: np.random.Generator) -> tuple[Users, list[Context]]:
    """Users of one to six clusters each."""
    contexts = []
    for _ in range(count):
        clusters = np.sort(rng.choice(graph.n_clusters, rng.integers(1, 7), replace=False)).astype(np.int32)
        contexts.append(Context(clusters, softmax(rng.normal(size=len(clusters)))))
    users = Users(
        context_ptr=np.cumsum([0, *(len(context.cluster_ids) for context in contexts)]),
        cluster=np.concatenate([np.empty(0, np.int32), *(context.cluster_ids for context in contexts)]),
        weight=np.concatenate([np.empty(0), *(context.weights for context in contexts)]),
        seed=rng.integers(0, SEED_LIMIT - 1, count, dtype=np.uint64, endpoint=True),
    )
    return users, contexts


def check_request(
    graph: Graph, sums: Sums, items: Int32, context: Context, seed: int, *, mode: str,
    best: tuple[Int32, np.ndarray], policy: PolicySettings,
) -> None:  # fmt: skip
    """One request's best items against the reference."""
    chosen_items, numbers = best
    gathered = NumpyBackend().gather(graph, sums, items, context)
    expected = score(mode, gathered, policy, seed)
    size = min(len(chosen_items), len(items))
    assert (chosen_items[size:] == -1).all()
    assert not numbers[size:].any()
    place = {item: at for at, item in enumerate(items.tolist())}
    at = [place[item] for item in chosen_items[:size].tolist()]
    assert len(set(at)) == size
    check_numbers(expected, numbers[:size], at, drawn=mode == "thompson")
    if mode == "thompson":
        in_order = np.sort(expected.score)[::-1][:size]
        np.testing.assert_allclose(numbers[:size, 0], in_order, rtol=TOLERANCE, atol=TOLERANCE)
    elif size:
        slate = pick(expected.score, keys=gathered.keys, slate_size=size, seed=seed)
        assert at == slate.chosen.tolist()


def check_numbers(expected: Scores, numbers: np.ndarray, at: list[int], *, drawn: bool) -> None:
    if drawn:
        np.testing.assert_allclose(numbers[:, 0], expected.score[at], rtol=TOLERANCE, atol=TOLERANCE)
    else:
        assert np.array_equal(numbers[:, 0], expected.score[at])
    assert np.array_equal(numbers[:, 1], expected.mean[at])
    assert np.array_equal(numbers[:, 2], expected.width[at])


def learned(graph: Graph, seed: int) -> Sums:
    sums = Sums.zeros(graph)
    NumpyBackend().add(graph, sums, facts_of(graph, 60, seed))
    return sums


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 2**32), keep=st.integers(1, 9), policy=st.sampled_from(SETTINGS))
@settings(max_examples=12, deadline=None)
def test_the_best_candidates_are_those_of_the_reference(
    device: Device, mode: str, seed: int, keep: int, policy: PolicySettings
) -> None:
    """Any mode and settings, any number of candidates, many requests at once; unseen edges and ties among them."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, n_items=30, n_clusters=12)
    sums = learned(graph, seed % 1000)
    users, contexts = users_of(graph, int(rng.integers(0, 6)), rng)
    lists = [rng.choice(30, rng.integers(0, 31), replace=False).astype(np.int32) for _ in contexts]
    item_ptr = np.cumsum([0, *map(len, lists)])
    compiled = compiled_policy(mode, policy, top_m=1, explore_share=0.0)
    assert compiled
    slates = DeviceSlates(ResidentSums(device, graph, sums))
    best = slates.best(users, item_ptr, np.concatenate([np.empty(0, np.int32), *lists]), compiled, keep=keep)
    assert best.found.tolist() == [len(items) for items in lists]
    for r, (context, items) in enumerate(zip(contexts, lists, strict=True)):
        one = best.item[r], best.numbers[r]
        check_request(graph, sums, items, context, int(users.seed[r]), mode=mode, best=one, policy=policy)


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 2**32), keep=st.integers(1, 9), policy=st.sampled_from(SETTINGS))
@settings(max_examples=12, deadline=None)
def test_the_best_items_around_users_are_those_of_the_reference(
    device: Device, mode: str, seed: int, keep: int, policy: PolicySettings
) -> None:
    """The union of the users' clusters, each item once; also after items were added, moved and retired."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, n_items=30, n_clusters=12)
    learner = Learner.empty(graph, NumpyBackend())
    NumpyBackend().add(graph, learner.sums, facts_of(graph, 60, seed % 1000))
    resident = ResidentSums(device, graph, learner.sums)
    slates = DeviceSlates(resident)
    compiled = compiled_policy(mode, policy, top_m=1, explore_share=0.0)
    assert compiled
    for step in range(3):
        users, contexts = users_of(graph, int(rng.integers(0, 6)), rng)
        best = slates.best_around(users, compiled, keep=keep)
        check_around(graph, learner.sums, users, contexts, best, mode=mode, policy=policy)
        graph = edited(graph, random_edit(rng, f"v{step + 2}"))
        learner.edit_graph(graph)
        resident = ResidentSums(device, graph, learner.sums) if step else resident
        slates = DeviceSlates(resident) if step else slates
        if not step:
            assert resident.follow(graph, learner.sums, np.empty(0, np.int32))


def random_edit(rng: np.random.Generator, version: str) -> GraphEdit:
    names = [f"item-{number}" for number in rng.choice(40, 8, replace=False)]
    rows = [np.sort(rng.choice(12, rng.integers(0, 6), replace=False)) for _ in names[:5]]
    return GraphEdit(version, names[:5], rows, retired=names[5:])


def check_around(
    graph: Graph,
    sums: Sums,
    users: Users,
    contexts: list[Context],
    best: Best,
    *,
    mode: str,
    policy: PolicySettings,
) -> None:
    for r, context in enumerate(contexts):
        items = graph.items_around(context.cluster_ids)
        assert best.found[r] == len(items)
        one = best.item[r], best.numbers[r]
        check_request(graph, sums, items, context, int(users.seed[r]), mode=mode, best=one, policy=policy)


@pytest.mark.parametrize("keep", [1, 10, 300])
def test_many_candidates_are_ranked_in_passes(device: Device, keep: int) -> None:
    """More candidates than a tile holds, in requests of very different sizes, most of them ties."""
    rng = np.random.default_rng(keep)
    graph = random_graph(rng, n_items=4000, n_clusters=12)
    sums = learned(graph, 3)
    users, contexts = users_of(graph, 4, rng)
    lists = [rng.permutation(4000)[:size].astype(np.int32) for size in (4000, 0, 1, 700)]
    compiled = compiled_policy("ucb", PolicySettings(), top_m=1, explore_share=0.0)
    assert compiled
    slates = DeviceSlates(ResidentSums(device, graph, sums))
    best = slates.best(users, np.cumsum([0, *map(len, lists)]), np.concatenate(lists), compiled, keep=keep)
    for r, (context, items) in enumerate(zip(contexts, lists, strict=True)):
        one, seed = (best.item[r], best.numbers[r]), int(users.seed[r])
        check_request(graph, sums, items, context, seed, mode="ucb", best=one, policy=PolicySettings())


def test_few_numbers_come_back(device: Device) -> None:
    """Of many candidates only the best leave the device."""
    rng = np.random.default_rng(1)
    graph = random_graph(rng, n_items=4000, n_clusters=12)
    users, _ = users_of(graph, 3, rng)
    compiled = compiled_policy("ucb", PolicySettings(), top_m=1, explore_share=0.0)
    assert compiled
    slates = DeviceSlates(ResidentSums(device, graph, learned(graph, 3)))
    before = device.bytes_moved[1]
    best = slates.best_around(users, compiled, keep=10)
    assert best.found.min() > 100
    assert device.bytes_moved[1] - before == 3 * (10 * (4 + 24) + 4)
