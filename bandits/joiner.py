"""The joiner: matches clicks with impressions and says what each edge must learn, each fact once.

Invariants:
- The unit is (request_id, item_id): its impression counts once, its reward once, however often they are sent.
- Whether a pair joins depends on the pair alone (ids and times), not on which of the two came first nor on how
  records were batched: a row outlives every click that could still be in its window, and the other way round.
  What is older than its retention is not seen, whether or not it has been forgotten yet.
  Only the capacity limits, when they bite, may cut that short; they take the oldest first and count it.
- `join` reads the state and returns what must change; `apply` changes it. Nothing is half done in between, and
  restoring is the same `apply` over the stored changes.
- The clock is the ingestion time of the source log, never an event's own time: no record can close the window
  for another.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from bandits.arena import ranges
from bandits.events import Clicks, Impressions
from bandits.join_rule import JoinRule
from bandits.joiner_batch import NO_FLAGS, Bool, Int32, NewRows, Reactions
from bandits.joiner_change import Dead, JoinerChange, Tally
from bandits.joiner_facts import make_outcomes
from bandits.joiner_state import JoinerState
from bandits.outcomes import CLICKS_TOPIC, IMPRESSIONS_TOPIC, Outcomes
from bandits.reward_rule import ABSORBED, COUNTED, REPEATED, Int64
from bandits.texts import Pairs, Texts

_COMPILED_ROWS = 100  # more than the smallest index has room for


class Joiner(JoinerState):
    """One joiner partition: what it remembers, and how it judges what comes."""

    def join(
        self, impressions: Impressions, clicks: Clicks, *, clock_ms: int | None = None
    ) -> tuple[Outcomes, JoinerChange]:
        """Match a micro-batch against the state.

        Args:
            impressions: slates in the order of their log.
            clicks: clicks in the order of their log.
            clock_ms: everything ingested before it has been read from both logs; None means that the logs are
                read together, so that the newest event of the batch says it.

        Returns:
            The facts to be learned, and the change of the state to be stored with them and then given to `apply`.
        """
        tally = self.tally.copy()
        ends = [int(events.ingested_at_ms[-1]) for events in (impressions, clicks) if len(events)]
        clock_ms = max([self.clock_ms, *ends] if clock_ms is None else [self.clock_ms, clock_ms])
        rows, dead_slates = self._fresh_rows(impressions, tally)
        reactions, dead_clicks = self._reactions(clicks, rows, tally)
        change = JoinerChange(
            sequence=self.sequence + 1,
            clock_ms=clock_ms,
            impressions_position=_next(impressions.offset, self.impressions_position),
            clicks_position=_next(clicks.offset, self.clicks_position),
            tally=tally,
            row_start=self.rows.end,
            row_keys=rows.keys,
            row_occurred_ms=rows.occurred_ms,
            row_ingested_ms=rows.ingested_ms,
            row_context=rows.context + self._contexts.end,
            context_start=self._contexts.end,
            context_ends=rows.context_ends,
            context_cluster=rows.context_cluster,
            context_x=rows.context_x,
            row_gamma=rows.gamma,
            row_passed=rows.passed,
            rewarded=reactions.row[reactions.joined],
            click_start=self._clicks.end,
            click_keys=reactions.wait_keys,
            click_occurred_ms=reactions.occurred_ms[reactions.wait],
            click_ingested_ms=reactions.ingested_ms[reactions.wait],
            click_reward=reactions.reward[reactions.wait],
            click_offset=reactions.offset[reactions.wait],
            click_index=reactions.index[reactions.wait],
            resolved=reactions.resolved,
            dead=[*dead_slates, *dead_clicks],
        )
        if clicks.kind is not None:
            change.click_kind = reactions.kind[reactions.wait]
            change.click_identity = reactions.identity[reactions.wait]
        if self.rule.keeps_rewards:
            change.reward_row = change.rewarded
            change.reward_kind = reactions.kind[reactions.joined]
            change.reward_identity = reactions.identity[reactions.joined]
            change.reward_value, change.reward_total = reactions.value, reactions.total
        if self.rule.at_close:
            change.row_offset = impressions.offset[rows.slate]
            change.row_index = impressions.index[rows.slate]
        self._plan_eviction(change)
        self._plan_closing(change)
        return make_outcomes(self, impressions, rows, reactions, change), change

    # --- join: what is new -------------------------------------------------------------------------------------

    def _fresh_rows(self, impressions: Impressions, tally: Tally) -> tuple[NewRows, list[Dead]]:
        sizes = np.diff(impressions.item_ends, prepend=0)
        occurred = np.where(impressions.occurred_at_ms == 0, impressions.ingested_at_ms, impressions.occurred_at_ms)
        late, future = self._off_time(occurred, impressions.ingested_at_ms)
        slate = np.repeat(np.arange(len(impressions)), sizes)
        keys = Pairs(Texts.of(impressions.request_ids).take(slate), Texts.of(impressions.item_ids))
        on_time = ~(late | future)[slate]
        ingested = impressions.ingested_at_ms[slate]
        alive_ms = self.rows.view("ingested")
        sought = self._index.seek(keys, on_time, ingested, alive_ms, self.rule.row_retention_ms)
        fresh = sought.table.fresh
        tally.impressions_dead += int(sizes[future].sum())
        learned = None if impressions.passed is None else ~impressions.passed
        if learned is not None:
            tally.impressions_other_surface += int(sizes[~(learned | future)].sum())
            late &= learned
        tally.impressions_late += int(sizes[late].sum())
        own_on_time, own_fresh = (
            (on_time, fresh) if learned is None else (on_time & learned[slate], fresh & learned[slate])
        )
        accepted = int(np.count_nonzero(own_fresh))  # all of them on time
        tally.impressions_duplicate += int(np.count_nonzero(own_on_time)) - accepted
        tally.impressions_accepted += accepted
        at: Int64 | slice = slice(None) if fresh.all() else np.flatnonzero(fresh)
        own_slate = slate[at]
        rows = NewRows(
            keys=keys if isinstance(at, slice) else keys.take(at),
            sought=sought,
            slate=own_slate,
            occurred_ms=occurred[own_slate],
            ingested_ms=ingested[at],
            **_contexts_of(impressions, own_slate, learned),
            gamma=self._gammas(impressions, at, len(own_slate)),
            passed=NO_FLAGS if impressions.passed is None else impressions.passed[own_slate],
        )
        return rows, self._dead(IMPRESSIONS_TOPIC, impressions, future)

    def _gammas(self, impressions: Impressions, at: Int64 | slice, count: int) -> Int32:
        if not self.rule.position_gammas or not count:
            return np.empty(0, np.int32)
        if impressions.position is None:
            raise ValueError("position: expected the position of each row, got none")
        return self.rule.gammas(impressions.position[at])

    def _reactions(self, clicks: Clicks, rows: NewRows, tally: Tally) -> tuple[Reactions, list[Dead]]:
        """Clicks to be decided now: those that waited for a row of this batch, then the new ones."""
        resolved = self._woken(rows)
        waited = Pairs.of([self._click_keys[number - self._clicks.first] for number in resolved.tolist()])
        occurred = np.where(clicks.occurred_at_ms == 0, clicks.ingested_at_ms, clicks.occurred_at_ms)
        late, future = self._off_time(occurred, clicks.ingested_at_ms)
        tally.clicks_late += int(np.count_nonzero(late))
        tally.clicks_dead += int(np.count_nonzero(future))
        timely = ~(late | future)
        keys = Pairs(Texts.of(clicks.request_ids), Texts.of(clicks.item_ids))
        as_they_are = len(resolved) == 0 and bool(timely.all())
        if not as_they_are:
            keys = Pairs.concatenated([waited, keys.take(timely)])

        def both(name: str, new: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return new.copy() if as_they_are else np.concatenate([self._clicks.take(name, resolved), new[timely]])

        nothing = np.zeros(len(clicks), np.int64)

        ingested = both("ingested", clicks.ingested_at_ms)
        reactions = Reactions(
            keys=keys,
            row=self._find_rows(keys, ingested, rows),
            occurred_ms=both("occurred", occurred),
            ingested_ms=ingested,
            reward=both("reward", clicks.reward),
            kind=both("kind", nothing if clicks.kind is None else clicks.kind),
            identity=both("identity", nothing if clicks.identity is None else clicks.identity),
            offset=both("offset", clicks.offset),
            index=both("index", clicks.index),
            resolved=resolved,
        )
        self._judge(reactions, rows, tally)
        return reactions, self._dead(CLICKS_TOPIC, clicks, future)

    def _judge(self, reactions: Reactions, rows: NewRows, tally: Tally) -> None:
        found = reactions.row >= 0
        shown_ms = np.zeros(len(found), np.int64)
        rewarded = np.zeros(len(found), np.bool_)
        old = found & (reactions.row < self.rows.end)
        shown_ms[old] = self.rows.take("occurred", reactions.row[old])
        rewarded[old] = self.rows.take("rewarded", reactions.row[old])
        new = found & ~old
        shown_ms[new] = rows.occurred_ms[reactions.row[new] - self.rows.end]
        if self.has_passed or len(rows.passed):
            # What is on a row of another surface is neither late nor a repeat, whenever it happened.
            passed = self.are_passed(reactions.row, rows.passed)
            tally.clicks_other_surface += int(np.count_nonzero(passed))
            found = found & ~passed
        delay = reactions.occurred_ms - shown_ms
        inside = found & (delay <= self.rule.window_ms) & (delay >= -self.rule.max_skew_ms)
        if self.rule.keeps_rewards:
            self._weigh(reactions, inside, rewarded, tally)
        else:
            at = np.flatnonzero(inside & ~rewarded)
            # The first click of a row counts: np.unique returns the first of equals.
            reactions.joined = np.zeros(len(found), np.bool_)
            reactions.joined[at[np.unique(reactions.row[at], return_index=True)[1]]] = True
            tally.clicks_duplicate += int(np.count_nonzero(inside & ~reactions.joined))
        reactions.wait = reactions.row < 0
        tally.clicks_joined += int(np.count_nonzero(reactions.joined))
        tally.clicks_late += int(np.count_nonzero(found & ~inside))

    def _weigh(self, reactions: Reactions, inside: Bool, rewarded: Bool, tally: Tally) -> None:
        """Judge reactions of which several may count; the reward of each that joins becomes what it adds."""
        # A row without an entry got its reward while one click counted, and is not asked again.
        closed = rewarded & ~self._book.knows(reactions.row)
        at = np.flatnonzero(inside & ~closed)
        moves = self._book.judge(
            self.rule.rewards, reactions.row[at], reactions.kind[at], reactions.identity[at], reactions.reward[at]
        )
        counted = moves.verdict == COUNTED
        reactions.joined = np.zeros(len(inside), np.bool_)
        reactions.joined[at[counted]] = True
        reactions.reward[at[counted]] = moves.delta[counted]
        reactions.value, reactions.total = moves.value[counted], moves.total[counted]
        tally.clicks_duplicate += int(np.count_nonzero(moves.verdict == REPEATED))
        tally.clicks_duplicate += int(np.count_nonzero(inside & closed))
        tally.clicks_absorbed += int(np.count_nonzero(moves.verdict == ABSORBED))

    def _find_rows(self, keys: Pairs, ingested: Int64, rows: NewRows) -> Int64:
        """Number of the first row of each key that its click can see, -1 where there is none."""
        return self._index.find(
            keys,
            ingested,
            self.rows.view("ingested"),
            rows.sought,
            end=self.rows.end,
            retention_ms=self.rule.row_retention_ms,
            wait_ms=self.rule.click_retention_ms,
        )

    def _sees(self, click_ingested: Int64, row_ingested: Int64) -> Bool:
        """True where neither the row nor the click is forgotten when the other comes."""
        age = click_ingested - row_ingested
        seen: Bool = (age <= self.rule.row_retention_ms) & (-age <= self.rule.click_retention_ms)
        return seen

    def _woken(self, rows: NewRows) -> Int64:
        """Numbers of the clicks that waited for one of these rows, in order."""
        if not self._waiting:
            return np.empty(0, np.int64)
        waiting = self._waiting
        likely = np.flatnonzero(self._waiting_hashes.may_have(self._index.hashes(rows.keys)))
        called = [
            (at, key) for at, key in zip(likely.tolist(), rows.keys.take(likely), strict=True) if key in waiting
        ]
        pairs = [(number, at) for at, key in called for number in waiting[key]]
        number, at = np.array(pairs, np.int64).reshape(-1, 2).T
        return np.unique(number[self._sees(self._clicks.take("ingested", number), rows.ingested_ms[at])])

    def _off_time(self, occurred: Int64, ingested: Int64) -> tuple[Bool, Bool]:
        return ingested - occurred > self.rule.max_delay_ms, occurred - ingested > self.rule.max_skew_ms

    def _dead(self, topic: int, events: Impressions | Clicks, future: Bool) -> list[Dead]:
        reason = f"occurred_at_ms: expected at most {self.rule.max_skew_ms} ms after ingestion"
        at = np.flatnonzero(future).tolist()
        got = (events.occurred_at_ms - events.ingested_at_ms)[future].tolist()
        places = zip(at, got, strict=True)
        return [Dead(topic, int(events.offset[i]), int(events.index[i]), f"{reason}, got {ms}") for i, ms in places]


def _contexts_of(impressions: Impressions, slate: Int64, learned: Bool | None) -> dict[str, Any]:
    """Contexts that are kept, and the number of each row's among them, as `NewRows` has them.

    Contexts of slates without a new row are not kept: a flood of repeats must not fill the memory. Those of other
    surfaces are not either; their rows are given the number of the next one, so that numbers never decrease.

    Args:
        impressions: the slates of the batch.
        slate: int64, the slate of each new row, never decreasing.
        learned: bool of each slate; None where all are learned from.
    """
    kept = np.zeros(len(impressions), np.bool_)
    kept[slate] = True
    if learned is not None:
        kept &= learned
    ends, cluster, x = impressions.context_ends, impressions.context_cluster, impressions.context_x
    if kept.all():
        return {"context": slate, "context_ends": ends, "context_cluster": cluster, "context_x": x}
    sizes = np.diff(ends, prepend=0)[kept]
    elements = ranges(ends[kept] - sizes, sizes)
    return {
        "context": (np.cumsum(kept) - kept)[slate],
        "context_ends": np.cumsum(sizes),
        "context_cluster": cluster[elements],
        "context_x": x[elements],
    }


def _next(offsets: Int64, position: int) -> int:
    return int(offsets[-1]) + 1 if len(offsets) else position


def compile_joins(rule: JoinRule) -> Outcomes:
    """Have what joining compiles compiled, or read from the cache on disk, so that no event waits for it.

    Returns:
        The facts of an invented micro-batch, for the same to be done with what takes them.
    """
    joiner, one, cluster = Joiner(rule), np.ones(1, np.int64), np.zeros(1, np.int32)
    request, items = Texts.of(["r"]), Texts.of([str(number) for number in range(_COMPILED_ROWS)])
    ends, position = np.array([len(items)]), np.zeros(len(items), np.int32)
    shown = Impressions(request, one, one, one, cluster, ends, items, one, cluster, one, position)
    clicks = Clicks(request, items[:1], one, one, one, one, cluster)
    outcomes, change = joiner.join(shown, clicks)
    joiner.apply(change)
    items.to_bytes()  # as ids are written
    joiner.apply(joiner.join(Impressions.none(), clicks, clock_ms=2**60)[1])  # by then all is forgotten
    return outcomes
