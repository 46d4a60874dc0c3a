"""A store filled by simulated users whose click probabilities are known, and the true value of a policy on them."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bandits.backend import choose_backend
from bandits.context import Context
from bandits.graph import Graph, build_graph
from bandits.join_rule import JoinRule
from bandits.policies import score
from bandits.simulator.clicks import ClickModel, Independent, draw_clicks
from bandits.simulator.world import World, WorldSettings
from bandits.slates import pick
from bandits.sums import Sums
from freshet.v1 import events_pb2 as ev
from streams.embedded import EmbeddedLoop, LoopLimits
from streams.evaluation import TargetPolicy

BACKEND = choose_backend("numpy")
START_MS = 1_750_000_000_000


@dataclass(frozen=True, eq=False)
class Simulated:
    """Simulated users, items and clicks."""

    world: World
    graph: Graph
    clicks: ClickModel
    slate_size: int

    def truth(self, target: TargetPolicy, sums: Sums, *, users: int = 6_000, seed: int = 99) -> float:
        """Expected clicks a slate of a policy, by serving fresh users with the server's own functions."""
        rng = np.random.default_rng(seed)
        people = self.world.users(rng, users)
        items = np.arange(self.graph.n_items, dtype=np.int32)
        chosen = np.empty((users, self.slate_size), np.int64)
        for user in range(users):
            context = Context(people.cluster_ids[user], people.weights[user])
            gathered = BACKEND.gather(self.graph, sums, items, context)
            chosen[user] = pick(
                score(target.mode, gathered, target.settings, user).score,
                keys=gathered.keys,
                slate_size=self.slate_size,
                top_m=target.top_m,
                explore_share=target.exploration,
                seed=user,
            ).chosen
        p = self.world.probabilities(people.cluster_ids, people.weights, chosen)
        return float(self.clicks.chances(p).sum(axis=1).mean())


def simulate(
    *, n_items: int = 12, slate_size: int = 3, clicks: ClickModel | None = None, seed: int = 1
) -> Simulated:
    """A world whose every item is a candidate for everybody."""
    world = World(seed, WorldSettings(n_clusters=6, n_items=n_items, top_w=n_items, k=2, dim=4))
    item_ids, edge_item, edge_cluster, centroids = world.edges()
    graph = build_graph(
        version="world-1",
        centroids=centroids,
        item_ids=item_ids,
        edge_item=edge_item,
        edge_cluster=edge_cluster,
    )
    return Simulated(world, graph, clicks or Independent(), slate_size)


def log_events(simulated: Simulated, requests: int, *, seed: int = 5) -> list[tuple[ev.Impression, list[ev.Click]]]:
    """Uniform slates with their propensities, and the clicks on them, one request a second."""
    rng = np.random.default_rng(seed)
    people = simulated.world.users(rng, requests)
    n, size = simulated.graph.n_items, simulated.slate_size
    keys = simulated.graph.item_hashes[:, 0]
    slates = [pick(np.zeros(n), keys=keys, slate_size=size, seed=seed << 32 | i) for i in range(requests)]
    chosen = np.array([slate.chosen for slate in slates])
    p = simulated.world.probabilities(people.cluster_ids, people.weights, chosen)
    clicked = draw_clicks(simulated.clicks, p, rng)
    events = []
    for i, slate in enumerate(slates):
        ids = [simulated.graph.item_ids[j] for j in slate.chosen.tolist()]
        impression = ev.Impression(
            request_id=f"r{i}",
            occurred_at_ms=START_MS + 1000 * i,
            context=ev.ClusterWeights(
                cluster_ids=people.cluster_ids[i].tolist(), weights=people.weights[i].tolist()
            ),
            items=[
                ev.ShownItem(item_id=item, position=k, propensity=float(slate.propensity[k]))
                for k, item in enumerate(ids)
            ],
            mode=ev.MODE_UNIFORM,
        )
        at = START_MS + 1000 * i + 400
        reactions = [
            ev.Click(request_id=f"r{i}", item_id=ids[k], occurred_at_ms=at) for k in np.flatnonzero(clicked[i])
        ]
        events.append((impression, reactions))
    return events


def fill_store(
    folder: Path, simulated: Simulated, events: list[tuple[ev.Impression, list[ev.Click]]]
) -> EmbeddedLoop:
    """Stream events through an embedded loop on a folder, then stop it."""
    ticks = itertools.count(START_MS)
    loop = EmbeddedLoop(
        folder,
        rule=JoinRule(max_delay_ms=10**9, max_skew_ms=10**9, window_ms=3_600_000),
        limits=LoopLimits(),
        backend=BACKEND,
        graph=simulated.graph,
        on_change=lambda change: None,
        clock_ms=lambda: next(ticks),
    )
    loop.start()
    for start in range(0, len(events), 500):
        part = events[start : start + 500]
        loop.offer_impressions(ev.ImpressionBatch(impressions=[shown for shown, _ in part])).result(60)
        clicks = [click for _, reactions in part for click in reactions]
        if clicks:
            loop.offer_clicks(ev.ClickBatch(clicks=clicks)).result(60)
    loop.stop(grace_s=60)
    return loop


def as_lines(events: list[tuple[ev.Impression, list[ev.Click]]], **further: Any) -> list[dict[str, Any]]:
    """Events in the JSONL format."""
    return [
        {
            "request_id": shown.request_id,
            "occurred_at_ms": shown.occurred_at_ms,
            "context": {
                "cluster_ids": list(shown.context.cluster_ids),
                "weights": list(shown.context.weights),
            },
            "items": [
                {"item_id": item.item_id, "position": item.position, "propensity": item.propensity}
                for item in shown.items
            ],
            "clicks": [{"item_id": click.item_id, "occurred_at_ms": click.occurred_at_ms} for click in reactions],
            **further,
        }
        for shown, reactions in events
    ]
