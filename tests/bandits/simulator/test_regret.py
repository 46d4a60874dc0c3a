"""Regret runs: the published environment, streams, actions and regret, and a plain reference of every policy."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from bandits.policies import CandidateSums, PolicySettings, estimate_centred
from bandits.simulator.fixed_environment import Environment, Stream, environment, stream
from bandits.simulator.regret import Played, play
from bandits.simulator.regret_policies import KINDS, Kind, RegretPolicy, policy

GOLDEN_NAMES = {"diag": "diag_linucb", "diagwnorm": "diag_linucb_wnorm", "linucb": "linucb_full"}
WORLD = environment()


def read_numbers(path: Path) -> tuple[list[str], np.ndarray]:
    """Header and rows of a compressed table."""
    with gzip.open(path, "rt") as text:
        rows = csv.reader(text)
        header = next(rows)
        return header, np.array([[float(value) for value in row] for row in rows])


def golden_stream(k: int) -> Stream:
    """The first 20,000 rounds of the stream of 200,000 with seed 0."""
    whole = stream(WORLD, 0, 200_000, k)
    return Stream(whole.clusters[:20_000], whole.weights[:20_000], whole.uniforms[:20_000])


def test_the_environment_is_the_published_one(data_dir: Path) -> None:
    """Theta to the last bits (exp differs between processors), lists exactly."""
    with gzip.open(data_dir / "regret" / "env_theta_50x500.csv.gz", "rt") as text:
        theta = np.array([[float(value) for value in row] for row in csv.reader(text)])
    assert WORLD.theta == pytest.approx(theta, rel=1e-14)
    with (data_dir / "regret" / "env_lists_50x50.csv").open() as text:
        assert WORLD.lists.tolist() == [[int(value) for value in row] for row in csv.reader(text)]


@pytest.mark.parametrize("k", [1, 5])
def test_streams_are_the_published_ones(data_dir: Path, k: int) -> None:
    """Clusters and click draws exactly, weights to the last bits."""
    _, rows = read_numbers(data_dir / "regret" / f"stream_seed0_K{k}_20k.csv.gz")
    made = golden_stream(k)
    assert np.array_equal(made.clusters, rows[:, :k])
    assert made.weights == pytest.approx(rows[:, k : 2 * k], rel=1e-13)
    assert np.array_equal(made.uniforms[:, 0], rows[:, 2 * k])


@pytest.mark.parametrize("k", [1, 5])
def test_published_actions_and_regret_are_reproduced(data_dir: Path, k: int) -> None:
    """Deterministic policies take the same 20,000 actions, and earn the same regret and clicks."""
    header, actions = read_numbers(data_dir / "regret" / f"actions_seed0_K{k}_20k.csv.gz")
    expected = json.loads((data_dir / "regret" / f"regret_seed0_K{k}_20k.json").read_text())
    assert len(header) == len(expected)
    rounds = golden_stream(k)
    for column, name in enumerate(header):
        short, alpha, delay = name.split("_")
        chosen = policy(GOLDEN_NAMES[short], float(alpha[1:]))
        played = play(WORLD, rounds, chosen, delay=int(delay[1:]), rng=np.random.default_rng(0))
        assert np.array_equal(played.actions[:, 0], actions[:, column]), name
        golden = expected[f"{chosen.name}|alpha={chosen.parameter}|delay={delay[1:]}"]
        assert np.cumsum(played.regret)[1999::2000] == pytest.approx(golden["regret_every_2000"], rel=1e-10)
        assert played.clicks.sum() == golden["reward"]


class Reference:
    """Policies as their definitions read, one impression and one item at a time, from the history alone."""

    def __init__(self, world: Environment, rounds: Stream, chosen: RegretPolicy, rng: np.random.Generator) -> None:
        self.world, self.rounds, self.policy, self.rng = world, rounds, chosen, rng
        self.history: list[tuple[int, int, float]] = []  # round, item, reward
        self.shown: list[tuple[int, int]] = []  # round, item, with or without feedback

    def context(self, t: int) -> np.ndarray:
        x = np.zeros(len(self.world.theta))
        x[self.rounds.clusters[t]] = self.rounds.weights[t]
        return x

    def scores(self, t: int, candidates: np.ndarray) -> list[float]:
        kind = self.policy.kind
        if kind == Kind.RANDOM:
            return [self.rng.random() for _ in candidates]
        if kind in (Kind.EPSILON_ITEM, Kind.EPSILON_CLUSTER) and self.rng.random() < self.policy.parameter:
            return [self.rng.random() for _ in candidates]
        return [self.score(t, int(j)) for j in candidates]

    def score(self, t: int, j: int) -> float:
        """Of one item."""
        kind, parameter = self.policy.kind, self.policy.parameter
        near = kind in (Kind.EPSILON_CLUSTER, Kind.UCB1_CLUSTER)
        home = self.rounds.clusters[:, 0]
        seen = [fact for fact in self.history if not near or home[fact[0]] == home[t]]
        own = [fact for fact in seen if fact[1] == j]
        n, s = len(own), sum(reward for _, _, reward in own)
        if kind == Kind.BETA_ITEM:
            return self.rng.beta(1.0 + s, 1.0 + n - s)
        if kind < Kind.BETA_EDGE:
            if n == 0:
                return np.inf
            bonus = 0.0 if "eps" in self.policy.name else parameter * np.sqrt(2 * np.log(len(seen)) / n)
            return s / n + bonus
        x = self.context(t)
        if kind == Kind.RANDOMIZED_UCB:
            return self.randomized(t, x, j)
        shown = np.array([self.context(q) for q, _, _ in own]).reshape(n, len(x))
        rewards = np.array([reward for _, _, reward in own])
        draw = self.rng.standard_normal() if kind in (Kind.LINTS_FULL, Kind.DIAG_TS) else 1.0
        if kind in (Kind.LINTS_FULL, Kind.LINUCB_FULL):
            inverse = np.linalg.inv(np.eye(len(x)) + shown.T @ shown)
            return x @ inverse @ (shown.T @ rewards) + draw * parameter * np.sqrt(x @ inverse @ x)
        clusters = [c for c in self.rounds.clusters[t] if j in self.world.lists[c]]
        a, d = shown.sum(axis=0)[clusters], (shown**2).sum(axis=0)[clusters]
        b, w = (shown.T @ rewards)[clusters], x[clusters]
        if kind == Kind.BETA_EDGE:
            return sum(w[k] * self.rng.beta(1 + b[k], 1 + a[k] - b[k]) for k in range(len(w)))
        mean = (w * b / (1 + (a if kind == Kind.DIAG_UCB_WNORM else d))).sum()
        return mean + draw * parameter * np.sqrt((w**2 / (1 + d)).sum())

    def randomized(self, t: int, x: np.ndarray, j: int) -> float:
        """The mode of the server on these sums: impressions count when shown, rewards when they come."""
        weights = np.array([self.context(q) for q, item in self.shown if item == j]).reshape(-1, len(x))
        earned = sum((self.context(q) * r for q, item, r in self.history if item == j), np.zeros(len(x)))
        clusters = self.rounds.clusters[t]
        edge = np.array([j in self.world.lists[c] for c in clusters])
        sums = CandidateSums(
            weights=x[clusters],
            edge=edge[None],
            a=(weights.sum(axis=0)[clusters] * edge)[None],
            d=((weights**2).sum(axis=0)[clusters] * edge)[None],
            b=(earned[clusters] * edge)[None],
            n=np.array([float(len(weights))]),
            s=np.array([sum((r for _, item, r in self.history if item == j), 0.0)]),
            keys=np.zeros(1, np.uint64),
        )
        mean, width = estimate_centred(sums, PolicySettings(pooled_mean=0.5))  # not fitted before round 100
        draw = 0.6 + 0.4 * np.sqrt(self.rng.standard_exponential())
        return float(mean[0] + self.policy.parameter * width[0] * draw)


def play_slowly(chosen: RegretPolicy, rounds: Stream, slate_size: int, delay: int, seed: int) -> Played:
    """The definition of a run, in Python."""
    reference = Reference(WORLD, rounds, chosen, np.random.default_rng(seed))
    actions, clicks, regret, waiting = [], [], [], []
    for t, clusters in enumerate(rounds.clusters):
        reference.history += [fact for fact in waiting if fact[0] + delay < t]
        waiting = [fact for fact in waiting if fact[0] + delay >= t]
        candidates = np.unique(WORLD.lists[clusters])
        p = rounds.weights[t] @ WORLD.theta[clusters]
        order = np.argsort(-np.array(reference.scores(t, candidates)), kind="stable")
        slate = candidates[order[:slate_size]]
        clicked = rounds.uniforms[t, :slate_size] < p[slate]
        reference.shown += [(t, int(j)) for j in slate]
        waiting += [(t, int(j), float(r)) for j, r in zip(slate, clicked, strict=True)]
        actions.append(slate)
        clicks.append(clicked)
        regret.append(np.sort(p[candidates])[-slate_size:].sum() - p[slate].sum())
    return Played(np.array(actions), np.array(clicks), np.array(regret))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("k", "slate_size", "delay"), [(1, 1, 0), (4, 3, 5)])
def test_compiled_runs_equal_the_definition(name: str, k: int, slate_size: int, delay: int) -> None:
    """Every policy against Python written from its definition, on 60 rounds that return to few clusters."""
    long = stream(WORLD, 1000, 4000, k)
    few = np.flatnonzero(long.clusters[:, 0] < 2)[:60]
    rounds = Stream(long.clusters[few], long.weights[few], long.uniforms[few] * 0.3)  # clicks are frequent
    chosen = policy(name, 0.4)
    expected = play_slowly(chosen, rounds, slate_size, delay, seed=8)
    played = play(WORLD, rounds, chosen, slate_size=slate_size, delay=delay, rng=np.random.default_rng(8))
    assert np.array_equal(played.actions, expected.actions)
    assert np.array_equal(played.clicks, expected.clicks)
    assert played.regret == pytest.approx(expected.regret, abs=1e-12)
    assert expected.clicks.sum() > 5


def test_runs_repeat_for_equal_generators_only() -> None:
    """A stochastic policy is reproduced from its generator, and another seed acts otherwise."""
    rounds = stream(WORLD, 1001, 500, 5)
    seeds = (3, 3, 4)
    runs = [play(WORLD, rounds, policy("diag_ts", 0.25), rng=np.random.default_rng(seed)) for seed in seeds]
    assert np.array_equal(runs[0].actions, runs[1].actions)
    assert not np.array_equal(runs[0].actions, runs[2].actions)


def test_no_feedback_arrives_before_its_delay() -> None:
    """With a delay beyond the horizon a policy that learns acts as on the first round."""
    rounds = stream(WORLD, 1002, 300, 5)
    played = play(WORLD, rounds, policy("diag_linucb", 1.0), delay=300, rng=np.random.default_rng(0))
    blind = play(WORLD, rounds, policy("diag_linucb", 1.0), delay=10**6, rng=np.random.default_rng(0))
    learning = play(WORLD, rounds, policy("diag_linucb", 1.0), delay=298, rng=np.random.default_rng(0))
    assert np.array_equal(played.actions, blind.actions)
    assert np.array_equal(played.actions[:299], learning.actions[:299])


@pytest.mark.parametrize(("slate_size", "delay"), [(0, 0), (6, 0), (1, -1)])
def test_impossible_runs_are_refused(slate_size: int, delay: int) -> None:
    """There are five click draws a round, and no feedback from the future."""
    with pytest.raises(ValueError, match="expected"):
        play(
            WORLD,
            stream(WORLD, 0, 10, 2),
            policy("random"),
            slate_size=slate_size,
            delay=delay,
            rng=np.random.default_rng(0),
        )


def test_unknown_policies_are_refused_by_name() -> None:
    """A misspelt policy is an error that lists the right ones."""
    with pytest.raises(ValueError, match=r"diag_linucb.*got 'diag'"):
        policy("diag")
