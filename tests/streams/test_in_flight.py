"""The embedded loop with impressions in flight: ticks, restarts, graph switches, what servers see, verification."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.context import Context
from bandits.join_rule import JoinRule
from bandits.policies import PolicySettings, score
from bandits.sums import OPEN
from server.snapshot import Snapshot
from streams.change import Change
from streams.embedded import EmbeddedLoop
from streams.verify import verify_store
from tests.bandits.event_columns import Event
from tests.streams.loops import (
    NOW_MS,
    clicked,
    clicks,
    impressions,
    make_graph,
    model_hash,
    offer,
    settle,
    shown,
    started,
)

WINDOW_MS = 1_000
AT_CLOSE = JoinRule(window_ms=WINDOW_MS, resolution="at_close")
NOTHING = "0" * 32


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def verified(folder: Path) -> str:
    result = verify_store(folder, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    assert result.state_hash == result.folded_hash
    return result.state_hash


def events() -> list[Event]:
    return [
        shown("r", "item-0", "item-1"),
        clicked("r", "item-1"),
        clicked("s", "item-2"),
        shown("s", "item-1", "item-2"),
        clicked("r", "item-1"),
    ]


def wait_for(loop: EmbeddedLoop, in_flight: int) -> None:
    until = time.monotonic() + 30
    while loop.status().in_flight != in_flight:
        assert time.monotonic() < until, loop.status()
        time.sleep(0.02)


def test_windows_close_when_traffic_has_stopped(tmp_path: Path) -> None:
    """Nothing comes any more, and yet the impressions count, as they would have at once; verify agrees."""
    start = time.monotonic()
    rule = replace(AT_CLOSE, window_ms=300)
    loop = started(tmp_path, rule=rule, clock_ms=lambda: NOW_MS + int(1_000 * (time.monotonic() - start)))
    settle(offer(loop, *events()))
    assert loop.status().in_flight <= 4
    wait_for(loop, 0)
    live = loop.state_hash()
    loop.stop(grace_s=10)
    assert live == verified(tmp_path) == model_hash(make_graph(), events())


def test_what_is_in_flight_survives_a_restart(tmp_path: Path) -> None:
    """Stopped and started in between: the windows close once, with the clicks of before and after."""
    clock = Clock()
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock)
    settle(offer(loop, *events()[:3]))
    before = loop.state_hash()
    loop.stop(grace_s=10)
    assert verified(tmp_path) == before != NOTHING
    clock.now_ms += WINDOW_MS // 2
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock)
    assert (loop.status().in_flight, loop.state_hash()) == (2, before)
    settle(offer(loop, *events()[3:]))
    clock.now_ms += WINDOW_MS + 1
    settle(offer(loop, clicked("late", "item-1")))  # any event moves the clock on
    assert loop.status().in_flight == 0
    live = loop.state_hash()
    loop.stop(grace_s=10)
    assert live == verified(tmp_path) == model_hash(make_graph(), events())


def test_a_click_after_the_closing_counts_once(tmp_path: Path) -> None:
    """It happened within the window and came late: it is added when it comes, and a repeat is not."""
    clock = Clock()
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock)
    settle([loop.offer_impressions(impressions(shown("r", "item-1")))])
    clock.now_ms += WINDOW_MS + 100
    late = clicks(clicked("r", "item-1"))
    late.clicks[0].occurred_at_ms = NOW_MS + 10
    settle([loop.offer_clicks(late)])
    settle([loop.offer_clicks(late)])
    assert loop.status().counts["clicks_duplicate"] == 1
    live = loop.state_hash()
    loop.stop(grace_s=10)
    assert live == verified(tmp_path) == model_hash(make_graph(), [shown("r", "item-1"), clicked("r", "item-1")])


def test_the_setting_can_be_changed_with_impressions_in_flight(tmp_path: Path) -> None:
    """Back to immediate: what is in flight counts at the next start, with what it had earned; and back again."""
    clock = Clock()
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock)
    settle(offer(loop, *events()))
    loop.stop(grace_s=10)
    loop = started(tmp_path, clock_ms=clock)
    wait_for(loop, 0)
    assert loop.state_hash() == model_hash(make_graph(), events())
    loop.stop(grace_s=10)
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock)
    settle(offer(loop, shown("t", "item-1")))
    assert loop.status().in_flight == 1
    live = loop.state_hash()
    loop.stop(grace_s=10)
    assert live == verified(tmp_path) != model_hash(make_graph(), events())


def test_a_graph_switch_carries_what_is_in_flight(tmp_path: Path) -> None:
    """Edges in both graphs keep it and close to zero; an edge that came meanwhile owes nothing afterwards."""
    clock = Clock()
    small = make_graph("v0", leave_out=[("item-1", 1)])
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock, graph=small)
    settle(offer(loop, shown("r", "item-1", context=((1, 1 << 14), (3, 1 << 13)))))
    kept: list[Change] = []
    loop._committer._on_change = kept.append
    loop.load_graph(make_graph("v1"))
    extra = kept[-1].extra_rows
    assert extra is not None
    assert extra[:, OPEN].sum() == 1 << 26  # the edge to cluster 3; the one to cluster 1 is new
    clock.now_ms += WINDOW_MS + 1
    settle(offer(loop, clicked("late", "item-1")))
    live = loop.state_hash()
    loop.stop(grace_s=10)
    assert live == verified(tmp_path)
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock)
    assert loop.state_hash() == live
    loop.stop(grace_s=10)


@pytest.mark.parametrize("estimator", ["averaged", "diagonal"])
def test_servers_see_a_narrower_width_and_the_same_mean(tmp_path: Path, estimator: str) -> None:
    """What is in flight counts for the width alone; an item that is on its way for the first time is not unseen."""
    clock = Clock()
    policy = PolicySettings(estimator=estimator)  # type: ignore[arg-type]
    snapshot = Snapshot(choose_backend("numpy"), lambda: policy)
    loop = started(tmp_path, snapshot.apply, rule=AT_CLOSE, clock_ms=clock)
    user = Context(np.array([1, 2], np.int32), np.array([0.5, 0.25]))

    def centred_mean() -> float:
        """Of the mode with priors, from what is learned of the edges alone."""
        parameters = snapshot.current
        assert parameters is not None
        sums = parameters.gather(parameters.graph.lookup(["item-1"]), user).sums
        strength = policy.edge_strength / policy.pooled_mean
        return float((sums.b - sums.a * 0.1)[0, 0] / (sums.d[0, 0] + strength))

    def scores() -> tuple[list[float], list[float], float]:
        parameters = snapshot.current
        assert parameters is not None
        reading = parameters.gather(parameters.graph.lookup(["item-1", "item-3"]), user)
        told = score("ucb", reading.sums, policy, seed=1)
        flying = 0.0 if reading.in_flight is None else float(reading.in_flight.sum())
        return told.mean.tolist(), told.width.tolist(), flying

    assert scores()[1] == [np.inf, np.inf]
    settle(offer(loop, shown("r", "item-1"), clicked("r", "item-1")))
    mean, width, flying = scores()
    assert (mean, width[1]) == ([0.0, 0.0], np.inf)
    assert width[0] == pytest.approx(1.0)  # w = 0.5 and x = 0.5
    assert flying == 0.25
    clock.now_ms += WINDOW_MS + 1
    settle(offer(loop, shown("s", "item-3")))
    counted, closed, flying = scores()
    centred = centred_mean()
    assert counted[0] > 0
    assert closed == pytest.approx([1.0, 1.0])
    settle(offer(loop, shown("t", "item-1")))
    both, narrower, _ = scores()
    assert both == pytest.approx(counted)
    assert narrower[0] == pytest.approx(1 / np.sqrt(2))
    if estimator == "averaged":
        assert centred_mean() == pytest.approx(centred, rel=1e-3)
    loop.stop(grace_s=10)


def test_a_frozen_loop_goes_on_closing_and_learns_it_later(tmp_path: Path) -> None:
    """Freezing stops learning, not the ledger."""
    clock = Clock()
    loop = started(tmp_path, rule=AT_CLOSE, clock_ms=clock)
    loop.freeze(True)
    settle(offer(loop, *events()))
    clock.now_ms += WINDOW_MS + 1
    settle(offer(loop, clicked("late", "item-1")))
    assert (loop.status().in_flight, loop.state_hash()) == (0, NOTHING)
    loop.freeze(False)
    live = loop.state_hash()
    loop.stop(grace_s=10)
    assert live == verified(tmp_path) == model_hash(make_graph(), events())
