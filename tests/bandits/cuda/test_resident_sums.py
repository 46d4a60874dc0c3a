"""Sums on a device: what comes back, when it comes, and what happens where there is no room."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.backend import Backend
from bandits.backend_cupy import CupyBackend
from bandits.backend_numpy import NumpyBackend
from bandits.cupy_device import Device, DeviceFull, open_device
from bandits.cupy_sums import ResidentSums
from bandits.edited_sums import clear_rows
from bandits.graph import Graph
from bandits.graph_edit import GraphEdit, compacted, edited
from bandits.learner import Learner
from bandits.outcomes import Outcomes
from bandits.sums import LARGEST, UNIT, Facts, Sums, state_hash
from benchmarks.catalogue import TINY, Size, make_facts, make_graph
from tests.bandits.cuda.emulation import EmulatedCupy
from tests.bandits.test_backends import make_graph as small_graph
from tests.bandits.test_graph_edit import random_graph


def facts_of(graph: Graph, count: int, seed: int, *, reward: int = UNIT) -> Facts:
    """Facts of random items; contexts of up to 12 clusters, some of which the graph lacks."""
    rng = np.random.default_rng(seed)
    contexts = max(1, count // 3)
    rows = [np.sort(rng.choice(graph.n_clusters + 3, rng.integers(0, 13), replace=False)) for _ in range(contexts)]
    sizes = np.array([len(row) for row in rows], np.int64)
    return Facts(
        item=rng.integers(0, graph.n_items, count).astype(np.int32),
        context=rng.integers(0, contexts, count).astype(np.int32),
        impressions=rng.integers(0, 2, count),
        reward=rng.integers(0, reward + 1, count) * rng.integers(0, 2, count),
        context_ptr=np.concatenate([[0], np.cumsum(sizes)]),
        context_cluster=np.concatenate(rows).astype(np.int32),
        context_x=rng.integers(1, UNIT + 1, int(sizes.sum())),
    )


def equal(one: Sums, other: Sums) -> bool:
    same = np.array_equal(one.edge, other.edge) and np.array_equal(one.item, other.item)
    return same and one.saturated == other.saturated


@given(data=st.data(), room=st.integers(0, 40), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_saturated_sums_are_counted_as_the_reference_counts_them(
    device: Device, data: st.DataObject, room: int, seed: int
) -> None:
    """Once a sum and micro-batch, whichever thread brought it to its end."""
    graph = small_graph()
    start = LARGEST - np.random.default_rng(seed).integers(0, 2**room + 1, (graph.n_edges, 3))
    sums = [Sums(start.copy(), np.full((graph.n_items, 2), LARGEST - room)) for _ in range(2)]
    for number in range(data.draw(st.integers(1, 3))):
        batch = facts_of(graph, 60, seed + number)
        for backend, own in zip((CupyBackend(device), NumpyBackend()), sums, strict=True):
            backend.add(graph, own, batch)
    assert equal(*sums)


def test_what_a_launch_could_add_is_bounded(device: Device) -> None:
    """Huge rewards, of which as many as a batch may hold would pass 2^63 within a launch, still saturate."""
    graph = small_graph(degrees=(1,))
    count = 1 << 17
    one = np.ones(count, np.int64)
    cluster = np.array([int(graph.edge_cluster[0])], np.int32)
    facts = Facts(
        *(np.zeros(count, np.int32), np.zeros(count, np.int32), one, one * (2**32 - 1)),
        *(np.array([0, 1], np.int64), cluster, np.array([UNIT], np.int64)),
    )
    sums = Sums.zeros(graph)
    CupyBackend(device).add(graph, sums, facts)
    assert sums.edge[0].tolist() == [count * UNIT, count * UNIT**2, LARGEST]
    assert sums.item[0].tolist() == [count, count * (2**32 - 1)]
    assert sums.saturated > 0


def test_facts_keep_their_contexts_where_a_batch_takes_several_launches(device: Device) -> None:
    """Rewards so large that a launch may add 2^15 facts at most: the others find their own columns too."""
    graph = small_graph()
    facts, sums, expected = facts_of(graph, 40_000, 1, reward=2**32 - 1), Sums.zeros(graph), Sums.zeros(graph)
    CupyBackend(device).add(graph, sums, facts)
    NumpyBackend().add(graph, expected, facts)
    assert equal(sums, expected)


def test_rows_that_an_edit_adds_saturate_too(device: Device) -> None:
    """What is known of the largest sum is not older than the rows that came with an edit."""
    graph = random_graph(np.random.default_rng(1), n_items=5, n_clusters=6)
    larger = edited(graph, GraphEdit("v2", ["fresh"], [np.array([0, 3])]))
    resident = ResidentSums(device, graph, Sums.zeros(graph))
    sums = Sums.zeros(larger)
    sums.edge[graph.n_edges :] = LARGEST - 5
    assert resident.follow(larger, sums, np.empty(0, np.int32))
    one, cluster = np.ones(1, np.int64), np.array([3], np.int32)
    first = np.zeros(1, np.int32)
    facts = Facts(first + 5, first, one, one * 9, np.array([0, 1], np.int64), cluster, one)
    capped = resident.add(facts)
    rows, _ = resident.read(np.array([5], np.int32))
    assert rows.tolist() == [[LARGEST - 5] * 3, [LARGEST - 4, LARGEST - 4, LARGEST]]
    assert capped == 1


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 257, 5), (1000, 0, 7)])
def test_columns_of_a_batch_are_aligned_and_whole(device: Device, sizes: tuple[int, ...]) -> None:
    """A GPU cannot read an int32 from an odd address; each column starts on a line of memory of its own."""
    places = device.move(*[(np.arange(size), dtype) for size, dtype in zip(sizes, ("u1", "i4", "u2"), strict=True)])
    assert [int(place) % 256 for place in places] == [int(places[0]) % 256] * 3
    assert int(places[0]) % 8 == 0
    assert int(places[1] - places[0]) >= sizes[0]
    assert int(places[2] - places[1]) >= 4 * sizes[1]


@pytest.mark.parametrize(("column", "value"), [("reward", 2**32), ("reward", -1), ("impressions", 256)])
def test_a_number_that_a_packed_column_cannot_hold_is_refused(device: Device, column: str, value: int) -> None:
    """It would be cut off on the way; nothing is added."""
    graph = small_graph()
    facts, sums = facts_of(graph, 5, 1), Sums.zeros(graph)
    getattr(facts, column)[2] = value
    with pytest.raises(ValueError, match=f"expected .*, got .*{value}"):
        CupyBackend(device).add(graph, sums, facts)
    assert not sums.edge.any()
    assert not sums.item.any()


def test_only_rows_that_changed_come_back(device: Device) -> None:
    """Reading sums after a micro-batch moves the rows of its items, once."""
    graph = make_graph(TINY, np.random.default_rng(1))
    backend, sums, expected = CupyBackend(device), Sums.zeros(graph), Sums.zeros(graph)
    for seed in range(3):
        facts = make_facts(graph, 40, np.random.default_rng(seed))
        backend.add(graph, sums, facts)
        NumpyBackend().add(graph, expected, facts)
        before = device.bytes_moved[1]
        assert equal(sums, expected)
        moved = device.bytes_moved[1] - before
        assert moved == len(np.unique(facts.item)) * (32 * 24 + 16)
        assert equal(sums, expected)
        assert device.bytes_moved[1] - before == moved


def test_a_micro_batch_is_moved_once_and_packed(device: Device) -> None:
    """70 bytes and some a fact, however many columns there are, and nothing comes back while nobody reads."""
    graph = make_graph(TINY, np.random.default_rng(1))
    backend, sums, facts = CupyBackend(device), Sums.zeros(graph), make_facts(graph, 1000, np.random.default_rng(2))
    backend.add(graph, sums, facts)
    before = list(device.bytes_moved)
    backend.add(graph, sums, facts)
    there, back = (now - then for now, then in zip(device.bytes_moved, before, strict=True))
    assert 1000 * (4 + 4 + 1 + 4 + 4 + 10 * (4 + 2)) <= there <= 1000 * 77 + 7 * 256 + 4
    assert back == 0


def test_sums_on_a_device_cannot_be_written_to_unnoticed(device: Device) -> None:
    """Whoever writes to them first takes them back; then the device takes over what was written."""
    graph = small_graph()
    backend, sums = CupyBackend(device), Sums.zeros(graph)
    facts = facts_of(graph, 30, 1)
    backend.add(graph, sums, facts)
    with pytest.raises(ValueError, match="read-only"):
        sums.edge[0] = 1
    expected = Sums.zeros(graph)
    NumpyBackend().add(graph, expected, facts)
    for own in (sums, expected):
        clear_rows(graph, own, np.array([4, 7], np.int32))
    backend.add(graph, sums, facts)
    NumpyBackend().add(graph, expected, facts)
    assert equal(sums, expected)


def test_rows_are_read_and_written_where_they_are(device: Device) -> None:
    """What is published is read from the device alone; rows that come from elsewhere are put there."""
    graph = small_graph()
    held, expected = Sums.zeros(graph), Sums.zeros(graph)
    NumpyBackend().add(graph, held, facts_of(graph, 90, 3))
    resident = ResidentSums(device, graph, expected)
    items = np.array([9, 4, 0, 10], np.int32)
    edges = np.concatenate([np.arange(graph.item_ptr[i], graph.item_ptr[i + 1]) for i in items])
    resident.write(items, held.edge[edges], held.item[items])
    expected.edge[edges], expected.item[items] = held.edge[edges], held.item[items]
    read = resident.read(np.arange(graph.n_items, dtype=np.int32))
    assert np.array_equal(read[0], expected.edge)
    assert np.array_equal(read[1], expected.item)
    assert [rows.shape for rows in resident.read(np.empty(0, np.int32))] == [(0, 3), (0, 2)]


def record_of(names: list[str], clusters: int, sequence: int) -> Outcomes:
    """A record of the ledger: random facts of these items."""
    rng = np.random.default_rng(sequence)
    count = int(rng.integers(1, 40))
    degrees = rng.integers(0, 5, count)
    rows = [np.sort(rng.choice(clusters, degree, replace=False)) for degree in degrees]
    return Outcomes(
        joiner_partition=0,
        sequence=sequence,
        impressions_position=0,
        clicks_position=0,
        item_ids=names,
        context_ends=np.cumsum(degrees),
        context_cluster=np.concatenate(rows).astype(np.int32),
        context_x=rng.integers(1, UNIT + 1, int(degrees.sum())),
        item=rng.integers(0, len(names), count).astype(np.int32),
        context=np.arange(count, dtype=np.int32),
        impressions=np.ones(count, np.int64),
        reward=rng.integers(0, UNIT + 1, count),
        cause_topic=np.zeros(count, np.int32),
        cause_offset=np.arange(count),
        cause_index=np.zeros(count, np.int32),
    )


def check_learners(backends: list[Backend], seed: int, steps: int) -> None:
    """The same random life of learners: records, edits, rebuilt graphs, readers in between."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, n_items=12, n_clusters=6)
    learners = [Learner.empty(graph, backend) for backend in backends]
    names = [*graph.item_ids, *(f"new-{number}" for number in range(6))]
    for step in range(1, steps):
        action = rng.choice(["apply", "edit", "compact", "switch", "read"], p=[0.5, 0.25, 0.05, 0.05, 0.15])
        if action == "apply":
            record = record_of(names, graph.n_clusters, step)
            changed = [learner.apply(record, offset=step) for learner in learners]
            assert np.array_equal(*changed)
        elif action == "edit":
            item = str(rng.choice(names))
            chosen = np.sort(rng.choice(6, rng.integers(0, 5), replace=False))
            retired = [item] if rng.random() < 0.3 else []
            edit = GraphEdit(f"v{step}", [] if retired else [item], [] if retired else [chosen], retired=retired)
            graph = edited(graph, edit)
            assert np.array_equal(*[learner.edit_graph(graph) for learner in learners])
        elif action == "compact" and graph.edits is not None:
            live = graph.edits.live.copy()
            graph = compacted(graph)
            for learner in learners:
                learner.compact_graph(graph, live)
        elif action == "switch":
            graph = random_graph(rng, n_items=int(rng.integers(8, 15)), n_clusters=6)
            for learner in learners:
                learner.switch_graph(graph)
        elif action == "read":
            assert equal(*[learner.sums for learner in learners])
    assert equal(*[learner.sums for learner in learners])
    hashes = {state_hash(learner.graph, learner.sums) for learner in learners}
    assert len(hashes) == 1


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_learner_on_a_device_lives_as_one_on_the_processor(device: Device, seed: int) -> None:
    """Whatever becomes of the graph, and whoever reads in between: rows grow, move, are cleared and come back."""
    check_learners([CupyBackend(device), NumpyBackend()], seed, 30)


