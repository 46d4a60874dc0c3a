"""Shadow policies beside the traffic: some requests are scored by them too, and their rewards are waited for.

Invariants: no reply depends on anything here, and no random draw of a reply is touched; which requests are shadowed
follows from their ids alone; sums are gathered before the reply leaves, so that no shadow is judged by parameters
that have seen what the reply led to; everything that waits is bounded, and what is left out is counted.

Scoring is done by one thread of its own, which rests in proportion to its work. Estimates begin anew with the
process.
"""

import hashlib
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from structlog.typing import FilteringBoundLogger

from bandits.context import Context
from bandits.graph import Graph, Int32
from bandits.join_rule import JoinRule
from bandits.life_cycle import Bounds
from bandits.policies import CandidateSums
from freshet.v1 import events_pb2, recommender_pb2
from server.replies import AnyReply
from server.requests import MODE_NAMES, SlateQuery
from server.rules import RulesInForce
from server.scoring import SlateRules
from server.shadow.pending import PendingSlate, PendingSlates
from server.shadow.policies import ShadowPolicy
from server.shadow.rewards import slot_rewards
from server.shadow.standings import Standing, Standings
from server.snapshot import Parameters

MAX_QUEUED_CELLS = 400_000  # candidates times clusters of all slates that wait to be scored; some 25 bytes each
_LOOK_S = 0.5
_REST = 3.0  # times what the thread has worked: it takes a quarter of a processor at most, whatever the traffic
OUTCOMES = ("closed", "evicted", "repeated", "dropped", "failed", "unnamed")


@dataclass(frozen=True, eq=False)
class _Job:
    slate: PendingSlate
    graph: Graph
    items: Int32
    sums: CandidateSums
    reply: AnyReply | bytes
    served: SlateRules
    cells: int
    bounds: Bounds | None


