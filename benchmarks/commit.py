"""The embedded commit: slates and clicks into one synced WriteBatch, and what the sync alone costs."""

import tempfile
import time
from pathlib import Path

import numpy as np

from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from benchmarks.events import ITEMS_A_SLATE, clicks, slates, small_catalogue
from benchmarks.measure import ROUNDS, Result
from freshet.v1 import events_pb2
from streams.commit import Committer, Incoming
from streams.store import Batch, Store

TITLE = "Embedded commit: durable events a second"
ABOUT = (
    "Join, learn, encode, write, sync: `Committer.commit` on protobuf messages, 20,000 items x 8 edges, 1,000 "
    "clusters. An event is a shown item or a click. Wall time, because a sync is a wait; `sync alone` commits an "
    "empty WriteBatch on the same disk."
)
_NOW_MS = 1_700_000_000_000


def run(quick: bool) -> list[Result]:
    rng = np.random.default_rng(5)
    graph = small_catalogue(*((200, 16, 4) if quick else (20_000, 1_000, 8)), rng)
    rounds, repeats = (2, 2) if quick else (ROUNDS, 20)
    results = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # /tmp may be memory
        store = Store(Path(folder) / "store")
        backend = choose_backend("auto")
        committer = Committer(
            store, store.head(), Joiner(JoinRule()), None, lambda change: None, lambda: _NOW_MS, backend
        )
        committer.set_graph(graph)
        results.append(Result.of("sync alone", [_sync_ms(store, repeats) for _ in range(rounds)], "ms"))
        for size in (5,) if quick else (1, 20, 200, 2_000):
            times = max(1, repeats * 20 // size)
            made = [
                slates(graph, size * times, prefix=f"{size}-{number}", now_ms=_NOW_MS, rng=rng)
                for number in range(rounds)
            ]
            events = size * ITEMS_A_SLATE + (size + 1) // 2
            seconds = [_round(committer, shown, size) / times for shown in made]
            name = f"{size:,} slates a commit ({events:,} events)"
            results.append(Result.of(name, [events / s for s in seconds], "events/s"))
            results.append(Result.of(f"{name}, one commit", [s * 1e3 for s in seconds], "ms"))
        tally = committer.joiner.tally
        assert tally.impressions_duplicate == tally.clicks_unmatched == 0
        assert committer.joiner.waiting_clicks == 0
        store.close()
    return results


def _sync_ms(store: Store, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        batch = Batch()
        batch.put_head(store.head())
        store.write(batch)
    return (time.perf_counter() - began) / repeats * 1e3


def _round(committer: Committer, shown: list[events_pb2.Impression], size: int) -> float:
    """Seconds for all commits of a round."""
    offers = []
    for start in range(0, len(shown), size):
        part = shown[start : start + size]
        reactions = clicks(part)
        offers.append(
            [
                Incoming(events_pb2.ImpressionBatch(impressions=part), len(part) * ITEMS_A_SLATE),
                Incoming(events_pb2.ClickBatch(clicks=reactions), len(reactions)),
            ]
        )
    began = time.perf_counter()
    for offer in offers:
        committer.commit(offer)
    return time.perf_counter() - began
