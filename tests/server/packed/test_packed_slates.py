"""Packed slates are the slates of the unary call, many at a time."""

from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.status_pb2 import Status

from freshet.v1 import recommender_pb2
from server.errors import Refused
from server.limits import MAX_DICTIONARY_IDS
from server.packed.dictionary import Dictionary
from server.packed.packed_slates import PackedSlates
from tests.server.lane.lanes import Ways, any_request
from tests.server.packed.packing import packed, unpacked

RULES: list[dict[str, Any]] = [{}, {"top_m": 4, "explore_share": 0.3}]


def filler(ways: Ways) -> PackedSlates:
    return PackedSlates(
        snapshot=ways.snapshot,
        rules=ways.service._rules,
        k=3,
        temperature=0.5,
        default_mode="ucb",
        metrics=ways.lane_metrics,
    )


def some_requests(rng: np.random.Generator, count: int, *, embedded: bool) -> list[recommender_pb2.ScoreRequest]:
    """Requests that packed columns can hold, all users of one kind."""
    requests: list[recommender_pb2.ScoreRequest] = []
    while len(requests) < count:
        request = any_request(rng)
        del request.exclude_item_ids[:]
        request.user_key, request.surface = "", "home"
        if request.HasField("user_embedding") == embedded:
            requests.append(request)
    return requests


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("embedded", [False, True], ids=["clusters", "embeddings"])
@pytest.mark.parametrize("rules", RULES, ids=["by rank", "explored"])
def test_packed_slates_are_those_of_the_unary_call(rules: dict[str, Any], embedded: bool, backend: str) -> None:
    """Same items, numbers, propensities, users and unknown ids, on every backend, before and after an edit."""
    ways = Ways(**rules)
    current = ways.snapshot.current
    assert current is not None
    slates, dictionary, known = filler(ways), Dictionary(), dict[str, int]()
    rng = np.random.default_rng(4)
    for number in range(12):
        if number == 6:
            ways.edit()
            current = ways.snapshot.current
        assert current is not None
        if backend == "numpy":
            current._backend = _NUMPY
        requests = some_requests(rng, 1 + number * 3, embedded=embedded)
        if number % 2:
            requests[0].mode = 4  # which has no compiled loops
        answer = slates.fill(packed(requests, known=known), dictionary)
        for one, request in zip(unpacked(answer, requests), requests, strict=True):
            expected = ways.service._score(request)
            if not embedded:
                expected.ClearField("context")
            assert one == expected
    counted = ways.metrics.served()
    assert counted[1:] == ways.lane_metrics.served()[1:]


class _Numpy:
    name = "numpy"

    def __init__(self) -> None:
        from bandits.backend_numpy import NumpyBackend

        self.gather = NumpyBackend().gather


_NUMPY: Any = _Numpy()


def test_one_bad_slate_harms_no_other() -> None:
    """Each slate has its own status, with the path of what is wrong within the message."""
    ways, rng = Ways(), np.random.default_rng(0)
    requests = some_requests(rng, 9, embedded=False)
    for request in requests:
        request.cluster_weights.cluster_ids[:] = [0, 3]
        request.cluster_weights.weights[:] = [0.5, 1.0]
        request.item_ids[:] = ["item-1", "item-2", "item-3"]
    requests[1].item_ids[2] = "item-1"
    requests[2].cluster_weights.cluster_ids[1] = 8
    requests[3].cluster_weights.cluster_ids[1] = 0
    requests[4].cluster_weights.weights[0] = float("nan")
    requests[5].cluster_weights.weights[1] = 1.5
    requests[6].item_ids[:] = ["a", "b"]
    queries = packed(requests, known={})
    queries.modes = bytes([0, 0, 0, 0, 0, 0, 0, 99, 2])
    answers = unpacked(filler(ways).fill(queries, Dictionary()), requests)
    told = [answer.message.partition(":")[0] if isinstance(answer, Status) else "" for answer in answers]
    assert told == [
        "",
        "queries.items[5]",
        "queries.cluster_ids[5]",
        "queries.cluster_ids[7]",
        "queries.weights[8]",
        "queries.weights[11]",
        "",
        "queries.modes[7]",
        "",
    ]
    assert isinstance(answers[6], recommender_pb2.ScoreResponse)
    assert list(answers[6].unknown_item_ids) == ["a", "b"]
    assert len(answers[6].items) == 0
    assert isinstance(answers[8], recommender_pb2.ScoreResponse)
    assert answers[8].items


def test_an_embedding_that_is_no_direction_harms_no_other() -> None:
    """NaN, infinity and zeros are refused one by one."""
    ways = Ways()
    requests = some_requests(np.random.default_rng(0), 20, embedded=True)
    for at, value in ((3, float("nan")), (17, float("inf"))):
        requests[at].user_embedding.values[1] = value
    requests[5].user_embedding.values[:] = [0, 0, 0, 0]
    answer = filler(ways).fill(packed(requests, known={}), Dictionary())
    assert [error.slate for error in answer.errors] == [3, 5, 17]
    assert all("embeddings" in error.status.message for error in answer.errors)


def int32(*numbers: int) -> bytes:
    return np.array(numbers, "<i4").tobytes()


