"""Nothing is compiled while the first events are learned: callers would wait for it, seconds on a new machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys, time
from pathlib import Path
from numba.core.dispatcher import Dispatcher
from bandits.backend import choose_backend
from bandits.graph import build_graph
from bandits.join_rule import JoinRule
from freshet.v1 import events_pb2
from streams.embedded import EmbeddedLoop, LoopLimits

asked = []
compile = Dispatcher.compile

def noted(self, signature):
    asked.append(self.py_func.__qualname__)
    return compile(self, signature)

Dispatcher.compile = noted
rule = JoinRule(**json.loads(sys.argv[3]))
items = ["a", "b"]
graph = build_graph(version="g", centroids=[], n_clusters=2, item_ids=items, edge_item=[0, 1], edge_cluster=[0, 1])
loop = EmbeddedLoop(
    Path(sys.argv[1]),
    rule=rule,
    limits=LoopLimits(),
    backend=choose_backend(sys.argv[2]),
    graph=graph,
    on_change=lambda change: None,
    clock_ms=lambda: int(time.time() * 1000),
)
loop.start()
before = len(asked)
context = {"cluster_ids": [0, 1], "weights": [0.5, 0.5]}
for number in range(3):
    slate = [{"item_id": item} for item in items]
    shown = events_pb2.Impression(request_id=f"r{number}", context=context, items=slate)
    loop.offer_impressions(events_pb2.ImpressionBatch(impressions=[shown])).result(60)
    clicked = events_pb2.Click(request_id=f"r{number}", item_id="a")
    loop.offer_clicks(events_pb2.ClickBatch(clicks=[clicked])).result(60)
# Six items were shown, and three clicked; or six impressions were opened, and are closed after their window.
expected, until = (12 if rule.resolution == "at_close" else 9), time.monotonic() + 60
while (status := loop.status()).counts["facts_applied"] < expected and time.monotonic() < until:
    time.sleep(0.05)
loop.stop(grace_s=10)
told = {"before": before, "late": asked[before:], "joined": status.counts["clicks_joined"]}
print(json.dumps(told | {"missing": expected - status.counts["facts_applied"]}))
"""


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("rule", [{}, {"resolution": "at_close", "window_ms": 2_000, "half_life_ms": 3_600_000}])
def test_the_first_events_find_everything_compiled(backend: str, rule: dict, tmp_path: Path) -> None:
    """A loop that has started asks the compiler for nothing when events come, whatever the rule."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "data"), backend, json.dumps(rule)]
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["joined"] == 3
    assert said["before"] > 0
    assert said["missing"] == 0
    assert said["late"] == []
