"""What a GPU gains: `python -m benchmarks.gpu [--quick] [--json]`, on a machine that has one.

Facts into sums that stay on the device, beside one core; the batch from which on the device is faster, which is
what the setting `gpu_crossover` takes; and many slates at once. Sums and slates are compared with the processor's
within the run. Wall clock, as the work of a device is no CPU time of ours: the machine should do nothing else.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np

from bandits.backend_cupy import CupyBackend
from bandits.backend_numba import NumbaBackend
from bandits.context import Context
from bandits.cupy_device import Device, NoDevice, open_device
from bandits.cupy_slates import TOLERANCE, DeviceSlates, Users
from bandits.cupy_sums import ResidentSums
from bandits.graph import Graph, build_graph
from bandits.graph_edit import edges_of
from bandits.policies import PolicySettings
from bandits.slates_numba import CompiledPolicy, CompiledSlates, compiled_policy
from bandits.sums import Facts, Sums
from benchmarks.catalogue import FULL, TINY, K, Size, learned_sums, make_facts, make_graph, make_requests
from benchmarks.measure import Result, machine

TITLE = "GPU: facts into sums, slates, beside one core"
GOAL_OF_FLOOR, GOAL_END_TO_END, GOAL_BATCH = 0.25, 10.0, 10_000
CANDIDATES, SLATE = 100, 10
MOST_IN_A_ROW, FACTS_A_ROUND = 8, 80_000
SIZES, ROUNDS, RESIDENT_FACTS, REQUESTS = (100, 1_000, 10_000, 100_000), 7, 1_000_000, 1_000
QUICK_SIZES, QUICK_ROUNDS, QUICK_RESIDENT_FACTS, QUICK_REQUESTS = (50, 400), 2, 500, 5
AROUND = Size(items=100_000, clusters=2_000)  # of the graph whose items around users are ranked
TINY_AROUND = Size(items=400, clusters=40)


def run(device: Device, *, quick: bool = False) -> list[Result]:
    """Everything, in the order in which it is shown."""
    graph = make_graph(TINY if quick else FULL, np.random.default_rng(1))
    added = crossover(device, graph, QUICK_SIZES if quick else SIZES, QUICK_ROUNDS if quick else ROUNDS)
    rounds, requests = (QUICK_ROUNDS, QUICK_REQUESTS) if quick else (ROUNDS, REQUESTS)
    return [
        *resident_replay(device, graph, QUICK_RESIDENT_FACTS if quick else RESIDENT_FACTS, rounds),
        *added,
        *slates(device, graph, requests, rounds),
        *slates_around(device, TINY_AROUND if quick else AROUND, requests, rounds),
    ]


def took_s(work: Callable[[], object], device: Device) -> float:
    """Seconds until the device has done it too."""
    device.wait()
    began = time.perf_counter()
    work()
    device.wait()
    return time.perf_counter() - began


def copied_bytes_per_s(device: Device, rounds: int, size: int) -> float:
    """What the device's memory moves: a copy within it, counted as read and written."""
    one, other = device.filled(size, 0, np.uint8), device.empty(size, np.uint8)

    def copy() -> None:
        other.data.copy_from_device_async(one.data, size)

    copy()
    return 2 * size / min(took_s(copy, device) for _ in range(rounds))


def floor_bytes(graph: Graph, facts: Facts) -> int:
    """The least that memory must move for some facts: columns, clusters of their rows, sums read and written."""
    columns = len(facts) * (4 + 4 + 1 + 4) + 4 * len(facts.context_ptr) + (4 + 2) * len(facts.context_cluster)
    rows = int((4 * (graph.item_ptr[facts.item + 1] - graph.item_ptr[facts.item]) + 16).sum())
    shown, earned = facts.impressions > 0, facts.reward > 0
    degrees = np.diff(facts.context_ptr)[facts.context]  # here all of a context are edges of the item
    sums = int((degrees * (2 * shown + earned) + shown + earned).sum())
    return columns + rows + 16 * sums


