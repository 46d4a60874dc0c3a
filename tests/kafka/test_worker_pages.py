"""What a worker says of itself: counts that add up, lag that goes away, health that is not stale."""

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from kafka import KafkaProducer
from prometheus_client.parser import text_string_to_metric_families

from bandits.artifact import save_graph
from server import worker_pages
from server.worker_pages import SILENT_S, WorkerReports, make_worker_pages
from streams.kafka.worker_report import JoinerReport, WorkerReport
from streams.topics import TopicNames, TopicSettings, init_topics, plan_topics
from tests.kafka import feed
from tests.kafka.test_follower import wait_for

SHOWN, CLICKED, BAD = 40, 10, 3


def samples(address: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scrape finds, by name and values of the labels."""
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: dict[tuple[str, tuple[str, ...]], float], name: str, label: str | None = None) -> float:
    """The sum over partitions."""
    return sum(value for (key, labels), value in found.items() if key == name and (not label or label in labels))


def status(address: str, path: str) -> int:
    try:
        with urlopen(f"http://{address}{path}", timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def produce(bootstrap: str, names: TopicNames) -> None:
    """Slates of two items, some clicks, and records that nobody can use."""
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for number in range(SHOWN):
        items = [{"item_id": f"item-{number % 60}"}, {"item_id": "nowhere"}]
        context = {"cluster_ids": [0, 1], "weights": [0.5, 0.25]}
        shown = {"request_id": f"r{number}", "context": context, "items": items}
        producer.send(names.impressions, json.dumps(shown).encode(), key=b"%d" % number, partition=number % 2)
        if number < CLICKED:
            click = {"request_id": f"r{number}", "item_id": f"item-{number}"}
            producer.send(names.clicks, json.dumps(click).encode(), key=b"%d" % number, partition=number % 2)
    for _ in range(BAD):
        producer.send(names.clicks, b"{not json", partition=0)
    producer.flush(20)
    producer.close()


@pytest.mark.timeout(120)
def test_a_worker_shows_what_it_owns_and_what_became_of_each_event(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Ready once recovered; every event is in one count; nothing is behind when all has been read; all lines of the
    log are JSON, from the one that it starts with to the one that it ends with."""
    names = TopicNames(topic_prefix)
    plan = plan_topics(TopicSettings(names=names, source_partitions=2, item_partitions=2))
    assert init_topics(kafka, plan, timeout_s=30).ok
    save_graph(feed.make_graph(), tmp_path / "graph")
    command = [
        *(sys.executable, "-m", "server", "worker", "--bootstrap", kafka, "--prefix", topic_prefix, "--name", "w7"),
        *("--graph", str(tmp_path / "graph"), "--data-dir", str(tmp_path / "data"), "--backend", "numpy"),
        *("--http-address", "127.0.0.1:0"),
    ]
    log = tmp_path / "worker.log"
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            wait_for(lambda: b"starting" in log.read_bytes(), 60)
            host, port = json.loads(log.read_text().splitlines()[0])["http"]
            address = f"{host}:{port}"
            assert status(address, "/healthz") == 200
            wait_for(lambda: status(address, "/readyz") == 200, 60)
            produce(kafka, names)
            wait_for(lambda: total(samples(address), "freshet_facts_applied_total") == SHOWN + CLICKED, 30)
            time.sleep(1.5)  # another report, when all is stored and published
            found = samples(address)
        finally:
            process.terminate()
            assert process.wait(30) == 0
    assert found["freshet_ready", ()] == 1
    assert found["freshet_build_info", (found_version(found), "w7")] == 1
    assert found["freshet_worker_partitions", ("joiner", "ready")] == 2
    assert found["freshet_worker_partitions", ("learner", "ready")] == 2
    assert found["freshet_worker_graph_partitions", ("test-1",)] == 2
    assert total(found, "freshet_feedback_outcomes_total", "impressions_accepted") == 2 * SHOWN
    assert total(found, "freshet_feedback_outcomes_total", "clicks_joined") == CLICKED
    assert total(found, "freshet_feedback_outcomes_total") == 2 * SHOWN + CLICKED
    assert total(found, "freshet_dead_letters_total") == BAD
    assert total(found, "freshet_facts_unknown_total") == SHOWN
    assert found["freshet_pending_impressions", ()] == 2 * SHOWN
    assert {key[1][-1] for key in found if key[0] == "freshet_worker_lag_records"} == {
        names.impressions,
        names.clicks,
        names.outcomes,
    }
    for name in ("lag_records", "lag_seconds", "unpublished_records"):
        assert total(found, f"freshet_worker_{name}") == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("starting", "stopped")


def found_version(found: dict[tuple[str, tuple[str, ...]], float]) -> str:
    return next(labels[0] for name, labels in found if name == "freshet_build_info")


def test_a_worker_that_hangs_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first report a worker is starting; recovering it is not ready; silent it is neither."""
    now_s = 100.0
    monkeypatch.setattr(worker_pages.time, "monotonic", lambda: now_s)
    reports = WorkerReports("w")
    pages = make_worker_pages(reports)

    def codes() -> tuple[int, int]:
        return pages["/healthz"]().status, pages["/readyz"]().status

    def report(*, has_joined: bool, is_started: bool) -> WorkerReport:
        joiner = JoinerReport(0, is_started, {}, 0, 0, 0, 0)
        return WorkerReport(now_s, 0, has_joined, (joiner,) if has_joined else (), (), {})

    assert codes() == (200, 503)
    reports.tell(report(has_joined=False, is_started=False))
    assert codes() == (200, 503)
    reports.tell(report(has_joined=True, is_started=False))
    assert codes() == (200, 503)
    reports.tell(report(has_joined=True, is_started=True))
    assert codes() == (200, 200)
    now_s += SILENT_S
    assert codes() == (503, 503)
    assert b"freshet_worker_report_age_seconds 10.0" in pages["/metrics"]().body
