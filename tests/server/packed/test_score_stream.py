"""Streams of packed slates over gRPC: in order, one dictionary each, bounded, and ended by a stop."""

import importlib.util
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from freshet.v1 import events_pb2, recommender_pb2
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, refusal, retry_delay_ms, score_request, violations
from tests.server.packed.packing import packed, unpacked
from tests.server.packed.test_packed_slates import GOOD
from tests.server.serving import until


def queries(**fields: Any) -> recommender_pb2.ScoreStreamRequest:
    return recommender_pb2.ScoreStreamRequest(queries=recommender_pb2.PackedQueries(**fields))


class Talk:
    """A stream whose caller says one thing at a time."""

    def __init__(self, stub: Any) -> None:
        self._said: queue.Queue[recommender_pb2.ScoreStreamRequest | None] = queue.Queue()
        self._answers = stub.ScoreStream(self._messages(), timeout=DEADLINE_S)

    def _messages(self) -> Iterator[recommender_pb2.ScoreStreamRequest]:
        while (message := self._said.get()) is not None:
            yield message

    def say(self, message: recommender_pb2.ScoreStreamRequest) -> recommender_pb2.ScoreStreamResponse:
        self._said.put(message)
        return next(self._answers)  # type: ignore[no-any-return]

    def end(self) -> None:
        self._said.put(None)
        assert list(self._answers) == []

    def code(self) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as error:
            next(self._answers)
        self._said.put(None)
        return error.value.code()


def test_a_stream_answers_each_message_in_order_and_keeps_its_dictionary(start: Start) -> None:
    """Ids are sent once; each answer is that of the unary call; a refused message ends nothing and adds no ids."""
    _, client = start(backend="numba")
    talk, known = Talk(client.recommender), dict[str, int]()
    for number in range(5):
        requests = [
            score_request(*(f"item-{(number * 7 + i) % 40}" for i in range(9)), seed=number, slate_size=4)
            for _ in range(number + 1)
        ]
        sent = packed(requests, known=known)
        bad = talk.say(queries(**(GOOD | {"items": b"123", "dictionary": ["never"]})))
        assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        answer = talk.say(recommender_pb2.ScoreStreamRequest(queries=sent))
        for one, request in zip(unpacked(answer.slates, requests), requests, strict=True):
            expected = client.recommender.Score(request, timeout=DEADLINE_S)
            expected.ClearField("context")
            expected.ClearField("request_id")
            assert one == expected
    assert len(sent.dictionary) < 9  # the rest was known by then
    talk.end()


def test_two_streams_have_dictionaries_of_their_own(start: Start) -> None:
    """A number within one stream's dictionary means nothing in another."""
    _, client = start(backend="numba")
    one, other = Talk(client.recommender), Talk(client.recommender)
    assert one.say(queries(**GOOD)).HasField("slates")
    told = other.say(queries(**(GOOD | {"dictionary": []})))
    assert "0 <= item < 0" in told.error.message
    one.end()
    other.end()


def test_a_packed_call_is_refused_like_any_other(start: Start) -> None:
    """INVALID_ARGUMENT names the column; one bad slate has a status of its own."""
    _, client = start(backend="numba")
    request = recommender_pb2.ScorePackedRequest(queries=recommender_pb2.PackedQueries())
    code, status = refusal(client.recommender.ScorePacked, request)
    assert (code, violations(status)[0][0]) == (grpc.StatusCode.INVALID_ARGUMENT, "queries.item_counts")
    bad = GOOD | {"weights": np.array([0.5, 7.0], "<f4").tobytes()}
    request = recommender_pb2.ScorePackedRequest(queries=recommender_pb2.PackedQueries(**bad))
    slates = client.recommender.ScorePacked(request, timeout=DEADLINE_S).slates
    assert [error.slate for error in slates.errors] == [1]
    assert violations(slates.errors[0].status)[0][0] == "queries.weights[1]"
    assert np.frombuffer(slates.item_counts, "<i4").tolist() == [2, 0]


