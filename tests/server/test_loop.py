"""The whole loop over gRPC: ask, show, click, ask again."""

import threading
from collections import Counter

import grpc
import pytest

from freshet.v1 import events_pb2, operations_pb2, recommender_pb2
from tests.server.conftest import Start
from tests.server.messages import (
    DEADLINE_S,
    click,
    clicks,
    impression,
    impressions,
    one_hot,
    recommend_request,
    refusal,
    score_request,
    violations,
)
from tests.server.serving import DIM, N_ITEMS, Client

IDS = [f"item-{j}" for j in range(N_ITEMS)]


def test_a_click_raises_its_item(start: Start) -> None:
    """Score, show, click, Score: the clicked item's mean is 1, the others' 0, and it now comes first."""
    _, client = start(policy={"mode": "exploit"})
    slate = client.recommender.Score(score_request(*IDS, slate_size=4), timeout=DEADLINE_S)
    shown = [item.item_id for item in slate.items]
    logged = client.feedback.LogImpressions(
        impressions(impression(slate.request_id, *shown, context=slate.context)), timeout=DEADLINE_S
    )
    assert (logged.accepted, len(logged.refused)) == (1, 0)
    answer = client.feedback.LogClicks(clicks(click(slate.request_id, shown[2])), timeout=DEADLINE_S)
    assert (answer.accepted, len(answer.refused)) == (1, 0)
    again = client.recommender.Score(score_request(*IDS), timeout=DEADLINE_S)
    means = {item.item_id: item.mean for item in again.items}
    assert means == dict.fromkeys(IDS, 0.0) | {shown[2]: 1.0}
    assert again.items[0].item_id == shown[2]
    assert again.parameters_position[0] > slate.parameters_position[0]


def test_a_logged_slate_needs_no_impression_from_the_caller(start: Start) -> None:
    """`log_impression` records the slate durably before it answers: its click is joined at once."""
    _, client = start()
    slate = client.recommender.Recommend(recommend_request(log_impression=True), timeout=DEADLINE_S)
    client.feedback.LogClicks(clicks(click(slate.request_id, slate.items[0].item_id)), timeout=DEADLINE_S)
    counts = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S).counts
    assert counts["impressions_accepted"] == len(slate.items) == 5
    assert counts["clicks_joined"] == 1


def test_a_batch_records_the_slates_that_ask_for_it(start: Start) -> None:
    """Of a batch, the impressions of those with `log_impression` are recorded, of no others."""
    _, client = start()
    requests = [score_request("item-0", log_impression=True), score_request("item-1"), score_request("x")]
    batch = recommender_pb2.ScoreBatchRequest(requests=requests)
    results = client.recommender.ScoreBatch(batch, timeout=DEADLINE_S).results
    assert len(results) == 3
    status = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    assert status.counts["impressions_accepted"] == 1


def test_replies_state_what_they_were_computed_from(untaught: Client) -> None:
    """A reply names policy, graph, position, mode, seed, request and the resolved user."""
    user = events_pb2.Embedding(values=[1.0] * DIM)
    reply = untaught.recommender.Score(score_request(user_embedding=user, seed=7), timeout=DEADLINE_S)
    assert reply.policy == "ucb(alpha=0.3, estimator=averaged)"
    assert (reply.graph_version, reply.mode, reply.seed) == ("v1", events_pb2.MODE_UCB, 7)
    assert list(reply.parameters_position) == [0]
    assert len(reply.request_id) == 32
    assert len(reply.context.cluster_ids) == len(reply.context.weights) == 8
    assert sum(reply.context.weights) == pytest.approx(1, abs=8 / 2**15)
    # The echo scores as the embedding did.
    again = untaught.recommender.Score(score_request(cluster_weights=reply.context, seed=7), timeout=DEADLINE_S)
    assert [item.item_id for item in again.items] == [item.item_id for item in reply.items]
    assert again.context == reply.context


