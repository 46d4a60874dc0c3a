"""A real log through a running server that is killed again and again: nothing is lost, nothing counts twice."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from bandits.artifact import save_graph
from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from server.replay_client import send_log
from streams.logs import read_kuairand
from streams.replay import replay
from streams.verify import verify_store

KILLS = 20


class Victim:
    """`freshet serve` in a process of its own, killed and started again on the same port."""

    def __init__(self, folder, graph_folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.command = [
            *(sys.executable, "-m", "server", "serve", "--data-dir", str(folder / "data")),
            *("--graph", str(graph_folder), "--address", self.address),
            *("--operations-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
        ]
        self.start()

    def start(self):
        log = (self.folder / "serve.log").open("ab")
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        log.close()

    def wait_until_ready(self, timeout_s=60):
        host, port = self.address.split(":")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "serve.log").read_text()[-2000:]
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("the server did not come up")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_lose_and_double_nothing(data_dir, tmp_path):
    """After 20 SIGKILLs at random moments the state equals, bit for bit, the fold of the log by itself."""
    seed = int(os.environ.get("FRESHET_TEST_SEED", random.SystemRandom().randrange(2**32)))
    rng = random.Random(seed)
    sys.stdout.write(f"FRESHET_TEST_SEED={seed}\n")
    log = read_kuairand(data_dir / "kuairand").first(int(os.environ.get("FRESHET_TEST_ROWS", "60000")))
    save_graph(log.graph, tmp_path / "graph")
    victim = Victim(tmp_path, tmp_path / "graph")
    kills = 0
    sent = {}

    def progress(row):
        # The log must outlast the kills: the sender is never further than they are.
        while row * (KILLS + 1) > len(log) * (kills + 1) and kills < KILLS and sender.is_alive():
            time.sleep(0.01)

    def send():
        sent["report"] = send_log(victim.address, log, batch_rows=100, patience_s=90, progress=progress)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        while kills < KILLS:
            victim.wait_until_ready()
            time.sleep(rng.uniform(0.02, 0.6))
            victim.kill()
            kills += 1
            victim.start()
        victim.wait_until_ready()
        sender.join(300)
        assert victim.terminate() == 0
    finally:
        if victim.process.poll() is None:
            victim.kill()
    report = sent["report"]
    assert report.rows == len(log)
    assert report.refused == []
    assert report.retries > 0

    result = verify_store(tmp_path / "data", backend=choose_backend("numpy"), progress=lambda done, total: None)
    assert result.ok, result
    clean = replay(
        log,
        rule=JoinRule(),
        backend=choose_backend("numpy"),
        batch_rows=1000,
        clock=lambda: 0.0,
        progress=lambda rows: None,
    )
    assert result.state_hash == clean.state_hash
    assert result.counts["impressions_accepted"] == clean.counts["impressions_accepted"]
    assert result.counts["clicks_joined"] == clean.counts["clicks_joined"]