def resident_replay(device: Device, graph: Graph, count: int, rounds: int) -> list[Result]:
    """Facts that are on the device into sums that are there, against what its memory could do."""
    facts = make_facts(graph, count, np.random.default_rng(2))
    expected, sums = Sums.zeros(graph), Sums.zeros(graph)
    resident = ResidentSums(device, graph, sums)
    moved = resident.move(facts)
    spent = [took_s(lambda: resident.add_moved(moved), device) for _ in range(rounds + 1)][1:]
    for _ in range(rounds + 1):
        NumbaBackend().add(graph, expected, facts)
    resident.bring_back(sums.edge, sums.item)
    check_sums(sums, expected)
    speed = copied_bytes_per_s(device, rounds, min(1 << 30, 1000 * count))
    floor_s = floor_bytes(graph, facts) / speed
    return [
        Result.of("memory of the device", [speed / 1e9], "GB/s", "a copy within it, read and written"),
        Result.of(f"facts that are on the device, {count:,}", [s / count * 1e9 for s in spent], "ns/fact"),
        Result.of("share of the byte floor", [floor_s / s for s in spent], "", f"goal: {GOAL_OF_FLOOR}"),
    ]


def crossover(device: Device, graph: Graph, sizes: tuple[int, ...], rounds: int) -> list[Result]:
    """Facts of the host, batch after batch: sums that nobody reads, and rows read after every batch."""
    results: list[Result] = []
    faster: dict[str, int] = {}
    for size in sizes:
        for kind, gained in beside_one_core(device, graph, size, rounds).items():
            note = f"goal: {GOAL_END_TO_END:g}" if (size, kind) == (GOAL_BATCH, "sums stay") else ""
            results.append(Result.of(f"GPU / one core, batch of {size:,}, {kind}", gained, "x", note))
            if statistics.median(gained) <= 1.0:
                faster.pop(kind, None)
            else:
                faster.setdefault(kind, size)
    for kind in ("sums stay", "rows read"):
        found = faster.get(kind, 0)
        note = f"FRESHET_GPU_CROSSOVER={found}" if found else "the GPU is slower at every size: leave it at 0"
        results.append(Result.of(f"crossover, {kind}", [float(found)], "facts", note))
    return results


