"""Openings, positions and forgetting: both backends against a slow program over dicts, in any order."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.backend import Backend, choose_backend
from bandits.forgetting import BLOCK_HALF_LIVES, STEPS, WEIGHTS, ageing, blocks, weighed, weights
from bandits.graph import Graph, build_graph
from bandits.sums import OPEN, UNIT, D, Facts, N, Sums, chosen, state_hash

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
BACKENDS = [choose_backend("numpy"), choose_backend("numba")]


def make_graph(items: int = 5, clusters: int = 9) -> Graph:
    edges = [(j, c) for j in range(items) for c in range(clusters) if (j + c) % 3]
    return build_graph(
        version="v",
        centroids=[],
        n_clusters=clusters,
        item_ids=[f"i{j}" for j in range(items)],
        edge_item=np.array([j for j, _ in edges]),
        edge_cluster=np.array([c for _, c in edges]),
    )


GRAPH = make_graph()


def random_facts(rng: np.random.Generator, count: int, *, half_lives: tuple[int, ...], span_ms: int) -> Facts:
    sizes = rng.integers(1, 5, 6)
    clusters = np.concatenate([np.sort(rng.choice(9, size, replace=False)) for size in sizes])
    half_life = np.repeat(rng.choice(half_lives, max(count // 8, 1) + 1), 8)[:count].astype(np.int64)
    timed = any(half_lives)
    return Facts(
        item=rng.integers(0, 5, count).astype(np.int32),
        context=rng.integers(0, 6, count).astype(np.int32),
        impressions=rng.integers(0, 2, count),
        reward=rng.choice([0, 1, 900, UNIT, 1 << 31], count),
        context_ptr=np.concatenate([[0], np.cumsum(sizes)]),
        context_cluster=clusters.astype(np.int32),
        context_x=rng.choice([1, 2, 40, 9_999, UNIT], len(clusters)),
        opening=rng.integers(-1, 2, count) if rng.random() < 0.7 else None,
        gamma=rng.choice([1, 9_000, UNIT], count) if rng.random() < 0.7 else None,
        shown_ms=START_MS + rng.integers(0, span_ms, count) if timed else None,
        half_life_ms=half_life if timed else None,
    )


def part(facts: Facts, at: np.ndarray) -> Facts:
    columns = ("item", "context", "impressions", "reward", "opening", "gamma", "shown_ms", "half_life_ms")
    return replace(facts, **{name: chosen(getattr(facts, name), at) for name in columns})


def added(backend: Backend, *batches: Facts, graph: Graph = GRAPH) -> Sums:
    sums = Sums.zeros(graph)
    for facts in batches:
        backend.add(graph, sums, facts)
    return sums


def assert_same(one: Sums, other: Sums) -> None:
    assert one.edge.tolist() == other.edge.tolist()
    assert one.item.tolist() == other.item.tolist()
    for name in ("extra", "times"):
        rows = [np.zeros(1) if value is None else value for value in (getattr(one, name), getattr(other, name))]
        assert (rows[0] == rows[1]).all(), name
    assert state_hash(GRAPH, one) == state_hash(GRAPH, other)


@given(seed=st.integers(0, 2**32), span=st.sampled_from((1, 9, 40)))
@settings(max_examples=80, deadline=None)
def test_backends_add_extended_facts_alike(seed: int, span: int) -> None:
    """NumPy and Numba give the same bits, also where half-lives change and plain facts come in between."""
    rng = np.random.default_rng(seed)
    half_lives = ((0,), (HOUR_MS,), (HOUR_MS, 3 * HOUR_MS, 0))[rng.integers(0, 3)]
    batches = [random_facts(rng, rng.integers(1, 60), half_lives=half_lives, span_ms=span * HOUR_MS) for _ in "abc"]
    batches.insert(1, replace(batches[0], opening=None, gamma=None, shown_ms=None, half_life_ms=None))
    numpy_sums, numba_sums = (added(backend, *batches) for backend in BACKENDS)
    assert_same(numpy_sums, numba_sums)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@given(seed=st.integers(0, 2**32), span=st.sampled_from((1, 9, 40, 400)))
@settings(max_examples=60, deadline=None)
def test_facts_of_one_half_life_may_come_in_any_order_and_batches(backend: Backend, seed: int, span: int) -> None:
    """A late fact adds what it would have added on time, bit for bit, whatever was forgotten meanwhile."""
    rng = np.random.default_rng(seed)
    facts = random_facts(rng, 50, half_lives=(HOUR_MS,), span_ms=span * HOUR_MS)
    whole = added(backend, facts)
    order = rng.permutation(50)
    cuts = np.split(order, np.sort(rng.choice(50, 4)))
    assert_same(whole, added(backend, *(part(facts, at) for at in cuts if len(at))))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_openings_cancel_and_leave_no_trace(backend: Backend) -> None:
    """What opened and closed has counted once; the state hash is that of impressions that counted at once."""
    rng = np.random.default_rng(4)
    plain = replace(random_facts(rng, 40, half_lives=(0,), span_ms=1), opening=None, gamma=None)
    ones = np.ones(40, np.int64)
    opened = replace(plain, impressions=0 * ones, reward=0 * ones, opening=ones)
    closed = replace(plain, opening=-ones)
    immediate, at_close = added(backend, plain), added(backend, opened)
    assert at_close.extra is not None
    assert state_hash(GRAPH, at_close) not in (state_hash(GRAPH, Sums.zeros(GRAPH)), state_hash(GRAPH, immediate))
    assert at_close.edge.any() == at_close.item.any() == False  # noqa: E712
    in_flight = at_close.extra[:, OPEN].copy()
    backend.add(GRAPH, at_close, closed)
    assert_same(at_close, immediate)
    shown = added(backend, replace(plain, impressions=ones))
    assert in_flight.tolist() == shown.edge[:, D].tolist()


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_sums_fade_as_the_formula_says(backend: Backend, seed: int) -> None:
    """Read at any later time: sum of x^2 * 2^-age, within the stated rounding; what is too old is forgotten."""
    rng = np.random.default_rng(seed)
    facts = random_facts(rng, 60, half_lives=(HOUR_MS,), span_ms=rng.choice([2, 12, 30]) * HOUR_MS)
    facts = replace(facts, opening=None, gamma=None, context_x=np.full(len(facts.context_x), UNIT // 2))
    assert facts.shown_ms is not None
    now_ms = int(facts.shown_ms.max()) + int(rng.integers(0, 3 * HOUR_MS))
    sums = added(backend, facts)
    assert sums.extra is not None
    assert sums.times is not None
    newest, past = ageing(sums.times[:, 1], sums.times[:, 0], now_ms)
    owner = np.repeat(np.arange(GRAPH.n_items), np.diff(GRAPH.item_ptr))
    read = (sums.edge[:, D] * newest[owner] + sums.extra[:, 3] * past[owner]) / UNIT**2
    low, high = np.zeros(GRAPH.n_edges), np.zeros(GRAPH.n_edges)
    for i in range(len(facts)):
        age = (now_ms - facts.shown_ms[i]) / HOUR_MS
        in_row = (facts.item == facts.item[i]) & ((facts.impressions > 0) | (facts.reward > 0))
        late = (facts.shown_ms[in_row].max() - facts.shown_ms[i]) / HOUR_MS if in_row.any() else 0.0
        if not facts.impressions[i]:
            continue
        own = slice(facts.context_ptr[facts.context[i]], facts.context_ptr[facts.context[i] + 1])
        for cluster in facts.context_cluster[own]:
            for edge in np.flatnonzero((owner == facts.item[i]) & (GRAPH.edge_cluster == cluster)):
                high[edge] += 0.25 * 2**-age
                low[edge] += 0.25 * 2**-age * (late < BLOCK_HALF_LIVES)
    assert (read <= high * 1.004 + 1e-6).all()
    assert (read >= low * 0.996 - 1e-6).all()
    assert sums.item[:, N].sum() == facts.impressions.sum()  # a lifetime


def test_weights_are_those_of_the_half_life() -> None:
    """From 1/256 at the beginning of a block to 1 at its end; no table entry hangs on a rounding."""
    half_life = np.array(HOUR_MS)
    assert weights(np.array([0, 8 * HOUR_MS - 1, 8 * HOUR_MS]), half_life).tolist() == [256, 1 << 16, 256]
    assert blocks(np.array([0, 8 * HOUR_MS - 1, 8 * HOUR_MS]), half_life).tolist() == [0, 0, 1]
    times = np.arange(0, 8 * HOUR_MS, 1_001)
    exact = (1 << 16) * 2.0 ** (-(8 * HOUR_MS - times) / HOUR_MS)
    assert np.abs(weights(times, half_life) / exact - 1).max() < 0.007
    fractions = (1 << 16) * np.exp2(-np.arange(STEPS) / STEPS) % 1
    assert np.abs(fractions - 0.5).min() > 1e-4
    assert (np.diff(WEIGHTS) < 0).all()
    assert weighed(np.array([0, 1, 3, 1 << 46]), np.array([256, 256, 1 << 16, 1 << 16])).tolist() == [
        0,
        1,
        3,
        1 << 46,
    ]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_another_half_life_keeps_what_was_learned(backend: Backend) -> None:
    """A row goes on under the new half-life with the sums that it is worth at its latest time."""
    one = np.ones(1, np.int64)
    base = Facts(
        item=np.zeros(1, np.int32),
        context=np.zeros(1, np.int32),
        impressions=one,
        reward=one * UNIT,
        context_ptr=np.array([0, 1]),
        context_cluster=np.array([1], np.int32),
        context_x=one * UNIT,
        shown_ms=one * START_MS,
        half_life_ms=one * HOUR_MS,
    )
    sums = added(backend, *[base] * 50, replace(base, half_life_ms=24 * one * HOUR_MS))
    assert sums.times is not None
    factor, _ = ageing(sums.times[:1, 1], sums.times[:1, 0], START_MS)
    edge = int(np.flatnonzero(GRAPH.edge_cluster[: GRAPH.item_ptr[1]] == 1)[0])
    assert math.isclose(sums.edge[edge, D] * factor[0] / UNIT**2, 51, rel_tol=0.01)
    assert sums.times[0].tolist() == [24 * HOUR_MS, START_MS]
