"""End to end over gRPC on loopback: `freshet serve` in a process of its own, callers in this one."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from bandits.artifact import save_graph
from bandits.graph import Graph
from benchmarks.events import ITEMS_A_SLATE, clicks, slates, small_catalogue
from benchmarks.measure import ROUNDS, Result, ratios
from freshet.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from server.demo.child import ServerProcess

TITLE = "End to end: gRPC"
ABOUT = (
    "20,000 items x 8 edges, 1,000 clusters, dim 32; the user comes as an embedding. `Score`: 100 candidates, a "
    "slate of 10, UCB, and the default mode. The echo is `grpc.health.v1.Health/Check` of the same server: the "
    "least that a unary call costs. Four callers send bytes made beforehand and parse no answer, in turns of 250 "
    "calls. `ScoreStream` and `ScorePacked` fill 32 or 128 such slates a message; a stream sends ids once. "
    "Server CPU is what the server's process used, from /proc; callers share its cores. Freshness is the time "
    "from sending a click to the reply of the first Score whose mean shows it; the server was idle otherwise."
)
CANDIDATES, SLATE = 100, 10
_CALLERS, _PARTS = 4, 4
_SCORE, _ECHO = "/freshet.v1.RecommenderService/Score", "/grpc.health.v1.Health/Check"
_DIM = 32


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(6)
    graph = small_catalogue(*((200, 16, _DIM) if quick else (20_000, 1_000, _DIM)), rng)
    rounds, calls = (2, 8) if quick else (ROUNDS, 1_000)
    with served(graph) as (channel, cpu_s):
        recommender = recommender_pb2_grpc.RecommenderServiceStub(channel)
        requests = [score_request(graph, rng) for _ in range(max(calls, 50))]
        # Bytes made beforehand, and none parsed: callers share the cores, and it is the server that is measured.
        score, echo = channel.unary_unary(_SCORE), channel.unary_unary(_ECHO)
        sent = [request.SerializeToString() for request in requests]
        drawn = [score_request(graph, rng, mode=0).SerializeToString() for _ in requests]
        contenders: dict[str, Callable[[int], object]] = {
            "Score": lambda i: score(sent[i]),
            "echo": lambda i: echo(b""),
            "Score, default mode": lambda i: score(drawn[i]),
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(rounds):
            parts: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
            for part in range(_PARTS):
                first = part * (calls // _PARTS)
                for name, call in contenders.items():
                    parts[name].append(_load(call, range(first, first + calls // _PARTS), cpu_s))
            for name, done in parts.items():
                seconds, cpu = (sum(column) for column in zip(*done, strict=True))
                made = calls // _PARTS * _PARTS
                measured[name].append((made / seconds, cpu / made))
        results = []
        for name, pairs in measured.items():
            results.append(Result.of(f"{name}, {_CALLERS} callers", [rate for rate, _ in pairs], "calls/s"))
            results.append(Result.of(f"{name}, server CPU", [cpu * 1e6 for _, cpu in pairs], "us/call"))
        for name in ("Score", "Score, default mode"):
            by_round = ratios([rate for rate, _ in measured[name]], [rate for rate, _ in measured["echo"]])
            results.append(Result.of(f"{name}: rate / echo rate", by_round, "x"))
            if not quick:  # /proc counts in hundredths of a second
                by_round = ratios([cpu for _, cpu in measured["echo"]], [cpu for _, cpu in measured[name]])
                results.append(Result.of(f"{name}: echo CPU / its CPU", by_round, "x"))
        alone = [
            _latencies_ms(lambda i: recommender.Score(requests[i % len(requests)]), calls) for _ in range(rounds)
        ]
        for percent in (50, 99):
            latencies = [float(np.percentile(one, percent)) for one in alone]
            results.append(Result.of(f"Score, one caller, p{percent}", latencies, "ms"))
        for size in (32, 128):
            results += _packed(recommender, graph, rng, cpu_s, rounds, size, 4 if quick else 6_400 // size)
        feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
        results += _ingest(feedback, graph, rng, rounds, (5,) if quick else (20, 200, 1_000))
        results += _freshness(feedback, recommender, graph, 3 if quick else 200, rng)
    return results


@contextmanager
def served(graph: Graph) -> Iterator[tuple[grpc.Channel, Callable[[], float]]]:
    """A channel to a server over the graph, and what says its CPU seconds."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # /tmp may be memory
        folder = Path(name)
        save_graph(graph, folder / "graph")
        options = ["--graph", str(folder / "graph"), "--log-level", "warning"]
        process = ServerProcess(folder / "data", log_file=folder / "log", arguments=options, environment={})
        try:
            with grpc.insecure_channel(process.addresses["serving"]) as channel:
                grpc.channel_ready_future(channel).result(20)
                yield channel, lambda: _cpu_seconds(process._process.pid)
        finally:
            process.stop()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def score_request(
    graph: Graph, rng: np.random.Generator, mode: int = events_pb2.MODE_UCB
) -> recommender_pb2.ScoreRequest:
    """100 candidates for a user who comes as an embedding."""
    start = int(rng.integers(0, graph.n_items - CANDIDATES))
    return recommender_pb2.ScoreRequest(
        user_embedding=events_pb2.Embedding(values=rng.normal(size=_DIM).tolist()),
        item_ids=graph.item_ids[start : start + CANDIDATES],
        slate_size=SLATE,
        mode=mode,  # type: ignore[arg-type]
    )


