"""The short way answers as the long way does, or not at all."""

from typing import Any

import grpc
import numpy as np
import pytest

from bandits.context import resolve_embedding
from freshet.v1 import events_pb2, recommender_pb2
from server.errors import Refused
from server.lane.score_lane import ScoreLane
from server.lane.write_score import room_for
from tests.server.conftest import Start
from tests.server.lane.lanes import Ways, any_request
from tests.server.messages import DEADLINE_S, recommend_request, refusal, score_request, violations
from tests.server.serving import until
from tests.server.test_life_cycle import sample, teach

RULES: list[dict[str, Any]] = [{}, {"top_m": 4, "explore_share": 0.3}, {"explore_share": 1.0}]


@pytest.fixture(scope="module")
def plain() -> Ways:
    return Ways()


@pytest.mark.parametrize("edits", [0, 1], ids=["built", "edited"])
@pytest.mark.parametrize("rules", RULES, ids=["by rank", "explored", "all explored"])
def test_both_ways_give_the_same_answer(rules: dict[str, Any], edits: int) -> None:
    """Whatever a request has in it: same items, numbers, propensities, context, and the same bytes."""
    ways = Ways(**rules)
    for _ in range(edits):
        ways.edit()
    rng, taken = np.random.default_rng(0), 0
    for _ in range(300):
        data = any_request(rng).SerializeToString()
        short, long = ways.short(data), ways.long(data)
        if short is None:  # all candidates unknown or excluded
            assert long is not None
            assert not long.items
            continue
        assert short == long
        assert ways.lane.score(data) == long.SerializeToString()
        taken += 1
    assert taken > 250


def test_what_is_counted_is_the_same() -> None:
    """Metrics do not depend on the way."""
    ways, rng = Ways(explore_share=0.3), np.random.default_rng(5)
    for _ in range(50):
        data = any_request(rng).SerializeToString()
        if ways.short(data) is not None:
            ways.long(data)
    assert ways.metrics.served() == ways.lane_metrics.served()
    names = ("freshet_slate_items", "freshet_slate_items_explored", "freshet_unknown_items")
    told = [
        {
            (sample.name, *sorted(sample.labels.items())): pytest.approx(sample.value)
            for family in metrics.registry.collect()
            if family.name in names or family.name.startswith("freshet_slate_propensity")
            for sample in family.samples
        }
        for metrics in (ways.metrics, ways.lane_metrics)
    ]
    assert told[0] == told[1]


def test_no_cut_and_no_flipped_byte_is_answered_otherwise(plain: Ways) -> None:
    """Damaged bytes get the answer that the service gives to them, or are left to it to refuse."""
    rng = np.random.default_rng(3)
    answered = 0
    for _ in range(6):
        request = any_request(rng)
        del request.item_ids[6:]
        request.slate_size = 5
        data = request.SerializeToString()
        damaged = [data[:end] for end in range(len(data))]
        for at in range(len(data)):
            damaged += [data[:at] + bytes([byte]) + data[at + 1 :] for byte in {0, 1, data[at] ^ 8, 0x80, 0xFF}]
        for one in damaged:
            short = plain.short(one)
            if short is None:
                continue
            long = plain.long(one)
            assert long is not None, one
            if recommender_pb2.ScoreRequest.FromString(one).HasField("seed"):
                if not recommender_pb2.ScoreRequest.FromString(one).request_id:
                    long.request_id = short.request_id
                assert short == long, one
            answered += 1
    assert answered > 100


