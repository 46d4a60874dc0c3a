"""Exploration within bounds: items leave the lane, budgets are spent, and everybody can see it."""

import pytest

from freshet.v1 import events_pb2, operations_pb2, recommender_pb2
from server.settings import SettingsError
from tests.server.conftest import Start
from tests.server.messages import (
    DEADLINE_S,
    click,
    clicks,
    impression,
    impressions,
    one_hot,
    recommend_request,
    score_request,
)
from tests.server.serving import Client, make_settings, until

IDS = ("item-0", "item-1", "item-2")


def teach(client: Client, item_id: str, *, times: int, rewards: int, prefix: str = "r") -> None:
    for turn in range(times):
        request_id = f"{prefix}-{item_id}-{turn}"
        client.feedback.LogImpressions(impressions(impression(request_id, item_id)), timeout=DEADLINE_S)
        if turn < rewards:
            client.feedback.LogClicks(clicks(click(request_id, item_id)), timeout=DEADLINE_S)


def explained(client: Client, item_id: str, **fields: object) -> recommender_pb2.ExplainResponse:
    request = recommender_pb2.ExplainRequest(item_id=item_id, cluster_weights=one_hot(), **fields)
    return client.recommender.Explain(request, timeout=DEADLINE_S)


def sample(app, name: str, **labels: str) -> float | None:
    return app.metrics.registry.get_sample_value(name, labels)


def test_an_item_graduates_by_its_rewards(start: Start) -> None:
    """From then on its score is its mean, in the slate as in Explain; others keep their bounds."""
    app, client = start(life_cycle={"graduate_rewards": 3})
    teach(client, "item-0", times=4, rewards=2)
    before = explained(client, "item-0")
    assert (before.exploration, before.score > before.mean) == ("in_lane", True)
    teach(client, "item-0", times=1, rewards=1, prefix="last")
    after = explained(client, "item-0")
    assert (after.exploration, after.score) == ("graduated", after.mean)
    reply = client.recommender.Score(score_request(*IDS), timeout=DEADLINE_S)
    scores = {item.item_id: item.score for item in reply.items}
    assert scores == {"item-0": after.score, "item-1": 1e9, "item-2": 1e9}
    until(lambda: sample(app, "freshet_exploration_items", state="graduated") == 1)


def test_age_counts_from_publication(start: Start) -> None:
    """An old item is ranked by its mean; one of unknown age is not old."""
    app, client = start(life_cycle={"max_age_s": 60})
    clusters = events_pb2.ClusterIds(values=[0])
    now_ms = app._clock_ms()
    items = [
        events_pb2.Item(item_id="young", cluster_ids=clusters, published_at_ms=now_ms - 1_000),
        events_pb2.Item(item_id="aged", cluster_ids=clusters, published_at_ms=now_ms - 61_000),
    ]
    client.operations.UpsertItems(operations_pb2.UpsertItemsRequest(items=items), timeout=DEADLINE_S)
    assert explained(client, "young").exploration == "in_lane"
    assert explained(client, "aged").exploration == "old"
    assert explained(client, "item-0").exploration == "in_lane"
    assert (explained(client, "aged").score, explained(client, "young").score) == (0, 1e9)


def test_an_item_has_so_many_impressions_for_exploration(start: Start) -> None:
    """The cap is on impressions, clicked or not."""
    _, client = start(life_cycle={"max_item_impressions": 5})
    teach(client, "item-0", times=4, rewards=0)
    assert explained(client, "item-0").exploration == "in_lane"
    teach(client, "item-0", times=1, rewards=0, prefix="last")
    assert explained(client, "item-0").exploration == "item_cap"


def test_a_cluster_has_so_much_exploration_at_a_time(start: Start) -> None:
    """Once its items in the lane have had theirs, users of that cluster alone see means; others explore on."""
    app, client = start(life_cycle={"max_cluster_impressions": 4})
    teach(client, "item-0", times=5, rewards=0)
    until(lambda: sample(app, "freshet_exploration_closed_clusters") == 1)
    assert explained(client, "item-1").exploration == "cluster_cap"
    reply = client.recommender.Recommend(recommend_request(cluster_weights=one_hot(3)), timeout=DEADLINE_S)
    assert {item.score for item in reply.items} == {1e9}


def test_a_surface_exploits_once_its_budget_is_spent(start: Start) -> None:
    """The slates say so by mode and policy, other surfaces go on, and the budget is seen to go down."""
    app, client = start(life_cycle={"budgets": {"home": 5, "*": 1_000}}, slate={"explore_share": 0.5})

    def ask(surface: str) -> recommender_pb2.ScoreResponse:
        return client.recommender.Score(score_request(*IDS, surface=surface), timeout=DEADLINE_S)

    modes = [ask("home").mode for _ in range(4)]
    assert modes == [events_pb2.MODE_UCB] * 2 + [events_pb2.MODE_EXPLOIT] * 2
    spent = ask("home")
    assert spent.policy.startswith("exploit")
    assert not any(item.explored for item in spent.items)
    assert explained(client, "item-0", surface="home").exploration == "budget_spent"
    assert ask("search").mode == events_pb2.MODE_UCB
    assert sample(app, "freshet_exploration_budget_left_items", surface="home") == -1
    assert sample(app, "freshet_exploration_items_explored_total", surface="search") == 3
    assert explained(client, "item-0", surface="search").exploration == "in_lane"


