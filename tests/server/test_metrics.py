"""What monitors read: names by the rules, values that are true, labels that stay few."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from freshet.v1 import events_pb2
from server.app import App
from server.limits import MAX_SURFACES
from server.metrics import Metrics, RatioHistogram
from tests.server.messages import DEADLINE_S, click, clicks, impression, recommend_request, score_request
from tests.server.messages import impressions as log
from tests.server.serving import Client, make_settings

BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_info")


def scrape(app: App) -> dict[str, Metric]:
    with urlopen(f"http://{app.addresses.http}/metrics", timeout=DEADLINE_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The value of one sample; families are named without the suffix of their samples."""
    found = [
        s.value for family in families.values() for s in family.samples if s.name == sample and labels == s.labels
    ]
    assert len(found) == 1, (sample, labels, found)
    return float(found[0])


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server after a known number of calls of every outcome."""
    app = App(make_settings(tmp_path_factory.mktemp("used"), slate={"explore_share": 1.0}))
    app.start()
    client = Client(app)
    for turn in range(3):
        request = recommend_request(request_id=f"r{turn}", surface="home", log_impression=True)
        slate = client.recommender.Recommend(request, timeout=DEADLINE_S)
        client.feedback.LogClicks(clicks(click(f"r{turn}", slate.items[0].item_id)), timeout=DEADLINE_S)
    client.recommender.Score(score_request("item-0", "x", "y", mode=events_pb2.MODE_UNIFORM), timeout=DEADLINE_S)
    client.feedback.LogImpressions(log(impression("r2", slate.items[0].item_id), impression("", "a")))
    with pytest.raises(grpc.RpcError):
        client.recommender.Score(score_request(mode=9), timeout=DEADLINE_S)
    yield app
    client.close()
    app.stop(1.0)


def test_names_follow_the_rules_of_the_field(used: App) -> None:
    """`freshet_` in front, base units behind, `_total` on counters alone, a help text on everything."""
    families = [family for name, family in scrape(used).items() if not name.startswith(("process_", "python_"))]
    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"freshet_[a-z][a-z0-9_]*[a-z0-9]", family.name)
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram", "info")
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
            else:
                assert not sample.name.endswith("_total")
            assert not re.search(r"_(ms|millis|milliseconds|minutes|percent|kb|mb)(_|$)", sample.name)
        if family.type == "histogram":
            assert family.name.endswith(BASE_UNITS)


def test_counts_are_true(used: App) -> None:
    """Every call, slate and event is counted once, by what became of it."""
    families = scrape(used)
    assert value(families, "freshet_requests_total", rpc="Recommend", code="OK") == 3
    assert value(families, "freshet_requests_total", rpc="Score", code="OK") == 1
    assert value(families, "freshet_requests_total", rpc="Score", code="INVALID_ARGUMENT") == 1
    assert value(families, "freshet_requests_refused_total", reason="invalid") == 1
    assert value(families, "freshet_slate_items_total", mode="ucb", surface="home") == 15
    assert value(families, "freshet_slate_items_explored_total", mode="ucb", surface="home") == 15
    assert value(families, "freshet_slate_items_total", mode="uniform", surface="none") == 1
    assert value(families, "freshet_unknown_items_total") == 2
    assert value(families, "freshet_slate_propensity_ratio_count") == 16
    assert value(families, "freshet_feedback_events_total", kind="impression", result="accepted") == 4
    assert value(families, "freshet_feedback_events_total", kind="impression", result="refused") == 1
    assert value(families, "freshet_feedback_events_total", kind="click", result="accepted") == 3
    assert value(families, "freshet_feedback_outcomes_total", outcome="clicks_joined") == 3
    assert value(families, "freshet_feedback_outcomes_total", outcome="impressions_duplicate") == 1
    assert value(families, "freshet_feedback_served_delay_seconds_count") == 7
    assert value(families, "freshet_request_duration_seconds_count", rpc="Recommend") == 3


def test_state_is_true(used: App) -> None:
    """Gauges tell what the server holds at the moment of the scrape."""
    families = scrape(used)
    assert value(families, "freshet_ready") == 1
    assert value(families, "freshet_learning_failed") == 0
    assert value(families, "freshet_graph_items") == 40
    assert value(families, "freshet_learned_impressions") == 15
    assert value(families, "freshet_learned_rewards") == 3
    assert value(families, "freshet_served_position") == value(families, "freshet_ledger_end_position") > 0
    assert value(families, "freshet_staleness_seconds") < 5
    assert value(families, "freshet_requests_in_flight", kind="score") == 0
    assert value(families, "freshet_build_info", version="0.1.0", backend="numpy") == 1
    assert value(families, "freshet_graph_info", version="v1") == 1


def test_callers_cannot_multiply_series() -> None:
    """The label that callers choose takes few values, from any number of threads."""
    metrics = Metrics()
    one = np.ones(1)

    def work(first: int) -> None:
        for number in range(first, first + 200):
            metrics.slate(mode="ucb", surface=f"surface-{number}", explored=0, propensity=one)

    workers = [threading.Thread(target=work, args=(first,)) for first in (0, 100, 200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    families = {family.name: family for family in metrics.registry.collect()}
    samples = families["freshet_slate_items"].samples
    assert len(samples) == MAX_SURFACES + 1
    assert sum(sample.value for sample in samples) == 600


def test_array_histogram_counts_as_an_ordinary_one() -> None:
    """A value on a bound belongs to that bound's bucket, and buckets are cumulative."""
    histogram = RatioHistogram("freshet_x_ratio", "x", (0.1, 0.5, 1.0))
    for values in (np.array([0.05, 0.1, 0.3, 1.0]), np.array([])):
        histogram.add(histogram.counted(values), values.sum())
    registry = CollectorRegistry()
    registry.register(histogram)
    buckets = {le: registry.get_sample_value("freshet_x_ratio_bucket", {"le": le}) for le in ("0.1", "0.5", "1.0")}
    assert buckets == {"0.1": 2, "0.5": 3, "1.0": 4}
    assert registry.get_sample_value("freshet_x_ratio_count") == 4
    assert registry.get_sample_value("freshet_x_ratio_sum") == pytest.approx(1.45)


def test_two_servers_of_one_process_count_apart(tmp_path: Path) -> None:
    """Each server has a registry of its own."""
    first, second = Metrics(), Metrics()
    first.answered("Score", "OK", 0.1)
    name, labels = "freshet_requests_total", {"rpc": "Score", "code": "OK"}
    assert first.registry.get_sample_value(name, labels) == 1
    assert second.registry.get_sample_value(name, labels) is None
