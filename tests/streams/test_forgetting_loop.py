"""The embedded loop with a half-life and positions: late events, restarts, what servers see, verification."""

from pathlib import Path

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.context import Context
from bandits.join_rule import JoinRule
from bandits.policies import PolicySettings, estimate
from bandits.sums import HALF_LIFE
from freshet.v1 import events_pb2
from server.snapshot import Snapshot
from streams.embedded import EmbeddedLoop
from streams.verify import verify_store
from tests.streams.loops import NOW_MS, clicked, clicks, impressions, make_graph, model_hash, settle, shown, started
from tests.streams.test_in_flight import Clock

HOUR_MS = 3_600_000
RULE = JoinRule(half_life_ms=HOUR_MS, position_gammas=(1.0, 0.5), max_delay_ms=100 * HOUR_MS)
USER = Context(np.array([1], np.int32), np.array([0.5]))


def verified(folder: Path) -> str:
    result = verify_store(folder, backend=choose_backend("numpy"), progress=lambda done, of: None)
    assert result.ok, result.checks
    return result.state_hash


def slate(request: str, at_ms: int, *items: str) -> events_pb2.ImpressionBatch:
    """A slate with positions and a time of its own."""
    batch = impressions(shown(request, *items, context=((1, 1 << 14),)))
    batch.impressions[0].occurred_at_ms = at_ms
    for position, item in enumerate(batch.impressions[0].items):
        item.position = position
    return batch


def click(request: str, item: str, at_ms: int) -> events_pb2.ClickBatch:
    batch = clicks(clicked(request, item))
    batch.clicks[0].occurred_at_ms = at_ms
    return batch


def show(loop: EmbeddedLoop, request: str, at_ms: int, *items: str, click_on: str = "") -> None:
    settle([loop.offer_impressions(slate(request, at_ms, *items))])
    if click_on:
        settle([loop.offer_clicks(click(request, click_on, at_ms))])


def test_late_events_end_in_the_same_state(tmp_path: Path) -> None:
    """Slates on time, and the same ten hours late in another order: one hash, verified and restored."""
    times = [NOW_MS + hour * HOUR_MS for hour in (0, 3, 4, 9, 10)]
    clock = Clock()
    on_time = started(tmp_path / "on-time", rule=RULE, clock_ms=clock)
    for n, at_ms in enumerate(times):
        clock.now_ms = at_ms
        show(on_time, f"r{n}", at_ms, "item-1", "item-3", click_on="item-3")
    late = started(tmp_path / "late", rule=RULE, clock_ms=clock)
    for n in (3, 0, 4, 2, 1):
        show(late, f"r{n}", times[n], "item-1", "item-3", click_on="item-3")
    hashes = {loop.state_hash() for loop in (on_time, late)}
    for loop in (on_time, late):
        loop.stop(grace_s=10)
    hashes |= {verified(tmp_path / "on-time"), verified(tmp_path / "late")}
    again = started(tmp_path / "late", rule=RULE, clock_ms=clock)
    hashes.add(again.state_hash())
    again.stop(grace_s=10)
    assert len(hashes) == 1


@pytest.mark.parametrize("estimator", ["averaged", "diagonal"])
def test_what_is_served_fades_with_what_is_shown(tmp_path: Path, estimator: str) -> None:
    """Four half-lives later, in the time of what was shown: half the certainty twice over, and the same mean."""
    clock = Clock()
    policy = PolicySettings(estimator=estimator)  # type: ignore[arg-type]
    snapshot = Snapshot(choose_backend("numpy"), lambda: policy)
    loop = started(tmp_path, snapshot.apply, rule=RULE, clock_ms=clock)

    def told(item: str) -> tuple[float, float]:
        parameters = snapshot.current
        assert parameters is not None
        mean, width, _ = estimate(parameters.gather(parameters.graph.lookup([item]), USER).sums, policy)
        return float(mean[0]), float(width[0])

    show(loop, "r0", NOW_MS, "item-1", click_on="item-1")
    mean, width = told("item-1")
    assert mean == pytest.approx({"averaged": 0.5, "diagonal": 1.0}[estimator], rel=1e-3)  # w * b / a, w * b / d
    assert width == pytest.approx(1.0, rel=0.01)
    clock.now_ms += 4 * HOUR_MS
    show(loop, "r1", clock.now_ms, "item-3")
    faded_mean, faded_width = told("item-1")
    assert faded_mean == pytest.approx(mean, rel=0.01)
    assert faded_width == pytest.approx(4 * width, rel=0.02)
    assert told("item-3")[1] == pytest.approx(1.0, rel=0.01)
    assert snapshot.current is not None
    sums = snapshot.current.gather(snapshot.current.graph.lookup(["item-1", "item-3", "item-0"]), USER).sums
    assert sums.n.tolist() == [1, 1, 0]
    assert sums.s.tolist() == pytest.approx([1.0, 0.0, 0.0], rel=1e-3)
    loop.stop(grace_s=10)
    verified(tmp_path)


def test_forgetting_can_be_switched_on_and_its_half_life_changed(tmp_path: Path) -> None:
    """What was learned before stays; the ledger still gives the state, over both changes."""
    clock = Clock()
    for day, rule in enumerate((JoinRule(), RULE, JoinRule(half_life_ms=3 * HOUR_MS), JoinRule())):
        loop = started(tmp_path, rule=rule, clock_ms=clock)
        for n in range(3):
            clock.now_ms += HOUR_MS
            show(loop, f"r{day}-{n}", clock.now_ms, "item-1", "item-3", click_on="item-1")
        if day == 0:
            assert loop._committer.learner is not None
            assert loop._committer.learner.sums.extra is None
        live = loop.state_hash()
        loop.stop(grace_s=10)
        assert live == verified(tmp_path)
    loop = started(tmp_path, clock_ms=clock)
    learner = loop._committer.learner
    assert learner is not None
    assert learner.sums.times is not None
    assert set(learner.sums.times[:, HALF_LIFE].tolist()) == {0, 3 * HOUR_MS}
    assert learner.sums.item.sum(axis=0).tolist() == [24, 12 << 15]
    loop.stop(grace_s=10)


def test_without_the_settings_nothing_is_kept_besides(tmp_path: Path) -> None:
    """Positions and times in the events change neither state nor rows nor ledger."""
    clock = Clock()
    loop = started(tmp_path, clock_ms=clock)
    show(loop, "r0", NOW_MS, "item-1", "item-3", click_on="item-3")
    live = loop.state_hash()
    loop.stop(grace_s=10)
    context = ((1, 1 << 14),)
    events = [shown("r0", "item-1", "item-3", context=context), clicked("r0", "item-3")]
    assert live == verified(tmp_path) == model_hash(make_graph(), events)
