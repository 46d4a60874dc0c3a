"""Replays of recorded logs."""

import csv
import gzip

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.join_rule import JoinRule
from bandits.policies import PolicySettings
from streams.logs import LogError, read_kuairand, read_open_bandit
from streams.replay import PolicyAsker, replay


@pytest.fixture(scope="module")
def kuairand(data_dir):
    return read_kuairand(data_dir / "kuairand")


def fold(log, *, batch_rows=1000, backend="auto", asker=None):
    return replay(
        log,
        rule=JoinRule(),
        backend=choose_backend(backend),
        batch_rows=batch_rows,
        clock=lambda: 0.0,
        progress=lambda rows: None,
        asker=asker,
    )


def test_kuairand_counts_are_those_of_its_description(kuairand):
    """Every row is counted once: 5,885 exact duplicates are duplicates, the ties of user and time are not."""
    report = fold(kuairand)
    assert report.rows == 228_329
    assert report.counts["impressions_duplicate"] == 5_885
    assert report.counts["impressions_accepted"] == 228_329 - 5_885
    assert report.counts["clicks_joined"] + report.counts["clicks_duplicate"] == report.clicks
    assert not any(report.counts[name] for name in ("impressions_late", "clicks_late", "clicks_unmatched"))


def test_kuairand_sums_equal_a_plain_dictionary(kuairand, data_dir):
    """Impressions and rewards of every item equal a fold of the file by another, simpler program."""
    shown, clicked = {}, {}
    with gzip.open(data_dir / "kuairand" / "impressions.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            key = (row["user_id"], row["time_ms"], row["video_id"])
            shown[key] = 1
            if row["is_click"] == "1":
                clicked[key] = 1
    expected = np.zeros((kuairand.graph.n_items, 2), np.int64)
    for table, column in ((shown, 0), (clicked, 1)):
        for _, _, video in table:
            expected[kuairand.graph.index[video], column] += 1

    from bandits.joiner import Joiner
    from bandits.learner import Learner

    joiner, learner = Joiner(JoinRule()), Learner.empty(kuairand.graph, choose_backend())
    for offset, start in enumerate(range(0, len(kuairand), 5000)):
        outcomes, change = joiner.join(*kuairand.part(start, min(start + 5000, len(kuairand))))
        learner.apply(outcomes, offset=offset)
        joiner.apply(change)
    assert (learner.sums.item[:, 0] == expected[:, 0]).all()
    assert (learner.sums.item[:, 1] == expected[:, 1] * 2**15).all()


def test_the_state_does_not_depend_on_micro_batches_or_backend(kuairand):
    """The same log in other micro-batches, on another backend, or a second time gives the same hash and counts."""
    part = kuairand.first(40_000)
    first = fold(part, batch_rows=1000)
    assert fold(part, batch_rows=1000) == first
    for batch_rows, backend in ((64, "auto"), (7777, "numpy"), (40_000, "auto")):
        other = fold(part, batch_rows=batch_rows, backend=backend)
        assert (other.state_hash, other.counts) == (first.state_hash, first.counts), (batch_rows, backend)


@pytest.mark.parametrize("name", ["random/all/all.csv", "random/men/men.csv", "bts/women/women.csv"])
def test_open_bandit_counts_every_click_once(data_dir, name):
    """All rows of a campaign are joined, whatever the micro-batches."""
    log = read_open_bandit(data_dir / "obd" / name)
    report = fold(log, batch_rows=100)
    assert report.counts["impressions_accepted"] == report.rows == 10_000
    assert report.counts["clicks_joined"] == report.clicks == int(log.clicked.sum())
    assert fold(log, batch_rows=3_333).state_hash == report.state_hash


def test_a_uniform_policy_matches_a_uniform_log_as_often_as_chance(data_dir):
    """The replay estimate asks the policy fairly: a random policy agrees with a random log in one row of eighty."""
    log = read_open_bandit(data_dir / "obd" / "random/all/all.csv")
    asker = PolicyAsker(mode="uniform", settings=PolicySettings(), every=1, seed=3)
    estimate = fold(log, asker=asker).policy
    assert estimate.asked == 10_000
    assert estimate.unbiased
    assert abs(estimate.matched - 125) < 5 * 125**0.5
    assert estimate.logged_reward == log.clicked.mean()


def test_a_missing_file_or_column_is_named(tmp_path):
    """A log that is not what it should be is refused with file, column, expected and got."""
    with pytest.raises(LogError, match=r"impressions.csv.gz: expected a file"):
        read_kuairand(tmp_path)
    with gzip.open(tmp_path / "impressions.csv.gz", "wt") as file:
        file.write("user_id,video_id,time_ms\n1,2,3\n")
    with pytest.raises(LogError, match=r"expected column is_click, got user_id"):
        read_kuairand(tmp_path)
    (tmp_path / "x.csv").write_text("timestamp,item_id\n")
    with pytest.raises(LogError, match=r"expected column position"):
        read_open_bandit(tmp_path / "x.csv")