def test_unknown_and_excluded_items_are_not_returned(untaught: Client) -> None:
    """Unknown candidates are listed in the order they came, excluded ones are left out silently."""
    request = score_request("x", "item-1", "y", "item-2", exclude_item_ids=["item-1", "z", "z"])
    reply = untaught.recommender.Score(request, timeout=DEADLINE_S)
    assert [item.item_id for item in reply.items] == ["item-2"]
    assert list(reply.unknown_item_ids) == ["x", "y"]
    none = untaught.recommender.Score(score_request("x", log_impression=True), timeout=DEADLINE_S)
    assert (len(none.items), list(none.unknown_item_ids)) == (0, ["x"])


def test_recommend_offers_the_items_around_the_user(untaught: Client) -> None:
    """Candidates are the items with an edge to one of the user's clusters; exclusions come off afterwards."""
    request = recommend_request(slate_size=5_000, exclude_item_ids=["item-3"])
    reply = untaught.recommender.Recommend(request, timeout=DEADLINE_S)
    assert reply.candidates == N_ITEMS
    assert {item.item_id for item in reply.items} == set(IDS) - {"item-3"}
    assert [item.position for item in reply.items] == list(range(N_ITEMS - 1))


def test_unseen_items_tie_and_their_ties_are_broken_evenly(untaught: Client) -> None:
    """Four unseen candidates each come first in a quarter of replies, and say so in their propensity."""
    first: Counter[str] = Counter()
    for seed in range(400):
        request = score_request(*IDS[:4], slate_size=1, seed=seed)
        reply = untaught.recommender.Score(request, timeout=DEADLINE_S)
        first[reply.items[0].item_id] += 1
        assert reply.items[0].propensity == pytest.approx(0.25)
        assert (reply.items[0].score, reply.items[0].width) == (1e9, 1e9)
    # Four standard deviations of 400 draws.
    assert all(abs(count - 100) < 35 for count in first.values()), first


def test_seeds_are_drawn_anew_where_none_is_given(untaught: Client) -> None:
    """Two calls without a seed differ; either can be repeated with the seed that its reply names."""
    replies = [untaught.recommender.Score(score_request(*IDS), timeout=DEADLINE_S) for _ in range(2)]
    assert replies[0].seed != replies[1].seed
    again = untaught.recommender.Score(score_request(*IDS, seed=replies[0].seed), timeout=DEADLINE_S)
    assert again.items == replies[0].items
    assert again.items != replies[1].items


@pytest.mark.parametrize("mode", [events_pb2.MODE_UCB, events_pb2.MODE_THOMPSON])
def test_explain_reproduces_a_served_score(start: Start, mode: events_pb2.Mode.ValueType) -> None:
    """Score, mean and width of every served item come out of Explain again, from edges that are shown (I12)."""
    _, client = start()
    user = events_pb2.Embedding(values=[0.3, -0.2, 0.9, 0.1])
    for round_ in range(20):
        request = recommend_request(user_embedding=user, slate_size=10, log_impression=True, mode=mode)
        slate = client.recommender.Recommend(request, timeout=DEADLINE_S)
        picked = slate.items[round_ % len(slate.items)].item_id
        client.feedback.LogClicks(clicks(click(slate.request_id, picked)), timeout=DEADLINE_S)
    reply = client.recommender.Score(
        score_request(*IDS, user_embedding=user, seed=11, mode=mode), timeout=DEADLINE_S
    )
    seen = [item for item in reply.items if item.width < 1e9]
    assert seen
    for item in reply.items:
        request_ = recommender_pb2.ExplainRequest(user_embedding=user, item_id=item.item_id, seed=11, mode=mode)
        told = client.recommender.Explain(request_, timeout=DEADLINE_S)
        assert told.score == pytest.approx(item.score, abs=1e-12, rel=1e-12)
        assert told.mean == pytest.approx(item.mean, abs=1e-12, rel=1e-12)
        assert told.width == pytest.approx(item.width, abs=1e-12, rel=1e-12)
        assert sum(term.mean for term in told.terms) == pytest.approx(told.mean, abs=1e-12)
        assert (told.graph_version, told.parameters_position) == (reply.graph_version, reply.parameters_position)


