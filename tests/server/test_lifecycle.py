"""Starting, being ready, and stopping."""

import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bandits.artifact import save_graph
from freshet.v1 import operations_pb2
from server.app import App, StartError
from server.health import FEEDBACK, OPERATIONS, RECOMMENDER
from streams.change import Change
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, impression, impressions, refusal, score_request
from tests.server.serving import Client, make_settings, small_graph, until

Health = health_pb2.HealthCheckResponse


def health_of(channel: grpc.Channel, service: str) -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE_S).status


def test_a_server_without_a_graph_says_so(start: Start, tmp_path: Path) -> None:
    """Before a graph is loaded: not serving, FAILED_PRECONDITION; after LoadGraph: serving."""
    make_settings(tmp_path)
    app, client = start(graph=None)
    assert health_of(client.serving, "") == Health.NOT_SERVING
    assert health_of(client.serving, RECOMMENDER) == Health.NOT_SERVING
    for call, request in (
        (client.recommender.Score, score_request()),
        (client.operations.GetItem, operations_pb2.GetItemRequest(item_id="item-0")),
        (client.operations.RetireItems, operations_pb2.RetireItemsRequest(item_ids=["item-0"])),
    ):
        code, status = refusal(call, request)
        assert (code, status.message) == (grpc.StatusCode.FAILED_PRECONDITION, "no graph is loaded yet")
    client.operations.LoadGraph(operations_pb2.LoadGraphRequest(path="v1"), timeout=DEADLINE_S)
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).graph_version == "v1"
    until(lambda: app.health.ready)  # the health follows within a second
    for service in ("", RECOMMENDER, FEEDBACK):
        assert health_of(client.serving, service) == Health.SERVING


def test_health_and_reflection_stand_beside_the_services(untaught: Client) -> None:
    """Every listener tells its health and describes what it serves, and nothing else."""
    for channel, services in ((untaught.serving, {RECOMMENDER, FEEDBACK}), (untaught.operating, {OPERATIONS})):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub.ServerReflectionInfo(iter([request]), timeout=DEADLINE_S)))
        named = {service.name for service in answer.list_services_response.service}
        assert named == services | {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        for service in ("", *services):
            assert health_of(channel, service) == Health.SERVING


def test_a_stop_answers_the_calls_in_flight(tmp_path: Path) -> None:
    """Calls that were accepted are answered, new ones are turned away, and what was answered is in the store."""
    app = App(make_settings(tmp_path))
    apply, reached, go_on = app.snapshot.apply, threading.Event(), threading.Event()
    go_on.set()

    def slow(change: Change) -> None:
        reached.set()
        assert go_on.wait(DEADLINE_S)
        apply(change)

    app.snapshot.apply = slow  # type: ignore[method-assign]
    app.start()
    client = Client(app)
    go_on.clear()
    reached.clear()
    calls = [
        client.feedback.LogImpressions.future(impressions(impression(f"r{i}", "item-0")), timeout=DEADLINE_S)
        for i in range(10)
    ]
    assert reached.wait(DEADLINE_S)
    gauge = ("freshet_requests_in_flight", {"kind": "feedback"})
    until(lambda: app.metrics.registry.get_sample_value(*gauge) == 10)
    watch = health_pb2_grpc.HealthStub(client.serving).Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
    assert next(watch).status == Health.SERVING
    stopping = threading.Thread(target=app.stop, args=(DEADLINE_S,))
    stopping.start()
    assert next(watch).status == Health.NOT_SERVING
    watch.cancel()
    go_on.set()
    assert [call.result().accepted for call in calls] == [1] * 10
    stopping.join()
    client.close()
    assert app.wait(0)
    again = App(app.settings)
    again.start()
    assert again.loop is not None
    assert again.loop.status().counts["impressions_accepted"] == 10
    again.stop(5.0)


def test_ports_and_store_are_free_after_a_stop(tmp_path: Path) -> None:
    """The same settings can be started again at once, on the very same ports."""
    first = App(make_settings(tmp_path))
    first.start()
    where = first.addresses
    first.stop(1.0)
    settings = make_settings(
        tmp_path, address=where.serving, operations_address=where.operations, http_address=where.http
    )
    second = App(settings)
    second.start()
    assert second.addresses == where
    second.stop(1.0)


@pytest.mark.parametrize("which", ["address", "operations_address", "http_address"])
def test_a_taken_port_stops_the_start(tmp_path: Path, which: str) -> None:
    """One sentence names the address, and the store is as free as before."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        app = App(make_settings(tmp_path, **{which: address}))
        with pytest.raises(StartError) as error:
            app.start()
    assert address in str(error.value)
    assert "\n" not in str(error.value)
    app = App(make_settings(tmp_path))
    app.start()
    app.stop(1.0)


def test_a_damaged_graph_stops_the_start(tmp_path: Path) -> None:
    """The sentence says what is damaged."""
    settings = make_settings(tmp_path)
    (tmp_path / "graphs" / "v1" / "manifest.json").write_text("{")
    with pytest.raises(StartError) as error:
        App(settings).start()
    assert "v1" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_store_of_another_format_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the store, its format and ours."""
    settings = make_settings(tmp_path)
    app = App(settings)
    app.start()
    app.stop(1.0)
    monkeypatch.setattr("streams.store.FORMAT", 7)
    with pytest.raises(StartError, match=r"has format 1, this release reads format 7") as error:
        App(settings).start()
    assert "\n" not in str(error.value)


def test_a_store_in_use_stops_the_start(start: Start) -> None:
    """Two servers over one store would each lose the other's facts."""
    app, _ = start()
    with pytest.raises(StartError):
        App(app.settings).start()


def test_a_graph_of_the_settings_does_not_replace_the_stores_own(tmp_path: Path) -> None:
    """The store's graph is the one its sums are of; only LoadGraph changes it."""
    first = App(make_settings(tmp_path))
    first.start()
    first.stop(1.0)
    save_graph(small_graph("v2"), tmp_path / "graphs" / "v2")
    second = App(make_settings(tmp_path, graph=tmp_path / "graphs" / "v2"))
    second.start()
    client = Client(second)
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).graph_version == "v1"
    client.close()
    second.stop(1.0)


