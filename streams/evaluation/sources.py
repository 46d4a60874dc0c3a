"""Logs to evaluate on, by what a path holds: a store, JSONL, Open Bandit, KuaiRand.

Invariant: a store is read as its ledger says, read-only, while a server may be writing it.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from bandits.graph import Graph
from bandits.join_rule import JoinRule
from bandits.sums import Float64
from freshet.v1 import events_pb2, state_pb2
from streams import store as keys
from streams.evaluation.slates import LoggedSlates, slates_of
from streams.graph_history import restore_graph
from streams.logs import LogError, read_jsonl, read_kuairand, read_open_bandit
from streams.logs.joined import JoinedRows
from streams.outcome_codec import decode_outcomes
from streams.restore import rules
from streams.store import Store, StoreError, number_bytes

KINDS = ("store", "jsonl", "open-bandit", "kuairand")
_RECORDS_HELD = 64  # source records kept parsed


def kind_of(path: Path) -> str:
    """What a path holds, by its name.

    Raises:
        LogError: it cannot be told.
    """
    if (path / "store").is_dir():
        return "store"
    if (path / "impressions.csv.gz").exists():
        return "kuairand"
    if path.suffixes[-1:] == [".jsonl"] or path.suffixes[-2:] == [".jsonl", ".gz"]:
        return "jsonl"
    if path.suffix == ".csv":
        return "open-bandit"
    raise LogError(f"{path}: expected a data directory, .jsonl, .jsonl.gz or .csv; name the kind")


def read_source(
    path: Path,
    *,
    kind: str,
    graph: Graph | None = None,
    rule: JoinRule | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> LoggedSlates:
    """Read a log.

    Args:
        path: where it is.
        kind: one of `KINDS`.
        graph: to see it under, if not its own; for stores and JSONL.
        rule: what the clicks of JSONL are worth.
        progress: told ledger records done, for stores.

    Raises:
        LogError, StoreError, LedgerError: it cannot be read.
    """
    if kind == "store":
        return read_store(path, graph=graph, progress=progress)
    if kind == "jsonl":
        rule = rule or JoinRule()
        log = read_jsonl(path, graph=graph, rule=rule)
        return slates_of(
            log.events,
            whole=True,
            conditional=log.conditional,
            candidate_ends=log.candidate_ends,
            candidates=log.candidates,
            reward_high=rule.reward_cap,
        )
    events = read_open_bandit(path) if kind == "open-bandit" else read_kuairand(path)
    return slates_of(events, whole=False)


def read_store(
    data_dir: Path, *, graph: Graph | None = None, progress: Callable[[int], None] = lambda done: None
) -> LoggedSlates:
    """The slates of a store: each impression that its ledger counted, with the rewards it was given.

    A slate that mode uniform made tells the propensity of each item given those above: with n candidates every one
    is 1/n, and then 1/n, 1/(n-1), 1/(n-2), and so on.

    Raises:
        StoreError: the store cannot be read, or holds nothing yet.
        LedgerError: a ledger record is damaged.
    """
    store = Store(data_dir / "store", read_only=True)
    try:
        head = store.head()
        if not head.graph_version:
            raise StoreError(f"the store in {data_dir} has no graph yet, there is nothing to evaluate")
        graph = graph or restore_graph(store, data_dir, head)
        rows = _ledger_rows(store, head, progress)
        if not rows.slates:
            raise StoreError(f"the ledger in {data_dir} has no impressions, there is nothing to evaluate")
        note = f"{rows.causeless} facts are left out: their events are gone" if rows.causeless else ""
        log, order = rows.log(name=str(data_dir), graph=graph, note=note)
        uniform = np.array([slate.mode == events_pb2.MODE_UNIFORM for slate in rows.slates])[order][log.user]
        cap = max(rule.reward_cap for _, rule in rules(store))
        return slates_of(
            log,
            whole=True,
            conditional=_uniform_conditional(log.propensity, log.position.astype(np.float64), uniform),
            reward_high=cap,
        )
    finally:
        store.close()


def _ledger_rows(store: Store, head: state_pb2.StoreHead, progress: Callable[[int], None]) -> JoinedRows:
    @lru_cache(maxsize=_RECORDS_HELD)
    def record(kind: bytes, offset: int) -> state_pb2.SourceRecord | None:
        value = store.get(kind, number_bytes(offset))
        return None if value is None else state_pb2.SourceRecord.FromString(value)

    def impression(offset: int, index: int) -> tuple[events_pb2.Impression, int] | None:
        source = record(keys.IMPRESSIONS, offset)
        return None if source is None else (source.impressions.impressions[index], source.ingested_at_ms)

    def click(offset: int, index: int) -> events_pb2.Click | None:
        source = record(keys.CLICKS, offset)
        return None if source is None else source.clicks.clicks[index]

    rows = JoinedRows()
    for offset, value in store.numbered(keys.LEDGER, end=head.ledger_end):
        rows.add(decode_outcomes(value), impression=impression, click=click)
        progress(offset + 1)
    return rows


def _uniform_conditional(propensity: Float64, position: Float64, uniform: np.ndarray) -> Float64:
    """Propensity given the items above where mode uniform chose, NaN elsewhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.rint(1.0 / propensity) - position
        conditional: Float64 = np.where(uniform & (propensity > 0) & (left >= 1), 1.0 / left, np.nan)
    return conditional