def test_explain_knows_only_items_of_the_graph(untaught: Client) -> None:
    """There is nothing to explain about an unknown item."""
    request = recommender_pb2.ExplainRequest(cluster_weights=one_hot(), item_id="x")
    assert refusal(untaught.recommender.Explain, request)[0] is grpc.StatusCode.NOT_FOUND


def test_bad_feedback_does_not_stop_the_good(start: Start) -> None:
    """Each refused element is answered by its index and path; the others are durable."""
    _, client = start()
    bad = impression("r1", "item-0", context=events_pb2.ClusterWeights(cluster_ids=[0], weights=[float("nan")]))
    batch = impressions(impression("r0", "item-0"), bad, impression("", "item-0"), impression("r2", "item-1"))
    answer = client.feedback.LogImpressions(batch, timeout=DEADLINE_S)
    assert answer.accepted == 2
    assert [(refused.index, violations(refused.status)) for refused in answer.refused] == [
        (1, [("context.weights[0]", "expected 0 < weight <= 1, got nan")]),
        (2, [("request_id", "expected 1 to 256 bytes, got 0 bytes")]),
    ]
    assert {refused.status.code for refused in answer.refused} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    wrong = click("r0", "item-0", reward=-1.0)
    told = client.feedback.LogClicks(clicks(wrong, click("r0", "item-0")), timeout=DEADLINE_S)
    assert told.accepted == 1
    assert violations(told.refused[0].status) == [("reward", "expected finite and >= 0, got -1.0")]
    status = client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    assert (status.counts["impressions_accepted"], status.counts["clicks_joined"]) == (2, 1)


@pytest.mark.parametrize("count", [0, 10_001])
def test_feedback_calls_are_bounded(untaught: Client, count: int) -> None:
    """1 to 10,000 elements a call."""
    expected = f"expected 1 to 10000 elements, got {count} elements"
    _, status = refusal(untaught.feedback.LogClicks, clicks(*[click("r", "i")] * count))
    assert violations(status) == [("clicks", expected)]
    _, status = refusal(untaught.feedback.LogImpressions, impressions(*[impression("r", "i")] * count))
    assert violations(status) == [("impressions", expected)]


def test_impressions_are_bounded_by_their_items_too(untaught: Client) -> None:
    """100,000 items of all impressions of a call together."""
    wide = impression("r", *map(str, range(5_000)))
    _, status = refusal(untaught.feedback.LogImpressions, impressions(*[wide] * 21))
    assert violations(status) == [
        ("impressions", "expected at most 100000 items of all impressions together, got 105000 items")
    ]


def test_what_was_learned_survives_a_restart(start: Start) -> None:
    """A second server over the same store gives the same scores from the same position."""
    first, client = start()
    slate = client.recommender.Recommend(recommend_request(log_impression=True), timeout=DEADLINE_S)
    client.feedback.LogClicks(clicks(click(slate.request_id, slate.items[0].item_id)), timeout=DEADLINE_S)
    before = client.recommender.Score(score_request(*IDS, seed=1), timeout=DEADLINE_S)
    client.close()
    first.stop(5.0)
    _, client = start(first.settings)
    after = client.recommender.Score(score_request(*IDS, seed=1, request_id=before.request_id), timeout=DEADLINE_S)
    assert after == before


def test_concurrent_callers_lose_nothing(start: Start) -> None:
    """Every click of many threads at once is learned exactly once."""
    _, client = start()

    def work(number: int) -> None:
        for turn in range(10):
            request = score_request(*IDS[:3], request_id=f"r{number}-{turn}", log_impression=True)
            slate = client.recommender.Score(request, timeout=DEADLINE_S)
            client.feedback.LogClicks(clicks(click(slate.request_id, "item-0")), timeout=DEADLINE_S)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    view = client.operations.GetItem(operations_pb2.GetItemRequest(item_id="item-0"), timeout=DEADLINE_S).item
    assert (view.parameters.n, view.parameters.s, view.mean) == (80, 80 * 2**15, 1.0)
