"""The local broker does what the fault tests rely on: dies, freezes and returns with its data."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka_broker import BrokerError, LocalBroker, free_port

SCRIPT = Path(__file__).parents[2] / "deploy" / "kafka" / "freshet-kafka"


def _send(bootstrap: str, values: list[bytes]) -> None:
    with KafkaProducer(bootstrap_servers=bootstrap) as producer:
        for sent in [producer.send("survivors", value, partition=0) for value in values]:
            sent.get(timeout=10)


def _read(bootstrap: str) -> list[bytes]:
    partition = TopicPartition("survivors", 0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    try:
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        values: list[bytes] = []
        while consumer.position(partition) < end:
            values += [record.value for record in consumer.poll(timeout_ms=5_000).get(partition, [])]
        return values
    finally:
        consumer.close()


def test_acknowledged_records_survive_sigkill(own_broker):
    """What the broker acknowledged before SIGKILL is there, in order, after the next start."""
    with KafkaAdminClient(bootstrap_servers=own_broker.bootstrap) as admin:
        admin.create_topics({"survivors": {"num_partitions": 1}}, wait_for_metadata=True)
    values = [b"%d" % index for index in range(100)]
    _send(own_broker.bootstrap, values[:50])
    own_broker.kill9()
    assert own_broker.pid is None
    assert not own_broker.answers()
    own_broker.start()
    _send(own_broker.bootstrap, values[50:])
    assert _read(own_broker.bootstrap) == values


def test_paused_broker_is_silent_until_resumed_and_can_still_be_stopped(own_broker):
    """SIGSTOP makes it silent without ending it; resume brings it back; stop works while paused."""
    own_broker.pause()
    assert own_broker.pid is not None
    assert not own_broker.answers(timeout_s=0.5)
    own_broker.resume()
    assert own_broker.answers(timeout_s=10)
    own_broker.pause()
    own_broker.stop()
    assert own_broker.pid is None


def test_misspelt_topic_is_refused_instead_of_created(own_broker):
    """A producer that writes to an undeclared topic gets an error, and no topic appears."""
    producer = KafkaProducer(bootstrap_servers=own_broker.bootstrap, max_block_ms=1_000)
    with producer, pytest.raises(KafkaError):
        producer.send("misspelt", b"lost").get(timeout=5)
    with KafkaAdminClient(bootstrap_servers=own_broker.bootstrap) as admin:
        assert admin.list_topics() == []


def test_taken_port_and_running_directory_are_refused(own_broker, tmp_path):
    """A second start on the same port or the same data directory is refused and harms neither."""
    with pytest.raises(BrokerError, match=f"port {own_broker.port} .* in use"):
        LocalBroker(tmp_path / "second", port=own_broker.port).start()
    with pytest.raises(BrokerError, match="already runs"):
        LocalBroker(own_broker.data_dir, port=free_port()).start()
    assert own_broker.answers()


def test_failed_start_shows_the_log_and_leaves_nothing_running(tmp_path, kafka):
    """A broker that ends while starting is reported with its last log lines."""
    broker = LocalBroker(tmp_path / "broken", port=free_port(), settings={"log.cleaner.threads": "none"})
    with pytest.raises(BrokerError, match=r"log\.cleaner\.threads"):
        broker.start()
    assert broker.pid is None


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv of util-linux is not installed")
def test_a_broker_of_a_killed_run_ends_with_it(tmp_path, kafka):
    """A test run that is killed, and so never stops its broker, leaves none behind."""
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from kafka_broker import LocalBroker, free_port;"
        "LocalBroker(Path(sys.argv[2]), port=free_port(), ends_with_caller=True).start(); print('up', flush=True);"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(SCRIPT.parent), str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        broker = LocalBroker.recorded(tmp_path / "data")
        assert broker is not None
        assert broker.pid is not None
        run.kill()
    deadline = time.monotonic() + 20
    while broker.pid is not None:
        assert time.monotonic() < deadline, f"broker {broker.pid} outlived the run that started it"
        time.sleep(0.05)


def test_a_reused_pid_is_not_signalled(tmp_path):
    """A recorded pid that now belongs to another program counts as not running and is left alone."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        data_dir = tmp_path / "stale"
        data_dir.mkdir()
        (data_dir / "broker.json").write_text(f'{{"pid": {stranger.pid}, "port": 1}}')
        broker = LocalBroker.recorded(data_dir)
        assert broker is not None
        assert broker.pid is None
        broker.kill9()
        assert stranger.poll() is None
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()


def test_wipe_refuses_a_directory_that_is_not_a_brokers(tmp_path):
    """Pointing wipe at some other directory removes nothing."""
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    with pytest.raises(BrokerError, match="not a broker's data directory"):
        LocalBroker(tmp_path, port=1).wipe()
    assert precious.read_text() == "keep"


def test_script_starts_reports_stops_and_wipes(tmp_path, kafka):
    """The script's four commands work from separate processes on one data directory."""
    data_dir, port = tmp_path / "data", free_port()

    def run(command: str, *more: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, str(SCRIPT), command, "--data-dir", str(data_dir), *more]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=False)

    try:
        assert run("status").returncode == 3
        started = run("start", "--port", str(port))
        assert f"answers on 127.0.0.1:{port}" in started.stdout, started.stderr
        assert "already running" in run("start", "--port", str(port)).stdout
        assert run("status").stdout.startswith(f"answers on 127.0.0.1:{port}")
        assert run("stop").stdout == "stopped\n"
        assert run("status").returncode == 3
        assert data_dir.exists()
    finally:
        run("wipe")
    assert not data_dir.exists()
