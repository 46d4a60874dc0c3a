"""Shadow policies beside the traffic: some requests are scored by them too, after they have been answered.

Invariants: no reply depends on anything here, and no random draw of a reply is touched; which requests are shadowed
follows from their ids alone; sums are gathered before the reply leaves, so that no shadow is judged by parameters
that have seen what the reply led to; everything that waits is bounded, and what is left out is counted.

Scoring is done by one thread of its own, which rests in proportion to its work. Rewards are waited for elsewhere
(`server.shadow.awaited`).
"""

import hashlib
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from structlog.typing import FilteringBoundLogger

from bandits.context import Context
from bandits.graph import Graph, Int32
from bandits.life_cycle import Bounds
from bandits.policies import CandidateSums
from freshet.v1 import recommender_pb2
from server.replies import AnyReply
from server.requests import MODE_NAMES, SlateQuery
from server.rules import RulesInForce
from server.scoring import SlateRules
from server.shadow.awaited import OUTCOMES, REST, Awaiting
from server.shadow.pending import PendingSlate
from server.shadow.policies import ShadowPolicy
from server.snapshot import Parameters, Torn

MAX_QUEUED_CELLS = 400_000  # candidates times clusters of all slates that wait to be scored; some 25 bytes each


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
        share: of requests that are shadowed, 0 < share <= 1.
        awaiting: where their slates wait for rewards.
        clock_ms: Unix milliseconds.
        log: where a slate that could not be scored is told.
    """

    def __init__(
        self,
        policies: Sequence[ShadowPolicy],
        *,
        rules: RulesInForce,
        share: float,
        awaiting: Awaiting,
        clock_ms: Callable[[], int],
        log: FilteringBoundLogger,
    ) -> None:
        self._policies = list(policies)
        self._rules = rules
        self._below = round(share * 2**32)
        self._clock_ms = clock_ms
        self._log = log
        self._awaiting = awaiting
        self._jobs: deque[_Job] = deque()
        self._cells = 0
        self._outcomes: Counter[str] = Counter()
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
        try:
            sums = parameters.gather(items, user).sums
        except Torn:  # the reply stands, and must not be made again for this
            self._count("dropped")
            return
        if not self._awaiting.shown(slate):
            return
        job = _Job(slate, parameters.graph, items, sums, reply, self._rules.current.slate, cells, bounds)
        with self._work:
            self._jobs.append(job)
            self._cells += cells
            self._work.notify()

    def unnamed(self, slates: int) -> None:
        """Take note of slates that nobody can tell clicks for, as their caller gave them no request ids."""
        self._count("unnamed", slates)

    def outcomes(self) -> dict[str, int]:
        """Shadowed slates by what became of them."""
        with self._work:
            own = dict(self._outcomes)
        others = self._awaiting.outcomes()
        return {outcome: own.get(outcome, 0) + others.get(outcome, 0) for outcome in OUTCOMES}

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
        """Score what waits; what the thread does again and again."""
        while (job := self._next()) is not None:
            self._score(job)

    def _run(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._jobs or self._stopping)
                if self._stopping:
                    return
            began_s = time.thread_time()
            self.work()
            self._stopped.wait(REST * (time.thread_time() - began_s))

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
            self._awaiting.given_up(job.slate)
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
        self._awaiting.weighed(job.slate)

    def _count(self, outcome: str, slates: int = 1) -> None:
        with self._work:
            self._outcomes[outcome] += slates


def _own_seed(request_id: str) -> int:
    """A seed that no reply is drawn with."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8, person=b"freshet-shadow").digest())
