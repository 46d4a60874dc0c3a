"""When rows go out, and whose turn it is; without a clock of its own."""

import random

import pytest

from streams.kafka.publishing_turns import PublishingTurns

PAUSE_S = 0.1


def published(rng, seconds, *, took_s, fixed_s=0.002, partitions=8):
    """Turns (began, ended, partitions) while every partition always has something to publish."""
    turns, now_s, done = PublishingTurns(), 100.0, []
    while now_s < 100.0 + seconds:
        ahead = list(range(partitions))
        rng.shuffle(ahead)
        due_s = turns.due_at_s(ahead, pause_s=PAUSE_S, since_s=0.0, is_busy=True)
        now_s = max(now_s, due_s)
        turn = turns.next(ahead)
        ended_s = now_s + fixed_s + took_s * len(turn)
        turns.took(turn, began_s=now_s, ended_s=ended_s)
        done.append((now_s, ended_s, turn))
        now_s = ended_s
    return done


@pytest.mark.parametrize("took_s", [0.0001, 0.003, 0.02, 0.05, 0.4])
def test_publishing_takes_no_more_than_its_part_and_leaves_no_partition_behind(took_s):
    """At most half of the time however long rows take, and every partition before any other comes a second time."""
    done = published(random.Random(7), 60, took_s=took_s)
    busy_s = sum(ended - began for began, ended, _ in done)
    assert busy_s < 0.5 * (done[-1][0] - done[0][0]) + 2 * max(ended - began for began, ended, _ in done)
    last: dict[int, float] = {}
    for began, _, turn in done:
        oldest = sorted(range(8), key=lambda number: last.get(number, 0.0))[: len(turn)]
        assert {last.get(number, 0.0) for number in turn} == {last.get(number, 0.0) for number in oldest}
        assert all(began - last.get(number, 0.0) >= PAUSE_S - 1e-9 for number in turn)
        last.update(dict.fromkeys(turn, began))


def test_rows_that_take_long_go_out_by_few_partitions_at_a_time():
    """A turn is about as long whatever a partition takes; quick ones go out all at once."""
    for took_s, count in ((0.001, 8), (0.06, 3), (0.4, 1)):
        assert len(published(random.Random(1), 10, took_s=took_s)[-1][2]) == count


def test_what_changed_while_nothing_came_in_does_not_wait_for_a_rest():
    """The end of a backlog goes out turn after turn."""
    turns = PublishingTurns()
    turns.took([0], began_s=10.0, ended_s=10.9)
    assert turns.due_at_s([1], pause_s=PAUSE_S, since_s=0.0, is_busy=False) <= 10.9
    assert turns.due_at_s([1], pause_s=PAUSE_S, since_s=0.0, is_busy=True) == pytest.approx(11.0)
    assert turns.due_at_s([1], pause_s=1.0, since_s=10.8, is_busy=False) == pytest.approx(11.8)