def beside_one_core(device: Device, graph: Graph, size: int, rounds: int) -> dict[str, list[float]]:
    """How many times faster the device is, round by round, by who reads the sums; a round is batches in a row."""
    rng, in_a_row = np.random.default_rng(size), max(1, min(MOST_IN_A_ROW, FACTS_A_ROUND // size))
    batches = [[make_facts(graph, size, rng) for _ in range(in_a_row)] for _ in range(rounds + 1)]

    def spent(add: Callable[[Facts], object]) -> list[float]:
        def each(group: list[Facts]) -> None:
            for facts in group:
                add(facts)

        return [took_s(partial(each, group), device) for group in batches][1:]

    core, expected = NumbaBackend(), Sums.zeros(graph)
    one_core = spent(lambda facts: core.add(graph, expected, facts))
    gained = {}
    for kind in ("sums stay", "rows read"):
        backend, sums = CupyBackend(device), Sums.zeros(graph)

        def add_and_read(facts: Facts, backend: CupyBackend = backend, sums: Sums = sums) -> None:
            backend.add(graph, sums, facts)
            _ = sums.edge[edges_of(graph, facts.item)], sums.item[facts.item]

        def add(facts: Facts, backend: CupyBackend = backend, sums: Sums = sums) -> None:
            backend.add(graph, sums, facts)

        there = spent(add_and_read if kind == "rows read" else add)
        gained[kind] = [slow / fast for slow, fast in zip(one_core, there, strict=True)]
        check_sums(sums, expected)
    return gained


def check_sums(one: Sums, other: Sums) -> None:
    assert np.array_equal(one.edge, other.edge)
    assert np.array_equal(one.item, other.item)


def slates(device: Device, graph: Graph, count: int, rounds: int) -> list[Result]:
    """The best of a hundred candidates of each of many requests, in one call and one by one on a core."""
    rng = np.random.default_rng(5)
    sums = learned_sums(graph, rng)
    requests = make_requests(graph, count, CANDIDATES, rng)
    users = Users(
        context_ptr=np.arange(0, count * K + 1, K),
        cluster=np.concatenate([request.context.cluster_ids for request in requests]),
        weight=np.concatenate([request.context.weights for request in requests]),
        seed=np.arange(count, dtype=np.uint64),
    )
    item_ptr = np.cumsum([0, *(len(request.items) for request in requests)])
    items, policy = np.concatenate([request.items for request in requests]), ucb()
    ranker, core = DeviceSlates(ResidentSums(device, graph, sums)), CompiledSlates(graph, sums)

    def one_by_one() -> list[np.ndarray]:
        return [
            core.fill(request.items, request.context, policy, slate_size=SLATE, seed=seed, redraws=1)[1]
            for seed, request in enumerate(requests)
        ]

    best, filled = ranker.best(users, item_ptr, items, policy, keep=SLATE), one_by_one()
    for at, numbers in enumerate(filled):
        size = numbers.shape[1]
        np.testing.assert_allclose(best.numbers[at, :size].T, numbers[:3], rtol=TOLERANCE, atol=TOLERANCE)
    there = [took_s(lambda: ranker.best(users, item_ptr, items, policy, keep=SLATE), device) for _ in range(rounds)]
    here = [took_s(one_by_one, device) for _ in range(rounds)]
    return beside(f"{CANDIDATES} candidates, {count:,} slates at once", there, here, count)


def slates_around(device: Device, size: Size, count: int, rounds: int) -> list[Result]:
    """The best items around each of many users, in one call and one by one on a core."""
    rng = np.random.default_rng(6)
    edges = rng.integers(0, size.clusters, (size.items, 8))
    edges = np.unique(np.column_stack([np.repeat(np.arange(size.items), 8), edges.ravel()]), axis=0)
    names = [f"item-{number}" for number in range(size.items)]
    graph = build_graph(
        version="around", centroids=[], n_clusters=size.clusters, item_ids=names,
        edge_item=edges[:, 0], edge_cluster=edges[:, 1],
    )  # fmt: skip
    sums, policy = learned_sums(graph, rng), ucb()
    clusters = np.sort(np.argsort(rng.random((count, size.clusters)), axis=1)[:, :K], axis=1).astype(np.int32)
    weights = np.full(clusters.shape, 1 / K)
    users = Users(
        np.arange(0, count * K + 1, K), clusters.ravel(), weights.ravel(), np.arange(count, dtype=np.uint64)
    )
    ranker, core = DeviceSlates(ResidentSums(device, graph, sums)), CompiledSlates(graph, sums)

    def one_by_one() -> list[np.ndarray]:
        return [
            core.fill_around(Context(row, own), policy, slate_size=SLATE, seed=seed, draws=lambda n: 1)[1]
            for seed, (row, own) in enumerate(zip(clusters, weights, strict=True))
        ]

    best, filled = ranker.best_around(users, policy, keep=SLATE), one_by_one()
    for at, numbers in enumerate(filled):
        np.testing.assert_allclose(
            best.numbers[at, : numbers.shape[1]].T, numbers[:3], rtol=TOLERANCE, atol=TOLERANCE
        )
    there = [took_s(lambda: ranker.best_around(users, policy, keep=SLATE), device) for _ in range(rounds)]
    here = [took_s(one_by_one, device) for _ in range(rounds)]
    found = float(best.found.mean())
    return beside(f"{found:,.0f} items around a user, {count:,} slates at once", there, here, count)


def ucb() -> CompiledPolicy:
    policy = compiled_policy("ucb", PolicySettings(), top_m=1, explore_share=0.0)
    assert policy
    return policy


def beside(name: str, there: list[float], here: list[float], count: int) -> list[Result]:
    return [
        Result.of(f"{name}: GPU", [s / count * 1e6 for s in there], "us/slate"),
        Result.of(f"{name}: one core", [s / count * 1e6 for s in here], "us/slate"),
        Result.of(f"{name}: GPU / one core", [slow / fast for slow, fast in zip(here, there, strict=True)], "x"),
    ]


def main(argv: list[str] | None = None, *, find: Callable[[], Device] = open_device) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        device = find()
    except NoDevice as error:
        print(f"no GPU here: {error}", file=sys.stderr if options.json else sys.stdout)
        return 0
    results = run(device, quick=options.quick)
    if options.json:
        print(
            json.dumps(
                {"device": device.name, "machine": machine(), "results": list(map(asdict, results))}, indent=2
            )
        )
        return 0
    print(f"{device.name}; {machine()}\n\n{TITLE}")
    for result in results:
        spread = f"[{result.low:.3g} .. {result.high:.3g}]" if result.low != result.high else ""
        print(f"  {result.name:<56}{result.value:>12.4g} {result.unit:<9}{spread}  {result.note}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
