"""Every backend against Python's unlimited integers: sums, saturation, order, what is gathered."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.backend import Backend, choose_backend
from bandits.context import Context
from bandits.cupy_device import DeviceUnusable, NoDevice, open_device
from bandits.graph import Graph, build_graph
from bandits.sums import LARGEST, UNIT, Facts, Sums, state_hash
from tests.bandits.dict_model import dict_sums
from tests.bandits.event_columns import Fact

N_CLUSTERS = 300
# Rows on both sides of 32 and of 64 edges, where the compiled search changes its way; none; all; short at the end.
DEGREES = (0, 1, 3, 31, 32, 33, 63, 64, 65, 130, 300, 17, 0, 2)

BACKENDS = [
    *(pytest.param("numpy"), pytest.param("numba"), pytest.param("cupy", marks=pytest.mark.gpu)),
    pytest.param("cupy, its kernels on the processor"),
]


@pytest.fixture(params=BACKENDS, scope="module")
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that this machine has."""
    if request.param.startswith("cupy, "):
        from bandits.backend_cupy import CupyBackend
        from tests.bandits.cuda.emulation import EmulatedCupy

        return CupyBackend(open_device(EmulatedCupy()))
    try:
        return choose_backend(request.param)
    except DeviceUnusable:
        raise  # there is a GPU, and something is wrong
    except NoDevice as error:
        pytest.skip(f"no {request.param} backend: {error}")


def make_graph(seed: int = 0, degrees: tuple[int, ...] = DEGREES) -> Graph:
    rng = np.random.default_rng(seed)
    edges = [(item, c) for item, size in enumerate(degrees) for c in rng.choice(N_CLUSTERS, size, replace=False)]
    return build_graph(
        version="v1",
        centroids=[],
        n_clusters=N_CLUSTERS,
        item_ids=[f"i{number}" for number in range(len(degrees))],
        edge_item=np.array([item for item, _ in edges], np.int64),
        edge_cluster=np.array([c for _, c in edges], np.int64),
    )


GRAPH = make_graph()
values = st.one_of(st.just(1), st.just(UNIT), st.integers(1, UNIT))
contexts = st.dictionaries(st.integers(0, N_CLUSTERS + 5), values, max_size=12).map(
    lambda c: tuple(sorted(c.items()))
)
fact = st.builds(
    lambda item, context, shown, reward: (item, context, shown, reward, (0, 0, 0)),
    st.sampled_from(GRAPH.item_ids),
    contexts,
    st.integers(0, 1),
    st.one_of(st.just(0), st.just(UNIT), st.integers(0, 2**31)),
)
fact_lists = st.lists(fact, max_size=40)


def as_facts(graph: Graph, rows: list[Fact]) -> Facts:
    """Columns; equal contexts are shared by their facts."""
    distinct = sorted({row[1] for row in rows})
    pairs = [pair for context in distinct for pair in context]
    number = {context: i for i, context in enumerate(distinct)}
    return Facts(
        item=graph.lookup([row[0] for row in rows]),
        context=np.array([number[row[1]] for row in rows], np.int32),
        impressions=np.array([row[2] for row in rows], np.int64),
        reward=np.array([row[3] for row in rows], np.int64),
        context_ptr=np.cumsum([0, *map(len, distinct)], dtype=np.int64),
        context_cluster=np.array([cluster for cluster, _ in pairs], np.int32),
        context_x=np.array([x for _, x in pairs], np.int64),
    )


def check_sums(graph: Graph, sums: Sums, rows: list[Fact]) -> None:
    edges, items = dict_sums(graph, Counter(rows))
    owner = np.repeat(np.arange(graph.n_items), np.diff(graph.item_ptr)).tolist()
    names = [(graph.item_ids[item], c) for item, c in zip(owner, graph.edge_cluster.tolist(), strict=True)]
    assert dict(zip(names, sums.edge.tolist(), strict=True)) == edges
    assert dict(zip(graph.item_ids, sums.item.tolist(), strict=True)) == items


@given(rows=fact_lists)
@settings(max_examples=80, deadline=None)
def test_sums_equal_those_of_unlimited_integers(backend: Backend, rows: list[Fact]) -> None:
    """Also for empty batches, empty contexts, clusters that the graph lacks, items without edges, long rows."""
    sums = Sums.zeros(GRAPH)
    backend.add(GRAPH, sums, as_facts(GRAPH, rows))
    check_sums(GRAPH, sums, rows)
    assert sums.saturated == 0


