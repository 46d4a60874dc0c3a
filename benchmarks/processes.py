"""Several serving processes beside one: `python -m benchmarks.processes`.

On a machine of few cores the callers take a large part of them: the CPU time of a call is what to compare there.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import grpc
import numpy as np

from bandits.artifact import save_graph
from bandits.graph import Graph
from benchmarks.events import small_catalogue
from benchmarks.measure import ROUNDS, Result, machine, ratios
from freshet.v1 import recommender_pb2_grpc
from freshet.v1.events_pb2 import MODE_UCB, ClusterWeights
from freshet.v1.recommender_pb2 import ScoreRequest
from server.demo.child import ServerProcess

CANDIDATES, SLATE = 100, 10
_CALLERS = 8


def run(*, items: int, clusters: int, calls: int, rounds: int, processes: tuple[int, ...]) -> list[Result]:
    """Calls a second and CPU time a call by number of processes, and memory."""
    rng = np.random.default_rng(6)
    graph = small_catalogue(items, clusters, 32, rng)
    return _served(graph, rng, calls=calls, rounds=rounds, processes=processes)


def _served(
    graph: Graph, rng: np.random.Generator, *, calls: int, rounds: int, processes: tuple[int, ...]
) -> list[Result]:
    requests = [_request(graph, rng) for _ in range(calls)]
    rates: dict[int, list[float]] = {count: [] for count in processes}
    spent: dict[int, list[float]] = {count: [] for count in processes}
    results = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        save_graph(graph, folder / "graph")
        servers: dict[int, ServerProcess] = {}
        try:
            for count in processes:
                options = ["--graph", str(folder / "graph"), "--log-level", "error", "--processes", str(count)]
                began = time.perf_counter()
                servers[count] = ServerProcess(
                    folder / f"data-{count}", log_file=folder / "log", arguments=options, environment={}
                )
                took = time.perf_counter() - began
                results.append(Result.of(f"start until ready, {count} serving", [took], "s"))
            for number in range(rounds + 1):
                for count in processes if number % 2 else reversed(processes):
                    rate, cpu = _load(servers[count], requests)
                    if number:  # the first round warms up
                        rates[count].append(rate)
                        spent[count].append(cpu * 1e6)
            for count in processes:
                results.append(Result.of(f"Score, {count} serving", rates[count], "calls/s"))
                results.append(Result.of(f"Score, {count} serving, server CPU", spent[count], "us/call"))
            for count in processes[1:]:
                by_round = ratios(rates[count], rates[processes[0]])
                results.append(Result.of(f"rate of {count} / rate of {processes[0]}", by_round, "x"))
                by_round = ratios(spent[count], spent[processes[0]])
                results.append(Result.of(f"CPU a call of {count} / of {processes[0]}", by_round, "x"))
            for count, server in servers.items():
                memory = sum(map(_pss_bytes, _pids(server))) / 2**20
                results.append(Result.of(f"memory, {count} serving", [memory], "MiB"))
        finally:
            for server in servers.values():
                server.stop()
    return results


def _request(graph: Graph, rng: np.random.Generator) -> ScoreRequest:
    start = int(rng.integers(0, graph.n_items - CANDIDATES))
    user = ClusterWeights(cluster_ids=np.sort(rng.choice(graph.n_clusters, 10, replace=False)), weights=[0.1] * 10)
    return ScoreRequest(
        item_ids=graph.item_ids[start : start + CANDIDATES],
        cluster_weights=user,
        slate_size=SLATE,
        mode=MODE_UCB,
    )


def _load(server: ServerProcess, requests: list[ScoreRequest]) -> tuple[float, float]:
    """Calls a second of callers with a connection each, and CPU seconds a call of all processes of the server."""
    apart = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(server.addresses["serving"], apart) for _ in range(_CALLERS)]
    stubs = [recommender_pb2_grpc.RecommenderServiceStub(channel) for channel in channels]
    for channel in channels:
        grpc.channel_ready_future(channel).result(20)

    def caller(first: int) -> None:
        for request in requests[first::_CALLERS]:
            stubs[first].Score(request)

    threads = [threading.Thread(target=caller, args=(first,)) for first in range(_CALLERS)]
    began, cpu = time.perf_counter(), _cpu_s(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, cpu = time.perf_counter() - began, _cpu_s(server) - cpu
    for channel in channels:
        channel.close()
    return len(requests) / seconds, cpu / len(requests)


def _pids(server: ServerProcess) -> list[int]:
    first = server._process.pid
    return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]


def _cpu_s(server: ServerProcess) -> float:
    """Of all its processes."""
    ticks = 0
    for pid in _pids(server):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    quick = parser.parse_args().quick
    print(machine())
    sizes = {"items": 1_500, "clusters": 16} if quick else {"items": 20_000, "clusters": 1_000}
    results = run(
        **sizes,
        calls=64 if quick else 2_000,
        rounds=2 if quick else ROUNDS,
        processes=(1, 2) if quick else (1, 2, 3),
    )
    for result in results:
        print(f"{result.name:<45} {result.value:>10.1f} {result.low:>10.1f} {result.high:>10.1f} {result.unit}")


if __name__ == "__main__":
    main()
