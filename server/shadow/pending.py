"""Shadowed slates that wait for their rewards: a bounded table, oldest out.

Invariants: a request id that comes twice counts not at all, since which slate was shown cannot be told; what is
taken out is never put back; a slate keeps at most `MAX_CLICKS` clicks, so that a robot cannot fill the memory.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from freshet.v1 import events_pb2

MAX_CLICKS = 256  # of one slate


@dataclass(eq=False)
class PendingSlate:
    """A slate that was served.

    Attributes:
        request_id: of its request.
        shown_ms: when it was served, Unix milliseconds.
        item_ids: from the top; empty until it has been scored.
        weights: float64 of shape (policies, S), probability under each shadow policy over the logged one; None
            until it has been scored.
        clicks: that came for it, whatever they are worth, and when.
    """

    request_id: str
    shown_ms: int
    item_ids: tuple[str, ...] = ()
    weights: npt.NDArray[np.float64] | None = None
    clicks: list[tuple[int, events_pb2.Click]] = field(default_factory=list)


class PendingSlates:
    """The table, by request id, in the order of time.

    Args:
        most: slates that it holds, 1 or more.
        window_ms: how long it holds them.
    """

    def __init__(self, *, most: int, window_ms: int) -> None:
        self._most = most
        self._window_ms = window_ms
        self._slates: OrderedDict[str, PendingSlate] = OrderedDict()
        self._out: list[PendingSlate] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._slates)

    def add(self, slate: PendingSlate) -> bool:
        """Take a slate; False where its request id came before, and then neither is kept."""
        with self._lock:
            if self._slates.pop(slate.request_id, None) is not None:
                return False
            self._slates[slate.request_id] = slate
            if len(self._slates) > self._most:
                self._out.append(self._slates.popitem(last=False)[1])
            return True

    def like(self, slate: PendingSlate) -> PendingSlate | None:
        """The one in the table that is this one, or that another process means by it."""
        found = self._slates.get(slate.request_id)
        return found if found is not None and found.shown_ms == slate.shown_ms else None

    def forget(self, slate: PendingSlate) -> None:
        """Drop a slate that will not be scored."""
        with self._lock:
            if self._slates.get(slate.request_id) is slate:
                del self._slates[slate.request_id]

    def clicked(self, clicks: Iterable[events_pb2.Click], now_ms: int) -> None:
        """Keep the clicks whose request is in the table."""
        if not self._slates:
            return
        with self._lock:
            for click in clicks:
                slate = self._slates.get(click.request_id)
                if slate is not None and len(slate.clicks) < MAX_CLICKS:
                    own = events_pb2.Click()  # a part of a message would keep the whole in memory
                    own.CopyFrom(click)
                    slate.clicks.append((now_ms, own))

    def closed(self, now_ms: int) -> list[PendingSlate]:
        """Take out what has been there for the window."""
        closed = []
        with self._lock:
            while self._slates:
                oldest = next(iter(self._slates.values()))
                if now_ms < oldest.shown_ms + self._window_ms:
                    break
                closed.append(self._slates.popitem(last=False)[1])
        return closed

    def evicted(self) -> list[PendingSlate]:
        """Take out what had to make room."""
        with self._lock:
            out, self._out = self._out, []
        return out
