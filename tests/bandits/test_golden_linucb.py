"""Numbers of other people's libraries: LinUCB, exploration probabilities, Beta posteriors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandits.policies import CandidateSums, PolicySettings, Scores, redraw, score
from bandits.slates import Slate, estimate_propensity, pick

CLUSTERS, ITEMS = 5, 20
CHECKPOINTS = ["1", "10", "100", "500", "1000", "2000"]


def golden(data_dir: Path, name: str) -> Any:
    return json.loads((data_dir / "golden" / name).read_text())


def linucb(alpha: float) -> PolicySettings:
    """Diag-LinUCB as published, with the unit prior d = 1 + n of the libraries."""
    return PolicySettings(alpha=alpha, estimator="diagonal", prior_strength=1.0, unseen="prior")


def sums_of(weights: np.ndarray, d: np.ndarray, b: np.ndarray) -> CandidateSums:
    """Sums of items (rows) over clusters (columns) that all have edges."""
    keys = np.arange(len(d), dtype=np.uint64)
    return CandidateSums(weights, np.ones(d.shape, np.bool_), d, d, b, d.sum(1), b.sum(1), keys)


def all_scores(alpha: float, d: np.ndarray, b: np.ndarray) -> list[Scores]:
    """Scores of all items for each one-hot context; d and b of shape (ITEMS, CLUSTERS)."""
    return [score("ucb", sums_of(context, d, b), linucb(alpha), 0) for context in np.eye(CLUSTERS)]


def open_loop(stream: dict[str, Any], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums after some steps of the recorded stream: x is 1, so d counts and b adds rewards."""
    d, b = np.zeros((ITEMS, CLUSTERS)), np.zeros((ITEMS, CLUSTERS))
    at = np.array(stream["item"][:steps], int), np.array(stream["cluster"][:steps], int)
    np.add.at(d, at, 1)
    np.add.at(b, at, stream["reward"][:steps])
    return d, b


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("run", [f"mabwiser|alpha={alpha}" for alpha in (0.0, 0.5, 1.0)])
def test_one_hot_scores_are_those_of_disjoint_linucb(data_dir: Path, run: str, checkpoint: str) -> None:
    """With one-hot contexts Diag-LinUCB scores every item as a LinUCB implementation does, to 1e-12.

    The file states of three more libraries that they differ by less than that from the same formula.
    """
    recorded = golden(data_dir, "onehot_linucb.json")
    d, b = open_loop(recorded["stream"], int(checkpoint))
    found = [scores.score for scores in all_scores(float(run.split("=")[1]), d, b)]
    np.testing.assert_allclose(found, recorded["expected"][run][checkpoint], rtol=0, atol=recorded["tolerance"])


