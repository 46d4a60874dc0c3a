"""A recorded log as columns, and its cut into micro-batches.

Invariant: cutting the log differently never changes what an event is: its ids, times, context and place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bandits.arena import ranges
from bandits.events import Clicks, Impressions
from bandits.graph import Float32, Graph, Int32, Int64
from bandits.sums import UNIT, Float64


class LogError(ValueError):
    """A file that is not the log it should be; the message names file, column, expected and got."""


@dataclass(frozen=True, eq=False)
class EventLog:
    """One shown item a row, in order of time.

    Attributes:
        name: what it is, for reports.
        graph: the graph to learn it under.
        request_ids: request of each row; rows of one request share it.
        item_ids: item of each row.
        occurred_at_ms: int64 of shape (n,), Unix milliseconds, ascending.
        clicked: float64 of shape (n,), reward of the row; 0 = no click.
        position: int32 of shape (n,).
        propensity: float64 of shape (n,), of the logging policy; 0 = the log does not say.
        user: int64 of shape (n,), row of the context table.
        context_ends: int64 of shape (n_users,).
        context_cluster: int32, ascending within a context.
        context_x: int64, unit 2^-15.
        note: what a reader of a report must know of this log.
    """

    name: str
    graph: Graph
    request_ids: Sequence[str]
    item_ids: Sequence[str]
    occurred_at_ms: Int64
    clicked: Float64
    position: Int32
    propensity: Float64
    user: Int64
    context_ends: Int64
    context_cluster: Int32
    context_x: Int64
    note: str

    def __len__(self) -> int:
        return len(self.item_ids)

    def first(self, rows: int) -> "EventLog":
        """The beginning of the log."""
        return replace(
            self,
            request_ids=self.request_ids[:rows],
            item_ids=self.item_ids[:rows],
            occurred_at_ms=self.occurred_at_ms[:rows],
            clicked=self.clicked[:rows],
            position=self.position[:rows],
            propensity=self.propensity[:rows],
            user=self.user[:rows],
        )

    def part(self, start: int, end: int) -> tuple[Impressions, Clicks]:
        """Impressions of the rows start <= row < end and the clicks on them, taken in when they occurred."""
        rows = np.arange(start, end)
        sizes = np.diff(self.context_ends, prepend=0)[self.user[rows]]
        at = ranges(self.context_ends[self.user[rows]] - sizes, sizes)
        time_ms = self.occurred_at_ms[start:end]
        one_each = np.arange(1, len(rows) + 1)
        impressions = Impressions(
            request_ids=self.request_ids[start:end],
            occurred_at_ms=time_ms,
            ingested_at_ms=time_ms,
            offset=rows,
            index=np.zeros(len(rows), np.int32),
            item_ends=one_each,
            item_ids=self.item_ids[start:end],
            context_ends=np.cumsum(sizes),
            context_cluster=self.context_cluster[at],
            context_x=self.context_x[at],
        )
        return impressions, self._clicks(rows[self.clicked[start:end] > 0])

    def context_of(self, row: int) -> tuple[Int32, Float64]:
        """Clusters and weights of one row's user."""
        end = int(self.context_ends[self.user[row]])
        start = int(self.context_ends[self.user[row] - 1]) if self.user[row] else 0
        return self.context_cluster[start:end], self.context_x[start:end] / UNIT

    def _clicks(self, rows: Int64) -> Clicks:
        return Clicks(
            request_ids=[self.request_ids[row] for row in rows.tolist()],
            item_ids=[self.item_ids[row] for row in rows.tolist()],
            reward=np.rint(self.clicked[rows] * UNIT).astype(np.int64),
            occurred_at_ms=self.occurred_at_ms[rows],
            ingested_at_ms=self.occurred_at_ms[rows],
            offset=rows,
            index=np.zeros(len(rows), np.int32),
        )


def principal_axes(features: Float32, dimensions: int) -> Float32:
    """Rows projected on the principal axes of their centred columns and scaled to length 1.

    Args:
        features: float32 of shape (n, m).
        dimensions: number of axes.

    Returns:
        float32 of shape (n, dimensions). Each axis points where its largest coefficient is positive.
    """
    centred = features - features.mean(axis=0)
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axes = vectors[:, ::-1][:, :dimensions]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    projected = centred @ axes.astype(np.float32)
    return unit_rows(projected)


def unit_rows(vectors: Float32) -> Float32:
    """Rows scaled to length 1, float32 of the same shape; zero rows stay zero."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scaled: Float32 = (vectors / lengths).astype(np.float32)
    return scaled