class Shadows:
    """Follows shadow policies.

    Args:
        policies: the policies, 1 or more.
        rules: in force for replies.
        rule: what clicks are worth.
        share: of requests that are shadowed, 0 < share <= 1.
        max_pending: slates that may wait for rewards.
        window_ms: how long they wait.
        clock_ms: Unix milliseconds.
        log: where a slate that could not be scored is told.
    """

    def __init__(
        self,
        policies: Sequence[ShadowPolicy],
        *,
        rules: RulesInForce,
        rule: JoinRule,
        share: float,
        max_pending: int,
        window_ms: int,
        clock_ms: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        self._policies = list(policies)
        self._rules = rules
        self._rule = rule
        self._below = round(share * 2**32)
        self._clock_ms = clock_ms
        self._log = log
        self._pending = PendingSlates(most=max_pending, window_ms=window_ms)
        self._standings = Standings([policy.name for policy in policies], reward_cap=rule.reward_cap)
        self._jobs: deque[_Job] = deque()
        self._cells = 0
        self._outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._records_passed_over = 0
        self._work = threading.Condition()
        self._stopping = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-shadows", daemon=True)

    # --- calls ---------------------------------------------------------------------------------------------------

    def chooses(self, request_id: Any) -> bool:
        """Whether a request is shadowed, by the bytes of its id; the same in every process."""
        # Spread by a product, as checksums of ids that are counted up are no random numbers.
        return (zlib.crc32(request_id) * 0x9E3779B1 & 0xFFFFFFFF) < self._below

    def offer(
        self,
        parameters: Parameters,
        user: Context,
        query: SlateQuery,
        reply: AnyReply,
        bounds: Bounds | None = None,
    ) -> None:
        """Look at an answered request; the reply must be complete, and is not changed any more.

        `bounds` are those of its candidates, if anything bound them.
        """
        if not self.chooses(reply.request_id.encode()):
            return
        graph, request = parameters.graph, query.request
        if isinstance(request, recommender_pb2.ScoreRequest):
            items = graph.lookup(query.item_ids)
            items = items[items >= 0]
        else:
            items = graph.items_around(user.cluster_ids)
        if query.excluded:
            items = items[~np.isin(items, graph.lookup(query.excluded))]
        self.take(parameters, items, user, reply, request_id=reply.request_id, bounds=bounds)

    def take(
        self,
        parameters: Parameters,
        items: Int32,
        user: Context,
        reply: AnyReply | bytes,
        *,
        request_id: str,
        bounds: Bounds | None = None,
    ) -> None:
        """Keep a chosen request for scoring.

        Args:
            parameters: that the reply was computed from.
            items: int32 of shape (n,), the candidates; they belong to the shadows from now on, as `user` does.
            user: the resolved user.
            reply: the answer, or its bytes where it was a ScoreResponse.
            request_id: of the reply.
            bounds: of the candidates' exploration, which hold for shadows too; None = nothing bounds it.
        """
        if not len(items):
            return
        slate = PendingSlate(request_id, self._clock_ms())
        cells = len(items) * len(user.cluster_ids)
        if self._cells and self._cells + cells > MAX_QUEUED_CELLS:
            self._count("dropped")
            return
        if not self._pending.add(slate):
            self._count("repeated", 2)
            return
        sums = parameters.gather(items, user).sums
        job = _Job(slate, parameters.graph, items, sums, reply, self._rules.current.slate, cells, bounds)
        with self._work:
            self._jobs.append(job)
            self._cells += cells
            self._work.notify()

    def clicked(self, clicks: Iterable[events_pb2.Click]) -> None:
        """Take note of accepted clicks; most are of other requests."""
        self._pending.clicked(clicks, self._clock_ms())

    def unnamed(self, slates: int) -> None:
        """Take note of slates that nobody can tell clicks for, as their caller gave them no request ids."""
        self._count("unnamed", slates)

    def passed_over(self, records: int) -> None:
        """Take note of records of clicks that could not be read."""
        with self._work:
            self._records_passed_over += records

    # --- what is known -------------------------------------------------------------------------------------------

    def standings(self) -> list[Standing]:
        """How each policy stands."""
        return self._standings.now()

    def outcomes(self) -> dict[str, int]:
        """Shadowed slates by what became of them."""
        with self._work:
            return dict(self._outcomes)

    @property
    def records_passed_over(self) -> int:
        """Records of clicks that could not be read: their rewards are missing."""
        return self._records_passed_over

    @property
    def pending(self) -> int:
        """Slates that wait for rewards."""
        return len(self._pending)

    # --- the thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to score."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what waits is given up."""
        with self._work:
            self._stopping = True
            self._stopped.set()
            self._work.notify()
        if self._thread.is_alive():
            self._thread.join()

    def work(self) -> None:
        """Score what waits and close what is due; what the thread does again and again."""
        while (job := self._next()) is not None:
            self._score(job)
        evicted, closed = self._pending.evicted(), self._pending.closed(self._clock_ms())
        whole = {
            outcome: [slate for slate in slates if slate.weights is not None]
            for outcome, slates in (("evicted", evicted), ("closed", closed))
        }
        for outcome, slates in whole.items():
            self._count(outcome, len(slates))
        slates = [*whole["evicted"], *whole["closed"]]
        self._count("dropped", len(evicted) + len(closed) - len(slates))
        if slates:
            rewards = [slot_rewards(one.item_ids, one.shown_ms, one.clicks, self._rule) for one in slates]
            self._standings.add([one.weights for one in slates if one.weights is not None], rewards)

    def _run(self) -> None:
        while True:
            with self._work:
                if not self._jobs and not self._stopping:
                    self._work.wait(_LOOK_S)
                if self._stopping:
                    return
            began_s = time.thread_time()
            try:
                self.work()
            except Exception:
                self._log.exception("shadow policies: slates were not closed")
            self._stopped.wait(_REST * (time.thread_time() - began_s))

    def _next(self) -> _Job | None:
        with self._work:
            if not self._jobs or self._stopping:
                return None
            job = self._jobs.popleft()
            self._cells -= job.cells
            return job

    def _score(self, job: _Job) -> None:
        try:
            self._weigh(job)
        except Exception as error:
            # One slate that cannot be scored must not end the others; each is counted.
            self._pending.forget(job.slate)
            self._count("failed")
            self._log.error("shadow policies: a slate was not scored", reason=repr(error))

    def _weigh(self, job: _Job) -> None:
        reply = job.reply
        if isinstance(reply, bytes):
            reply = recommender_pb2.ScoreResponse.FromString(reply)
        item_ids = tuple(item.item_id for item in reply.items)
        logged = np.array([item.propensity for item in reply.items])
        order = np.argsort(job.items)
        chosen = order[np.searchsorted(job.items, job.graph.lookup(item_ids), sorter=order)]
        mode, seed = MODE_NAMES[reply.mode], _own_seed(reply.request_id)
        probabilities = [
            policy.probabilities(
                job.sums, chosen, logged, mode=mode, served=job.served, seed=seed, bounds=job.bounds
            )
            for policy in self._policies
        ]
        job.slate.item_ids = item_ids
        job.slate.weights = np.stack(probabilities) / logged

    def _count(self, outcome: str, slates: int = 1) -> None:
        with self._work:
            self._outcomes[outcome] += slates


def _own_seed(request_id: str) -> int:
    """A seed that no reply is drawn with."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8, person=b"freshet-shadow").digest())
