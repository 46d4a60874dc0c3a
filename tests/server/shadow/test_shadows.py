"""Shadow policies disturb nothing, hold no more than they may, and count what they leave out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from freshet.v1 import recommender_pb2
from server.shadow import shadows as module
from server.shadow.pending import MAX_CLICKS, PendingSlates
from server.shadow.policies import ShadowPolicy
from tests.server.lane.lanes import any_request, learned
from tests.server.messages import one_hot
from tests.server.shadow.shadowed import ITEMS, WINDOW_MS, Shadowed


def test_replies_are_the_same_with_and_without() -> None:
    """Equal seeds give equal bytes on both ways, whether a request is shadowed or not."""
    with_shadows, without = Shadowed(explore_share=0.3), Shadowed(explore_share=0.3)
    without.lane._shadows = without.service._shadows = None
    rng = np.random.default_rng(0)
    for number in range(200):
        request = any_request(rng)
        request.request_id = f"r{number}"
        data = request.SerializeToString()
        answer = with_shadows.lane.score(data)
        assert answer == without.lane.score(data)
        request.request_id = f"l{number}"
        assert with_shadows.service._score(request) == without.service._score(request)
        if number % 20 == 0:
            with_shadows.work()
    with_shadows.close()
    outcomes = with_shadows.shadows.outcomes()
    assert outcomes["closed"] > 300
    assert outcomes["failed"] == outcomes["dropped"] == 0


def test_both_ways_are_shadowed_alike() -> None:
    """A request weighs the same by the short way, by the long way and by Recommend of the same candidates."""
    weights = []
    for way in ("short", "long", "recommend"):
        shadowed = Shadowed(ShadowPolicy("s", "exploit"), served="uniform")
        ids = [f"item-{number}" for number in range(40)]  # all around cluster 0
        request: dict[str, Any] = {"request_id": "r", "slate_size": 3, "cluster_weights": one_hot(), "seed": 5}
        request["exclude_item_ids"] = ["item-7", "stranger"]
        if way == "recommend":
            shadowed.service.Recommend(recommender_pb2.RecommendRequest(**request), None)  # type: ignore[arg-type]
        elif way == "long":
            shadowed.service._score(recommender_pb2.ScoreRequest(item_ids=ids, **request))
        else:
            shadowed.score(item_ids=ids, **request)
        shadowed.work()
        (slate,) = shadowed.awaited._pending._slates.values()
        assert slate.weights is not None
        weights.append((slate.item_ids, slate.weights.tolist()))
    assert weights[0] == weights[1] == weights[2]


def test_what_is_learned_after_the_reply_does_not_weigh_it() -> None:
    """A shadow is judged by the sums at the reply: those with the slate's own impression would be against it."""
    shadowed = Shadowed(ShadowPolicy("s", "exploit", slate={"explore_share": 0.5}), served="uniform")
    current = shadowed.snapshot.current
    assert current
    for request_id in ("scored before", "scored after", "served after"):
        if request_id == "served after":
            change = learned(current.graph, np.random.default_rng(2), 400)
            shadowed.snapshot.apply(replace(change, full=False))
            assert current.position == 400
        shadowed.score(request_id, slate_size=len(ITEMS))
        if request_id == "scored before":
            shadowed.work()
    shadowed.work()
    weights = {name: slate.weights.tolist() for name, slate in shadowed.awaited._pending._slates.items()}  # type: ignore[union-attr]
    assert weights["scored before"] == weights["scored after"]
    assert weights["scored after"] != weights["served after"]


def test_the_share_is_chosen_by_the_id_alone() -> None:
    """About so many requests are shadowed, the same ones in every process."""
    first, second = Shadowed(share=0.25), Shadowed(share=0.25)
    ids = [f"request-{number}".encode() for number in range(8_000)]
    chosen = [first.shadows.chooses(one) for one in ids]
    assert chosen == [second.shadows.chooses(one) for one in ids]
    assert 0.23 < np.mean(chosen) < 0.27
    hardly = Shadowed(share=1e-12)
    assert not any(hardly.shadows.chooses(one) for one in ids)