def test_an_unexpected_error_is_internal_and_logged(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No handler answers UNKNOWN; the log names call and request alone, the caller learns no more."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("secret")

    _, client = start()
    monkeypatch.setattr("server.snapshot.fill_slate", broken)
    request = score_request(request_id="the-one", user_key="private")
    code, status = refusal(client.recommender.Score, request)
    assert (code, status.message) == (grpc.StatusCode.INTERNAL, "internal error, logged by the server")
    monkeypatch.undo()
    assert client.recommender.Score(score_request(), timeout=DEADLINE_S).items
    logged = capfd.readouterr().err
    assert '"request_id": "the-one"' in logged
    assert "KeyError" in logged
    assert "private" not in logged


def test_changes_by_operators_are_logged(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """Who changed what, and how it ended, is one line each; what only looks is not logged."""
    app, client = start(log={"level": "info"})
    client.operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=DEADLINE_S)
    client.operations.FreezeLearning(operations_pb2.FreezeLearningRequest(frozen=True), timeout=DEADLINE_S)
    refusal(client.operations.LoadGraph, operations_pb2.LoadGraphRequest(path=".."))
    app.stop(1.0)
    lines = [orjson.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [(line["rpc"], line["code"]) for line in lines if line["event"] == "operation"]
    assert told == [("FreezeLearning", "OK"), ("LoadGraph", "INVALID_ARGUMENT")]
    assert [line["event"] for line in (lines[0], *lines[-2:])] == ["serving", "stopping", "stopped"]


def test_stopping_twice_is_stopping_once(start: Start) -> None:
    """A second signal does not disturb the first stop."""
    app, _ = start()
    stops = [threading.Thread(target=app.stop, args=(1.0,)) for _ in range(3)]
    for thread in stops:
        thread.start()
    for thread in stops:
        thread.join()
    assert app.wait(DEADLINE_S)