@pytest.mark.parametrize("checkpoint", ["0", *CHECKPOINTS])
def test_one_hot_mean_and_width_are_those_of_river(data_dir: Path, checkpoint: str) -> None:
    """River states mu and sqrt(1 + width^2): the predictive width with unit noise."""
    recorded = golden(data_dir, "onehot_linucb.json")
    d, b = open_loop(recorded["stream"], int(checkpoint))
    expected = recorded["expected"]["river_mu_sigma"][checkpoint]
    found = all_scores(1.0, d, b)
    np.testing.assert_allclose([s.mean for s in found], expected["mu"], rtol=0, atol=1e-12)
    np.testing.assert_allclose([np.sqrt(1 + s.width**2) for s in found], expected["sigma"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", ["0.5", "1.0"])
def test_the_closed_loop_takes_the_recorded_actions(data_dir: Path, alpha: str) -> None:
    """2,000 rounds of choosing by argmax (lowest index first) and learning: action for action, score for score."""
    recorded = golden(data_dir, "onehot_linucb.json")
    stream, expected = recorded["stream"], recorded["closed_loop"][alpha]
    theta, context = np.array(stream["theta"]), np.eye(CLUSTERS)
    d, b = np.zeros((ITEMS, CLUSTERS)), np.zeros((ITEMS, CLUSTERS))
    settings, actions, rewards, chosen = linucb(float(alpha)), [], [], []
    for cluster, u in zip(stream["cluster"], stream["u"], strict=True):
        scores = score("ucb", sums_of(context[cluster], d, b), settings, 0).score
        item = int(np.argmax(scores))
        reward = float(u < theta[cluster, item])
        d[item, cluster] += 1
        b[item, cluster] += reward
        actions.append(item)
        rewards.append(reward)
        chosen.append(scores[item])
    assert actions == expected["actions"]
    assert rewards == expected["rewards"]
    np.testing.assert_allclose(chosen, expected["chosen_score"], rtol=0, atol=1e-12)
    final = [scores.score for scores in all_scores(float(alpha), d, b)]
    np.testing.assert_allclose(final, expected["final_scores"], rtol=0, atol=1e-12)


def test_orthogonal_contexts_make_diagonal_and_full_equal() -> None:
    """One-hot contexts of any weight keep A diagonal: A^-1 b and x A^-1 x are the diagonal sums exactly."""
    rng = np.random.default_rng(0)
    X = np.eye(CLUSTERS)[rng.integers(0, CLUSTERS, 200)] * rng.random((200, 1))
    r = rng.random(200)
    A, weights = np.eye(CLUSTERS) + X.T @ X, rng.random(CLUSTERS)
    scores = score("ucb", sums_of(weights, (X * X).sum(0)[None], (X.T @ r)[None]), linucb(0.7), 0)
    assert scores.mean[0] == pytest.approx(weights @ np.linalg.solve(A, X.T @ r), rel=1e-12)
    assert scores.width[0] == pytest.approx(np.sqrt(weights @ np.linalg.solve(A, weights)), rel=1e-12)


def test_the_ridge_means_of_coba_are_reproduced(data_dir: Path) -> None:
    """30 rounds of three one-hot actions with lambda 1 end in the recorded coefficients."""
    recorded = golden(data_dir, "linucb_small.json")["coba_learn_something"]
    d, b = np.full((1, 3), 30.0), 30 * np.array([[0.25, 1.0, 0.75]])
    found = [score("exploit", sums_of(context, d, b), linucb(1.0), 0).mean[0] for context in np.eye(3)]
    np.testing.assert_allclose(found, recorded["ridge_exact_lambda1"], rtol=1e-12)


def test_arms_that_mabwiser_never_pulled_have_its_bonus(data_dir: Path) -> None:
    """An unpulled arm scores alpha * |x| for any context.

    No pulled arm of these cases has orthogonal contexts, so theirs are scores of full LinUCB alone.
    """
    compared = 0
    for case in golden(data_dir, "mabwiser_unit_tests.json")["cases"]:
        if case["policy"] != "LinUCB" or case["kind"] != "scores" or case["params"]["l2_lambda"] != 1:
            continue
        for arm in set(case["arms"]) - set(case["decisions"]):
            for context, expected in zip(case["contexts"], case["expected"], strict=True):
                zeros = np.zeros((1, len(context)))
                sums, settings = sums_of(np.array(context, float), zeros, zeros), linucb(case["params"]["alpha"])
                assert score("ucb", sums, settings, 0).score[0] == pytest.approx(expected[str(arm)], rel=1e-12)
                compared += 1
    assert compared > 0


def test_exploration_probabilities_are_those_of_vowpal_wabbit(data_dir: Path) -> None:
    """A slate of one with exploration share eps is epsilon-greedy: eps / n for all, the rest for the best."""
    for case in golden(data_dir, "vw_explore_pmf.json")["epsilon_greedy"]:
        top = min(case["top"], case["n"] - 1)
        found = marginals(np.eye(case["n"])[top], case["eps"])
        np.testing.assert_allclose(found, case["pmf"], atol=case["tol"])


def test_mixing_with_uniform_is_that_of_vowpal_wabbit(data_dir: Path) -> None:
    """Where the best item is itself random, the exploration share mixes its law with the uniform one."""
    for case in golden(data_dir, "vw_explore_pmf.json")["mix_with_uniform"]:
        base = np.eye(len(case["pmf"]))
        found = sum(p * marginals(base[top], case["eps"]) for top, p in enumerate(case["pmf"]))
        np.testing.assert_allclose(found, case["out"], rtol=1e-12)


def marginals(scores: np.ndarray, explore_share: float) -> np.ndarray:
    """Propensity of each item as the slate of one states it, over enough seeds to see every item."""
    keys, stated = np.arange(len(scores), dtype=np.uint64), np.full(len(scores), np.nan)
    for seed in range(200):
        slate = pick(scores, keys=keys, slate_size=1, explore_share=explore_share, seed=seed)
        stated[slate.chosen] = slate.propensity
    return stated


def posteriors(parameters: list[list[float]]) -> CandidateSums:
    """Items whose posteriors under the prior Beta(1, 1) are Beta(a, b), without edges."""
    a, b = np.array(parameters, float).T
    blank = np.zeros((len(a), 1))
    sums = sums_of(np.ones(1), blank, blank)
    return replace(sums, s=a - 1, n=a + b - 2)


def test_beta_posteriors_are_those_of_scipy(data_dir: Path) -> None:
    """Mean and width of beta_thompson are mean and standard deviation of Beta(a0 + s, b0 + n - s)."""
    for case in golden(data_dir, "beta_posterior.json")["posterior"]:
        a0, b0 = min(1.0, case["alpha"] / 2), min(1.0, case["beta"] / 2)
        s, failures = case["alpha"] - a0, case["beta"] - b0
        sums = replace(posteriors([[a0, b0]]), s=np.array([s]), n=np.array([s + failures]))
        scores = score("beta_thompson", sums, PolicySettings(beta_prior=(a0, b0)), 0)
        assert scores.mean[0] == pytest.approx(case["mean"], rel=1e-12)
        assert scores.width[0] ** 2 == pytest.approx(case["var"], rel=1e-12)


def test_thompson_propensities_are_the_probabilities_of_being_best(data_dir: Path) -> None:
    """The estimated propensity of a slate of one is P(best) of the posteriors, within five standard errors."""
    recorded, count = golden(data_dir, "beta_posterior.json"), 20_000
    cases = [(case["params"], case["prob_best"]) for case in recorded["prob_best"]]
    cases += [([c["A"], c["B"]], [c["prob_A_gt_B"], 1 - c["prob_A_gt_B"]]) for c in recorded["prob_greater"]]
    for seed, (parameters, expected) in enumerate(cases):
        redraws = redraw(
            "beta_thompson", posteriors(parameters), PolicySettings(beta_prior=(1.0, 1.0)), seed, count
        )
        for item, p in enumerate(expected):
            slate = Slate(np.array([item]), np.ones(1), np.zeros(1, np.bool_))
            error = 5 * np.sqrt(p * (1 - p) / count) + 1 / (count + 1)
            assert estimate_propensity(slate, redraws)[0] == pytest.approx(p, abs=error)