@pytest.mark.parametrize(
    "fields",
    [
        {"item_ids": []},
        {"item_ids": ["item-1", "item-1"]},
        {"item_ids": ["nobody", "nobody"]},
        {"item_ids": [""]},
        {"item_ids": ["x" * 257]},
        {"item_ids": [f"i{number}" for number in range(5_001)]},
        {"slate_size": 5_001},
        {"mode": 99},
        {"mode": events_pb2.MODE_BETA_THOMPSON},
        {"request_id": "x" * 257},
        {"surface": "x" * 65},
        {"user_key": "x" * 257},
        {"exclude_item_ids": ["x"] * 5_001},
        {"log_impression": True},
        {"user_embedding": events_pb2.Embedding(values=[])},
        {"user_embedding": events_pb2.Embedding(values=[0, 0, 0, 0])},
        {"user_embedding": events_pb2.Embedding(values=[1, 2, float("nan"), 0])},
        {"user_embedding": events_pb2.Embedding(values=[1, 2, float("inf"), 0])},
        {"user_embedding": events_pb2.Embedding(values=[1, 2, 3])},
        {"cluster_weights": events_pb2.ClusterWeights()},
        {"cluster_weights": events_pb2.ClusterWeights(cluster_ids=[8], weights=[1])},
        {"cluster_weights": events_pb2.ClusterWeights(cluster_ids=[1, 1], weights=[1, 1])},
        {"cluster_weights": events_pb2.ClusterWeights(cluster_ids=[1], weights=[0])},
        {"cluster_weights": events_pb2.ClusterWeights(cluster_ids=[1], weights=[1.5])},
        {"cluster_weights": events_pb2.ClusterWeights(cluster_ids=[1], weights=[float("nan")])},
        {"cluster_weights": events_pb2.ClusterWeights(cluster_ids=[1, 2], weights=[1])},
        {"cluster_weights": events_pb2.ClusterWeights(cluster_ids=list(range(65)), weights=[1] * 65)},
    ],
)
def test_what_is_wrong_or_rare_is_left_to_the_service(plain: Ways, fields: dict[str, Any]) -> None:
    """There is one place that says what is wrong, and one that records."""
    if "item_ids" not in fields:
        fields = {"item_ids": ["item-1", "item-2"]} | fields
    item_ids = fields.pop("item_ids")
    request = score_request(**fields)
    request.item_ids[:] = item_ids
    assert plain.lane.score(request.SerializeToString()) is None


def test_no_answer_is_larger_than_its_room(plain: Ways) -> None:
    """Compiled code checks no bounds: the room it is given is enough for the longest answer."""
    rng = np.random.default_rng(9)
    for _ in range(100):
        data = any_request(rng).SerializeToString()
        answer = plain.lane.score(data)
        if answer is not None:
            size = len(recommender_pb2.ScoreResponse.FromString(answer).items)
            assert len(answer) < room_for(size, len(data), 64)


def test_a_request_without_id_and_seed_gets_both(plain: Ways) -> None:
    """Feedback joins to the slate by its id, and the seed explains it; no two calls get the same."""
    data = score_request("item-1", "item-2").SerializeToString()
    answers = [plain.short(data) for _ in range(200)]
    assert len({answer.request_id for answer in answers if answer}) == 200
    assert len({answer.seed for answer in answers if answer}) == 200
    assert {len(answer.request_id) for answer in answers if answer} == {32}


