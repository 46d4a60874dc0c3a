"""A service and a lane over one snapshot, with shadow policies whose threads do not run: tests do their work."""

from typing import Any

import numpy as np

from bandits.backend_numba import NumbaBackend
from bandits.join_rule import JoinRule
from bandits.policies import PolicySettings
from freshet.v1 import events_pb2, recommender_pb2
from server.gate import Gate
from server.lane.score_lane import ScoreLane
from server.logs import make_logger
from server.metrics import Metrics
from server.recommender import ContextRules, RecommenderService
from server.rules import RulesInForce
from server.scoring import SlateRules
from server.shadow.awaited import AwaitedRewards
from server.shadow.policies import ShadowPolicy
from server.shadow.shadows import Shadows
from server.snapshot import Snapshot
from tests.server.lane.lanes import learned
from tests.server.messages import one_hot
from tests.server.serving import small_graph

WINDOW_MS = 1_000
ITEMS = tuple(f"item-{number}" for number in range(8))
BACKEND = NumbaBackend()


class Shadowed:
    """Both ways of a Score, and what looks at them."""

    def __init__(
        self,
        *policies: ShadowPolicy,
        served: str = "ucb",
        share: float = 1.0,
        max_pending: int = 100_000,
        rule: JoinRule | None = None,
        **rules: Any,
    ) -> None:
        self.now_ms = 1_000_000
        self.snapshot = Snapshot(BACKEND)
        self.snapshot.apply(learned(small_graph(), np.random.default_rng(1), 300))
        slate: dict[str, Any] = {"top_m": 1, "explore_share": 0.0, "propensity_draws": 64}
        self.rules = RulesInForce(SlateRules(PolicySettings(), **(slate | rules)), fit_prior=False)
        followed = policies or (ShadowPolicy("other", "exploit"),)
        told: dict[str, Any] = {"clock_ms": lambda: self.now_ms, "log": make_logger("error")}
        self.awaited = AwaitedRewards(
            [policy.name for policy in followed],
            rule=rule or JoinRule(window_ms=WINDOW_MS),
            max_pending=max_pending,
            window_ms=WINDOW_MS,
            **told,
        )
        self.shadows = Shadows(followed, rules=self.rules, share=share, awaiting=self.awaited, **told)
        common: dict[str, Any] = {"snapshot": self.snapshot, "rules": self.rules, "default_mode": served}
        self.lane = ScoreLane(**common, k=3, temperature=0.5, metrics=Metrics(), shadows=self.shadows)
        self.service = RecommenderService(
            **common,
            context_rules=ContextRules(k=3, temperature=0.5),
            durable=None,  # type: ignore[arg-type]  # nothing is recorded here
            recording=Gate("recorded_score", places=1, retry_after_ms=1),
            metrics=Metrics(),
            clock_ms=lambda: self.now_ms,
            packed=lambda: None,  # type: ignore[arg-type, return-value]  # packed calls have ways of their own
            shadows=self.shadows,
        )

    def score(self, request_id: str, **fields: Any) -> recommender_pb2.ScoreResponse:
        """A slate of three of the items by the short way."""
        given: dict[str, Any] = {"item_ids": ITEMS, "slate_size": 3, "cluster_weights": one_hot(), "seed": 1}
        request = recommender_pb2.ScoreRequest(request_id=request_id, **(given | fields))
        answer = self.lane.score(request.SerializeToString())
        assert answer is not None
        return recommender_pb2.ScoreResponse.FromString(answer)

    def click(self, request_id: str, *item_ids: str, **fields: Any) -> None:
        """Clicks now."""
        self.awaited.clicked(
            [events_pb2.Click(request_id=request_id, item_id=item_id, **fields) for item_id in item_ids]
        )

    def close(self) -> None:
        """Let the windows of all slates pass, and the thread's work be done."""
        self.work()
        self.now_ms += WINDOW_MS
        self.work()

    def work(self) -> None:
        """Do what the threads do again and again."""
        self.shadows.work()
        self.awaited.close_due()
