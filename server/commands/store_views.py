"""What a data directory holds, as plain values: read-only, and while a server writes it.

Invariant: all that is read through one `StoreViews` is the store as it was when opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from bandits.backend_numpy import NumpyBackend
from bandits.join_rule import JoinRule
from bandits.learner import Learner
from bandits.sums import UNIT, N, S, state_hash
from freshet.v1 import events_pb2, operations_pb2, state_pb2
from server.item_views import top_items, views_of
from streams import store as keys
from streams.graph_history import restore_graph
from streams.outcome_codec import decode_outcomes
from streams.restore import restore_joiner, restore_learner, rules
from streams.store import Store, number_bytes

ORDERS: dict[str, "operations_pb2.ItemOrder.ValueType"] = {
    "impressions": operations_pb2.ITEM_ORDER_IMPRESSIONS,
    "mean": operations_pb2.ITEM_ORDER_MEAN,
    "uncertainty": operations_pb2.ITEM_ORDER_UNCERTAINTY,
}
_TOPICS = ("impressions", "clicks")
_SQUARE = UNIT * UNIT


class StoreViews:
    """Views of one opened store.

    Args:
        data_dir: the data directory of a server.
        store: its store, opened read-only.

    Attributes:
        head: the positions.
        learner: the stored sums; None before a graph was loaded.
    """

    def __init__(self, data_dir: Path, store: Store) -> None:
        self._data_dir, self._store = data_dir, store
        self.head = store.head()
        self.learner: Learner | None = None
        if self.head.graph_version:
            graph = restore_graph(store, data_dir, self.head)
            self.learner = restore_learner(store, self.head, graph, NumpyBackend())

    def overview(self) -> dict[str, Any]:
        """Positions, graph, counts and what was learned."""
        head, in_force = self.head, rules(self._store)
        joiner = restore_joiner(self._store, in_force[-1][1] if in_force else JoinRule())
        return {
            "data_dir": self._data_dir,
            "format": keys.FORMAT,
            "disk_bytes": _size(self._data_dir),
            "ledger_end": head.ledger_end,
            "applied_position": head.applied_position,
            "learning_frozen": head.frozen,
            "graph": self._graph(),
            "graph_switches": head.graph_switches,
            "counts": joiner.tally.as_dict(),
            "pending_impressions": joiner.pending_rows,
            "impressions_in_flight": joiner.rows_in_flight,
            "waiting_clicks": joiner.waiting_clicks,
            "dead_letters": head.dead_letters,
            "facts_applied": head.facts_applied,
            "facts_unknown": head.facts_unknown,
            "learned": self._learned(),
        }

    def top(self, order: str, limit: int) -> list[dict[str, Any]]:
        """The items that come first by an order of `ORDERS`."""
        if self.learner is None:
            return []
        return self._items(top_items(self.learner.graph, self.learner.sums, order=ORDERS[order], limit=limit))

    def item(self, item_id: str) -> dict[str, Any] | None:
        """One item with its edges, sums in natural units; None if the graph does not know it."""
        if self.learner is None or (number := int(self.learner.graph.lookup([item_id])[0])) < 0:
            return None
        view = views_of(self.learner.graph, self.learner.sums, [number], position=0)[0]
        row = view.parameters
        edges = [
            {
                "cluster_id": cluster,
                "a": a / UNIT,
                "d": d / _SQUARE,
                "b": b / _SQUARE,
                "mean": b / UNIT / a if a else None,
                "width": (_SQUARE / d) ** 0.5 if d else None,
            }
            for cluster, a, d, b in zip(row.cluster_ids, row.a, row.d, row.b, strict=True)
        ]
        position = int(self.learner.row_position[number])
        return {**self._items([number])[0], "row_position": position, "edges": edges}

    def dead(self, start: int, limit: int) -> list[dict[str, Any]]:
        """Dead letters from a number on, with the event where it is still kept."""
        return [
            self._dead(number, state_pb2.DeadLetter.FromString(value))
            for number, value in islice(self._store.numbered(keys.DEAD, start=start), limit)
        ]

    def ledger(self, start: int, limit: int) -> list[dict[str, Any]]:
        """Ledger records from an offset on."""
        return [
            _ledger_record(offset, value)
            for offset, value in islice(self._store.numbered(keys.LEDGER, start=start), limit)
        ]

    def _graph(self) -> dict[str, Any] | None:
        if self.learner is None:
            return None
        graph = self.learner.graph
        return {
            "version": graph.version,
            "clusters": graph.n_clusters,
            "items": graph.n_live_items,
            "edges": graph.n_live_edges,
        }

    def _learned(self) -> dict[str, Any]:
        if self.learner is None:
            return {"impressions": 0, "reward": 0.0, "items_shown": 0, "edges_seen": 0, "state_hash": ""}
        sums = self.learner.sums
        return {
            "impressions": int(sums.item[:, N].sum()),
            "reward": float(sums.item[:, S].sum()) / UNIT,
            "items_shown": int((sums.item[:, N] > 0).sum()),
            "edges_seen": int(sums.edge.any(axis=1).sum()),
            "state_hash": state_hash(self.learner.graph, sums),
        }

    def _items(self, numbers: list[int]) -> list[dict[str, Any]]:
        if self.learner is None:
            return []
        return [
            {
                "item_id": view.item_id,
                "impressions": view.parameters.n,
                "reward": view.parameters.s / UNIT,
                "mean": view.mean,
                "uncertainty": view.uncertainty,
            }
            for view in views_of(self.learner.graph, self.learner.sums, numbers, position=0)
        ]

    def _dead(self, number: int, letter: state_pb2.DeadLetter) -> dict[str, Any]:
        kind = keys.IMPRESSIONS if letter.topic == 0 else keys.CLICKS
        source = self._store.get(kind, number_bytes(letter.offset))
        event = _event(source, letter) if source is not None else None
        return {
            "number": number,
            "topic": _TOPICS[letter.topic],
            "offset": letter.offset,
            "index": letter.index,
            "reason": letter.reason,
            "request_id": event.request_id if event is not None else None,
        }


@contextmanager
def opened(data_dir: Path) -> Iterator[StoreViews]:
    """Views of the store of a data directory.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    store = Store(data_dir / "store", read_only=True)
    try:
        yield StoreViews(data_dir, store)
    finally:
        store.close()


def _event(source: bytes, letter: state_pb2.DeadLetter) -> "events_pb2.Impression | events_pb2.Click | None":
    record = state_pb2.SourceRecord.FromString(source)
    events = record.impressions.impressions if letter.topic == 0 else record.clicks.clicks
    return events[letter.index] if letter.index < len(events) else None


def _ledger_record(offset: int, value: bytes) -> dict[str, Any]:
    outcomes = decode_outcomes(value)
    return {
        "offset": offset,
        "sequence": outcomes.sequence,
        "facts": len(outcomes),
        "items": len(outcomes.item_ids),
        "impressions": int(outcomes.impressions.sum()),
        "reward": float(outcomes.reward.sum()) / UNIT,
        "impressions_position": outcomes.impressions_position,
        "clicks_position": outcomes.clicks_position,
        "bytes": len(value),
    }


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # a running server has just removed it
            continue
    return total