def test_the_server_refuses_and_falls_back_as_without_the_lane(start: Start) -> None:
    """Over gRPC: a bad request names its field, no message at all is INVALID_ARGUMENT, a rare mode is answered."""
    _, client = start(backend="numba")
    code, status = refusal(client.recommender.Score, score_request("item-1", "item-1"))
    assert (code, violations(status)[0][0]) == (grpc.StatusCode.INVALID_ARGUMENT, "item_ids[1]")
    raw = client.serving.unary_unary("/freshet.v1.RecommenderService/Score")
    code, status = refusal(raw, b"\xff\xff")
    assert (code, status.message) == (grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this call")
    rare = score_request("item-1", mode=events_pb2.MODE_BETA_THOMPSON)
    assert client.recommender.Score(rare, timeout=DEADLINE_S).policy.startswith("beta_thompson")
    usual = client.recommender.Score(score_request("item-1", "item-2", "who"), timeout=DEADLINE_S)
    assert [len(usual.items), list(usual.unknown_item_ids)] == [2, ["who"]]


def test_an_error_in_the_lane_is_internal_and_names_the_request(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No handler answers UNKNOWN, and the log says which request it was though nothing has parsed it."""

    def broken(*_: object) -> None:
        raise KeyError("secret")

    _, client = start(backend="numba")
    monkeypatch.setattr("server.lane.score_lane.read_score", broken)
    code, _ = refusal(client.recommender.Score, score_request(request_id="the-one"))
    assert code == grpc.StatusCode.INTERNAL
    monkeypatch.undo()
    assert '"request_id": "the-one"' in capfd.readouterr().err


@pytest.mark.parametrize("edits", [0, 1], ids=["built", "edited"])
@pytest.mark.parametrize("rules", RULES, ids=["by rank", "explored", "all explored"])
def test_recommend_in_one_pass_is_a_score_of_what_is_around(rules: dict[str, Any], edits: int) -> None:
    """Items found and scored cluster by cluster give the slate of `items_around`, and as many candidates."""
    ways = Ways(**rules)
    for _ in range(edits):
        ways.edit()
    service, parameters = ways.service, ways.snapshot.current
    assert parameters is not None
    for seed in range(40):
        clusters = np.random.default_rng(seed).choice(8, 3, replace=False).tolist()
        request = recommend_request(
            cluster_weights=events_pb2.ClusterWeights(cluster_ids=clusters, weights=[0.5, 0.2, 0.3]),
            seed=seed,
            slate_size=1 + seed,
            mode=[1, 2, 3, 5, 6, 7][seed % 6],
            request_id="r",
        )
        told = service.Recommend(request, None)  # type: ignore[arg-type]  # nothing is recorded
        around = parameters.graph.items_around(np.sort(np.array(clusters, np.int32)))
        ids = [parameters.graph.item_ids[number] for number in around.tolist()]
        score = score_request(*ids, cluster_weights=request.cluster_weights, seed=seed, request_id="r")
        score.slate_size, score.mode = request.slate_size, request.mode
        expected = service.Score(score, None)  # type: ignore[arg-type]
        assert told.candidates == len(around)
        for one, other in zip(told.items, expected.items, strict=True):
            # Integrals depend on the order of candidates by a rounding error.
            assert one.propensity == pytest.approx(other.propensity, rel=1e-4, abs=1e-7)
            one.propensity = other.propensity
        assert list(told.items) == list(expected.items)
        assert (told.policy, told.parameters_position) == (expected.policy, expected.parameters_position)


def test_long_calls_resolve_an_embedding_as_it_is_defined(plain: Ways) -> None:
    """Explain and Recommend know the same user as Score does; what is wrong is still named."""
    rng = np.random.default_rng(8)
    for _ in range(20):
        embedding = events_pb2.Embedding(values=rng.normal(size=4).tolist())
        request = score_request("item-1", user_embedding=embedding, seed=1, request_id="r")
        context = plain.short(request.SerializeToString())
        told = plain.service.Recommend(
            recommend_request(user_embedding=embedding, seed=1),
            None,  # type: ignore[arg-type]  # nothing is recorded
        )
        assert context is not None
        assert told.context == context.context
        defined = resolve_embedding(list(embedding.values), plain.graph.centroids, k=3, temperature=0.5)
        assert list(told.context.cluster_ids) == defined.cluster_ids.tolist()
    for values in ([1, 2, float("nan"), 0], [0, 0, 0, 0], [1, 2, 3]):
        with pytest.raises(Refused, match="user_embedding"):
            plain.service.Recommend(
                recommend_request(user_embedding=events_pb2.Embedding(values=values)),
                None,  # type: ignore[arg-type]
            )


def test_the_lane_goes_on_where_nobody_is_owed_impressions(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only requests with a candidate that is owed some go the long way; what both explore is counted."""
    answered: list[bool] = []
    score = ScoreLane.score

    def counted(lane: ScoreLane, data: bytes) -> bytes | None:
        told = score(lane, data)
        answered.append(told is not None)
        return told

    monkeypatch.setattr(ScoreLane, "score", counted)
    app, client = start(backend="numba", life_cycle={"first_impressions": 1, "first_max_age_s": 0})
    for item_id in ("item-0", "item-1"):
        teach(client, item_id, times=1, rewards=0)
    parameters = app.snapshot.current
    assert parameters is not None
    graph = parameters.graph
    until(lambda: sample(app, "freshet_exploration_first_owed_items") == graph.n_items - 2)
    answered.clear()  # of the warm-up
    client.recommender.Score(score_request("item-0", "item-1", surface="home"), timeout=DEADLINE_S)
    assert sample(app, "freshet_exploration_items_explored_total", surface="home") == 2
    client.recommender.Score(score_request("item-0", "item-2", surface="home"), timeout=DEADLINE_S)
    assert answered == [True, False]
