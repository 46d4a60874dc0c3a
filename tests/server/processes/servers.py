"""A server of several processes on free ports, and callers whose connections reach all of them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from freshet.v1 import feedback_pb2_grpc, operations_pb2_grpc, recommender_pb2_grpc
from server.processes.supervisor import Supervisor
from tests.server.messages import click, clicks, impression, impressions
from tests.server.serving import make_settings

PROCESSES = 2
PATIENCE_S = 90.0  # a process starts within a second of a processor, which others may be using
CHANNELS = 16  # the system spreads connections by a hash: with so many, one process gets none once in 30,000 runs


class Callers:
    """Channels with a connection each; those of one process cannot be told from the others'."""

    def __init__(self, server: Supervisor) -> None:
        address = server.addresses.serving
        apart = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [grpc.insecure_channel(address, apart) for _ in range(CHANNELS)]
        self.recommenders = [recommender_pb2_grpc.RecommenderServiceStub(channel) for channel in self.channels]
        self.feedback = [feedback_pb2_grpc.FeedbackServiceStub(channel) for channel in self.channels]
        self.channels.append(grpc.insecure_channel(server.addresses.operations))
        self.operations = operations_pb2_grpc.OperationsServiceStub(self.channels[-1])

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what processes will do."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@contextmanager
def server_of_processes(folder: Path, **overrides: Any) -> Iterator[tuple[Supervisor, Callers]]:
    """Two processes that serve and one that writes, until the end of the block."""
    folder.mkdir(exist_ok=True)
    server = Supervisor(make_settings(folder, server={"processes": PROCESSES}, **overrides))
    server.start()
    callers = Callers(server)
    try:
        yield server, callers
    finally:
        callers.close()
        server.stop(1.0)


def feed(callers: Callers, prefix: str) -> None:
    """Through every connection an impression and its click, and both once more through the next."""
    for at, _ in enumerate(callers.feedback):
        for feedback in (callers.feedback[at], callers.feedback[at - 1]):
            shown = impression(f"{prefix}-{at}", "item-1", "item-2")
            assert patiently(feedback.LogImpressions, impressions(shown)).accepted == 1
            assert patiently(feedback.LogClicks, clicks(click(f"{prefix}-{at}", "item-1"))).accepted == 1


def patiently(call: Any, request: Any) -> Any:
    """Send it again where the writer was away: what was accepted counts once."""
    for _ in range(100):
        try:
            return call(request, timeout=PATIENCE_S, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            time.sleep(0.05)
    raise AssertionError("the writer did not come back")


def kill(server: Supervisor, name: str) -> int:
    """Kill a process as the system would; the number it had."""
    pid = server.pids()[name]
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_for_another(server: Supervisor, name: str, pid: int) -> None:
    """Until another process has taken its place."""
    until(lambda: server.pids().get(name, pid) != pid)
