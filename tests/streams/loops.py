"""Small embedded loops, the events they are fed, and what the dict model makes of these."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from bandits.backend import choose_backend
from bandits.graph import Graph, build_graph
from bandits.join_rule import JoinRule
from bandits.sums import Sums, state_hash
from freshet.v1 import events_pb2
from streams.change import Change
from streams.embedded import EmbeddedLoop, LoopLimits
from tests.bandits.dict_model import DictJoiner, dict_sums
from tests.bandits.event_columns import Clicked, Event, Shown

NOW_MS = 1_700_000_000_000
ITEMS = [f"item-{n}" for n in range(6)]
RULE = JoinRule()


def make_graph(
    version: str = "v1", *, leave_out: Iterable[tuple[str, int]] = (), items: list[str] | None = None
) -> Graph:
    """Every item with every second of eight clusters, less some edges."""
    names = ITEMS if items is None else items
    out = set(leave_out)
    edges = [(n, c) for n, name in enumerate(names) for c in range(n % 2, 8, 2) if (name, c) not in out]
    return build_graph(
        version=version,
        centroids=[],
        n_clusters=8,
        item_ids=names,
        edge_item=np.array([n for n, _ in edges], np.int64),
        edge_cluster=np.array([c for _, c in edges], np.int64),
    )


def open_loop(
    folder: Path, on_change: Callable[[Change], None] = lambda change: None, **changes: Any
) -> EmbeddedLoop:
    """A loop that is not started yet, with a clock that stands still."""
    settings: dict[str, Any] = {
        "rule": RULE,
        "limits": LoopLimits(),
        "backend": choose_backend("numpy"),
        "graph": make_graph(),
        "on_change": on_change,
        "clock_ms": lambda: NOW_MS,
    }
    return EmbeddedLoop(folder, **settings | changes)


def started(
    folder: Path, on_change: Callable[[Change], None] = lambda change: None, **changes: Any
) -> EmbeddedLoop:
    """A loop at work."""
    loop = open_loop(folder, on_change, **changes)
    loop.start()
    return loop


def shown(request: str, *items: str, context: tuple[tuple[int, int], ...] = ((1, 1 << 14), (2, 1 << 13))) -> Shown:
    """A slate; its place in the log does not matter here."""
    return Shown(request, items or ("item-1",), context, 0, NOW_MS, 0)


def clicked(request: str, item: str = "item-1", reward: int = 1 << 15) -> Clicked:
    """A click."""
    return Clicked(request, item, reward, 0, NOW_MS, 0)


def offer(loop: EmbeddedLoop, *events: Event) -> list["Future[None]"]:
    """Offer events one by one."""
    return [
        loop.offer_impressions(impressions(event)) if isinstance(event, Shown) else loop.offer_clicks(clicks(event))
        for event in events
    ]


def settle(futures: Iterable["Future[None]"]) -> None:
    """Wait until all are durable."""
    for future in futures:
        future.result(timeout=30)


def impressions(*events: Shown) -> events_pb2.ImpressionBatch:
    """Slates as a message."""
    return events_pb2.ImpressionBatch(
        impressions=[
            events_pb2.Impression(
                request_id=event.request,
                occurred_at_ms=event.occurred_ms,
                context=events_pb2.ClusterWeights(
                    cluster_ids=[cluster for cluster, _ in event.context],
                    weights=[x / (1 << 15) for _, x in event.context],
                ),
                items=[events_pb2.ShownItem(item_id=item) for item in event.items],
            )
            for event in events
        ]
    )


def clicks(*events: Clicked) -> events_pb2.ClickBatch:
    """Clicks as a message."""
    return events_pb2.ClickBatch(
        clicks=[
            events_pb2.Click(
                request_id=event.request,
                item_id=event.item,
                reward=event.reward / (1 << 15),
                occurred_at_ms=event.occurred_ms,
            )
            for event in events
        ]
    )


def model_hash(graph: Graph, events: Iterable[Event]) -> str:
    """Hash of the sums that the dict model makes of events, each of them taken once."""
    model = DictJoiner(RULE)
    for event in events:
        model.take(event)
    edges, items = dict_sums(graph, model.facts)
    owner = np.repeat(graph.item_ids, np.diff(graph.item_ptr)).tolist()
    names = zip(owner, graph.edge_cluster.tolist(), strict=True)
    rows = np.array([edges[name] for name in names], np.int64).reshape(-1, 3)
    return state_hash(
        graph, Sums(rows, np.array([items[item] for item in graph.item_ids], np.int64).reshape(-1, 2))
    )
