"""A half-life that holds too little is told: by the gauge, at the start, by the doctor."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bandits.backend import choose_backend
from bandits.forgetting import impressions_held
from bandits.graph import build_graph
from bandits.sums import UNIT, Facts, Sums
from server.commands.doctor import doctor
from tests.server.conftest import Start
from tests.server.messages import DEADLINE_S, impression, impressions
from tests.server.test_metrics import scrape, value

HALF_LIFE_MS = 3_600_000
NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_what_a_half_life_holds_is_counted(weight: float) -> None:
    """The rate of an edge times the half-life, whatever the weight; edges that were never shown do not count."""
    graph = build_graph(
        version="v", centroids=[], n_clusters=2, item_ids=["a", "b"], edge_item=[0, 0, 1], edge_cluster=[0, 1, 0]
    )
    n, ones = 20_000, np.ones(20_000, np.int64)
    facts = Facts(
        item=np.zeros(n, np.int32),
        context=np.arange(n, dtype=np.int32),
        impressions=ones,
        reward=0 * ones,
        context_ptr=np.arange(n + 1),
        context_cluster=np.zeros(n, np.int32),
        context_x=round(weight * UNIT) * ones,
        shown_ms=NOW_MS + np.arange(n) * HALF_LIFE_MS // 500,  # for 40 half-lives
        half_life_ms=HALF_LIFE_MS * ones,
    )
    sums = Sums.zeros(graph)
    choose_backend("numpy").add(graph, sums, facts)
    assert sums.extra is not None
    assert sums.times is not None
    held = impressions_held(sums.edge, sums.extra, sums.times, np.diff(graph.item_ptr))
    assert held == pytest.approx(500, rel=0.01)
    nothing = Sums.zeros(graph)
    extra, times = nothing.with_extra()
    assert impressions_held(nothing.edge, extra, times, np.diff(graph.item_ptr)) == 0.0


def test_a_short_half_life_is_told(start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not while the store is new; then by the gauge, by the next start, and by the doctor."""
    join = {"half_life_ms": HALF_LIFE_MS}
    app, client = start(join=join, log={"level": "warning", "format": "json"})
    for number in range(3):
        logged = impressions(impression(f"r{number}", "item-0", "item-1"))
        client.feedback.LogImpressions(logged, timeout=DEADLINE_S)
    told = value(scrape(app), "freshet_half_life_impressions")
    assert 0 < told <= 3
    folder = app.settings.data_dir
    assert "half_life_short" not in capfd.readouterr().err
    client.close()
    app.stop(5.0)
    again, _ = start(join=join, data_dir=folder, log={"level": "warning", "format": "json"})
    warned = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "half_life_short" in line]
    assert len(warned) == 1
    assert warned[0]["expected"] > 100 > warned[0]["impressions_per_edge"] > 0
    again.stop(5.0)
    config = tmp_path / "freshet.toml"
    config.write_text(f"[join]\nhalf_life_ms = {HALF_LIFE_MS}\n")
    result = CliRunner().invoke(doctor, ["--json", "--data-dir", str(folder), "--config", str(config)])
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert found["forgetting"]["status"] == "warn"
    assert "raise join.half_life_ms" in found["forgetting"]["fix"]


def test_where_nothing_is_forgotten_nothing_is_told(start: Start) -> None:
    """No gauge, no warning."""
    app, client = start()
    client.feedback.LogImpressions(impressions(impression("r", "item-0")), timeout=DEADLINE_S)
    assert "freshet_half_life_impressions" not in scrape(app)
