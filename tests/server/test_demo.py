"""The demo, and the server process that it and operators run: learning over gRPC, signals, restarts."""

import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console, ConsoleDimensions

from bandits.artifact import save_graph
from bandits.backend import choose_backend
from freshet.v1 import (
    events_pb2,
    feedback_pb2,
    feedback_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    recommender_pb2,
    recommender_pb2_grpc,
)
from server.cli import freshet
from server.compile_beside import CompilingBeside
from server.demo.chart import PLAIN, Glyphs, bar, draw
from server.demo.child import ServerFailed, ServerProcess
from server.demo.scene import CLICK_MODELS, SLATE_SIZE, ClickModelName, Scene
from server.demo.summary import gap_closed, summarize
from server.demo.tally import Batch, Part, Tally
from server.demo.users import RETRY_WHAT_IS_TURNED_AWAY
from server.demo.view import picture
from server.lane.warm_up import compile_calls

SEED = 7
LONGEST_S = 60


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(SEED)


def clean_environment() -> dict[str, str]:
    """This process's environment without what it sets of Freshet."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}


class Served:
    """A `freshet serve` on a port of its own, over a folder."""

    def __init__(self, folder: Path, scene: Scene) -> None:
        self.folder, self.graph = folder, folder / "graph"
        self.processes: list[subprocess.Popen[bytes]] = []
        save_graph(scene.graph, self.graph)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(self, *, largest_file_kib: int | None = None) -> "subprocess.Popen[bytes]":
        """A server that is ready; its files may not outgrow a limit, as on a disk that is full."""
        options = ["--data-dir", self.folder / "data", "--graph", self.graph, "--address", self.address]
        options += ["--operations-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"]
        command = [sys.executable, "-m", "server", "serve", "--json", *map(str, options)]
        if largest_file_kib is not None:
            command = ["bash", "-c", f'ulimit -f {largest_file_kib}; exec "$@"', "bash", *command]
        process = subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        ready = process.stdout.readline()
        assert ready, process.stderr.read().decode()
        self.addresses = json.loads(ready)["addresses"]
        return process

    def kill(self) -> None:
        """End whatever a failed test has left."""
        for process in self.processes:
            process.kill()
            process.communicate()

    def status(self) -> operations_pb2.GetStatusResponse:
        with grpc.insecure_channel(self.addresses["operations"]) as channel:
            stub = operations_pb2_grpc.OperationsServiceStub(channel)
            status: operations_pb2.GetStatusResponse = stub.GetStatus(operations_pb2.GetStatusRequest(), timeout=10)
            return status


@pytest.fixture
def served(tmp_path: Path, scene: Scene) -> Iterator[Served]:
    """A server to be started; it is gone after the test."""
    made = Served(tmp_path, scene)
    yield made
    made.kill()


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """Exit code and what was said, once it has ended."""
    said, complained = process.communicate(timeout=LONGEST_S)
    return process.returncode, said.decode(), complained.decode()


class Callers:
    """Threads that ask for slates and report them, one call after the other, until told to stop."""

    def __init__(self, address: str, scene: Scene, *, patient: bool = True) -> None:
        self._patient = patient
        self.acknowledged: list[str] = []
        self.failures: list[str] = []
        self._address, self._people = address, scene.people(SEED, 100)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(3)]

    def _run(self, number: int) -> None:
        with grpc.insecure_channel(self._address, [("grpc.service_config", RETRY_WHAT_IS_TURNED_AWAY)]) as channel:
            recommend = recommender_pb2_grpc.RecommenderServiceStub(channel).Recommend
            log = feedback_pb2_grpc.FeedbackServiceStub(channel).LogImpressions
            for call in itertools.count():
                if self._stop.is_set():
                    return
                user = events_pb2.Embedding(values=self._people.embeddings[call % 100])
                request = recommender_pb2.RecommendRequest(
                    request_id=f"{number}-{call}", user_embedding=user, slate_size=SLATE_SIZE
                )
                try:
                    reply = recommend(request, timeout=LONGEST_S, wait_for_ready=self._patient)
                    shown = [
                        events_pb2.ShownItem(item_id=item.item_id, position=item.position) for item in reply.items
                    ]
                    slate = events_pb2.Impression(request_id=reply.request_id, context=reply.context, items=shown)
                    answer = log(
                        feedback_pb2.LogImpressionsRequest(impressions=[slate]),
                        timeout=LONGEST_S,
                        wait_for_ready=self._patient,
                    )
                except grpc.RpcError as error:
                    self.failures.append(f"{error.code()}: {error.details()}")
                    return
                if answer.accepted:
                    self.acknowledged.append(reply.request_id)

    def wait_for(self, slates: int) -> None:
        """Block until so many more were acknowledged, or a call has failed."""
        target = len(self.acknowledged) + slates
        for _ in range(LONGEST_S * 20):
            if len(self.acknowledged) >= target or self.failures:
                return
            threading.Event().wait(0.05)
        raise AssertionError(f"only {len(self.acknowledged)} of {target} slates were acknowledged")

    @contextmanager
    def calling(self) -> Iterator["Callers"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def test_the_demo_learns(tmp_path: Path) -> None:
    """After seconds over gRPC slates are worth more than uniform ones, no call has failed, nothing stays."""
    done = subprocess.run(
        [sys.executable, "-m", "server", "demo", "--seconds", "6", "--seed", "7", "--json"],
        env={**clean_environment(), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["errors"] == 0
    assert result["events"] == result["impressions"] + result["clicks"] > 0
    assert result["slates"] * SLATE_SIZE == result["impressions"]
    # Expected clicks of the slates shown have no click noise; uniform slates are worth a fifth of the best.
    assert result["last"]["expected"] > 1.2 * result["last"]["uniform"]
    assert result["last"]["best"] > result["last"]["expected"]
    assert result["freshness_ms"]["p50"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_demo_keeps_its_data_on_request(tmp_path: Path) -> None:
    """What was shown and clicked, delayed clicks included, is in the kept store and nowhere else."""
    runner = CliRunner()
    arguments = ["--seconds", "2", "--data-dir", str(tmp_path), "--delay-ms", "300", "--json"]
    done = runner.invoke(freshet, ["demo", *arguments])
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    kept = json.loads(runner.invoke(freshet, ["inspect", "--data-dir", str(tmp_path), "--json"]).stdout)
    assert kept["counts"]["impressions_accepted"] == result["impressions"] == kept["learned"]["impressions"]
    assert kept["counts"]["clicks_joined"] == result["clicks"]
    assert result["clicks_on_the_way"] > 0
    verified = runner.invoke(freshet, ["verify", "--data-dir", str(tmp_path)])
    assert verified.exit_code == 0, verified.output


def demo_process(seconds: int, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "server", "demo", "--seconds", str(seconds)]
    environment = {**clean_environment(), "TMPDIR": str(folder)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    """Where no terminal is, progress is lines without control characters, and a table at the end."""
    code, said, complained = ended(demo_process(3, tmp_path))
    assert (code, complained) == (0, "")
    assert "\x1b" not in said
    assert "clicks a slate (uniform" in said
    assert "best possible slates" in said


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C ends the demo with 130, its server with it, and removes its folder."""
    process = demo_process(60, tmp_path)
    assert process.stdout is not None
    console = process.stdout.readline().decode().split()[-1].removeprefix("http://").strip("/")
    process.stdout.readline()  # users are at work
    process.send_signal(signal.SIGINT)
    code, _, complained = ended(process)
    assert code == 130
    assert "Traceback" not in complained
    assert list(tmp_path.iterdir()) == []
    with socket.socket() as probe:
        host, port = console.split(":")
        assert probe.connect_ex((host, int(port))) != 0