def test_a_budget_is_whole_again_in_the_next_window(start: Start) -> None:
    """A window begins with the first slate after the last one."""
    _, client = start(life_cycle={"budgets": {"*": 3}, "budget_window_s": 0.2})

    def mode() -> int:
        return client.recommender.Score(score_request(*IDS), timeout=DEADLINE_S).mode

    assert mode() == events_pb2.MODE_UCB
    until(lambda: mode() == events_pb2.MODE_EXPLOIT)
    until(lambda: mode() == events_pb2.MODE_UCB)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_without_rules_nothing_is_bounded(start: Start, backend: str) -> None:
    """Explain says nothing of a lane, and there is no metric of one."""
    app, client = start(backend=backend)
    assert explained(client, "item-0").exploration == ""
    assert sample(app, "freshet_exploration_items", state="in_lane") is None


def test_bounds_hold_for_the_compiled_backend_too(start: Start) -> None:
    """The compiled ways around the rules are not taken."""
    _, client = start(backend="numba", life_cycle={"max_item_impressions": 1})
    teach(client, "item-0", times=1, rewards=1)
    reply = client.recommender.Score(score_request(*IDS), timeout=DEADLINE_S)
    assert {item.item_id: item.score for item in reply.items} == {"item-0": 1.0, "item-1": 1e9, "item-2": 1e9}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_new_item_gets_its_first_impressions_and_no_more(start: Start, backend: str) -> None:
    """Under a mode that would not show it; what is on its way counts, so late feedback does not flood it."""
    app, client = start(
        backend=backend,
        life_cycle={"first_impressions": 5, "first_max_age_s": 0, "first_share": 0.5},
        policy={"mode": "exploit"},
    )
    for number in range(3):
        teach(client, f"item-{number}", times=6, rewards=3)
    until(lambda: sample(app, "freshet_exploration_first_owed_items") == app.snapshot.current.graph.n_items - 3)
    item = events_pb2.Item(item_id="new", cluster_ids=events_pb2.ClusterIds(values=[0]))
    client.operations.UpsertItems(operations_pb2.UpsertItemsRequest(items=[item]), timeout=DEADLINE_S)
    assert explained(client, "new").exploration == "first_impressions"
    assert explained(client, "item-0").exploration == "in_lane"
    shown = []
    for turn in range(60):
        request = score_request(*IDS, "new", slate_size=2, request_id=f"q-{turn}", surface="home")
        reply = client.recommender.Score(request, timeout=DEADLINE_S)
        shown += [(turn, item) for item in reply.items if item.item_id == "new"]
    assert len(shown) == 5
    assert all(item.explored and item.propensity == pytest.approx(0.5) for _, item in shown)
    assert sample(app, "freshet_exploration_first_slots_total", surface="home") == 5
    until(lambda: sample(app, "freshet_exploration_first_in_flight") == 5)
    teach(client, "new", times=5, rewards=0)
    assert explained(client, "new").exploration == "in_lane"


def test_recommend_finds_who_is_owed_impressions(start: Start) -> None:
    """Among the items around the user; where nobody is, the slate is the same as without any of this."""
    _, client = start(
        backend="numba", life_cycle={"first_impressions": 1, "first_max_age_s": 0, "first_share": 1.0}
    )
    reply = client.recommender.Recommend(recommend_request(cluster_weights=one_hot()), timeout=DEADLINE_S)
    assert all(item.explored for item in reply.items)
    again = client.recommender.Recommend(recommend_request(cluster_weights=one_hot()), timeout=DEADLINE_S)
    assert {item.item_id for item in again.items if item.explored}.isdisjoint(item.item_id for item in reply.items)


def test_a_spent_budget_ends_the_guarantee_too(start: Start) -> None:
    """Slots of new items are explored, so they count and stop."""
    _, client = start(
        life_cycle={"first_impressions": 9, "first_max_age_s": 0, "first_share": 1.0, "budgets": {"*": 3}},
        policy={"mode": "exploit"},
    )
    first = client.recommender.Score(score_request(*IDS), timeout=DEADLINE_S)
    assert [item.explored for item in first.items] == [True] * 3
    second = client.recommender.Score(score_request(*IDS), timeout=DEADLINE_S)
    assert not any(item.explored for item in second.items)
    assert explained(client, "item-0").exploration == "budget_spent"


def test_uniform_slates_explore_those_in_the_lane_first(start: Start) -> None:
    """The rest follows by its mean, in replies as in Explain, and all of the lane's counts for the budget."""
    _, client = start(life_cycle={"max_item_impressions": 2, "budgets": {"*": 2}})
    teach(client, "item-0", times=2, rewards=1)
    reply = client.recommender.Score(score_request(*IDS, mode=events_pb2.MODE_UNIFORM), timeout=DEADLINE_S)
    assert [(item.item_id, item.score) for item in reply.items][2] == ("item-0", 0.5)
    assert {item.score for item in reply.items[:2]} == {1e9}
    assert explained(client, "item-0", mode=events_pb2.MODE_UNIFORM).score == 0.5
    spent = client.recommender.Score(score_request(*IDS, mode=events_pb2.MODE_UNIFORM), timeout=DEADLINE_S)
    assert spent.mode == events_pb2.MODE_EXPLOIT


def test_more_first_impressions_than_the_cap_are_refused(tmp_path) -> None:
    """Nobody could ever have them; the sentence names both."""
    with pytest.raises(
        SettingsError, match=r"life_cycle.first_impressions: expected at most max_item_impressions, 5"
    ):
        make_settings(tmp_path, life_cycle={"first_impressions": 20, "max_item_impressions": 5})


def test_a_negative_budget_is_refused(tmp_path) -> None:
    """The sentence names the surface."""
    with pytest.raises(SettingsError, match="expected items of 'home' to be 0 or more, got -1"):
        make_settings(tmp_path, life_cycle={"budgets": {"home": -1}})
