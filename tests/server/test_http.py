"""The port for people and monitors."""

import http.client
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from freshet.v1 import operations_pb2
from server.app import App
from server.http import HttpServer, Page
from server.limits import HTTP_CONNECTIONS
from server.settings import split_address
from server.vitals import Sample, rates
from streams.embedded import LoopStatus
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, click, clicks, recommend_request
from tests.server.serving import until


def ask(app: App, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*split_address(app.addresses.http), timeout=DEADLINE_S)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_readiness_follows_the_graph(start: Start) -> None:
    """Alive without a graph, but not ready."""
    ready, _ = start()
    assert (ask(ready, "/healthz")[0], ask(ready, "/readyz")[0]) == (200, 200)


def test_not_ready_without_a_graph(start: Start) -> None:
    """A balancer sends nobody to a server that has nothing to serve."""
    waiting, _ = start(graph=None)
    assert (ask(waiting, "/healthz")[0], ask(waiting, "/readyz")[0]) == (200, 503)
    status = orjson.loads(ask(waiting, "/status.json")[2])
    assert (status["ready"], status["graph_version"]) == (False, "")


def test_the_status_tells_what_the_console_shows(start: Start) -> None:
    """Learning, safety and position are all there, as finite numbers."""
    app, client = start()
    slate = client.recommender.Recommend(recommend_request(log_impression=True), timeout=DEADLINE_S)
    client.feedback.LogClicks(clicks(click(slate.request_id, slate.items[0].item_id)), timeout=DEADLINE_S)
    client.operations.FreezeLearning(operations_pb2.FreezeLearningRequest(frozen=True), timeout=DEADLINE_S)
    status = orjson.loads(ask(app, "/status.json")[2])
    assert (status["impressions"], status["rewards"], status["slates"], status["events"]) == (5, 1.0, 1, 2)
    assert status["position"] == status["loop"]["ledger_end"] > 0
    assert status["loop"]["frozen"]
    assert status["policy"] == "ucb(alpha=0.3, estimator=averaged)"
    assert orjson.loads(ask(app, "/history.json")[2]) == []


def test_the_console_page_is_self_contained(start: Start) -> None:
    """It loads nothing from elsewhere, and could not if it tried."""
    app, _ = start()
    status, headers, body = ask(app, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    addresses = set(re.findall(rb"https?://[^\"'\s]+", body))
    assert addresses <= {b"http://www.w3.org/2000/svg"}  # the name of a namespace, never fetched
    assert not re.search(rb"<(link|img|iframe|script\s+src)|innerHTML", body)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("POST", "/", 501), ("HEAD", "/", 200)])
def test_only_known_pages_can_be_read(start: Start, method: str, path: str, status: int) -> None:
    """There is nothing to write, and nothing beside the pages."""
    app, _ = start()
    answered, headers, body = ask(app, path, method)
    assert answered == status
    if method == "HEAD":
        assert int(headers["Content-Length"]) > 0
        assert body == b""


@pytest.fixture
def bare() -> Iterator[HttpServer]:
    server = HttpServer(("127.0.0.1", 0))
    server.start({"/": lambda: Page(200, "text/plain", b"hello")})
    yield server
    server.stop()


def test_silent_connections_cannot_take_every_place(bare: HttpServer) -> None:
    """Beyond the bound a connection is closed at once; as places come free, pages are served again."""
    silent = [socket.create_connection(bare.address, timeout=DEADLINE_S) for _ in range(HTTP_CONNECTIONS)]
    late = socket.create_connection(bare.address, timeout=DEADLINE_S)
    assert late.recv(1) == b""
    late.close()
    for connection in silent:
        connection.close()

    def served() -> bool:
        connection = http.client.HTTPConnection(*bare.address, timeout=DEADLINE_S)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read() == b"hello"
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()

    until(served)


def sample(**fields: Any) -> Sample:
    loop = LoopStatus(0, 0, 0, {}, 0, 0, False, None, "numpy", 0)
    zero = Sample(0.0, True, "v", 1, 1, 1, 0, 0.0, loop, 0, 0.0, 0, 0, 0, 0, (0.0, 0.0))
    return replace(zero, **fields)


def test_rates_are_of_what_happened_in_between() -> None:
    """Shares and rates over the window, 0 where nothing happened or totals went down with a graph."""
    served = {"slate_items": 50, "explored_items": 5, "slates": 10}
    earlier = sample(at_s=10.0, impressions=100, rewards=5.0, events=7, **served)
    later = sample(
        at_s=14.0, impressions=140, rewards=15.0, slate_items=90, explored_items=15, slates=18, events=47
    )
    told = rates(earlier, later)
    assert (told["reward_rate"], told["explored_share"]) == (0.25, 0.25)
    assert (told["slates_per_s"], told["events_per_s"]) == (2.0, 10.0)
    nothing = rates(later, replace(later, at_s=15.0))
    assert (nothing["reward_rate"], nothing["explored_share"]) == (0.0, 0.0)
    assert rates(later, replace(earlier, at_s=16.0))["reward_rate"] == 0.0
