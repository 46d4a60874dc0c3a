"""Parameter rows: round trips, the public message, hostile bytes, placing rows of different ages."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits.graph import Graph, build_graph
from bandits.join_rule import MAX_HALF_LIFE_MS
from bandits.sums import OPEN, Sums
from freshet.v1 import parameters_pb2
from streams.kafka.parameter_rows import epoch_of
from streams.row_codec import EXTRA_FIELDS, _any_rows, _usual_rows, decode_rows, encode_rows, place_rows
from streams.wire.row_writer import NO_EPOCH
from tests.streams.hostile_bytes import damaged

DEGREES = (0, 1, 2, 2, 31, 32, 2_000, 0)


def make_graph(degrees: tuple[int, ...] = DEGREES, *, seed: int = 0, version: str = "v1") -> Graph:
    rng = np.random.default_rng(seed)
    edges = [(item, int(c)) for item, size in enumerate(degrees) for c in rng.choice(3_000, size, replace=False)]
    return build_graph(
        version=version,
        centroids=[],
        n_clusters=3_000,
        item_ids=[f"item-{number}" for number in range(len(degrees))],
        edge_item=np.array([item for item, _ in edges], np.int64),
        edge_cluster=np.array([cluster for _, cluster in edges], np.int64),
    )


GRAPH = make_graph()
EVERY = np.arange(GRAPH.n_items, dtype=np.int32)


def random_sums(graph: Graph, seed: int) -> tuple[Sums, np.ndarray]:
    rng = np.random.default_rng(seed)
    largest = rng.choice([2, 2**63 - 1])
    sums = Sums(rng.integers(0, largest, (graph.n_edges, 3)), rng.integers(0, largest, (graph.n_items, 2)))
    if seed % 3:
        sums.extra = rng.integers(0, largest, (graph.n_edges, 6)) * rng.integers(0, 2, (1, 6))
        sums.extra[:, OPEN] -= largest // 2 * rng.integers(0, 2)
        sums.times = rng.integers(0, [MAX_HALF_LIFE_MS, 2**53], (graph.n_items, 2))
        some = np.repeat(rng.integers(0, 2, graph.n_items), np.diff(graph.item_ptr))
        sums.extra *= some[:, None]
        sums.times *= rng.integers(0, 2, (graph.n_items, 1))
    return sums, rng.integers(1, 2**40, graph.n_items)


@given(seed=st.integers(0, 2**32), items=st.permutations(EVERY.tolist()), count=st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_rows_survive_the_store(seed: int, items: list[int], count: int) -> None:
    """Degree 0, 1 and 2,000, in any order: the same sums, positions and nothing else."""
    sums, position = random_sums(GRAPH, seed)
    chosen = np.array(items[:count], np.int32)
    rows = decode_rows([GRAPH.item_ids[i] for i in chosen], encode_rows(GRAPH, sums, position, chosen))
    back, back_position = Sums.zeros(GRAPH), np.zeros(GRAPH.n_items, np.int64)
    assert place_rows(GRAPH, rows, back, back_position) == 0
    for item in range(GRAPH.n_items):
        edges = slice(*GRAPH.item_ptr[item : item + 2].tolist())
        taken = int(item in chosen)
        assert np.array_equal(back.edge[edges], sums.edge[edges] * taken)
        assert np.array_equal(back.item[item], sums.item[item] * taken)
        for got, source, at in ((back.extra, sums.extra, edges), (back.times, sums.times, item)):
            zero = np.zeros(1, np.int64)
            expected = zero if source is None else source[at] * taken
            assert ((zero if got is None else got[at]) == expected).all()
        assert back_position[item] == position[item] * taken


@pytest.mark.parametrize("epoch", [0, 1, 127, 128, 2**40])
def test_a_row_names_the_owner_that_wrote_it(epoch: int) -> None:
    """A row with an epoch is the same row."""
    sums, position = random_sums(GRAPH, 1)
    plain = encode_rows(GRAPH, sums, position, EVERY)
    for row, value in zip(
        plain, encode_rows(GRAPH, sums, position, EVERY, np.full(len(EVERY), epoch)), strict=True
    ):
        found = parameters_pb2.ItemParameters.FromString(value)
        assert (found.epoch, epoch_of(value)) == (epoch, epoch)
        found.ClearField("epoch")
        assert found == parameters_pb2.ItemParameters.FromString(row)


def test_rows_are_written_as_the_public_message_says() -> None:
    """Any reader with ItemParameters sees them; what any writer makes of ItemParameters is read."""
    sums, position = random_sums(GRAPH, 4)
    for item, record in enumerate(encode_rows(GRAPH, sums, position, EVERY)):
        edges = slice(*GRAPH.item_ptr[item : item + 2].tolist())
        public = parameters_pb2.ItemParameters.FromString(record)
        assert list(public.cluster_ids) == GRAPH.edge_cluster[edges].tolist()
        assert list(zip(public.a, public.d, public.b, strict=True)) == [
            tuple(row) for row in sums.edge[edges].tolist()
        ]
        for column, name in enumerate(EXTRA_FIELDS):
            expected = (
                [] if sums.extra is None or not sums.extra[edges, column].any() else sums.extra[edges, column]
            )
            assert list(getattr(public, name)) == list(expected)
        assert [public.n, public.s, public.position] == [*sums.item[item].tolist(), position[item]]
        assert parameters_pb2.ItemParameters.FromString(public.SerializeToString()) == public
        rows = decode_rows(["x"], [public.SerializeToString()])
        assert np.array_equal(rows.edge, sums.edge[edges])
    nothing = decode_rows(["x"], [parameters_pb2.ItemParameters().SerializeToString()])
    assert (nothing.item.tolist(), nothing.position.tolist(), len(nothing.edge)) == ([[0, 0]], [0], 0)


def test_every_field_of_the_public_message_is_known_to_the_columns() -> None:
    """The two messages have the same fields under the same numbers, each column of equal wire type."""
    public, twin = parameters_pb2.ItemParameters.DESCRIPTOR, parameters_pb2.ItemParametersColumns.DESCRIPTOR
    assert {f.name: f.number for f in public.fields} == {f.name: f.number for f in twin.fields}
    for field in public.fields:
        assert twin.fields_by_name[field.name].type == (field.TYPE_BYTES if field.is_repeated else field.type)
        assert not field.is_repeated or field.is_packed


def test_damaged_rows_are_refused_or_whole() -> None:
    """Whatever is cut or flipped: ValueError naming the item, or parallel columns of numbers >= 0."""
    graph = make_graph((3,))
    record = encode_rows(graph, *random_sums(graph, 1), np.zeros(1, np.int32))[0]
    refused = 0
    for data in damaged(record):
        try:
            rows = decode_rows(["item-0"], [data])
        except ValueError as error:
            assert '"item-0"' in str(error)  # noqa: PT017
            refused += 1
            continue
        assert len(rows.cluster) == len(rows.edge) == rows.edge_ends[-1]
        assert rows.edge.shape[1:] == (3,)
        assert rows.item.shape == (1, 2)
        assert not (rows.edge < 0).any()
        assert not (rows.item < 0).any()
        assert rows.extra is None or (rows.extra.shape == (len(rows.edge), 6) and not (rows.extra[:, 1:] < 0).any())
    assert refused > 50


@pytest.mark.parametrize("epoch", [NO_EPOCH, 2**40])
def test_rows_that_are_read_in_one_pass_are_those_of_protobuf(epoch: int) -> None:
    """Cut or flipped anywhere, between two good rows: the same columns as by messages, or left to them."""
    graph = make_graph((3, 0, 2))
    sums, position = random_sums(graph, 3)
    first, record, last = encode_rows(graph, sums, position, np.arange(3, dtype=np.int32), np.full(3, epoch))
    names, passed_over = ["item-0", "item-1", "item-2"], 0
    for data in (record, *damaged(first), *damaged(last), first + record, first + last[:5]):
        records = [first, data, last]
        usual = _usual_rows(names, records)
        if usual is None:
            passed_over += 1
            continue
        every = _any_rows(names, records)
        assert every.extra is None
        assert every.edited_at is None
        for column in ("edge_ends", "cluster", "edge", "item", "position"):
            assert np.array_equal(getattr(usual, column), getattr(every, column)), column
    assert _usual_rows(names, [first, record, last]) is not None
    assert passed_over > 100


def test_a_sum_below_zero_is_refused_with_the_item_that_holds_it() -> None:
    """No sum can be: d < 0 would make a width NaN."""
    bad = parameters_pb2.ItemParameters(cluster_ids=[1, 2], a=[1, 1], d=[1, -5], b=[0, 0])
    good = parameters_pb2.ItemParameters(cluster_ids=[1], a=[1], d=[1], b=[0])
    records = [message.SerializeToString() for message in (good, parameters_pb2.ItemParameters(), bad, good)]
    with pytest.raises(ValueError, match='row "c": expected sums of at least 0, got -5'):
        decode_rows(["a", "b", "c", "d"], records)


@given(order=st.permutations(range(6)), cuts=st.lists(st.integers(1, 5), max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_newest_of_several_rows_stays(order: list[int], cuts: list[int]) -> None:
    """Rows of one item in any order, in one go or several: what is placed in the end is the newest."""
    graph = make_graph((2, 3))
    records = []
    for age in range(6):
        sums = Sums(np.full((5, 3), age), np.full((2, 2), age))
        records.append(encode_rows(graph, sums, np.full(2, age + 1), np.array([1], np.int32))[0])
    back, position = Sums.zeros(graph), np.zeros(2, np.int64)
    bounds = [0, *sorted(cuts), 6]
    for low, high in pairwise(bounds):
        taken = [records[i] for i in order[low:high]]
        place_rows(graph, decode_rows(["item-1"] * len(taken), taken), back, position)
    assert position.tolist() == [0, 6]
    assert back.edge.tolist() == [[0] * 3] * 2 + [[5] * 3] * 3
    assert back.item.tolist() == [[0, 0], [5, 5]]


def test_rows_of_another_graph_leave_what_this_one_lacks() -> None:
    """Edges and items that the graph does not have are counted or passed over, also by a graph without items."""
    other = make_graph((3, 2, 5), seed=9, version="v2")
    sums, position = random_sums(other, 3)
    rows = decode_rows(other.item_ids, encode_rows(other, sums, position, np.arange(3, dtype=np.int32)))
    small = make_graph((3, 2), seed=9)
    back, at = Sums.zeros(small), np.zeros(2, np.int64)
    assert place_rows(small, rows, back, at) == 0
    assert np.array_equal(back.edge, sums.edge[:5])
    empty = make_graph(())
    assert place_rows(empty, rows, Sums.zeros(empty), np.zeros(0, np.int64)) == 0
    bare = make_graph((0, 0, 0))
    back, at = Sums.zeros(bare), np.zeros(3, np.int64)
    assert place_rows(bare, rows, back, at) == other.n_edges
    assert np.array_equal(back.item, sums.item)
