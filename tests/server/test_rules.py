"""The rules in force: priors that follow what was shown, under names that say so."""

import re

import pytest

from bandits.policies import PolicySettings
from freshet.v1 import events_pb2, recommender_pb2
from server.rules import RulesInForce
from server.scoring import SlateRules
from server.settings import Settings
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, click, clicks, recommend_request
from tests.server.serving import until


class Shown:
    """Parameters of which only the totals are asked."""

    def __init__(self, impressions: int, rewards: float) -> None:
        self.totals = impressions, rewards


def rules_in_force(*, fit_pooled_mean: bool) -> RulesInForce:
    slate = SlateRules(PolicySettings(pooled_mean=0.2), top_m=1, explore_share=0.0, propensity_draws=1)
    return RulesInForce(slate, fit_prior=False, fit_pooled_mean=fit_pooled_mean)


def test_the_pooled_mean_follows_the_totals() -> None:
    """Scores and the policy's name change together, and stay where the totals do."""
    rules = rules_in_force(fit_pooled_mean=True)
    rules.follow(Shown(999, 12.0))  # type: ignore[arg-type]
    first = rules.current
    assert first.slate.policy.pooled_mean == 0.0125
    assert first.names["randomized_ucb"] == "randomized_ucb(optimism=0.55, pooled_mean=0.0125)"
    rules.follow(Shown(999, 12.0))  # type: ignore[arg-type]
    assert rules.current is first


def test_a_pooled_mean_from_the_settings_stays() -> None:
    """Who states a prior gets that one."""
    rules = rules_in_force(fit_pooled_mean=False)
    rules.follow(Shown(999, 12.0))  # type: ignore[arg-type]
    assert rules.current.slate.policy.pooled_mean == 0.2


def test_the_default_mode_scores_with_what_was_shown(start: Start) -> None:
    """A server without settings of its policy names the pooled mean, and explains its scores by their parts."""
    _, client = start(policy={"mode": Settings().policy.mode})
    slate = client.recommender.Recommend(recommend_request(log_impression=True), timeout=DEADLINE_S)
    client.feedback.LogClicks(clicks(click(slate.request_id, slate.items[0].item_id)), timeout=DEADLINE_S)

    def explained() -> recommender_pb2.ExplainResponse:
        request = recommender_pb2.ExplainRequest(
            item_id=slate.items[0].item_id, cluster_weights=recommend_request().cluster_weights, seed=3
        )
        return client.recommender.Explain(request, timeout=DEADLINE_S)

    until(lambda: "pooled_mean=0.25)" in explained().policy)  # (1 + 1/2) / (5 + 1)
    told = explained()
    assert told.mode == events_pb2.MODE_RANDOMIZED_UCB
    assert re.fullmatch(r"randomized_ucb\(optimism=0\.55, pooled_mean=0\.25\)", told.policy)
    assert sum(term.mean for term in told.terms) == pytest.approx(told.mean)
    assert sum(term.variance for term in told.terms) == pytest.approx(told.width**2)
    assert told.score >= told.mean + 0.55 * 0.6 * told.width
