"""Shadow policies of a real server: from the settings to the metrics."""

import json
from typing import Any
from urllib.request import urlopen

import pytest

from freshet.v1 import recommender_pb2
from server.settings import SettingsError, load_settings
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, click, clicks, recommend_request, score_request
from tests.server.packed.packing import packed
from tests.server.serving import until
from tests.server.test_metrics import scrape, value

POLICIES = [{"name": "greedy", "policy": {"mode": "exploit"}}, {"name": "bold", "policy": {"alpha": 2.0}}]


def test_the_standings_are_in_metrics_and_on_the_console(start: Start) -> None:
    """What was shown and clicked is weighed for each policy; the replies name the served policy alone."""
    window = {"window_ms": 1_000, "share": 1.0}
    app, client = start(policy={"mode": "uniform"}, shadow={"policies": POLICIES, **window}, backend="auto")
    for number in range(150):
        name = f"r{number}"
        call = client.recommender.Recommend if number % 2 else client.recommender.Score
        request = recommend_request if number % 2 else score_request
        reply = call(request(request_id=name, slate_size=1), timeout=DEADLINE_S)
        assert reply.policy == "uniform"
        if number % 3 == 0:
            client.feedback.LogClicks(clicks(click(name, reply.items[0].item_id)), timeout=DEADLINE_S)
    awaited = app._awaited
    assert awaited
    until(lambda: awaited.standings()[0].slates == 150)
    families = scrape(app)
    assert value(families, "freshet_shadow_logged_reward") == pytest.approx(1 / 3)
    assert value(families, "freshet_shadow_slates_total", outcome="closed") == 150
    assert value(families, "freshet_shadow_pending_slates") == 0
    for name in ("greedy", "bold"):
        assert value(families, "freshet_shadow_mean_weight", policy=name) == pytest.approx(1.0, abs=0.3)
    with urlopen(f"http://{app.addresses.http}/status.json", timeout=DEADLINE_S) as answer:
        told = json.loads(answer.read())["shadows"]
    assert [(one["name"], one["slates"]) for one in told] == [("greedy", 150), ("bold", 150)]


def test_estimates_are_told_with_their_intervals(start: Start) -> None:
    """A policy as served has as many effective slates as there are, so both estimators and the lift are shown."""
    same = {"policies": [{"name": "same"}], "window_ms": 1_000, "share": 1.0}
    app, client = start(shadow=same)
    for number in range(120):
        name = f"r{number}"
        reply = client.recommender.Score(score_request(request_id=name), timeout=DEADLINE_S)
        if number % 4 == 0:
            client.feedback.LogClicks(clicks(click(name, reply.items[0].item_id)), timeout=DEADLINE_S)
    awaited = app._awaited
    assert awaited
    until(lambda: awaited.standings()[0].slates == 120)
    families = scrape(app)
    assert value(families, "freshet_shadow_supported", policy="same") == 1
    for estimator in ("ips", "snips"):
        labels = {"policy": "same", "estimator": estimator}
        estimate = value(families, "freshet_shadow_reward_estimate", **labels)
        assert estimate == pytest.approx(1 / 12)
    ends = [
        value(families, "freshet_shadow_reward_bound", policy="same", of="value", bound=b) for b in ("low", "high")
    ]
    assert 0 <= ends[0] < 1 / 12 < ends[1] < 0.5


def test_packed_calls_of_a_server_are_shadowed(start: Start) -> None:
    """A message whose slates have request ids is followed like single calls."""
    app, client = start(shadow={"policies": POLICIES, "share": 1.0}, backend="auto")
    queries = packed([score_request("item-0", "item-1", "item-2", slate_size=2) for _ in range(3)], known={})
    queries.request_ids.extend(f"r{number}" for number in range(3))
    client.recommender.ScorePacked(recommender_pb2.ScorePackedRequest(queries=queries), timeout=DEADLINE_S)
    assert app._shadows
    assert app._awaited.pending == 3


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ([{"name": "a", "policy": {"alhpa": 1}}], "shadow.policies.0.policy.alhpa: expected a known setting"),
        ([{"name": "a", "policy": {"alpha": -1}}], "shadow.policies.0.policy.alpha: expected 0 <= alpha <= 100"),
        (
            [{"name": "a", "slate": {"top_m": 0}}],
            "shadow.policies.0.slate.top_m: expected: input should be greater",
        ),
        ([{"name": "a"}, {"name": "a"}], "shadow.policies: expected distinct names, got a, a"),
        ([{"name": "a b"}], "shadow.policies.0.name: expected: string should match"),
        ([{"name": str(n)} for n in range(9)], "shadow.policies: expected: tuple should have at most 8 items"),
    ],
)
def test_a_wrong_shadow_policy_is_named(policies: Any, message: str) -> None:
    """The error says which policy and which field."""
    with pytest.raises(SettingsError) as error:
        load_settings(shadow={"policies": policies})
    assert str(error.value).startswith(message)


def test_bounds_of_exploration_hold_for_shadows_too() -> None:
    """Beside the traffic a policy is held to the same caps and owes the same impressions."""
    settings = load_settings(shadow={"policies": [{"name": "a"}]}, life_cycle={"max_age_s": 5})
    assert settings.shadow.policies
    assert settings.life_cycle.is_set
