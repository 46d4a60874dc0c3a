"""Who is owed impressions: known ones, those on their way, those that never came, under edits and switches."""

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.graph import build_graph
from bandits.graph_edit import GraphEdit, edited
from bandits.sums import N
from server.first_impressions import FirstImpressions
from server.snapshot import Parameters
from streams.change import Change

HOLD_MS = 1_000


class Clock:
    """Time that stands still until it is moved."""

    now_ms = 1_000_000

    def __call__(self):
        return self.now_ms


def graph_of(ids, *, version="v", clusters=3):
    """Item number i at cluster i modulo 3."""
    return build_graph(
        version=version,
        centroids=[],
        n_clusters=clusters,
        item_ids=list(ids),
        edge_item=range(len(ids)),
        edge_cluster=[number % clusters for number in range(len(ids))],
    )


def parameters_of(graph, known):
    rows = np.zeros((graph.n_items, 2), np.int64)
    rows[:, N] = known
    change = Change(
        graph=graph,
        position=0,
        full=True,
        items=np.arange(graph.n_items, dtype=np.int32),
        edge_rows=np.zeros((graph.n_edges, 3), np.int64),
        item_rows=rows,
    )
    return Parameters.of(change, choose_backend("numpy"))


def owed_of(first, parameters):
    """Ids of the items that are owed impressions."""
    graph = parameters.graph
    live = np.arange(graph.n_items) if graph.edits is None else np.flatnonzero(graph.edits.live)
    known = parameters.read(lambda sums, _: sums.item[live, N].astype(float))
    found = first.owed(graph, live.astype(np.int32), known)
    return set() if found is None else {graph.item_ids[item] for item in live[found].tolist()}


def show(first, parameters, item_id, times=1):
    graph = parameters.graph
    item = graph.lookup([item_id])
    known = parameters.read(lambda sums, _: sums.item[item, N].astype(float))
    for _ in range(times):
        first.show(graph, item, known)


def learn(parameters, item_id, impressions):
    """The rows of an item arrive."""
    item = parameters.graph.lookup([item_id])
    parameters.read(lambda sums, _: sums.item.__setitem__((item, N), sums.item[item, N] + impressions))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def first(clock):
    return FirstImpressions(3, hold_ms=HOLD_MS, clock_ms=clock)


def test_an_item_is_owed_what_is_missing(first):
    """Known impressions alone decide before anything is shown, also before the first look."""
    parameters = parameters_of(graph_of("abcd"), [0, 2, 3, 9])
    assert owed_of(first, parameters) == {"a", "b"}
    first.look(parameters)
    assert owed_of(first, parameters) == {"a", "b"}
    assert first.owed_items == 2


def test_what_is_on_its_way_counts(first):
    """Nobody is shown more often than it is owed while feedback is late, and nothing counts twice when it comes."""
    parameters = parameters_of(graph_of("ab"), [0, 1])
    first.look(parameters)
    show(first, parameters, "a", 2)
    show(first, parameters, "b", 2)
    assert owed_of(first, parameters) == {"a"}
    first.look(parameters)
    assert first.in_flight == 4
    learn(parameters, "a", 2)
    assert owed_of(first, parameters) == {"a"}
    show(first, parameters, "a")
    assert owed_of(first, parameters) == set()


def test_what_never_comes_is_given_up_after_two_holds(first, clock):
    """A caller who did not show the slate does not keep an item from its impressions for long."""
    parameters = parameters_of(graph_of("a"), [0])
    first.look(parameters)
    show(first, parameters, "a", 3)
    for holds, owed in ((1, set()), (2, {"a"})):
        clock.now_ms += HOLD_MS
        first.look(parameters)
        assert owed_of(first, parameters) == owed, holds


def test_a_hold_that_ends_forgets_nothing_of_the_next(first, clock):
    """Slates of the hold that runs count on when the one before is given up."""
    parameters = parameters_of(graph_of("a"), [0])
    first.look(parameters)
    show(first, parameters, "a", 1)
    clock.now_ms += HOLD_MS
    first.look(parameters)
    learn(parameters, "a", 1)
    show(first, parameters, "a", 2)
    assert owed_of(first, parameters) == set()
    clock.now_ms += HOLD_MS
    first.look(parameters)
    assert owed_of(first, parameters) == set()
    clock.now_ms += HOLD_MS
    first.look(parameters)
    assert owed_of(first, parameters) == {"a"}


def test_clusters_without_new_items_cost_nothing(first):
    """The question that every request asks looks at its clusters alone, and sees items that were added since."""
    graph = graph_of("abc")
    parameters = parameters_of(graph, [0, 5, 5])
    assert first.around(graph, np.array([1], np.int32))
    first.look(parameters)
    assert first.around(graph, np.array([0], np.int32))
    assert not first.around(graph, np.array([1, 2], np.int32))
    assert first.may_be_owed(graph, np.array([1, 2], np.int32)) is None
    more = edited(graph, GraphEdit("v+1", item_ids=["new"], clusters=[[2]]))
    assert first.around(more, np.array([2], np.int32))
    assert not first.around(more, np.array([1], np.int32))
    assert first.may_be_owed(more, np.array([3], np.int32)) is not None


def test_an_edit_goes_on_where_it_was(first):
    """New items are owed all, retired ones nothing, and what is on its way stays so."""
    graph = graph_of("ab")
    parameters = parameters_of(graph, [0, 0])
    first.look(parameters)
    show(first, parameters, "a", 3)
    more = edited(graph, GraphEdit("v+1", item_ids=["new"], clusters=[[2]], retired=["b"]))
    after = parameters_of(more, [0, 0, 0])
    assert owed_of(first, after) == {"new"}
    first.look(after)
    assert owed_of(first, after) == {"new"}
    assert first.owed_items == 2


def test_another_graph_takes_over_what_is_on_its_way(first):
    """Items are known by their ids, whatever their numbers."""
    before = parameters_of(graph_of("ab"), [0, 0])
    first.look(before)
    show(first, before, "a", 3)
    after = parameters_of(graph_of("zba", version="w"), [0, 0, 0])
    first.look(after)
    assert owed_of(first, after) == {"b", "z"}


def test_only_what_was_published_lately_is_owed_some(clock):
    """Neither what is older, nor what nobody has told the time of; an item that grows old is owed no more."""
    first = FirstImpressions(3, max_age_ms=500, hold_ms=HOLD_MS, clock_ms=clock)
    start = clock.now_ms
    graph = edited(
        graph_of("a"),
        GraphEdit("v+1", item_ids=["b", "c"], clusters=[[0], [0]], published_ms=[start - 400, start - 600]),
    )
    parameters = parameters_of(graph, [0, 0, 0])
    assert owed_of(first, parameters) == {"b"}
    first.look(parameters)
    assert owed_of(first, parameters) == {"b"}
    assert first.owed_items == 1
    clock.now_ms += 200
    assert owed_of(first, parameters) == set()
    assert owed_of(first, parameters_of(graph_of("a"), [0])) == set()


def test_far_down_a_list_nothing_counts_as_shown(first):
    """Who ranks a thousand items has not shown them."""
    graph = graph_of([f"i{number}" for number in range(100)])
    parameters = parameters_of(graph, np.zeros(100))
    first.look(parameters)
    for _ in range(3):
        first.show(graph, np.arange(100, dtype=np.int32), np.zeros(100))
    assert owed_of(first, parameters) == {f"i{number}" for number in range(64, 100)}
