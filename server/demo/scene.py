"""The world that simulated users live in, and what a slate is truly worth in it.

Invariants: those of `server.demo.surroundings`, with the true probabilities of the step; uniformly random slates
are drawn from the candidates of the user's clusters.
"""

import threading
from typing import Literal

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph, build_graph
from bandits.simulator.clicks import Cascade, ClickModel, Independent, PositionBased, draw_clicks, logarithmic
from bandits.simulator.world import Users, World, WorldSettings
from server.demo.surroundings import Float64, Int64, Outcome

ClickModelName = Literal["position", "cascade", "dependent", "independent"]
CLICK_MODELS: tuple[ClickModelName, ...] = ("position", "cascade", "dependent", "independent")

CLUSTERS, ITEMS, TOP_W, K = 50, 500, 50, 5
TEMPERATURE = 0.1
SLATE_SIZE = 5
_RANDOM_SLATES = 8  # a user, to estimate what uniform slates are worth


def click_model(name: ClickModelName) -> ClickModel:
    """A click model for slates of `SLATE_SIZE`."""
    models: dict[ClickModelName, ClickModel] = {
        "position": PositionBased(logarithmic(SLATE_SIZE)),
        "cascade": Cascade(),
        "dependent": Cascade(patience=0.9, after_click=0.5),
        "independent": Independent(),
    }
    return models[name]


class Scene:
    """A small world with its graph. Safe to use from several threads.

    Args:
        seed: of everything in it.
        clicks: name of the click model.
        drift_half_life_s: seconds after which tastes correlate by 1/2 with what they were; 0 = tastes stay.

    Attributes:
        graph: for the server.
        world: the truth.
    """

    def __init__(self, seed: int, *, clicks: ClickModelName = "position", drift_half_life_s: float = 0.0) -> None:
        self.world = World(
            seed,
            WorldSettings(
                n_clusters=CLUSTERS,
                n_items=ITEMS,
                top_w=TOP_W,
                k=K,
                temperature=TEMPERATURE,
                user_noise=1.0,
                taste_deviation=0.6,
                half_life_steps=drift_half_life_s,
            ),
        )
        item_ids, edge_item, edge_cluster, centroids = self.world.edges()
        self.graph: Graph = build_graph(
            version=f"world-{seed}",
            centroids=centroids,
            item_ids=item_ids,
            edge_item=edge_item,
            edge_cluster=edge_cluster,
        )
        self._model = click_model(clicks)
        self._lock = threading.Lock()

    def stranger(self, graph_version: str, item_ids: list[str]) -> str | None:
        """What is wrong with a reply of this graph and these items; None if it is one of this world."""
        # An edited graph has the version of the one it was made from, and then a plus sign.
        ours = graph_version.partition("+")[0] == self.graph.version
        if ours and all(item_id in self.graph.index for item_id in item_ids):
            return None
        return f"expected a server with graph {self.graph.version} of these users' world, got {graph_version}"

    def numbers(self, item_ids: list[str]) -> list[int]:
        """Numbers of items of this world."""
        return [self.graph.index[item_id] for item_id in item_ids]

    def people(self, seed: int, n: int) -> Users:
        """The population that calls come from."""
        return self.world.users(np.random.default_rng([seed, 1]), n)

    def react(self, users: Users, who: Int64, shown: Int64, rng: np.random.Generator, *, step: float) -> Outcome:
        """What users do with the slates that they are shown.

        Args:
            users: the population.
            who: numbers of the users, int64 of shape (n,).
            shown: item numbers, top first, int64 of shape (n, S).
            rng: decides the clicks.
            step: seconds since the start, for the drift.
        """
        ids, weights = users.cluster_ids[who], users.weights[who]
        items = self.world.available(step)
        with self._lock:  # the world remembers the step last asked for
            p = self.world.probabilities(ids, weights, items, step=step)
        on_slate = np.take_along_axis(p, shown, axis=1)
        best = np.sort(p, axis=1)[:, : -SLATE_SIZE - 1 : -1]
        return Outcome(
            clicked=draw_clicks(self._model, on_slate, rng),
            expected=self._model.chances(on_slate).sum(axis=1),
            uniform=self._uniform(ids, p, rng),
            best=self._model.chances(best).sum(axis=1),
        )

    def _uniform(self, cluster_ids: npt.NDArray[np.int32], p: Float64, rng: np.random.Generator) -> Float64:
        keys = rng.random((_RANDOM_SLATES, *p.shape))
        for row, clusters in enumerate(cluster_ids):
            keys[:, row, self.graph.items_around(clusters)] -= 1.0  # candidates before all others
        drawn = np.argpartition(keys, SLATE_SIZE, axis=2)[:, :, :SLATE_SIZE]
        slates = np.take_along_axis(np.broadcast_to(p, keys.shape), drawn, axis=2)
        worth: Float64 = self._model.chances(slates).sum(axis=2).mean(axis=0)
        return worth
