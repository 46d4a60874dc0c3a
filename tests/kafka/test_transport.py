"""The transport against the Faust that it was written for."""

import hashlib
import inspect
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka import transport
from streams.kafka.assignor import share_out

# Sources of what is overridden or relied on. If Faust changes, read the change before putting a new digest here.
KNOWN = {
    "AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc3e6f6cad",
    "AIOKafkaConsumerThread._ensure_consumer": "ff4a4c693b7ec63f",
    "AIOKafkaConsumerThread.call_thread": "479edda75b54734b",
    "AIOKafkaConsumerThread.on_start": "38b4e8bd1e10723a",
    "GroupCoordinator.reset_generation": "537aa37c531b4de9",
    "GroupCoordinator._do_rejoin_group": "3cb016c98a087a71",
    "GroupCoordinator._do_heartbeat": "dc1d6632aaa68e96",
    "GroupCoordinator._send_req": "fa4b12e914ce9fcf",
    "GroupCoordinator.check_errors": "ba6ca51ad34838d9",
    "Consumer._new_consumer_thread": "0870ec53dea75083",
    "Consumer.perform_seek": "0e8c130ff4b0afd8",
    "Consumer._drain_messages": "44a2500309e83c63",
    "Consumer.track_message": "217d7f1399a4cd8e",
    "Consumer.ack": "5fcf41cf45153475",
    "Consumer.commit": "a354437baaa08bf8",
    "Consumer.verify_event_path": "a17e8f0610e1abcb",
}


def test_faust_is_the_version_that_was_read() -> None:
    """Another version of Faust may call other private methods."""
    assert version("faust-streaming") == transport.FAUST_VERSION


@pytest.mark.parametrize("name", KNOWN)
def test_overridden_methods_are_what_they_were(name: str) -> None:
    """A private method that is overridden has not changed behind our back."""
    owner, _, method = name.partition(".")
    classes = {cls.__name__: cls for cls, _ in transport.OVERRIDDEN}
    source = inspect.getsource(getattr(classes[owner], method))
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == KNOWN[name]


def test_every_overridden_method_is_watched() -> None:
    """What the transport says it overrides is what this file watches."""
    declared = {f"{owner.__name__}.{name}" for owner, names in transport.OVERRIDDEN for name in names}
    assert declared == set(KNOWN)


@given(
    joined=st.integers(1, 20),
    ledger=st.integers(1, 20),
    workers=st.lists(st.integers(0, 9), min_size=1, max_size=6),
)
def test_every_partition_has_one_owner(joined: int, ledger: int, workers: list[int]) -> None:
    """No partition is left out or owned twice, and both sides of a join have one owner, whatever the numbers."""
    members = {f"member-{i}": f"worker-{name}".encode() for i, name in enumerate(workers)}
    counts = {"impressions": joined, "clicks": joined, "outcomes": ledger}
    shares = share_out(counts, members, frozenset({"impressions", "clicks"}))
    for topic, count in counts.items():
        owned = sorted(p for share in shares.values() for p in share.get(topic, []))
        assert owned == list(range(count))
    assert all(share.get("impressions") == share.get("clicks") for share in shares.values())
    sizes = [len(share.get("outcomes", [])) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1


def test_the_same_workers_get_the_same_partitions() -> None:
    """Member ids change at every start, the names of the workers decide."""
    counts, together = {"impressions": 8, "clicks": 8, "outcomes": 8}, frozenset({"impressions", "clicks"})
    before = share_out(counts, {"z": b"w0", "a": b"w1"}, together)
    after = share_out(counts, {"a": b"w0", "z": b"w1"}, together)
    assert before["z"] == after["a"]