def _packed(
    recommender: recommender_pb2_grpc.RecommenderServiceStub,
    graph: Graph,
    rng: np.random.Generator,
    cpu_s: Callable[[], float],
    rounds: int,
    size: int,
    messages: int,
) -> list[Result]:
    """Server CPU a slate of a `ScoreStream`, and of `ScorePacked`, whose ids are sent with every message."""
    results = []
    candidates = (rng.integers(0, graph.n_items - CANDIDATES, size) + np.arange(CANDIDATES)[:, None]).T
    ids = [graph.item_ids[number] for number in np.unique(candidates).tolist()]
    clusters = np.sort(np.argsort(rng.random((size, graph.n_clusters)), axis=1)[:, :10], axis=1)
    users = {
        "clusters": {
            "cluster_ids": clusters.astype("<i4").tobytes(),
            "weights": np.full(clusters.size, 0.1, "<f4").tobytes(),
            "cluster_counts": np.full(size, 10, "<i4").tobytes(),
        },
        "embeddings": {"embeddings": rng.normal(size=(size, _DIM)).astype("<f4").tobytes()},
    }
    for kind, user in users.items():
        columns: dict[str, bytes] = {
            "items": np.searchsorted(np.unique(candidates), candidates).astype("<i4").tobytes(),
            "item_counts": np.full(size, CANDIDATES, "<i4").tobytes(),
            "slate_sizes": np.full(1, SLATE, "<i4").tobytes(),
            "modes": bytes([events_pb2.MODE_UCB]),
            **user,
        }
        later = recommender_pb2.PackedQueries(**columns)  # type: ignore[arg-type]
        first = recommender_pb2.PackedQueries(dictionary=ids, **columns)  # type: ignore[arg-type]
        streamed = [recommender_pb2.ScoreStreamRequest(queries=first)]
        streamed += [recommender_pb2.ScoreStreamRequest(queries=later)] * messages
        whole = recommender_pb2.ScorePackedRequest(queries=first)
        spent: dict[str, list[float]] = {"ScoreStream": [], "ScorePacked": []}
        for _ in range(rounds):
            began = cpu_s()
            for answer in recommender.ScoreStream(iter(streamed)):
                assert len(answer.slates.item_counts) == 4 * size
            spent["ScoreStream"].append((cpu_s() - began) / (messages * size) * 1e6)
            began = cpu_s()
            for _ in range(messages):
                recommender.ScorePacked(whole)
            spent["ScorePacked"].append((cpu_s() - began) / (messages * size) * 1e6)
        for rpc, cpu_us in spent.items():
            results.append(Result.of(f"{rpc}, {size} slates a message, {kind}, server CPU", cpu_us, "us/slate"))
    return results


def _load(call: Callable[[int], object], calls: range, cpu_s: Callable[[], float]) -> tuple[float, float]:
    """Seconds that several callers at once take for some calls, and the server's CPU seconds."""

    def caller(first: int) -> None:
        for number in calls[first::_CALLERS]:
            call(number)

    threads = [threading.Thread(target=caller, args=(first,)) for first in range(_CALLERS)]
    began, cpu = time.perf_counter(), cpu_s()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, cpu_s() - cpu


def _latencies_ms(call: Callable[[int], object], calls: int) -> list[float]:
    spent = []
    for number in range(calls):
        began = time.perf_counter()
        call(number)
        spent.append((time.perf_counter() - began) * 1e3)
    return spent


def _ingest(
    feedback: feedback_pb2_grpc.FeedbackServiceStub,
    graph: Graph,
    rng: np.random.Generator,
    rounds: int,
    sizes: tuple[int, ...],
) -> list[Result]:
    """Shown items a second through LogImpressions, one call at a time."""
    results = []
    for size in sizes:
        rates = []
        for number in range(rounds):
            shown = slates(graph, size, prefix=f"in-{size}-{number}", now_ms=_now_ms(), rng=rng)
            request = feedback_pb2.LogImpressionsRequest(impressions=shown)
            began = time.perf_counter()
            feedback.LogImpressions(request)
            rates.append(size * ITEMS_A_SLATE / (time.perf_counter() - began))
        results.append(Result.of(f"LogImpressions, {size:,} slates a call", rates, "rows/s"))
    return results


def _freshness(
    feedback: feedback_pb2_grpc.FeedbackServiceStub,
    recommender: recommender_pb2_grpc.RecommenderServiceStub,
    graph: Graph,
    times: int,
    rng: np.random.Generator,
) -> list[Result]:
    shown = slates(graph, times, prefix="fresh", now_ms=_now_ms(), rng=rng)
    spent = []
    for impression in shown:
        # A user of the top item's own clusters, so that its score must change.
        impression.context.CopyFrom(_own_clusters(graph, impression.items[0].item_id))
        feedback.LogImpressions(feedback_pb2.LogImpressionsRequest(impressions=[impression]))
        request = recommender_pb2.ScoreRequest(
            cluster_weights=impression.context, item_ids=[impression.items[0].item_id], seed=1
        )
        before = recommender.Score(request).items[0].mean
        click = feedback_pb2.LogClicksRequest(clicks=clicks([impression]))
        began = time.perf_counter()
        feedback.LogClicks(click)
        while recommender.Score(request).items[0].mean == before:
            assert time.perf_counter() - began < 10
        spent.append((time.perf_counter() - began) * 1e3)
    note = f"{times} clicks, one at a time"
    return [
        Result.of(f"click sent -> served, p{p}", [float(np.percentile(spent, p))], "ms", note) for p in (50, 99)
    ]


def _own_clusters(graph: Graph, item_id: str) -> events_pb2.ClusterWeights:
    number = graph.index[item_id]
    clusters = graph.edge_cluster[graph.item_ptr[number] : graph.item_ptr[number + 1]]
    return events_pb2.ClusterWeights(cluster_ids=clusters.tolist(), weights=[1 / len(clusters)] * len(clusters))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
