"""Packed slates for shadow policies: those that are chosen, each as the answer that it would have been.

Invariants: what a shadow is given is copied, as the message's columns go; a slate without a request id of its own
is not shadowed, since no click could be told to be for it, and is counted.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bandits.context import Context
from bandits.life_cycle import Bounds
from freshet.v1 import recommender_pb2
from server.shadow.shadows import Shadows
from server.snapshot import Parameters

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class ShadowedSlates:
    """Hands slates of one message to the shadows.

    Args:
        shadows: look at some of them.
        parameters: that the slates were computed from.
        request_ids: one a slate; none = none has any.
    """

    def __init__(self, shadows: Shadows, parameters: Parameters, request_ids: Sequence[str]) -> None:
        self._shadows = shadows
        self._parameters = parameters
        self._request_ids = request_ids

    def chosen(self, filled: Int64) -> list[int]:
        """Which of the slates that were filled are shadowed, by number."""
        if not self._request_ids:
            self._shadows.unnamed(len(filled))
            return []
        ids = self._request_ids
        return [slate for slate in filled.tolist() if self._shadows.chooses(ids[slate].encode())]

    def take(
        self,
        slate: int,
        *,
        items: Int32,
        user: Context,
        shown: Int32,
        propensity: npt.NDArray[np.float64],
        mode: int,
        bounds: Bounds | None = None,
    ) -> None:
        """Keep a chosen slate for scoring.

        Args:
            slate: number of it.
            items: int32 of shape (n,), its candidates.
            user: the resolved user.
            shown: int32 of shape (S,), items that were shown, from the top.
            propensity: float64 of shape (S,), what was told of each.
            mode: number of the mode.
            bounds: of its candidates' exploration, if anything bounds it.
        """
        names = self._parameters.graph.item_ids
        entries = zip(shown.tolist(), propensity.tolist(), strict=True)
        reply = recommender_pb2.ScoreResponse(
            request_id=self._request_ids[slate],
            items=[recommender_pb2.ScoredItem(item_id=names[item], propensity=p) for item, p in entries],
            mode=mode,  # type: ignore[arg-type]
        )
        own = Context(user.cluster_ids.copy(), user.weights.copy())
        self._shadows.take(self._parameters, items.copy(), own, reply, request_id=reply.request_id, bounds=bounds)
