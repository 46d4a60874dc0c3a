"""How long the slowest calls take while the server learns: calls at a fixed rate, timed from when they were due."""

import threading
import time
from collections.abc import Callable

import grpc
import numpy as np

from benchmarks.events import clicks, slates, small_catalogue
from benchmarks.measure import Result
from benchmarks.serving import score_request, served
from freshet.v1 import feedback_pb2, feedback_pb2_grpc

TITLE = "Tail latency: Score at a fixed rate while the server learns"
ABOUT = (
    "20,000 items x 8 edges, 1,000 clusters, dim 32; `Score` of 100 candidates, a slate of 10, the default mode, "
    "sent at a fixed rate by callers in another process of the same machine, as bytes made beforehand. Latency "
    "counts from when a call was due, so that what waits behind a pause counts as waiting. Meanwhile 20 slates "
    "and their clicks are fed ten times a second, each durable before it is answered. The callers' own pauses "
    "are in the numbers: `echo` is the same rate of empty calls of the same server, at the same time."
)
_PATH = "/freshet.v1.RecommenderService/Score"
_ECHO = "/grpc.health.v1.Health/Check"
_FEEDS_PER_S, _SLATES_A_FEED = 10, 20
_DIM = 32


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(9)
    graph = small_catalogue(*((200, 16, _DIM) if quick else (20_000, 1_000, _DIM)), rng)
    rates, seconds = ((20,), 0.5) if quick else ((100, 400), 20.0)
    requests = [score_request(graph, rng, mode=0).SerializeToString() for _ in range(200)]
    results = []
    with served(graph) as (channel, _):
        call, echo = channel.unary_unary(_PATH), channel.unary_unary(_ECHO)
        at_rate(lambda i: call(requests[i % 200]), rate=rates[0], seconds=min(seconds, 2.0))
        feeding, stop = threading.Event(), threading.Event()
        feeder = threading.Thread(target=_feed, args=(channel, graph, rng, feeding, stop), daemon=True)
        feeder.start()
        feeding.wait(20)
        for rate in rates:
            latencies: dict[str, list[float]] = {}

            def measure(name: str, one: Callable[[int], object], rate: int, into: dict[str, list[float]]) -> None:
                into[name] = at_rate(one, rate=rate, seconds=seconds)

            both = [
                threading.Thread(
                    target=measure, args=("Score", lambda i: call(requests[i % 200]), rate, latencies)
                ),
                threading.Thread(target=measure, args=("echo", lambda i: echo(b""), rate, latencies)),
            ]
            for thread in both:
                thread.start()
            for thread in both:
                thread.join()
            for name in ("Score", "echo"):
                note = f"{len(latencies[name]):,} calls"
                for percent in (50, 99, 99.9):
                    value = float(np.percentile(latencies[name], percent)) * 1e3
                    results.append(Result.of(f"{name}, {rate}/s, p{percent:g}", [value], "ms", note))
                results.append(Result.of(f"{name}, {rate}/s, slowest", [max(latencies[name]) * 1e3], "ms", note))
        stop.set()
        feeder.join(10)
    return results


def at_rate(call: Callable[[int], object], *, rate: int, seconds: float, callers: int = 4) -> list[float]:
    """Seconds from when each call was due to its answer; call i is due at i / rate."""
    count = int(rate * seconds)
    spent = [0.0] * count
    began = time.perf_counter() + 0.01

    def caller(first: int) -> None:
        for number in range(first, count, callers):
            due = began + number / rate
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            call(number)
            spent[number] = time.perf_counter() - due

    threads = [threading.Thread(target=caller, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spent


def _feed(
    channel: grpc.Channel, graph: object, rng: np.random.Generator, feeding: threading.Event, stop: threading.Event
) -> None:
    """Feedback at a fixed rate, until it is told to stop."""
    feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
    number = 0
    while not stop.wait(1 / _FEEDS_PER_S):
        now_ms = time.time_ns() // 1_000_000
        shown = slates(graph, _SLATES_A_FEED, prefix=f"tail-{number}", now_ms=now_ms, rng=rng)  # type: ignore[arg-type]
        feedback.LogImpressions(feedback_pb2.LogImpressionsRequest(impressions=shown))
        feedback.LogClicks(feedback_pb2.LogClicksRequest(clicks=clicks(shown)))
        number += 1
        feeding.set()
