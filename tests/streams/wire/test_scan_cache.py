"""Compiled code on disk: taken when nothing changed, and not when any of its sources did."""

import os
import subprocess
import sys
from pathlib import Path

import streams.wire
from streams.wire.scan import fingerprint

_READ = (
    "from bandits.join_rule import JoinRule\n"
    "from streams.wire.readers import ClickReader\n"
    "from streams.wire.scan import scan_clicks\n"
    "ClickReader(JoinRule())\n"
    "print(sum(scan_clicks.stats.cache_hits.values()), sum(scan_clicks.stats.cache_misses.values()))\n"
)


def _hits_and_misses(folder):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", _READ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=True)
    return done.stdout.split()


def test_a_second_process_does_not_compile(tmp_path):
    """What one process compiled the next one loads: a worker that restarts does not keep its partitions waiting."""
    assert _hits_and_misses(tmp_path) == ["0", "1"]
    assert _hits_and_misses(tmp_path) == ["1", "0"]


def test_the_fingerprint_sees_every_source(tmp_path):
    """A change of any file of compiled code gives another fingerprint, and with it another place in the cache."""
    sources = []
    for source in Path(streams.wire.__file__).parent.glob("*.py"):
        copy = tmp_path / source.name
        copy.write_bytes(source.read_bytes())
        sources.append(copy)
    before = fingerprint(sources)
    for source in sources:
        text = source.read_bytes()
        source.write_bytes(text + b"\n")
        assert fingerprint(sources) != before
        source.write_bytes(text)
    assert fingerprint(reversed(sources)) == before