def test_a_server_that_cannot_start_ends_the_demo(tmp_path: Path) -> None:
    """The demo's server tells why it did not start, and the demo passes that on."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "CURRENT").write_text("nonsense")
    done = CliRunner().invoke(freshet, ["demo", "--seconds", "2", "--data-dir", str(tmp_path)])
    assert done.exit_code == 3
    assert str(tmp_path / "store") in done.stderr


def test_the_child_ends_with_its_parent(tmp_path: Path, scene: Scene) -> None:
    """A server whose parent is gone, even by SIGKILL, stops by itself."""
    graph = tmp_path / "graph"
    save_graph(scene.graph, graph)
    child = ServerProcess(
        tmp_path / "data", log_file=tmp_path / "log", arguments=["--graph", str(graph)], environment={}
    )
    child.check()
    child.stop()
    with pytest.raises(ServerFailed, match="exit code 0"):
        child.check()


def test_restarting_keeps_what_was_learned(served: Served, scene: Scene) -> None:
    """SIGTERM ends a server with 0, and the next one over the same folder serves the same state."""
    process = served.start()
    callers = Callers(served.address, scene)
    with callers.calling():
        callers.wait_for(20)
    before = served.status()
    process.send_signal(signal.SIGTERM)
    code, said, complained = ended(process)
    assert code == 0, complained
    assert json.loads(said) == {"event": "stopped", "failed": None}

    process = served.start()
    after = served.status()
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 0
    assert callers.failures == []
    assert after.state_hash == before.state_hash
    assert after.counts["impressions_accepted"] == len(callers.acknowledged) * SLATE_SIZE
    assert list(after.parameters_position) == list(before.parameters_position)


def test_a_stop_under_load_fails_no_call(served: Served, scene: Scene) -> None:
    """Calls in flight at SIGTERM are answered, later ones wait for the next server, acknowledged ones are kept."""
    process = served.start()
    callers = Callers(served.address, scene)
    with callers.calling():
        for _ in range(3):
            callers.wait_for(50)
            process.send_signal(signal.SIGTERM)
            code, _, complained = ended(process)
            assert code == 0, complained
            process = served.start()
        callers.wait_for(50)
    counts = served.status().counts
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    assert callers.failures == []
    assert counts["impressions_accepted"] == len(callers.acknowledged) * SLATE_SIZE


def test_users_of_another_world_leave(served: Served) -> None:
    """Rewards mean nothing where users are compared with the truth of a world that is not served."""
    served.start()
    arguments = ["--address", served.address, "--seconds", "10"]
    strangers = CliRunner().invoke(freshet, ["simulate", *arguments, "--seed", str(SEED + 1)])
    assert strangers.exit_code == 3
    assert f"world-{SEED + 1}" in strangers.stderr
    curve = CliRunner().invoke(
        freshet, ["simulate", "--address", served.address, "--seconds", "1", "--seed", str(SEED), "--csv", "-"]
    )
    assert curve.exit_code == 0, curve.stderr
    assert curve.stdout.startswith("start_s,end_s")


def test_a_full_disk_ends_the_server(served: Served, scene: Scene) -> None:
    """When nothing more can be written the process ends with 3 and says why; what was acknowledged is kept."""
    # Compiled code goes to files that are larger than those of the server may grow: they have to be there already.
    backend = choose_backend("numba")
    compile_calls(backend, CompilingBeside(backend))
    process = served.start(largest_file_kib=256)
    callers = Callers(served.address, scene, patient=False)
    with callers.calling():
        code, said, complained = ended(process)
    assert code == 3
    assert said, complained
    assert "cannot be written" in json.loads(said)["failed"], complained
    assert complained.splitlines()[-1].startswith("freshet: learning has stopped")
    served.start()
    assert served.status().counts["impressions_accepted"] >= len(callers.acknowledged) * SLATE_SIZE > 0


@pytest.mark.parametrize("name", CLICK_MODELS)
def test_what_slates_are_worth_is_what_users_click(name: ClickModelName, scene: Scene) -> None:
    """Expected rewards are the mean of many users' clicks, and the best slates are worth most."""
    some = Scene(SEED, clicks=name)
    people, rng = some.people(1, 4_000), np.random.default_rng(1)
    who = np.arange(4_000)
    shown = np.array(
        [rng.choice(some.graph.items_around(row), SLATE_SIZE, replace=False) for row in people.cluster_ids]
    )
    outcome = some.react(people, who, shown, rng, step=0.0)
    clicks = outcome.clicked.sum(axis=1)
    noise = 4 * clicks.std() / len(who) ** 0.5
    assert abs(clicks.mean() - outcome.expected.mean()) < noise
    # The slates shown are uniform ones, so that they are worth what uniform slates are said to be.
    spread = 4 * outcome.expected.std() / len(who) ** 0.5
    assert abs(outcome.expected.mean() - outcome.uniform.mean()) < 2 * spread
    assert (outcome.best >= outcome.expected - 1e-12).all()


