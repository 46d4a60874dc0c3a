"""How often the next item a user likes is among the first fifty: of a model, and of popularity.

Invariants: what a user liked before is no candidate, for any ranking; equal scores rank by item number, so that no
ranking is favoured for its ties.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bandits.graph import Float32, Int32, Int64
from streams.corpus.interactions import Histories, Interactions

FIRST = 50
_BLOCK = 512

Scorer = Callable[[Int64], Float32]
"""Of events, scores of all items, float32 of shape (len(events), n_items)."""


@dataclass(frozen=True)
class Recall:
    """Recall at 50 of one ranking.

    Attributes:
        all: over all events.
        known_users: over events of users that the learned part has.
        new_items: over events of items that the learned part does not have; NaN if there are none.
    """

    all: float
    known_users: float
    new_items: float


def ranks(log: Interactions, histories: Histories, events: Int64, scorer: Scorer) -> Int64:
    """Place of each event's item among all items the user has not liked yet, 0 = best, int64 of shape (n,)."""
    places: list[Int64] = []
    for start in range(0, len(events), _BLOCK):
        block = events[start : start + _BLOCK]
        scores = scorer(block).astype(np.float32, copy=True)
        row, item = histories.seen(log.user[block], block)
        scores[row, item] = -np.inf
        target = log.item[block]
        own = scores[np.arange(len(block)), target][:, None]
        ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < target[:, None]))
        places.append(ahead.sum(axis=1))
    return np.concatenate(places)


def recall(log: Interactions, places: Int64, events: Int64, *, learned: int) -> Recall:
    """Recall at 50 of ranked events; the part that was learned from is [0, learned)."""
    hit = places < FIRST
    known_user = np.isin(log.user[events], log.user[:learned])
    new_item = ~np.isin(log.item[events], log.item[:learned])

    def share(mask: "np.typing.NDArray[np.bool_]") -> float:
        return float(hit[mask].mean()) if mask.any() else float("nan")

    return Recall(share(np.ones(len(hit), bool)), share(known_user), share(new_item))


def popularity(items: Int32, n_items: int) -> Scorer:
    """Ranks every item by how often it was liked."""
    counts = np.bincount(items, minlength=n_items).astype(np.float32)
    return lambda events: np.broadcast_to(counts, (len(events), n_items))


def by_embeddings(users: Callable[[Int64], Float32], items: Float32) -> Scorer:
    """Ranks by inner product with the embedding of the user at the time of the event."""
    return lambda events: users(events) @ items.T
