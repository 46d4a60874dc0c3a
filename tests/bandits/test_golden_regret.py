"""The recorded simulator: policies choose, learn late, and must choose the same items again, 20,000 times."""

import csv
import gzip
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from bandits.policies import CandidateSums, PolicySettings, score

ITEMS, CLUSTERS, WIDTH = 500, 50, 5


def table(path: Path, *, header: int = 0) -> np.ndarray:
    return np.loadtxt(path, delimiter=",", skiprows=header)


@pytest.mark.parametrize(
    ("run", "estimator", "alpha", "delay"),
    [
        ("diag_a0.75_D0", "diagonal", 0.75, 0),
        ("diag_a0.75_D100", "diagonal", 0.75, 100),
        ("diag_a1.0_D1000", "diagonal", 1.0, 1000),
        ("diagwnorm_a0.5_D0", "averaged", 0.5, 0),
    ],
)
def test_the_simulated_actions_are_reproduced(
    data_dir: Path, run: str, estimator: str, alpha: float, delay: int
) -> None:
    """On overlapping contexts and a sparse graph both estimators act as the recorded reference did."""
    folder = data_dir / "regret"
    with gzip.open(folder / "actions_seed0_K5_20k.csv.gz", "rt") as file:
        expected = [int(row[run]) for row in csv.DictReader(file)]
    theta = table(folder / "env_theta_50x500.csv.gz")
    graph = np.zeros((ITEMS, CLUSTERS), np.bool_)
    graph[table(folder / "env_lists_50x50.csv").astype(int), np.arange(CLUSTERS)[:, None]] = True
    settings = PolicySettings(alpha=alpha, estimator=estimator, prior_strength=1.0, unseen="prior")
    a, d, b = np.zeros((3, ITEMS, CLUSTERS))
    late: deque[tuple[int, np.ndarray, np.ndarray, float]] = deque()
    actions = []
    for row in table(folder / "stream_seed0_K5_20k.csv.gz", header=1):
        if len(late) > delay:
            item, clusters, x, reward = late.popleft()
            a[item, clusters] += x
            d[item, clusters] += x * x
            b[item, clusters] += x * reward
        clusters, weights, u = row[:WIDTH].astype(int), row[WIDTH : 2 * WIDTH], row[2 * WIDTH]
        candidates = np.flatnonzero(graph[:, clusters].any(axis=1))
        at = np.ix_(candidates, clusters)
        blank = np.zeros(len(candidates))
        sums = CandidateSums(weights, graph[at], a[at], d[at], b[at], blank, blank, candidates.astype(np.uint64))
        item = int(candidates[np.argmax(score("ucb", sums, settings, 0).score)])  # ties: lowest item id
        late.append((item, clusters, weights * graph[item, clusters], float(u < weights @ theta[clusters, item])))
        actions.append(item)
    assert actions == expected
