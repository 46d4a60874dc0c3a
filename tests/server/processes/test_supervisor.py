"""Several processes are one server: one port, one state, one page, and none is missed for long."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bandits.artifact import save_graph
from freshet.v1 import events_pb2, operations_pb2, recommender_pb2
from server.app import StartError
from server.processes.supervisor import Supervisor
from tests.server.messages import (
    one_hot,
    recommend_request,
    score_request,
)
from tests.server.processes.pages import scraped, total
from tests.server.processes.servers import (
    CHANNELS,
    PATIENCE_S,
    PROCESSES,
    Callers,
    feed,
    kill,
    patiently,
    server_of_processes,
    until,
    wait_for_another,
)
from tests.server.serving import make_settings, small_graph


def test_processes_are_one_server(tmp_path: Path) -> None:
    """All answer callers, alike and from one state; feedback through any is learned once, edits reach all."""
    with server_of_processes(tmp_path, backend="numba", policy={"mode": "thompson"}) as (server, callers):
        again = make_settings(tmp_path, server={"processes": 2}, address=server.addresses.serving)
        with pytest.raises(StartError, match="cannot listen on"):  # two servers never share a port unnoticed
            Supervisor(again).start()
        operations = callers.operations
        feed(callers, "first")
        status = operations.GetStatus(operations_pb2.GetStatusRequest(), timeout=PATIENCE_S)
        assert status.counts["impressions_accepted"] == 2 * CHANNELS
        assert status.counts["clicks_joined"] == CHANNELS
        assert status.parameters_position == status.ledger_end
        assert_alike(callers, position=status.parameters_position[0], graph_version="v1")
        assert_other_calls_alike(callers)

        item = events_pb2.Item(item_id="new", cluster_ids=events_pb2.ClusterIds(values=[0, 3]))
        edited = operations.UpsertItems(operations_pb2.UpsertItemsRequest(items=[item]), timeout=PATIENCE_S)
        answers = assert_alike(callers, "new", "item-1", graph_version=edited.graph_version)
        assert {one.item_id for one in answers[0].items} == {"new", "item-1"}
        retired = operations.RetireItems(operations_pb2.RetireItemsRequest(item_ids=["item-1"]), timeout=PATIENCE_S)
        answers = assert_alike(callers, "new", "item-1", graph_version=retired.graph_version)
        assert list(answers[0].unknown_item_ids) == ["item-1"]

        save_graph(small_graph("v2", n_items=20), tmp_path / "graphs" / "v2")
        operations.LoadGraph(operations_pb2.LoadGraphRequest(path="v2"), timeout=PATIENCE_S)
        assert_alike(callers, graph_version="v2")
        assert_alike(callers, graph_version="v2")  # now nobody holds an answer from the graph before
        until(lambda: [segments_of(pid) for pid in server.pids().values()] == [1] * (PROCESSES + 1))

        until(lambda: total(scraped(server), "freshet_requests_total", rpc="LogClicks") == 2 * CHANNELS)
        series = scraped(server)
        for number in range(PROCESSES):
            assert total(series, "freshet_process_requests_total", process=f"reader-{number}") > 0
        assert total(series, "freshet_feedback_events_total", kind="click") == 2 * CHANNELS
        assert total(series, "freshet_feedback_outcomes_total", outcome="clicks_joined") == CHANNELS
        assert total(series, "freshet_graph_items") == 20
        with urllib.request.urlopen(f"http://{server.addresses.http}/status.json", timeout=PATIENCE_S) as page:
            told = json.load(page)
        assert told["ready"]
        assert told["graph_version"] == "v2"
        assert len(told["processes"]) == PROCESSES + 1


def segments_of(pid: int) -> int:
    """Graphs whose memory a process maps."""
    return Path(f"/proc/{pid}/maps").read_text().count("/memfd:freshet-parameters")


def assert_other_calls_alike(callers: Callers) -> None:
    """Batches, slates around a user and explanations too; where no seed is given, no two calls have the same."""
    batch = recommender_pb2.ScoreBatchRequest(requests=[score_request(request_id="b", seed=1)] * 2)
    item = recommender_pb2.ExplainRequest(item_id="item-1", cluster_weights=one_hot(), seed=3)
    around = recommend_request(request_id="a", seed=2)
    answers = [
        (
            stub.ScoreBatch(batch, timeout=PATIENCE_S),
            stub.Explain(item, timeout=PATIENCE_S),
            stub.Recommend(around, timeout=PATIENCE_S),
        )
        for stub in callers.recommenders
    ]
    assert all(answer == answers[0] for answer in answers)
    drawn = [stub.Score(score_request(), timeout=PATIENCE_S) for stub in callers.recommenders]
    assert len({answer.seed for answer in drawn}) == len({answer.request_id for answer in drawn}) == CHANNELS


def assert_alike(callers: Callers, *item_ids: str, **fields: Any) -> list[recommender_pb2.ScoreResponse]:
    """Through all connections the same answer, state and policy included, with these fields."""
    asked = score_request(*item_ids, request_id="r", seed=7)
    answers = [stub.Score(asked, timeout=PATIENCE_S) for stub in callers.recommenders]
    assert all(answer == answers[0] for answer in answers)
    for name, value in fields.items():
        got = getattr(answers[0], name if name != "position" else "parameters_position")
        assert (got[0] if name == "position" else got) == value
    return answers


def test_a_killed_process_is_not_missed_for_long(tmp_path: Path) -> None:
    """One that serves is replaced; while the writer is away scores go on, and feedback is learned once after it."""
    with server_of_processes(tmp_path) as (server, callers):
        feed(callers, "before")
        until(lambda: total(scraped(server), "freshet_requests_total", rpc="LogClicks") == 2 * CHANNELS)
        pid = kill(server, "reader-0")
        until(lambda: total(scraped(server), "freshet_process_restarts_total", process="reader-0") == 1)
        assert total(scraped(server), "freshet_requests_total", rpc="LogClicks") == 2 * CHANNELS
        wait_for_another(server, "reader-0", pid)
        ask_all(callers)

        writer = kill(server, "writer")
        before = ask_all(callers)
        feed(callers, "after")
        wait_for_another(server, "writer", writer)
        after = ask_all(callers)
        status = patiently(callers.operations.GetStatus, operations_pb2.GetStatusRequest())
        assert status.counts["clicks_joined"] == 2 * CHANNELS
        assert after == {status.parameters_position[0]}
        assert max(before) < min(after)


def ask_all(callers: Callers) -> set[int]:
    """Positions of answers through all connections; a connection to a process that has died is made again."""
    positions = set()
    for stub in callers.recommenders:
        answer = stub.Score(score_request(), timeout=PATIENCE_S, wait_for_ready=True)
        positions.add(answer.parameters_position[0])
    return positions


def test_nothing_outlives_the_first_process(tmp_path: Path) -> None:
    """When it is killed all others end, the port is free, and a server over the same data starts again."""
    make_settings(tmp_path)
    command = [sys.executable, "-m", "server", "serve", "--processes", "2", "--json", "--backend", "numpy"]
    for option in ("--address", "--operations-address", "--http-address"):
        command += [option, "127.0.0.1:0"]
    command += ["--data-dir", str(tmp_path / "data"), "--graph", str(tmp_path / "graphs" / "v1"), "--mode", "ucb"]
    for signum, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as first:
            assert first.stdout is not None
            ready = json.loads(first.stdout.readline())
            assert ready["event"] == "ready"
            others = children_of(first.pid)
            assert len(others) == 3
            first.send_signal(signum)
            assert first.wait(PATIENCE_S) == code
        until(lambda pids=others: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_a_writer_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The reason is the writer's own sentence, and nothing is left running."""
    (tmp_path / "data").write_text("not a directory")
    server = Supervisor(make_settings(tmp_path, server={"processes": 2}))
    with pytest.raises(StartError, match=r"writer: .*data"):
        server.start()
    assert server.pids() == {}