def test_a_click_counts_once_and_for_its_own_slate_alone() -> None:
    """Clicks on other requests, on items that were not shown and sent twice earn nothing."""
    shadowed = Shadowed()
    reply = shadowed.score("r")
    shown = [item.item_id for item in reply.items]
    hidden = next(item_id for item_id in ITEMS if item_id not in shown)
    shadowed.click("r", shown[0])
    shadowed.work()
    shadowed.click("r", shown[0], hidden)
    shadowed.click("another", shown[1])
    shadowed.close()
    shadowed.click("r", shown[1])  # too late
    shadowed.close()
    (standing,) = shadowed.awaited.standings()
    assert (standing.slates, standing.logged) == (1, pytest.approx(1 / 3))


def test_the_oldest_slate_makes_room_and_is_counted_with_what_it_had() -> None:
    """The table holds no more than it may; what is pushed out is told apart from what waited long enough."""
    shadowed = Shadowed(max_pending=3)
    for number in range(5):
        reply = shadowed.score(f"r{number}")
        shadowed.click(f"r{number}", reply.items[0].item_id)
        shadowed.work()
        assert shadowed.awaited.pending <= 3
    assert shadowed.shadows.outcomes()["evicted"] == 2
    shadowed.close()
    assert shadowed.shadows.outcomes()["closed"] == 3
    (standing,) = shadowed.awaited.standings()
    assert (standing.slates, standing.logged) == (5, pytest.approx(1 / 3))


def test_a_full_queue_drops_slates_and_keeps_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be scored in time is left out and counted."""
    monkeypatch.setattr(module, "MAX_QUEUED_CELLS", 3 * len(ITEMS))
    shadowed = Shadowed()
    for number in range(10):
        assert len(shadowed.score(f"r{number}").items) == 3
    assert shadowed.awaited.pending == 3
    shadowed.close()
    counts = shadowed.shadows.outcomes()
    assert {outcome: count for outcome, count in counts.items() if count} == {"closed": 3, "dropped": 7}


def test_a_slate_closed_before_it_was_scored_is_dropped() -> None:
    """A slate pushed out of the table while it waits to be scored is not judged by half."""
    shadowed = Shadowed(max_pending=1)
    shadowed.score("a")
    shadowed.score("b")
    evicted = shadowed.awaited._pending.evicted()
    assert [slate.request_id for slate in evicted] == ["a"]
    shadowed.awaited._pending._out += evicted
    shadowed.shadows._jobs.clear()
    shadowed.close()
    assert shadowed.shadows.outcomes()["dropped"] == 2
    assert shadowed.awaited.standings()[0].slates == 0


def test_a_request_id_that_comes_twice_counts_not_at_all() -> None:
    """Which of two slates was shown cannot be told."""
    shadowed = Shadowed()
    for request_id in ("twice", "once", "twice"):
        shadowed.score(request_id)
    shadowed.close()
    assert shadowed.shadows.outcomes()["repeated"] == 2
    assert shadowed.awaited.standings()[0].slates == 1


def test_a_slate_that_cannot_be_scored_harms_no_other() -> None:
    """It is counted as failed, and those behind it are scored."""
    shadowed = Shadowed(ShadowPolicy("s", "thompson", policy={"thompson_scale": -1.0}))
    shadowed.score("bad")
    shadowed.work()
    shadowed.shadows._policies = [ShadowPolicy("s", "exploit")]
    shadowed.score("good")
    shadowed.close()
    outcomes = shadowed.shadows.outcomes()
    assert (outcomes["failed"], outcomes["closed"]) == (1, 1)


def test_a_robot_cannot_fill_the_memory() -> None:
    """A slate keeps so many clicks and no more."""
    shadowed = Shadowed()
    item_id = shadowed.score("r").items[0].item_id
    for _ in range(3):
        shadowed.click("r", *[item_id] * MAX_CLICKS)
    (slate,) = shadowed.awaited._pending._slates.values()
    assert len(slate.clicks) == MAX_CLICKS


def test_the_window_is_waited_for() -> None:
    """A slate counts when its window has closed, not before."""
    shadowed = Shadowed()
    shadowed.score("r")
    shadowed.now_ms += WINDOW_MS - 1
    shadowed.work()
    assert shadowed.awaited.pending == 1
    shadowed.now_ms += 1
    shadowed.work()
    assert (shadowed.awaited.pending, shadowed.awaited.standings()[0].slates) == (0, 1)


def test_an_empty_table_looks_at_no_click() -> None:
    """Feedback of a server whose shadows wait for nothing costs nothing."""
    table = PendingSlates(most=1, window_ms=1)
    table.clicked(iter(lambda: pytest.fail("looked at"), None), 0)
