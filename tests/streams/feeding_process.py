"""A process that feeds an embedded loop with a known list of events until it is killed.

    python -m tests.streams.feeding_process FOLDER COUNT          feed events 0 to COUNT - 1, end by itself
    python -m tests.streams.feeding_process FOLDER kill KILLS SEED  feed, be killed at random KILLS times, finish

Every event is offered again until it was acknowledged, in order; the last line printed is how many there were.
With FEED_AT_CLOSE in the environment impressions are in flight for a tenth of a second.
"""

import os
import random
import select
import signal
import sys
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from bandits.join_rule import JoinRule
from tests.bandits.event_columns import Event
from tests.streams.loops import ITEMS, NOW_MS, clicked, offer, shown, started

AT_CLOSE = JoinRule(window_ms=100, resolution="at_close")

_IN_FLIGHT = 20
_MORE_THAN_IN_FLIGHT = 60
_LONGEST_DELAY_S = 0.25


def event(number: int) -> Event:
    """The n-th event: repeats, clicks before their impression, unknown requests and items, several contexts."""
    rng = random.Random(number)
    request = f"r{max(number // 4 + rng.randint(-6, 2), 0)}"
    item = rng.choice([*ITEMS, "nowhere"])
    if rng.random() < 0.6:
        return replace(clicked(request, item, rng.randint(0, 1 << 15)), occurred_ms=NOW_MS)
    context = tuple((cluster, rng.randint(1, 1 << 15)) for cluster in sorted(rng.sample(range(8), 3)))
    return replace(shown(request, *rng.sample(ITEMS, 3), context=context), occurred_ms=NOW_MS)


def loop_settings(folder: Path, *, at_close: bool) -> dict[str, Any]:
    """Rule and clock of the loop."""
    if not at_close:
        return {}
    began = folder.parent / f"{folder.name}-began"  # the clock goes on from one process to the next
    if not began.exists():
        began.write_text(str(time.time_ns()))
    start_ns = int(began.read_text())
    return {"rule": AT_CLOSE, "clock_ms": lambda: NOW_MS + (time.time_ns() - start_ns) // 1_000_000}


def feed(folder: Path, start: int, end: int | None, acknowledged: int) -> None:
    """Offer events from `start` on and write the number of each acknowledged one to a descriptor."""
    loop = started(folder, **loop_settings(folder, at_close="FEED_AT_CLOSE" in os.environ))
    os.write(acknowledged, b"%d\n" % start)
    waiting: deque[Future[None]] = deque()
    number = done = start
    while end is None or done < end:
        while len(waiting) < _IN_FLIGHT and (end is None or number < end):
            waiting.extend(offer(loop, event(number)))
            number += 1
        waiting.popleft().result(timeout=60)
        done += 1
        os.write(acknowledged, b"%d\n" % done)
    loop.stop(grace_s=30)


def feed_in_child(folder: Path, start: int, end: int | None, delay_s: float | None) -> int:
    """Feed in a forked process, killed after a delay; how many events are acknowledged afterwards."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            feed(folder, start, end, writer)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    data = b""
    if delay_s is not None:
        until = time.monotonic() + delay_s
        while (left := until - time.monotonic()) > 0:
            if select.select([reader], [], [], left)[0]:
                data += os.read(reader, 1 << 16)
        os.kill(child, signal.SIGKILL)
    while more := os.read(reader, 1 << 16):
        data += more
    _, status = os.waitpid(child, 0)
    expected = signal.SIGKILL if delay_s is not None else 0
    if status != expected:
        raise SystemExit(f"the child ended with status {status}, expected {expected}")
    lines = data.split(b"\n")[:-1]  # the last may be cut
    return int(lines[-1]) if lines else start


def main(folder: Path, arguments: list[str]) -> None:
    """See the module's head."""
    if arguments[0] != "kill":
        feed(folder, 0, int(arguments[0]), sys.stdout.fileno())
        return
    kills, rng = int(arguments[1]), random.Random(int(arguments[2]))
    acknowledged = 0
    for _ in range(kills):
        acknowledged = feed_in_child(folder, acknowledged, None, rng.uniform(0.0, _LONGEST_DELAY_S))
    # Beyond everything that a killed process may have offered.
    sys.stdout.write(f"{feed_in_child(folder, acknowledged, acknowledged + _MORE_THAN_IN_FLIGHT, None)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
