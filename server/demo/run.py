"""A run of simulated users from start to end."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.channels import ClientTls
from server.demo.surroundings import Surroundings
from server.demo.tally import Tally
from server.demo.users import Crowd, Habits
from server.demo.view import REFRESH_S, showing


class UsersGaveUp(RuntimeError):
    """The server cannot be used by these users; the message says why."""


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Set by Ctrl-C, in the main thread: an exception is lost where it comes while objects are being freed."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def run_users(
    address: str,
    scene: Surroundings,
    habits: Habits,
    *,
    seconds: float,
    title: str,
    quiet: bool,
    slates: int | None = None,
    check: Callable[[], None] = lambda: None,
    tls: ClientTls | None = None,
) -> tuple[Tally, float, int]:
    """Let users use a server for a while, and show it.

    Args:
        address: of the server.
        scene: where the users live.
        habits: how they behave.
        seconds: how long at most.
        slates: enough of them end the run; a few more may be shown.
        title: of the view.
        quiet: show nothing.
        check: called now and then, raises if the run must end.
        tls: what they connect with; None = plain text.

    Returns:
        What they saw, the seconds it took, and the clicks that were still delayed at the end.

    Raises:
        UsersGaveUp: the server does not answer, or is one of another world.
        KeyboardInterrupt: by Ctrl-C, in the main thread.
    """
    tally = Tally()
    crowd = Crowd(address, scene, habits, tally, tls)
    began_s = time.monotonic()
    crowd.start()
    try:
        with _interrupts() as interrupted, showing(tally, seconds=seconds, title=title, quiet=quiet) as show:
            while (at_s := time.monotonic() - began_s) < seconds and not crowd.failure:
                if interrupted.wait(min(REFRESH_S, seconds - at_s)):
                    raise KeyboardInterrupt
                check()
                show(min(time.monotonic() - began_s, seconds))
                if slates is not None and tally.counts.slates >= slates:
                    break
    finally:
        crowd.stop()
    if crowd.failure:
        raise UsersGaveUp(crowd.failure)
    return tally, time.monotonic() - began_s, crowd.clicks_on_the_way
