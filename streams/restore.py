"""Reads joiner and learner back from a store.

Invariant: what is read is what the last committed micro-batch left, whatever was in flight when the process ended.
"""

import json

from bandits.backend import Backend
from bandits.graph import Graph
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.learner import Learner
from freshet.v1 import state_pb2
from streams.change_codec import decode_change
from streams.row_codec import decode_rows, place_rows
from streams.store import CHANGE, ROW, RULE, Store, StoreError

_ROWS_AT_ONCE = 10_000


def restore_joiner(store: Store, rule: JoinRule) -> Joiner:
    """The joiner as of the last committed micro-batch.

    Raises:
        StoreError: a change is damaged.
    """
    joiner = Joiner(rule)
    for number, record in store.numbered(CHANGE):
        try:
            joiner.apply(decode_change(record))
        except (ValueError, IndexError) as error:
            raise StoreError(f"the store holds a damaged change {number} of the joiner: {error}") from error
    return joiner


def restore_learner(store: Store, head: state_pb2.StoreHead, graph: Graph, backend: Backend) -> Learner:
    """The learner as of the last committed micro-batch."""
    learner = Learner.empty(graph, backend)
    restore_rows(store, learner, ROW)
    learner.position = head.applied_position
    learner.applied = dict(head.applied_sequences)
    learner.facts_applied = head.facts_applied
    learner.facts_unknown = head.facts_unknown
    return learner


def restore_rows(store: Store, learner: Learner, kind: bytes) -> None:
    """Put all rows of a kind into a learner."""
    names: list[str] = []
    values: list[bytes] = []
    for name, value in store.scan(kind):
        names.append(name.decode())
        values.append(value)
        if len(names) == _ROWS_AT_ONCE:
            _place(learner, names, values)
            names, values = [], []
    _place(learner, names, values)


def rules(store: Store) -> list[tuple[int, JoinRule]]:
    """Join rules by the first sequence they were in force for."""
    return [(sequence, JoinRule(**json.loads(value))) for sequence, value in store.numbered(RULE)]


def encode_rule(rule: JoinRule) -> bytes:
    """A rule as JSON."""
    return json.dumps(rule.as_dict(), sort_keys=True).encode()


def _place(learner: Learner, names: list[str], values: list[bytes]) -> None:
    if not names:
        return
    try:
        rows = decode_rows(names, values)
    except ValueError as error:
        raise StoreError(f"the store holds a damaged row: {error}") from error
    place_rows(learner.graph, rows, learner.sums, learner.row_position)
