"""Users of the later part of a log, who click what they turned out to like there.

Invariants: an item that a user liked in the held-out part attracts with probability `LIKED`, every other with
`OTHER`, at every visit; an item takes part in the best possible slate from its publication on, not before.
"""

import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bandits.simulator.clicks import draw_clicks
from bandits.simulator.world import Users
from server.demo.exposure import Exposure
from server.demo.scene import SLATE_SIZE, ClickModelName, click_model
from server.demo.surroundings import Float64, Int64, Outcome

if TYPE_CHECKING:
    from streams.corpus.held_out import HeldOut

LIKED, OTHER = 0.5, 0.01


class HeldOutScene:
    """Held-out users and the items of their log. Safe to use from several threads.

    Args:
        world: who they are and what they like.
        clicks: name of the click model.
        slates: about how many will be shown.

    Attributes:
        world: as given.
        exposure: counts what is shown.
    """

    def __init__(self, world: "HeldOut", *, clicks: ClickModelName, slates: int) -> None:
        self.world = world
        self.exposure = Exposure(len(world.item_ids), world.new_items, slates=slates)
        self._model = click_model(clicks)
        self._index = {item_id: number for number, item_id in enumerate(world.item_ids)}
        self._liker = np.repeat(np.arange(len(world.users)), np.diff(world.like_ptr))
        self._keys = self._liker * len(world.item_ids) + world.like_item  # ascending
        self._lock = threading.Lock()
        self._available, self._likes = self._count_available()

    def stranger(self, graph_version: str, item_ids: list[str]) -> str | None:
        """What is wrong with a reply of this graph and these items; None if it is one of this world."""
        numbers = np.array([self._index.get(item_id, -1) for item_id in item_ids], np.int64)
        if (numbers < 0).any():
            unknown = item_ids[int(np.argmin(numbers))]
            return f"expected items of these users' world, got {unknown!r} of graph {graph_version}"
        early = np.flatnonzero(~self.exposure.published(numbers))
        if len(early):
            item_id = item_ids[early[0]]
            return (
                f"expected a graph without the items that are to be published, got {item_id!r} of graph"
                f" {graph_version}: build it with --leave-out new_item_ids.txt, and start with an empty data_dir"
            )
        return None

    def numbers(self, item_ids: list[str]) -> list[int]:
        """Numbers of items of this world."""
        return [self._index[item_id] for item_id in item_ids]

    def people(self, seed: int, n: int) -> Users:
        """All of them; their contexts are the server's to resolve."""
        rows = len(self.world.users)
        return Users(self.world.users, np.zeros((rows, 0), np.int32), np.zeros((rows, 0)))

    def publish(self, items: npt.NDArray[np.integer]) -> None:
        """From now on these items can be shown."""
        self.exposure.publish(items)
        with self._lock:
            self._available, self._likes = self._count_available()

    def react(self, users: Users, who: Int64, shown: Int64, rng: np.random.Generator, *, step: float) -> Outcome:
        """What users do with the slates that they are shown; see `Surroundings`."""
        self.exposure.show(shown)
        with self._lock:
            available, likes = self._available, self._likes[who]
        p = np.where(self.liked(who, shown), LIKED, OTHER)
        best = np.where(np.arange(SLATE_SIZE) < likes[:, None], LIKED, OTHER)
        return Outcome(
            clicked=draw_clicks(self._model, p, rng),
            expected=self._model.chances(p).sum(axis=1),
            uniform=self._uniform(likes / available),
            best=self._model.chances(best).sum(axis=1),
        )

    def liked(self, who: Int64, shown: Int64) -> npt.NDArray[np.bool_]:
        """Whether users like items: of numbers of shapes (n,) and (n, S), bool of shape (n, S)."""
        keys = who[:, None] * len(self.world.item_ids) + shown
        at = np.minimum(np.searchsorted(self._keys, keys), max(0, len(self._keys) - 1))
        found: npt.NDArray[np.bool_] = self._keys[at] == keys if len(self._keys) else np.zeros(keys.shape, bool)
        return found

    def same_for_all(self) -> float:
        """Expected clicks a slate of the best-liked items, shown to everybody: what popularity alone could earn."""
        count = np.bincount(self.world.like_item, minlength=max(SLATE_SIZE, len(self.world.item_ids)))
        slate = np.argsort(-count, kind="stable")[:SLATE_SIZE]
        everyone = np.arange(len(self.world.users))
        p = np.where(self.liked(everyone, np.tile(slate, (len(everyone), 1))), LIKED, OTHER)
        return float(self._model.chances(p).sum(axis=1).mean())

    def _uniform(self, share: Float64) -> Float64:
        # Exact for slots that are drawn independently, as a chance is linear in the attraction of each slot.
        mean = OTHER + (LIKED - OTHER) * share
        worth: Float64 = self._model.chances(np.repeat(mean[:, None], SLATE_SIZE, axis=1)).sum(axis=1)
        return worth

    def _count_available(self) -> tuple[int, Int64]:
        """How many items there are, and how many of them each user likes."""
        there = self.exposure.published(np.arange(len(self.world.item_ids)))
        likes = np.bincount(self._liker[there[self.world.like_item]], minlength=len(self.world.users))
        return int(there.sum()), likes
