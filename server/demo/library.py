"""Simulated users without a server: the same world, scoring and sums, called directly.

Invariants: time is simulated, slate i is shown at i / rate seconds, so that delays and drift mean what they mean
over gRPC; the same arguments give the same numbers.
"""

import heapq
from dataclasses import replace

import numpy as np

from bandits.backend import Backend, choose_backend
from bandits.context import Context, fixed_point_weights
from bandits.policies import PolicySettings, describe
from bandits.policy_settings import with_pooled_mean
from bandits.simulator.delays import Lognormal
from bandits.sums import UNIT, Facts, Int32, Int64, N, S, Sums
from server.demo.scene import SLATE_SIZE, Scene
from server.demo.tally import Batch, Tally
from server.demo.users import BATCH, DELAY_DEVIATION, LONGEST_DELAY, Habits
from server.limits import SENT_INFINITY
from server.scoring import FilledSlate, SlateRules, fill_slate

_Click = tuple[float, int, int, int]  # due time, order, user, item


class LibraryRun:
    """A simulation of some thousand rounds.

    Args:
        scene: where the users live.
        habits: how they behave; `mode` is not used.
        mode: name of the mode.
        backend: holds the sums.

    Attributes:
        tally: what the users saw.
        clock_s: simulated seconds so far.
    """

    def __init__(self, scene: Scene, habits: Habits, *, mode: str, backend: Backend | None = None) -> None:
        self.tally, self.clock_s = Tally(), 0.0
        self._scene, self._habits, self._mode = scene, habits, mode
        self._backend = backend or choose_backend()
        self._sums = Sums.zeros(scene.graph)
        self._rules = SlateRules(PolicySettings(), top_m=1, explore_share=0.0, propensity_draws=1)
        self.tally.graph_version = scene.graph.version
        self._people = scene.people(habits.seed, habits.users)
        self._rng = np.random.default_rng([habits.seed, 3])
        self._delay = Lognormal(
            median=habits.delay_ms / 1e3, deviation=DELAY_DEVIATION, cap=LONGEST_DELAY * habits.delay_ms / 1e3
        )
        self._waiting: list[_Click] = []
        self._clicks = 0

    @property
    def clicks_on_the_way(self) -> int:
        """Clicks that users made and that are still delayed."""
        return len(self._waiting)

    def step(self) -> None:
        """A batch of users: slates, reactions, and what is due is learned."""
        totals = self._sums.item.sum(axis=0)
        policy = with_pooled_mean(self._rules.policy, impressions=int(totals[N]), rewards=float(totals[S]) / UNIT)
        self._rules = replace(self._rules, policy=policy)
        self.tally.policy = describe(self._mode, policy)
        who = self._rng.integers(0, self._habits.users, BATCH)
        slates = [self._slate(user) for user in who.tolist()]
        shown = np.array([items for items, _ in slates])
        outcome = self._scene.react(self._people, who, shown, self._rng, step=self.clock_s)
        self.tally.slates(
            Batch(
                at_s=self.clock_s,
                slates=BATCH,
                clicks=int(outcome.clicked.sum()),
                expected=float(outcome.expected.sum()),
                uniform=float(outcome.uniform.sum()),
                best=float(outcome.best.sum()),
                slots=shown.size,
                explored=sum(int((slate.explored | (slate.width >= SENT_INFINITY)).sum()) for _, slate in slates),
                position=0,
            ),
            (),
        )
        delays_s = self._delay.draw(self._rng.random(outcome.clicked.shape))
        for row, place in np.argwhere(outcome.clicked).tolist():
            due_s = self.clock_s + delays_s[row, place]
            heapq.heappush(self._waiting, (due_s, self._clicks, int(who[row]), int(shown[row, place])))
            self._clicks += 1
        self._learn(np.repeat(who, SLATE_SIZE), shown.ravel(), impressions=1)
        due = []
        while self._waiting and self._waiting[0][0] <= self.clock_s:
            due.append(heapq.heappop(self._waiting))
        if due:
            users, items = (np.array([click[part] for click in due]) for part in (2, 3))
            self._learn(users, items, impressions=0)
        self.tally.feedback(impressions=shown.size, clicks=len(due))
        self.clock_s += BATCH / self._habits.slates_per_s

    def _slate(self, user: int) -> tuple[Int32, FilledSlate]:
        people = self._people
        candidates = self._scene.graph.items_around(people.cluster_ids[user])
        context = Context(people.cluster_ids[user], people.weights[user])
        sums = self._backend.gather(self._scene.graph, self._sums, candidates, context)
        seed = int(self._rng.integers(0, 2**63))
        slate = fill_slate(sums, mode=self._mode, slate_size=SLATE_SIZE, seed=seed, rules=self._rules)
        return candidates[slate.chosen], slate

    def _learn(self, users: Int64, items: Int64, *, impressions: int) -> None:
        """Add shown items, or the clicks on them."""
        n, k = len(users), self._people.cluster_ids.shape[1]
        facts = Facts(
            item=items.astype(np.int32),
            context=np.arange(n, dtype=np.int32),
            impressions=np.full(n, impressions, np.int64),
            reward=np.full(n, 0 if impressions else UNIT, np.int64),
            context_ptr=np.arange(n + 1, dtype=np.int64) * k,
            context_cluster=self._people.cluster_ids[users].ravel(),
            context_x=fixed_point_weights(self._people.weights[users]).ravel(),
        )
        self._backend.add(self._scene.graph, self._sums, facts)