GOOD: dict[str, Any] = {
    "dictionary": ["item-1", "item-2"],
    "items": int32(0, 1, 0),
    "item_counts": int32(2, 1),
    "cluster_ids": int32(0, 1),
    "weights": np.array([0.5, 0.5], "<f4").tobytes(),
    "cluster_counts": int32(1, 1),
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"items": b"123"}, "queries.items: expected a multiple of 4 bytes, got 3 bytes"),
        ({"items": int32(0, 1)}, "queries.items: expected 3 entries, the sum of item_counts, got 2 entries"),
        (
            {"items": int32(0, 1, 2)},
            "queries.items[2]: expected a number within the dictionary, 0 <= item < 2, got 2",
        ),
        ({"items": int32(0, 1, -1)}, "queries.items[2]: expected a number within the dictionary"),
        ({"item_counts": b""}, "queries.item_counts: expected 1 to 256 slates, got 0 slates"),
        ({"item_counts": int32(*[1] * 257)}, "queries.item_counts: expected 1 to 256 slates, got 257 slates"),
        ({"item_counts": int32(3, 0)}, "queries.item_counts[1]: expected 1 to 5000, got 0"),
        ({"item_counts": int32(5_001, 1)}, "queries.item_counts[0]: expected 1 to 5000, got 5001"),
        ({"items": int32(*[0] * 100_001)}, "queries.items: expected at most 100000 candidates"),
        ({"cluster_counts": int32(2)}, "queries.cluster_counts: expected 2 entries, one a slate"),
        ({"cluster_counts": int32(2, 0)}, "queries.cluster_counts[1]: expected 1 to 64, got 0"),
        ({"cluster_counts": int32(65, 1)}, "queries.cluster_counts[0]: expected 1 to 64, got 65"),
        ({"cluster_ids": int32(1)}, "queries.cluster_ids: expected 2 entries, the sum of cluster_counts"),
        ({"weights": b"1234"}, "queries.weights: expected 2 entries"),
        ({"embeddings": bytes(4 * 8)}, "queries.embeddings: expected embeddings or clusters, got both"),
        ({"slate_sizes": int32(1, 1, 1)}, "queries.slate_sizes: expected 2 entries (one a slate), one, or none"),
        ({"slate_sizes": int32(1, -1)}, "queries.slate_sizes[1]: expected 0 (all) to 5000, got -1"),
        ({"slate_sizes": int32(5_001)}, "queries.slate_sizes[0]: expected 0 (all) to 5000, got 5001"),
        ({"modes": b"\1\1\1"}, "queries.modes: expected 2 entries"),
        ({"seeds": bytes(8)}, "queries.seeds: expected 2 entries, one a slate, or none"),
        ({"surface": "x" * 65}, "queries.surface: expected 0 to 64 bytes, got 65 bytes"),
        ({"dictionary": ["item-1", ""]}, "queries.dictionary[1]: expected 1 to 256 bytes, got an empty string"),
        ({"dictionary": ["x" * 257]}, "queries.dictionary[0]: expected 1 to 256 bytes, got 257 bytes"),
        ({"dictionary": ["x"] * (MAX_DICTIONARY_IDS + 1)}, "queries.dictionary: expected at most 100000 ids"),
        ({"graph_version": "v9"}, "queries.graph_version: expected v1, which is in force"),
        ({"graph_version": "v1"}, "queries.dictionary: expected no ids with graph_version, got 2 ids"),
    ],
)
def test_a_message_that_does_not_fit_together_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    """The column, what was expected of it, and what came; the dictionary stays as it was."""
    slates, dictionary = filler(Ways()), Dictionary()
    with pytest.raises(Refused) as refused:
        slates.fill(recommender_pb2.PackedQueries(**(GOOD | change)), dictionary)
    assert refused.value.message.startswith(named)
    assert len(dictionary) == 0
    slates.fill(recommender_pb2.PackedQueries(**GOOD), dictionary)
    assert len(dictionary) == 2


def test_numbers_of_the_graph_need_no_ids() -> None:
    """A caller who has the artifact sends item numbers; those of retired items are unknown."""
    ways = Ways()
    slates = filler(ways)
    fields = {key: value for key, value in GOOD.items() if key != "dictionary"}
    fields |= {"items": int32(5, 1, 7), "graph_version": "v1", "seeds": bytes(16)}
    by_number = slates.fill(recommender_pb2.PackedQueries(**fields), Dictionary())
    fields |= {"items": int32(0, 1, 2), "dictionary": ["item-5", "item-1", "item-7"], "graph_version": ""}
    assert by_number == slates.fill(recommender_pb2.PackedQueries(**fields), Dictionary())
    ways.edit()
    fields |= {"items": int32(5, 1, 7), "dictionary": [], "graph_version": "v1+1"}
    after = slates.fill(recommender_pb2.PackedQueries(**fields), Dictionary())
    assert np.frombuffer(after.unknown, "<i4").tolist() == [0]
    with pytest.raises(Refused) as refused:
        slates.fill(recommender_pb2.PackedQueries(**(fields | {"graph_version": "v1"})), Dictionary())
    assert refused.value.code == grpc.StatusCode.FAILED_PRECONDITION


def test_seeds_that_are_not_given_are_drawn_and_told() -> None:
    """The seeds of the answer give the same slates again."""
    slates = filler(Ways(explore_share=0.5))
    first = slates.fill(recommender_pb2.PackedQueries(**GOOD), Dictionary())
    again = slates.fill(recommender_pb2.PackedQueries(**GOOD, seeds=first.seeds), Dictionary())
    assert first == again
    assert slates.fill(recommender_pb2.PackedQueries(**GOOD), Dictionary()).seeds != first.seeds
