"""Slates are finite, reproducible, and explained as they were served."""

import numpy as np
import pytest

from bandits.policies import MODES, CandidateSums, PolicySettings, score
from server.limits import SENT_INFINITY
from server.scoring import SlateRules, explain, fill_slate

RULES = SlateRules(PolicySettings(), top_m=1, explore_share=0.0, propensity_draws=64)


def random_sums(seed: int, *, n: int = 30, k: int = 5, unseen: float = 0.1) -> CandidateSums:
    rng = np.random.default_rng(seed)
    edge = rng.random((n, k)) < 0.7
    d = np.where(edge & (rng.random((n, k)) >= unseen), rng.random((n, k)) * 50 + 2.0**-30, 0.0)
    return CandidateSums(
        weights=rng.random(k),
        edge=edge,
        a=d * 1.5,
        d=d,
        b=d * rng.random((n, k)),
        n=np.full(n, 100.0),
        s=rng.random(n) * 100,
        keys=rng.integers(0, 2**63, n).astype(np.uint64),
    )


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("seed", range(3))
def test_every_number_of_a_slate_is_finite(mode: str, seed: int) -> None:
    """Unseen edges have an infinite bound, replies have not (I6)."""
    slate = fill_slate(random_sums(seed, unseen=0.5), mode=mode, slate_size=30, seed=seed, rules=RULES)
    for column in (slate.score, slate.mean, slate.width, slate.propensity):
        assert np.isfinite(column).all()
        assert np.abs(column).max() <= SENT_INFINITY
    assert ((slate.propensity > 0) & (slate.propensity <= 1)).all()
    assert len(set(slate.chosen.tolist())) == 30


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_seed_reproduces_a_slate(mode: str) -> None:
    """The same sums, settings and seed give the same slate, another seed another where anything is drawn."""
    sums = random_sums(1)
    rules = SlateRules(PolicySettings(), top_m=4, explore_share=0.3, propensity_draws=16)
    first, second, other = (fill_slate(sums, mode=mode, slate_size=10, seed=s, rules=rules) for s in (5, 5, 6))
    for name in ("chosen", "score", "propensity", "explored"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert not np.array_equal(first.chosen, other.chosen)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_an_explanation_equals_the_served_score(mode: str) -> None:
    """One candidate alone scores as it did among all (I12), also where its draw is random."""
    sums = random_sums(2)
    slate = fill_slate(sums, mode=mode, slate_size=30, seed=9, rules=RULES)
    for slot, at in enumerate(slate.chosen.tolist()):
        told = explain(one_of(sums, at), mode=mode, seed=9, policy=RULES.policy)
        assert told.score == pytest.approx(slate.score[slot], abs=1e-12, rel=1e-12)
        assert told.mean == pytest.approx(slate.mean[slot], abs=1e-12, rel=1e-12)
        assert told.width == pytest.approx(slate.width[slot], abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("estimator", ["diagonal", "averaged"])
@pytest.mark.parametrize("prior", [{}, {"prior_mean": 0.2}, {"prior_mean": 0.2, "prior_strength": 3.0}])
def test_the_parts_of_an_explanation_sum_to_the_whole(estimator: str, prior: dict[str, float]) -> None:
    """Each edge's part of mean and squared width is what the policy makes of that edge."""
    policy = PolicySettings(estimator=estimator, **prior)  # type: ignore[arg-type]
    sums = random_sums(4, unseen=0.0)
    for at in range(len(sums.keys)):
        alone = one_of(sums, at)
        told = explain(alone, mode="ucb", seed=0, policy=policy)
        assert told.edge_mean.sum() == pytest.approx(told.mean, abs=1e-12)
        assert told.edge_variance.sum() == pytest.approx(told.width**2, abs=1e-9)
        assert (told.edge_mean[~alone.edge[0]] == 0).all()


def test_only_drawn_scores_have_estimated_propensities() -> None:
    """A propensity says exact only where it is."""
    slates = {m: fill_slate(random_sums(0), mode=m, slate_size=5, seed=0, rules=RULES) for m in MODES}
    assert {mode for mode, slate in slates.items() if slate.estimated} == {
        "thompson",
        "beta_thompson",
        "randomized_ucb",
    }


def test_epsilon_is_the_exploration_share_of_its_mode_alone() -> None:
    """`epsilon_greedy` explores by epsilon, every other mode by the share of slates."""
    rules = SlateRules(PolicySettings(epsilon=1.0), top_m=1, explore_share=0.0, propensity_draws=1)
    sums = random_sums(0, unseen=0.0)
    assert fill_slate(sums, mode="epsilon_greedy", slate_size=5, seed=0, rules=rules).explored.all()
    assert not fill_slate(sums, mode="exploit", slate_size=5, seed=0, rules=rules).explored.any()


@pytest.mark.parametrize("mode", ["randomized_ucb", "ucb", "thompson", "uniform"])
def test_what_exploit_would_not_have_shown_is_explored(mode: str) -> None:
    """Operators see how much a drawn or optimistic policy explores, though no slot is drawn at random."""
    sums, rules = random_sums(2), RULES
    greedy = set(fill_slate(sums, mode="exploit", slate_size=2, seed=0, rules=rules).chosen.tolist())
    seen = set()
    for seed in range(50):
        slate = fill_slate(sums, mode=mode, slate_size=2, seed=seed, rules=rules)
        assert slate.explored.tolist() == [item not in greedy for item in slate.chosen.tolist()]
        seen.update(slate.explored.tolist())
    assert True in seen


@pytest.mark.parametrize("mode", sorted(MODES))
def test_no_candidates_make_an_empty_slate(mode: str) -> None:
    """All unknown or all excluded is no error."""
    slate = fill_slate(random_sums(0, n=0), mode=mode, slate_size=5, seed=0, rules=RULES)
    assert len(slate.chosen) == len(slate.score) == len(slate.propensity) == 0


def test_thompson_estimates_agree_with_frequencies() -> None:
    """The propensity of the first slot is the share of seeds in which that item comes first."""
    sums = random_sums(5, n=6, unseen=0.0)
    rules = SlateRules(PolicySettings(thompson_scale=2.0), top_m=1, explore_share=0.0, propensity_draws=4_000)
    draws = [int(np.argmax(score("thompson", sums, rules.policy, seed).score)) for seed in range(4_000)]
    frequency = np.bincount(draws, minlength=6) / 4_000
    for seed in range(20):
        slate = fill_slate(sums, mode="thompson", slate_size=1, seed=seed, rules=rules)
        assert slate.propensity[0] == pytest.approx(frequency[slate.chosen[0]], abs=0.05)


def one_of(sums: CandidateSums, at: int) -> CandidateSums:
    row = slice(at, at + 1)
    return CandidateSums(
        sums.weights, *(column[row] for column in (sums.edge, sums.a, sums.d, sums.b, sums.n, sums.s, sums.keys))
    )