@given(seed=st.integers(0, 2**32), crossover=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_batches_on_either_side_of_the_crossover_add_up(device: Device, seed: int, crossover: int) -> None:
    """Small batches here and large ones there change the same sums."""
    check_learners([CupyBackend(device, crossover_facts=crossover), NumpyBackend()], seed, 30)


def test_an_edit_moves_what_it_changes(device: Device) -> None:
    """Sums stay on the device when an item is added: not the graph is moved, but rows."""
    graph = make_graph(Size(20_000, 640), np.random.default_rng(1))
    vars(graph)["item_ids"] = [f"item-{number}" for number in range(graph.n_items)]
    learner = Learner.empty(graph, CupyBackend(device))
    learner.apply(record_of(["item-1", "item-2"], graph.n_clusters, 1), offset=0)
    assert learner.sums.item.any()
    before = device.bytes_moved[0]
    edit = GraphEdit("v2", ["item-1", "fresh"], [np.array([1, 2, 3]), np.array([4, 5])])
    learner.edit_graph(edited(graph, edit))
    learner.apply(record_of(["item-1", "fresh"], graph.n_clusters, 2), offset=1)
    moved = device.bytes_moved[0] - before
    assert isinstance(learner.sums.holder, ResidentSums)
    assert moved < 10_000


def test_small_batches_alone_leave_the_device(device: Device) -> None:
    """Sums that nothing large is added to any more are the processor's again, so that no launch is in the way."""
    graph = small_graph()
    backend, sums = CupyBackend(device, crossover_facts=20), Sums.zeros(graph)
    backend.add(graph, sums, facts_of(graph, 10, 1))
    assert sums.holder is None
    backend.add(graph, sums, facts_of(graph, 30, 2))
    for seed in range(70):
        assert (sums.holder is not None) == (seed <= 64)
        backend.add(graph, sums, facts_of(graph, 10, seed))
    assert backend.facts_on_device == 30 + 64 * 10


def test_facts_that_are_not_plain_are_added_by_the_processor(device: Device) -> None:
    """What opens impressions or fades has no kernel: its sums come back, and are right."""
    graph = small_graph()
    plain = facts_of(graph, 30, 1)
    opened = Facts(**{**vars(plain), "opening": np.ones(30, np.int64), "gamma": np.full(30, UNIT // 2)})
    sums, expected = Sums.zeros(graph), Sums.zeros(graph)
    backend = CupyBackend(device)
    for facts in (plain, opened, plain):
        backend.add(graph, sums, facts)
        NumpyBackend().add(graph, expected, facts)
    assert equal(sums, expected)
    assert np.array_equal(sums.with_extra()[0], expected.with_extra()[0])
    assert backend.facts_on_device == 60


@pytest.mark.parametrize("memory", [10_000, 400_000, 900_000])
def test_a_full_device_is_told_and_changes_nothing(memory: int) -> None:
    """Asked for by name, it is an error that says how much was missing; found by itself, the processor goes on."""
    graph = make_graph(TINY, np.random.default_rng(1))
    sums, expected = Sums.zeros(graph), Sums.zeros(graph)
    facts = make_facts(graph, 6000, np.random.default_rng(2))
    small = open_device(EmulatedCupy(memory=memory))
    with pytest.raises(DeviceFull, match=r"expected [\d,]+ MiB more, got [\d,]+ of [\d,]+ MiB free"):
        CupyBackend(small).add(graph, sums, facts)
    assert not sums.edge.any()
    told: list[str] = []
    backend = CupyBackend(small, strict=False, tell=told.append)
    for _ in range(3):
        backend.add(graph, sums, facts)
        NumpyBackend().add(graph, expected, facts)
    assert equal(sums, expected)
    assert len(told) == 1
    assert "on the processor from here on" in told[0]
    assert "\n" not in told[0]


def test_a_batch_that_does_not_fit_is_added_once() -> None:
    """The sums fit, a batch does not: what is on the device comes back, and the batch is added to it here."""
    graph = make_graph(TINY, np.random.default_rng(1))
    fits, too_much = (make_facts(graph, count, np.random.default_rng(count)) for count in (100, 20_000))
    cupy = EmulatedCupy()
    told: list[str] = []
    backend = CupyBackend(open_device(cupy), strict=False, tell=told.append)
    sums, expected = Sums.zeros(graph), Sums.zeros(graph)
    backend.add(graph, sums, fits)
    cupy.memory -= cupy.free - 1000
    for facts in (fits, too_much):
        NumpyBackend().add(graph, expected, facts)
    backend.add(graph, sums, too_much)
    assert len(told) == 1
    assert equal(sums, expected)
