"""Recomputes a store from its own ledger and source log, and compares bit for bit.

Three independent questions: is the state the fold of the ledger; is the ledger what the joiner makes of the source
log; is every consumed event accounted for once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bandits.backend import Backend
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.joiner_change import Tally
from bandits.learner import Learner
from bandits.outcomes import Outcomes
from bandits.sums import Int64, state_hash
from freshet.v1 import state_pb2
from streams import store as keys
from streams.event_codec import Record, click_columns, impression_columns
from streams.graph_history import Unfolding, restore_artifact, restore_graph, switches
from streams.outcome_codec import decode_outcomes, encode_outcomes
from streams.restore import restore_joiner, restore_learner, rules
from streams.store import Store, StoreError


@dataclass(frozen=True)
class Check:
    """One question and its answer."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """Everything that was checked.

    Attributes:
        checks: the questions.
        state_hash: of the stored state.
        folded_hash: of the state recomputed from the ledger.
        ledger_records: records read.
        counts: of the joiner.
    """

    checks: list[Check]
    state_hash: str
    folded_hash: str
    ledger_records: int
    counts: dict[str, int]

    @property
    def ok(self) -> bool:
        """Every check holds."""
        return all(check.ok for check in self.checks)


def verify_store(data_dir: Path, *, backend: Backend, progress: Callable[[int, int], None]) -> Verification:
    """Check a store, which another process may be writing.

    Args:
        data_dir: the data directory of an embedded loop.
        backend: adds the facts.
        progress: told records done and records in all.

    Raises:
        StoreError: the store cannot be read.
    """
    store = Store(data_dir / "store", read_only=True)
    try:
        head = store.head()
        if not head.graph_version:
            raise StoreError(f"the store in {data_dir} has no graph yet, there is nothing to verify")
        stored = restore_learner(store, head, restore_graph(store, data_dir, head), backend)
        folded = _fold_ledger(store, data_dir, head, backend, progress)
        joined = _rejoin(store, head, progress)
        checks = [
            _same_state(stored, folded),
            _same_ledger(joined),
            *conservation(
                joined.joiner.tally, waiting=joined.joiner.waiting_clicks, rows=joined.rows, clicks=joined.clicks
            ),
            _same_counts(store, joined),
        ]
        return Verification(
            checks=checks,
            state_hash=state_hash(stored.graph, stored.sums),
            folded_hash=state_hash(folded.graph, folded.sums),
            ledger_records=head.ledger_end,
            counts=joined.joiner.tally.as_dict() | {"clicks_waiting": joined.joiner.waiting_clicks},
        )
    finally:
        store.close()


@dataclass
class _Rejoined:
    joiner: Joiner
    rows: int = 0
    clicks: int = 0
    first_difference: str = ""


def _fold_ledger(
    store: Store, data_dir: Path, head: state_pb2.StoreHead, backend: Backend, progress: Callable[[int, int], None]
) -> Learner:
    """The state as the ledger says it must be, graph switches included."""
    recorded = [switch for _, switch in switches(store)]
    learner = Learner.empty(restore_artifact(data_dir, recorded[0].graph_version), backend)
    graphs, waiting = Unfolding(data_dir, learner), recorded[1:]
    for offset, record in store.numbered(keys.LEDGER, end=head.applied_position):
        while waiting and waiting[0].offset <= offset:
            graphs.switch(waiting.pop(0))
        learner.apply(decode_outcomes(record), offset=offset)
        progress(offset + 1, head.applied_position)
    for switch in waiting:
        graphs.switch(switch)
    return learner


def _rejoin(store: Store, head: state_pb2.StoreHead, progress: Callable[[int, int], None]) -> _Rejoined:
    """Join the source log again, in the micro-batches that the ledger names, and compare record by record."""
    in_force = rules(store)
    result = _Rejoined(Joiner(in_force[0][1]))
    for offset, record in store.numbered(keys.LEDGER, end=head.ledger_end):
        expected = decode_outcomes(record)
        while len(in_force) > 1 and in_force[1][0] <= expected.sequence:
            in_force.pop(0)
        result.joiner.rule = in_force[0][1]
        outcomes, rows, clicks = _join_again(store, result.joiner, expected, result.joiner.rule)
        result.rows += rows
        result.clicks += clicks
        if not result.first_difference and encode_outcomes(outcomes) != record:
            result.first_difference = f"ledger record {offset} is not what its source records give"
        progress(offset + 1, head.ledger_end)
    return result


def _join_again(store: Store, joiner: Joiner, expected: Outcomes, rule: JoinRule) -> tuple[Outcomes, int, int]:
    shown = [
        Record(offset, source.ingested_at_ms, source.impressions.impressions)
        for offset, source in _sources(
            store, keys.IMPRESSIONS, joiner.impressions_position, expected.impressions_position
        )
    ]
    reactions = [
        Record(offset, source.ingested_at_ms, source.clicks.clicks)
        for offset, source in _sources(store, keys.CLICKS, joiner.clicks_position, expected.clicks_position)
    ]
    impressions, clicks = impression_columns(shown, rule), click_columns(reactions, rule)
    # Only where facts depend on the clock does the ledger say what it was.
    outcomes, change = joiner.join(impressions, clicks, clock_ms=expected.clock_ms or None)
    joiner.apply(change)
    return outcomes, len(impressions.item_ids), len(clicks)


def _sources(store: Store, kind: bytes, start: int, end: int) -> Iterator[tuple[int, state_pb2.SourceRecord]]:
    for offset, value in store.numbered(kind, start=start, end=end):
        yield offset, state_pb2.SourceRecord.FromString(value)


def _same_state(stored: Learner, folded: Learner) -> Check:
    one, other = stored.sums, folded.sums
    edges = np.flatnonzero(_differing(one.edge, other.edge) | _differing(one.extra, other.extra))
    items = np.flatnonzero(_differing(one.item, other.item) | _differing(one.times, other.times))
    ok = not len(edges) and not len(items)
    touched = int(np.count_nonzero(stored.sums.edge.any(axis=1)))
    detail = f"{touched} learned edges equal the fold of the ledger"
    if not ok:
        names = [stored.graph.item_ids[item] for item in items[:3].tolist()]
        detail = (
            f"{len(edges)} edges and {len(items)} items differ from the fold of the ledger, first items {names}"
        )
    return Check("state = fold(ledger)", ok, detail)


def _differing(one: Int64 | None, other: Int64 | None) -> npt.NDArray[np.bool_]:
    """Rows that differ; an absent table is one of zeros."""
    zeros = np.zeros((1, 1), np.int64)
    differs: npt.NDArray[np.bool_] = ((zeros if one is None else one) != (zeros if other is None else other)).any(
        axis=1
    )
    return differs


def _same_ledger(joined: _Rejoined) -> Check:
    detail = joined.first_difference or "every ledger record is what its source records give"
    return Check("ledger = join(source log)", not joined.first_difference, detail)


def conservation(tally: Tally, *, waiting: int, rows: int, clicks: int) -> list[Check]:
    """Whether every consumed event is in exactly one count.

    Args:
        tally: the counts.
        waiting: clicks that still wait for their impression.
        rows: shown items that were consumed.
        clicks: clicks that were consumed.
    """
    judged = tally.clicks_joined + tally.clicks_duplicate + tally.clicks_absorbed
    decided = judged + tally.clicks_late + tally.clicks_unmatched + tally.clicks_other_surface
    counted_rows = sum(count for name, count in tally.as_dict().items() if name.startswith("impressions_"))
    counted_clicks = decided + tally.clicks_dead + waiting
    return [
        Check(
            "accepted + duplicate + late + dead + other surface = shown items",
            counted_rows == rows,
            f"{counted_rows} of {rows} shown items accounted for",
        ),
        Check(
            "joined + duplicate + absorbed + late + unmatched + other surface + dead + waiting = clicks",
            counted_clicks == clicks,
            f"{counted_clicks} of {clicks} clicks accounted for",
        ),
    ]


def _same_counts(store: Store, joined: _Rejoined) -> Check:
    tally, kept = joined.joiner.tally, restore_joiner(store, joined.joiner.rule)
    detail = "counts agree" if kept.tally == tally else f"stored {kept.tally}, recomputed {tally}"
    return Check("stored counts = recomputed counts", kept.tally == tally, detail)
