"""Packed slates where exploration is bounded: as the unary call fills them, and counted as it counts them."""

from typing import Any

import pytest

from freshet.v1 import events_pb2, operations_pb2, recommender_pb2
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, one_hot, score_request
from tests.server.packed.packing import packed, unpacked
from tests.server.serving import Client, until
from tests.server.test_life_cycle import IDS, sample, teach


def both(client: Client, requests: list[recommender_pb2.ScoreRequest]) -> tuple[list[Any], list[Any]]:
    """Answers to the packed call, and to as many unary ones."""
    call = recommender_pb2.ScorePackedRequest(queries=packed(requests, known={}))
    told = unpacked(client.recommender.ScorePacked(call, timeout=DEADLINE_S).slates, requests)
    return told, [client.recommender.Score(request, timeout=DEADLINE_S) for request in requests]


def shown(reply: recommender_pb2.ScoreResponse) -> list[tuple[str, float, float, bool]]:
    return [(item.item_id, item.score, round(item.propensity, 12), item.explored) for item in reply.items]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("mode", ["ucb", "uniform", "epsilon_greedy", "randomized_ucb"])
def test_packed_slates_keep_to_the_bounds(start: Start, mode: str, backend: str) -> None:
    """Each is the slate that the unary call fills under the same seed, beside slates that nothing binds."""
    _, client = start(
        backend=backend,
        slate={"explore_share": 0.3},
        life_cycle={
            "max_item_impressions": 2_000,
            "first_impressions": 1_000,
            "first_max_age_s": 0,
            "first_share": 0.3,
        },
    )
    teach(client, "item-0", times=2, rewards=1)
    number = events_pb2.Mode.Value(f"MODE_{mode.upper()}")
    requests = [
        score_request(*ids, slate_size=2, seed=seed, mode=number)
        for seed in range(12)
        for ids in (IDS, IDS[:2], ("item-0",))
    ]
    told, expected = both(client, requests)
    assert [shown(one) for one in told] == [shown(one) for one in expected]
    assert any(item.explored for one in told for item in one.items)


def test_a_new_item_gets_its_first_impressions_by_packed_calls(start: Start) -> None:
    """As many as it is owed over all slates of all messages; slates without it are as ever."""
    app, client = start(
        backend="numba",
        life_cycle={"first_impressions": 5, "first_max_age_s": 0, "first_share": 0.5},
        policy={"mode": "exploit"},
    )
    for item_id in IDS:
        teach(client, item_id, times=5, rewards=2)
    until(lambda: sample(app, "freshet_exploration_first_owed_items") == app.snapshot.current.graph.n_items - 3)
    item = events_pb2.Item(item_id="new", cluster_ids=events_pb2.ClusterIds(values=[0]))
    client.operations.UpsertItems(operations_pb2.UpsertItemsRequest(items=[item]), timeout=DEADLINE_S)
    requests = [score_request(*IDS, "new", slate_size=2, seed=seed, surface="home") for seed in range(40)]
    call = recommender_pb2.ScorePackedRequest(queries=packed(requests, known={}))
    told = unpacked(client.recommender.ScorePacked(call, timeout=DEADLINE_S).slates, requests)
    assert sum(item.item_id == "new" for one in told for item in one.items) == 5
    assert sample(app, "freshet_exploration_first_slots_total", surface="home") == 5


def test_a_spent_budget_makes_packed_slates_exploit(start: Start) -> None:
    """From the next message on, in all its slates, and they say so."""
    app, client = start(life_cycle={"budgets": {"home": 4}}, slate={"explore_share": 0.5})
    requests = [score_request(*IDS, seed=seed, surface="home", cluster_weights=one_hot()) for seed in range(2)]
    call = recommender_pb2.ScorePackedRequest(queries=packed(requests, known={}))
    answers = []
    for _ in range(2):
        answers += unpacked(client.recommender.ScorePacked(call, timeout=DEADLINE_S).slates, requests)
    assert [one.mode for one in answers] == [events_pb2.MODE_UCB] * 2 + [events_pb2.MODE_EXPLOIT] * 2
    assert not any(item.explored for one in answers[2:] for item in one.items)
    assert sample(app, "freshet_exploration_budget_left_items", surface="home") == 4 - 6