def test_without_a_graph_packed_calls_say_so(start: Start) -> None:
    """FAILED_PRECONDITION before a graph is loaded, as for every call."""
    _, client = start(backend="numba", graph=None)
    request = recommender_pb2.ScorePackedRequest(queries=recommender_pb2.PackedQueries(**GOOD))
    assert refusal(client.recommender.ScorePacked, request)[0] == grpc.StatusCode.FAILED_PRECONDITION
    talk = Talk(client.recommender)
    assert talk.say(queries(**GOOD)).error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    talk.end()


def test_streams_beyond_their_places_are_refused_and_hold_up_no_score(start: Start) -> None:
    """A stream keeps a thread for as long as it is open, so there are few, and unary calls have their own."""
    app, client = start(backend="numba", rpc={"streams_in_flight": 1, "retry_after_ms": 7})
    talk = Talk(client.recommender)
    talk.say(queries(**GOOD))
    with pytest.raises(grpc.RpcError) as error:
        next(client.recommender.ScoreStream(iter([queries(**GOOD)]), timeout=DEADLINE_S))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    code, status = refusal(
        lambda request, timeout: next(client.recommender.ScoreStream(iter([request]), timeout=timeout)),
        queries(**GOOD),
    )
    assert (code, retry_delay_ms(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 7)
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).items
    talk.end()
    until(lambda: app._listeners[0].streams.count == 0)
    again = Talk(client.recommender)
    assert again.say(queries(**GOOD)).HasField("slates")
    again.end()


def test_a_stop_does_not_wait_for_a_silent_stream(start: Start) -> None:
    """A caller who keeps a stream open and says nothing would hold up every restart for all of the grace."""
    app, client = start(backend="numba")
    talk = Talk(client.recommender)
    talk.say(queries(**GOOD))
    stopping = threading.Thread(target=app.stop, args=(DEADLINE_S * 10,))
    stopping.start()
    assert talk.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    stopping.join(DEADLINE_S)
    assert not stopping.is_alive()


def test_a_caller_who_goes_away_gives_its_place_back(start: Start) -> None:
    """A cancelled stream leaves neither place nor thread behind, and is counted."""
    app, client = start(backend="numba", rpc={"streams_in_flight": 1})
    for _ in range(4):
        call = client.recommender.ScoreStream(iter([queries(**GOOD)]), timeout=DEADLINE_S)
        next(call)
        call.cancel()
        until(lambda: app._listeners[0].streams.count == 0)
    assert app._listeners[0].streams.count == 0


def test_messages_of_a_stream_are_counted_as_calls(start: Start) -> None:
    """Operators see streams in the same series as calls."""
    app, client = start(backend="numba")
    talk = Talk(client.recommender)
    talk.say(queries(**GOOD))
    talk.say(queries(**(GOOD | {"items": b"1"})))
    talk.end()
    value = app.metrics.registry.get_sample_value
    for code, count in (("OK", 1), ("INVALID_ARGUMENT", 1)):
        assert value("freshet_requests_total", {"rpc": "ScoreStream", "code": code}) == count
    until(lambda: value("freshet_streams_total", {"rpc": "ScoreStream", "code": "OK"}) == 1)


def test_the_example_of_the_documents_works(start: Start) -> None:
    """What the reference shows to callers runs as it stands, and gives the slates of the unary call."""
    source = Path(__file__).parents[3] / "docs" / "score_stream_example.py"
    spec = importlib.util.spec_from_file_location("score_stream_example", source)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    _, client = start(backend="numba")
    ids = [f"item-{number}" for number in range(12)]
    stream = example.SlateStream(client.serving, ids)
    users = [([0], [1.0]), ([3, 0], [0.5, 0.25])]
    for _ in range(2):
        told = list(stream.slates(users, size=4))
        for slate, (clusters, weights) in zip(told, users, strict=True):
            request = score_request(*ids, slate_size=4, mode=events_pb2.MODE_UCB)
            request.cluster_weights.cluster_ids[:], request.cluster_weights.weights[:] = clusters, weights
            items = client.recommender.Score(request, timeout=DEADLINE_S).items
            # Nothing has been learned: all tie, so which items they are is drawn, and the propensities are 1 / 12.
            assert [propensity for _, propensity in slate] == [item.propensity for item in items]
            assert {item_id for item_id, _ in slate} <= set(ids)
    with pytest.raises(ValueError, match=r"queries.slate_sizes\[0\]"):
        list(stream.slates(users, size=-1))
    stream.close()
