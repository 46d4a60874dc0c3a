"""Workers as processes over one set of topics, and the question whether they have learned what they must."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from bandits.artifact import save_graph
from streams.topics import TopicNames, TopicSettings, init_topics, plan_topics
from tests.kafka import feed, fold

QUICK = {
    "session_timeout_ms": 1_500,
    "heartbeat_interval_ms": 300,
    "rebalance_timeout_ms": 5_000,
    "request_timeout_ms": 5_000,
    "publish_interval_ms": 50,
    "backend": "numpy",
}


class Cluster:
    """Topics, a graph, and workers by number."""

    def __init__(
        self,
        bootstrap,
        prefix,
        folder,
        *,
        events_prefix="",
        source_partitions=8,
        item_partitions=8,
        **settings,
    ):
        self.bootstrap, self.prefix, self.folder = bootstrap, prefix, Path(folder)
        self.names = TopicNames(prefix, events_prefix)
        self.source_partitions = source_partitions
        plan = plan_topics(
            TopicSettings(names=self.names, source_partitions=source_partitions, item_partitions=item_partitions)
        )
        assert init_topics(bootstrap, plan, timeout_s=30).ok
        self.graph = feed.make_graph()
        save_graph(self.graph, self.folder / "graph")
        self.settings = QUICK | settings
        self.workers = {}

    def start(self, number, *, failpoint="", disk=None):
        """Start a worker; its disk is kept over restarts, unless it is given another."""
        log = (self.folder / f"worker-{number}.log").open("ab")
        given = self.settings | {
            "bootstrap": self.bootstrap,
            "prefix": self.names.prefix,
            "events_prefix": self.names.events_prefix,
            "graph": str(self.folder / "graph"),
            "data_dir": str(self.folder / (disk or f"worker-{number}")),
            "name": f"w{number}",
        }
        env = os.environ | {"FRESHET_FAILPOINT": failpoint, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(Path(__file__).with_name("worker_process.py")), json.dumps(given)]
        self.workers[number] = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        log.close()
        return self.workers[number]

    def kill(self, number, signal_number=signal.SIGKILL):
        """End a worker at once."""
        worker = self.workers.pop(number)
        worker.send_signal(signal_number)
        worker.wait(30)
        return worker.returncode

    def wipe(self, number):
        """Give a worker an empty disk."""
        shutil.rmtree(self.folder / f"worker-{number}", ignore_errors=True)

    def stop(self):
        """End all workers."""
        for worker in self.workers.values():
            worker.kill()
        for worker in self.workers.values():
            worker.wait(30)
        self.workers.clear()

    def expected(self):
        """What must be learned from the source log as it is now."""
        return fold.fold_sources(
            self.bootstrap, self.names.impressions, self.names.clicks, feed.edges_of(self.graph)
        )

    def learned(self):
        """What the parameters topic says."""
        return fold.read_parameters(self.bootstrap, self.names.parameters)

    def wait_until_learned(self, timeout_s=40, expected=None):
        """Wait until everything is learned; fails with the difference, and with what the workers said last."""
        expected = expected or self.expected()
        deadline = time.monotonic() + timeout_s
        while True:
            difference = self.learned().difference(expected)
            if not difference:
                time.sleep(0.3)  # a doubling that is still on its way
                difference = self.learned().difference(expected)
                assert not difference, difference
                return expected
            alive = any(worker.poll() is None for worker in self.workers.values())
            assert alive, f"{difference}, and no worker is left\n{self.last_words()}"
            assert time.monotonic() < deadline, f"{difference}\n{self.last_words()}"
            time.sleep(0.2)

    def last_words(self, lines=12):
        """The end of each worker's log."""
        logs = sorted(self.folder.glob("worker-*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-lines:]) for log in logs)

    def feed(self, seed, **settings):
        """A feed of random events."""
        return feed.Feed(self.bootstrap, self.names, self.source_partitions, seed, **settings)