def part(reward: float) -> Part:
    return Part(0.0, 1.0, 10, reward, reward, uniform=0.25, best=1.0, explored_share=0.1)


def test_a_column_is_as_high_as_its_reward() -> None:
    """The chart shows the numbers: full cells and eighths up to the reward, nothing for a time without slates."""
    glyphs = Glyphs()
    rows = draw([part(0.27), part(0.54), None], height=8, wide=1, glyphs=glyphs)
    columns = ["".join(line.plain[-3:][i] for line in reversed(rows)) for i in range(3)]
    cells = 8 / 1.08
    for column, reward in zip(columns, (0.27, 0.54), strict=False):
        height = sum(glyphs.fill.find(cell) for cell in column if cell in glyphs.fill) / 8
        assert abs(height - reward * cells) <= 1 / 8
    assert columns[2] == " " * 8
    assert bar(0.5, 1.0, width=10, glyphs=PLAIN) == "#####     "


@pytest.mark.parametrize("size", [(50, 16), (80, 24), (200, 60)])
def test_a_picture_fits_its_terminal(size: tuple[int, int]) -> None:
    """The live view is drawn for narrow and wide terminals, before the first slate and after, in any encoding."""
    tally = Tally()
    for glyphs in (Glyphs(), PLAIN):
        shown = picture(tally, 2.0, seconds=30.0, title="demo", size=ConsoleDimensions(*size), glyphs=glyphs)
        with Console(width=size[0], file=io.StringIO()) as console, console.capture() as capture:
            console.print(shown)
        lines = capture.get().splitlines()
        chart = [line for line in lines if line[:5].strip().replace(".", "").isdigit()]
        assert chart
        assert all(len(line) < size[0] for line in chart)
        assert size[1] < 24 or len(lines) < size[1]
        tally.slates(Batch(1.0, 10, 5, 5.0, 2.5, 10.0, 50, 5, 3), [0.001] * 10)
    assert "waiting" not in capture.get()
    assert "#" in "".join(chart)
    assert "".join(chart).isascii()


def test_the_summary_adds_up() -> None:
    """First and last part are means over their own slates; shares and errors are those that were counted."""
    tally = Tally()
    for second in range(10):
        tally.slates(Batch(second + 0.5, 10, second, second, 2.5, 10.0, 50, 5, second), [0.002] * 10)
    tally.feedback(impressions=500)
    tally.feedback(clicks=45)
    tally.error("UNAVAILABLE: gone")
    result = summarize(tally, 10.0)
    assert (result["first"]["reward"], result["last"]["reward"]) == (0.05, 0.85)
    assert result["last"]["regret_share"] == pytest.approx(0.15)
    assert result["gap_closed"] == pytest.approx(gap_closed(part(0.85))) == pytest.approx(0.8)
    assert (result["requests"], result["events"], result["errors"]) == (102, 545, 1)
    assert result["latency_ms"]["p50"] == pytest.approx(2.0)
    assert result["parameters_position"] == 9
    assert [point["at_s"] for point in result["curve"]] == sorted(point["at_s"] for point in result["curve"])
    assert summarize(Tally(), 1.0)["first"] is None