@given(rows=fact_lists, data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_order_and_batching_gives_the_same_state(
    backend: Backend, rows: list[Fact], data: st.DataObject
) -> None:
    """The hash of the state is that of the facts, not of how they came."""
    whole, parts = Sums.zeros(GRAPH), Sums.zeros(GRAPH)
    choose_backend("numpy").add(GRAPH, whole, as_facts(GRAPH, rows))
    shuffled = data.draw(st.permutations(rows))
    size = data.draw(st.integers(1, 9))
    for at in range(0, len(shuffled), size):
        backend.add(GRAPH, parts, as_facts(GRAPH, shuffled[at : at + size]))
    assert np.array_equal(whole.edge, parts.edge)
    assert state_hash(GRAPH, whole) == state_hash(GRAPH, parts)


@given(rows=fact_lists, shards=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_shards_of_items_add_up_to_the_whole(backend: Backend, rows: list[Fact], shards: int) -> None:
    """Each shard holds some of the items; the hashes of the shards add up, lane by lane, to that of the whole."""
    whole = Sums.zeros(GRAPH)
    backend.add(GRAPH, whole, as_facts(GRAPH, rows))
    lanes = [0, 0]
    for shard in range(shards):
        part = Sums.zeros(GRAPH)
        backend.add(GRAPH, part, as_facts(GRAPH, [row for row in rows if int(row[0][1:]) % shards == shard]))
        text = state_hash(GRAPH, part)
        lanes = [(lanes[i] + int(text[16 * i : 16 * i + 16], 16)) % 2**64 for i in range(2)]
    assert f"{lanes[0]:016x}{lanes[1]:016x}" == state_hash(GRAPH, whole)


@given(room=st.lists(st.integers(0, 3 * UNIT**2), min_size=5, max_size=5), rows=fact_lists, data=st.data())
@settings(max_examples=40, deadline=None)
def test_sums_stop_at_the_largest_value_in_any_order(
    backend: Backend, room: list[int], rows: list[Fact], data: st.DataObject
) -> None:
    """Near 2^63 - 1 a sum saturates, never wraps, and its bits do not depend on the order of the facts."""
    start = np.int64(LARGEST) - np.array(room)

    def fold(order: list[Fact], size: int) -> Sums:
        sums = Sums(np.tile(start[:3], (GRAPH.n_edges, 1)), np.tile(start[3:], (GRAPH.n_items, 1)))
        for at in range(0, len(order), size):
            backend.add(GRAPH, sums, as_facts(GRAPH, order[at : at + size]))
        return sums

    edges, items = dict_sums(GRAPH, Counter(rows))
    sums = fold(rows, 100)
    expected_edges = [
        [min(int(s) + v, int(LARGEST)) for s, v in zip(start[:3], row, strict=True)] for row in edges.values()
    ]
    expected_items = [
        [min(int(s) + v, int(LARGEST)) for s, v in zip(start[3:], row, strict=True)] for row in items.values()
    ]
    assert sums.edge.tolist() == expected_edges
    assert sums.item.tolist() == expected_items
    again = fold(data.draw(st.permutations(rows)), data.draw(st.integers(1, 3)))
    assert np.array_equal(again.edge, sums.edge)
    assert np.array_equal(again.item, sums.item)


def test_saturation_is_counted(backend: Backend) -> None:
    """What was cut off shows in a count, and not otherwise."""
    row: Fact = ("i7", ((int(GRAPH.edge_cluster[-1]), UNIT),), 1, UNIT, (0, 0, 0))
    sums = Sums.zeros(GRAPH)
    backend.add(GRAPH, sums, as_facts(GRAPH, [row]))
    assert sums.saturated == 0
    sums.release()
    sums.edge[:] = LARGEST - 1
    backend.add(GRAPH, sums, as_facts(GRAPH, [row]))
    assert sums.saturated > 0
    assert sums.edge.min() == LARGEST - 1
    assert sums.edge.max() == LARGEST


def test_headroom_is_as_promised(backend: Backend) -> None:
    """8,000,000,000 fully weighted impressions fit an edge."""
    edge = int(GRAPH.item_ptr[8]) - 1
    row: Fact = ("i7", ((int(GRAPH.edge_cluster[edge]), UNIT),), 1, 0, (0, 0, 0))
    sums = Sums.zeros(GRAPH)
    sums.edge[edge] = (8_000_000_000 * UNIT, 8_000_000_000 * UNIT**2, 0)
    backend.add(GRAPH, sums, as_facts(GRAPH, [row]))
    assert sums.edge[edge].tolist() == [8_000_000_001 * UNIT, 8_000_000_001 * UNIT**2, 0]
    assert sums.saturated == 0


@given(weights=st.lists(st.integers(1, UNIT), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_d_is_exact_as_a_fraction(backend: Backend, weights: list[int]) -> None:
    """The sum of squared weights has no rounding at all: small terms after large ones are not lost."""
    edge = int(GRAPH.item_ptr[7])
    cluster = int(GRAPH.edge_cluster[edge])
    sums = Sums.zeros(GRAPH)
    rows: list[Fact] = [("i7", ((cluster, x),), 1, 0, (0, 0, 0)) for x in weights]
    backend.add(GRAPH, sums, as_facts(GRAPH, rows))
    context = Context(np.array([cluster], np.int32), np.ones(1))
    gathered = backend.gather(GRAPH, sums, np.array([7], np.int32), context)
    assert Fraction(float(gathered.d[0, 0])) == sum(Fraction(x, UNIT) ** 2 for x in weights)
    assert Fraction(float(gathered.a[0, 0])) == sum(Fraction(x, UNIT) for x in weights)


@given(rows=fact_lists, data=st.data())
@settings(max_examples=60, deadline=None)
def test_gathered_columns_equal_a_loop_over_edges(backend: Backend, rows: list[Fact], data: st.DataObject) -> None:
    """Zero where there is no edge; else the sum in natural units, rounded once to float64."""
    sums = Sums.zeros(GRAPH)
    choose_backend("numpy").add(GRAPH, sums, as_facts(GRAPH, rows))
    items = np.array(data.draw(st.lists(st.integers(0, GRAPH.n_items - 1), max_size=9)), np.int32)
    shown = {cluster for row in rows for cluster, _ in row[1]} or {0}
    ids = data.draw(
        st.lists(st.sampled_from(sorted(shown | {0, 5, N_CLUSTERS + 9})), min_size=1, max_size=8, unique=True)
    )
    context = Context(np.array(sorted(ids), np.int32), np.full(len(ids), 0.25))
    got = backend.gather(GRAPH, sums, items, context)
    edges, by_item = dict_sums(GRAPH, Counter(rows))
    for i, item in enumerate(GRAPH.item_ids[number] for number in items.tolist()):
        for k, cluster in enumerate(context.cluster_ids.tolist()):
            a, d, b = edges.get((item, cluster), (0, 0, 0))
            assert bool(got.edge[i, k]) == ((item, cluster) in edges)
            cell = (got.a[i, k], got.d[i, k], got.b[i, k])
            assert cell == (float(a) / UNIT, float(d) / UNIT**2, float(b) / UNIT**2)
        assert (got.n[i], got.s[i]) == (float(by_item[item][0]), float(by_item[item][1]) / UNIT)
    assert np.array_equal(got.keys, GRAPH.item_hashes[items, 0])
    assert got.edge.shape == got.a.shape == (len(items), len(ids))
    assert np.array_equal(got.weights, context.weights)


def test_gathering_the_largest_sums_gives_the_same_bits_everywhere(backend: Backend) -> None:
    """Numbers beyond 2^53 are rounded to float64 in one way only."""
    rng = np.random.default_rng(7)
    sums = Sums(rng.integers(0, LARGEST, (GRAPH.n_edges, 3)), rng.integers(0, LARGEST, (GRAPH.n_items, 2)))
    context = Context(np.arange(0, N_CLUSTERS, 7, dtype=np.int32), np.ones(43))
    items = np.arange(GRAPH.n_items, dtype=np.int32)
    got, expected = (b.gather(GRAPH, sums, items, context) for b in (backend, choose_backend("numpy")))
    for name in ("edge", "a", "d", "b", "n", "s", "keys"):
        assert np.array_equal(getattr(got, name), getattr(expected, name)), name


@pytest.mark.parametrize("degrees", [(), (0,), (0, 0, 0)])
def test_a_graph_without_edges_is_no_error(backend: Backend, degrees: tuple[int, ...]) -> None:
    """Items that have no edges yet only count n and s."""
    graph = make_graph(degrees=degrees)
    sums = Sums.zeros(graph)
    rows: list[Fact] = [(item, ((4, UNIT),), 1, 5, (0, 0, 0)) for item in graph.item_ids]
    backend.add(graph, sums, as_facts(graph, rows))
    check_sums(graph, sums, rows)
    got = backend.gather(
        graph, sums, np.arange(len(degrees), dtype=np.int32), Context(np.array([4], np.int32), np.ones(1))
    )
    assert got.d.shape == (len(degrees), 1)
    assert not got.edge.any()
    assert got.n.tolist() == [1.0] * len(degrees)


def test_an_unknown_backend_is_refused() -> None:
    """A mistyped name must not run on another backend."""
    with pytest.raises(ValueError, match='got "nunba"'):
        choose_backend("nunba")  # type: ignore[arg-type]


def test_construction_compiles_all_that_serving_needs(tmp_path):
    """The first facts and the first slate, under a graph loaded from disk, wait for no compiler."""
    from bandits.artifact import load_graph, save_graph
    from bandits.backend_numba import NumbaBackend
    from bandits.numba_kernels import add_facts, gather_candidates

    built = build_graph(
        version="v1", centroids=[], n_clusters=2, item_ids=["a", "b"], edge_item=[0, 1], edge_cluster=[0, 1]
    )
    save_graph(built, tmp_path / "graph")
    graph = load_graph(tmp_path / "graph")
    backend = NumbaBackend()
    compiled = len(add_facts.signatures), len(gather_candidates.signatures)
    outcomes_like = np.zeros(1, np.int32), np.ones(1, np.int64)
    facts = Facts(
        item=outcomes_like[0],
        context=outcomes_like[0],
        impressions=outcomes_like[1],
        reward=outcomes_like[1],
        context_ptr=np.array([0, 1], np.int64),
        context_cluster=outcomes_like[0],
        context_x=outcomes_like[1],
    )
    sums = Sums.zeros(graph)
    backend.add(graph, sums, facts)
    backend.gather(graph, sums, np.zeros(1, np.int32), Context(np.zeros(1, np.int32), np.ones(1)))
    assert (len(add_facts.signatures), len(gather_candidates.signatures)) == compiled
