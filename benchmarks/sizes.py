"""Cost of a fact and of a slate against the size of the catalogue, beside the bound that memory sets there."""

import time
from collections.abc import Callable

import numpy as np

from bandits.aligned import aligned_zeros
from bandits.backend_numba import NumbaBackend
from bandits.graph import Graph
from bandits.policies import PolicySettings
from bandits.slates_numba import CompiledSlates
from bandits.sums import UNIT, Sums
from benchmarks.catalogue import Size, make_facts, make_graph, make_requests
from benchmarks.measure import ROUNDS, Result, ratios
from benchmarks.row_touch import touch_rows, wake_rows
from benchmarks.score import CANDIDATES, SLATE
from server.scoring import SlateRules

TITLE = "Catalogue size: 10 thousand to 5 million items"
ABOUT = (
    "32 edges an item, K = 10, `ucb`. These paths look at nothing but the rows that they were asked for, so "
    "what grows is only the share of rows that no cache holds: `row touch` reads and writes one word on each "
    "line of such rows and grows as well. Random rows are touched, and slates filled, untimed before each. "
    "Memory: clusters (4 bytes) and sums (24 bytes) of every edge, sums (16 bytes) and hash "
    "(16 bytes) of every item; rows that slates are filled from take 644 bytes an item more."
)
_RULES = SlateRules(PolicySettings(), top_m=1, explore_share=0.0, propensity_draws=64)


def run(quick: bool) -> list[Result]:
    if quick:
        return _measure(Size(items=2_000, clusters=640), rounds=2, facts=200, slates=5)
    sizes = (Size(10_000, 640), Size(100_000, 2_560), Size(1_000_000, 20_000), Size(5_000_000, 20_000))
    return [result for size in sizes for result in _measure(size, rounds=ROUNDS, facts=20_000, slates=200)]


def _measure(size: Size, *, rounds: int, facts: int, slates: int) -> list[Result]:
    rng = np.random.default_rng(size.items)
    graph = make_graph(size, rng)
    sums = _learned(graph)
    backend, compiled, policy = NumbaBackend(), CompiledSlates.following(graph, sums), _RULES.compiled["ucb"]
    spent: dict[str, list[float]] = {"update": [], "row touch": [], "slate": []}
    for _ in range(rounds + 1):
        batch = make_facts(graph, facts, rng)
        items = rng.integers(0, graph.n_items, facts).astype(np.int32)
        requests = make_requests(graph, slates, CANDIDATES, rng)

        def fill(requests=requests) -> None:  # type: ignore[no-untyped-def]
            for request in requests:
                compiled.fill(request.items, request.context, policy, slate_size=SLATE, seed=1, redraws=64)

        wake_rows(graph, sums, rng)
        spent["update"].append(_cpu(lambda batch=batch: backend.add(graph, sums, batch)) / facts * 1e9)  # type: ignore[misc]
        spent["row touch"].append(_cpu(lambda items=items: touch_rows(graph, sums, items)) / facts * 1e9)  # type: ignore[misc]
        for request in make_requests(graph, slates, CANDIDATES, rng):
            compiled.fill(request.items, request.context, policy, slate_size=SLATE, seed=1, redraws=64)
        spent["slate"].append(_cpu(fill) / slates * 1e6)
    update, touch, slate = (values[1:] for values in spent.values())  # the first round warms up
    name = f"{size.items:,} items"
    return [
        Result.of(f"update, {name}", update, "ns/fact", f"{_memory(graph, sums) / 2**20:,.0f} MiB"),
        Result.of(f"row touch, {name}", touch, "ns/fact"),
        Result.of(f"update / row touch, {name}", ratios(update, touch), "x"),
        Result.of(f"slate of {CANDIDATES} candidates, {name}", slate, "us"),
    ]


def _learned(graph: Graph) -> Sums:
    """A hundred impressions and five clicks on every edge, written in place: at 5 M items a copy is 4 GB."""
    sums = Sums(aligned_zeros((graph.n_edges, 3), np.int64), aligned_zeros((graph.n_items, 2), np.int64))
    sums.edge[:] = 100 * UNIT // 2, 100 * UNIT**2 // 4, 5 * UNIT**2 // 2
    sums.item[:] = 300, 15 * UNIT
    return sums


def _memory(graph: Graph, sums: Sums) -> int:
    return graph.edge_cluster.nbytes + sums.edge.nbytes + sums.item.nbytes + graph.item_hashes.nbytes


def _cpu(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began
