"""Adding facts to sums: the compiled path against the NumPy reference, on the same facts in the same rounds."""

from collections.abc import Callable

import numpy as np

from bandits.aligned import aligned_zeros
from bandits.backend import Backend
from bandits.backend_numba import NumbaBackend
from bandits.backend_numpy import NumpyBackend
from bandits.graph import Graph
from bandits.sums import Sums
from benchmarks.catalogue import FULL, TINY, make_facts, make_graph
from benchmarks.measure import Result, interleaved, ratios
from benchmarks.row_touch import wake_rows

TITLE = "Update: facts into sums"
ABOUT = (
    "1,000,000 items x 32 edges, 20,000 clusters; a fact is one impression in a context of K = 10 clusters, all of "
    "them edges of its item: the most work a fact can be. Both backends add the same facts, in turn first, each "
    "after random rows of its sums were touched untimed; their sums are compared bit for bit at the end."
)


def run(quick: bool) -> list[Result]:
    graph = make_graph(TINY if quick else FULL, np.random.default_rng(1))
    sizes, rounds = ((200,), 3) if quick else ((2_000, 20_000), 11)
    return [result for size in sizes for result in _compare(graph, size, rounds)]


def _compare(graph: Graph, size: int, rounds: int) -> list[Result]:
    rng = np.random.default_rng(size)
    backends: dict[str, Backend] = {"NumPy reference": NumpyBackend(), "Numba": NumbaBackend()}
    sums = {name: _touched(graph.n_edges, graph.n_items) for name in backends}
    facts = [make_facts(graph, size, rng) for _ in range(rounds + 1)]

    def adder(name: str) -> Callable[[int], None]:
        return lambda number: backends[name].add(graph, sums[name], facts[number])

    contenders = {name: adder(name) for name in backends}
    for add in contenders.values():
        add(rounds)  # compiled, or read from the cache on disk
    awake = {name: np.random.default_rng(size) for name in backends}  # the same rows for both
    spent = interleaved(contenders, rounds=rounds, prepare=lambda name: wake_rows(graph, sums[name], awake[name]))
    one, other = sums.values()
    assert np.array_equal(one.edge, other.edge)
    assert np.array_equal(one.item, other.item)
    batch = f"micro-batch of {size:,}"
    each = [Result.of(f"{name}, {batch}", [s / size * 1e9 for s in spent[name]], "ns/fact") for name in spent]
    return [*each, Result.of(f"NumPy / Numba, {batch}", ratios(*spent.values()), "x")]


def _touched(edges: int, items: int) -> Sums:
    """Sums whose pages are there, so that no page fault is measured."""
    sums = Sums(aligned_zeros((edges, 3), np.int64), aligned_zeros((items, 2), np.int64))
    sums.edge += 1
    sums.item += 1
    return sums
