"""Scores against a loop over edges, and what must hold for any sums."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bandits.policies import MODES, CandidateSums, PolicySettings, describe, redraw, score
from bandits.policy_settings import with_pooled_mean

UNIT = 2.0**-15


def make_sums(rng: np.random.Generator, n: int, K: int, *, unseen: float = 0.3) -> CandidateSums:
    """Random sums on the fixed-point grid, some edges missing, some unseen."""
    weights = np.maximum(np.round(rng.dirichlet(np.ones(K)) / UNIT), 1) * UNIT
    edge = rng.random((n, K)) < 0.7
    shown = edge & (rng.random((n, K)) >= unseen)
    d = np.where(shown, np.ceil(rng.exponential(5.0, (n, K)) / UNIT**2) * UNIT**2, 0.0)
    a = np.where(shown, np.ceil(d * rng.uniform(1, 5, (n, K)) / UNIT) * UNIT, 0.0)
    b = np.where(shown, np.floor(d * rng.random((n, K)) / UNIT**2) * UNIT**2, 0.0)
    shows = rng.integers(0, 1_000, n).astype(float)
    keys = rng.integers(0, 2**63, n).astype(np.uint64)
    return CandidateSums(weights, edge, a, d, b, shows, np.floor(shows * rng.random(n)), keys)


def take(sums: CandidateSums, rows: Any) -> CandidateSums:
    """The same candidates in other rows."""
    names = ("edge", "a", "d", "b", "n", "s", "keys")
    return replace(sums, **{name: getattr(sums, name)[rows] for name in names})


def by_loop(sums: CandidateSums, settings: PolicySettings) -> tuple[list[float], list[float]]:
    """Mean and width of Eq. 7, edge by edge."""
    p, m = settings.prior_strength, settings.prior_mean
    means, widths = [], []
    for j in range(len(sums.n)):
        mean = variance = 0.0
        for c, w in enumerate(sums.weights):
            if not sums.edge[j, c]:
                continue
            a, d, b = sums.a[j, c], sums.d[j, c], sums.b[j, c]
            shown = p + (d if settings.estimator == "diagonal" else a)
            mean += w * ((m * p + b) / shown if shown else m)
            variance += math.inf if d == 0 and settings.unseen == "infinite" else w * w / (p + d)
        means.append(mean)
        widths.append(math.sqrt(variance))
    return means, widths


@pytest.mark.parametrize("estimator", ["diagonal", "averaged"])
@pytest.mark.parametrize(
    "prior",
    [
        {"prior_strength": 0.0},
        {"prior_strength": 0.0, "prior_mean": 0.2},
        {"prior_strength": 1.5, "prior_mean": 0.2},
        {"prior_strength": 1.0, "unseen": "prior"},
    ],
)
def test_ucb_is_the_sum_over_edges(estimator: str, prior: dict[str, Any]) -> None:
    """Mean, width and score equal a plain loop over the edges, for both estimators and every prior."""
    settings = PolicySettings(alpha=0.7, estimator=estimator, **prior)
    sums = make_sums(np.random.default_rng(1), 60, 7, unseen=0.05)
    mean, width = by_loop(sums, settings)
    scores = score("ucb", sums, settings, 0)
    np.testing.assert_allclose(scores.mean, mean, rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(scores.width, width, rtol=1e-13)
    np.testing.assert_allclose(scores.score, np.add(mean, 0.7 * np.array(width)), rtol=1e-13)
    assert np.array_equal(score("exploit", sums, settings, 0).score, scores.mean)
    assert np.array_equal(score("epsilon_greedy", sums, settings, 0).score, scores.mean)


def test_the_published_mean_overcounts_and_the_average_does_not() -> None:
    """Two clusters always shown together with weight 1/2 and true mean m: the diagonal form says 2m."""
    shows, m, half = 1_000, 0.1, np.full((1, 2), 0.5)
    sums = CandidateSums(
        weights=np.array([0.5, 0.5]),
        edge=np.ones((1, 2), np.bool_),
        a=shows * half,
        d=shows * half**2,
        b=shows * m * half,
        n=np.array([float(shows)]),
        s=np.array([shows * m]),
        keys=np.zeros(1, np.uint64),
    )
    assert score("exploit", sums, PolicySettings(estimator="diagonal"), 0).mean[0] == pytest.approx(2 * m)
    assert score("exploit", sums, PolicySettings(estimator="averaged"), 0).mean[0] == pytest.approx(m)


@pytest.mark.parametrize("mode", ["ucb", "thompson"])
def test_an_unseen_edge_beats_everything(mode: str) -> None:
    """An item with one unseen edge scores +inf, its mean is finite; without exploration it scores its mean."""
    sums = make_sums(np.random.default_rng(2), 50, 5)
    blank = (sums.edge & (sums.d == 0)).any(axis=1)
    assert 0 < blank.sum() < 50
    scores = score(mode, sums, PolicySettings(prior_mean=0.1), 5)
    assert np.array_equal(np.isposinf(scores.score), blank)
    assert np.array_equal(np.isposinf(scores.width), blank)
    assert np.isfinite(scores.mean).all()
    still = score(mode, sums, PolicySettings(alpha=0.0, thompson_scale=0.0), 5)
    assert np.array_equal(still.score, still.mean)


def test_an_item_without_edges_scores_nothing() -> None:
    """No edge to the user's clusters: mean and width are 0, whatever the prior."""
    sums = take(make_sums(np.random.default_rng(2), 4, 5), np.arange(4))
    sums = replace(sums, edge=np.zeros_like(sums.edge), a=0 * sums.a, d=0 * sums.d, b=0 * sums.b)
    for strength in (0.0, 1.0):
        scores = score("ucb", sums, PolicySettings(prior_mean=0.5, prior_strength=strength), 0)
        assert not scores.score.any()
        assert not scores.width.any()


any_settings = st.builds(
    PolicySettings,
    alpha=st.floats(0, 100),
    thompson_scale=st.floats(0, 100),
    prior_mean=st.floats(0, 1),
    prior_strength=st.sampled_from([2.0**-30, 1.0, 1e9]),
    beta_prior=st.tuples(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9)),
    estimator=st.sampled_from(["diagonal", "averaged"]),
    unseen=st.sampled_from(["infinite", "prior"]),
) | st.builds(PolicySettings, alpha=st.floats(0, 100), prior_mean=st.floats(0, 1))
extremes = st.sampled_from([0.0, UNIT**2, 1.0, 2.0**33])


@given(st.data(), st.sampled_from(sorted(MODES)), any_settings, st.integers(0, 2**64 - 1))
def test_no_sums_give_a_nan(data: st.DataObject, mode: str, settings: PolicySettings, seed: int) -> None:
    """Smallest, largest, zero and contradictory sums under any settings: no NaN, no -inf, a finite mean."""
    n, K = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 4))

    def draw(*shape: int) -> np.ndarray:
        size = math.prod(shape)
        return np.array(data.draw(st.lists(extremes, min_size=size, max_size=size))).reshape(shape)

    edge = draw(n, K) > 0
    weights = np.array(data.draw(st.lists(st.sampled_from([0.0, UNIT, 0.5, 1.0]), min_size=K, max_size=K)))
    d = draw(n, K) * edge
    sums = CandidateSums(
        weights, edge, np.sqrt(d), d, draw(n, K) * edge, draw(n), draw(n), np.arange(n, dtype=np.uint64)
    )
    scores = score(mode, sums, settings, seed)
    for values in (scores.score, scores.mean, scores.width):
        assert values.shape == (n,)
        assert not np.isnan(values).any()
    assert np.isfinite(scores.mean).all()
    assert (scores.width >= 0).all()
    assert (scores.score > -np.inf).all()


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("K", [1, 3, 4, 7, 10, 17, 64])
def test_a_score_does_not_depend_on_the_other_candidates(mode: str, K: int) -> None:
    """An item gets the same bits alone, repeated, and in another row, so equal items tie and replies explain."""
    sums = make_sums(np.random.default_rng(K), 37, K, unseen=0.0)
    settings = PolicySettings(prior_mean=0.05, prior_strength=1.0)
    whole = score(mode, sums, settings, 11)
    rows = np.random.default_rng(0).integers(0, 37, 53)
    assert np.array_equal(score(mode, take(sums, rows), settings, 11).score, whole.score[rows])
    for row in range(5):
        alone = score(mode, take(sums, [row]), settings, 11)
        assert alone.score[0] == whole.score[row]
        assert alone.width[0] == whole.width[row]


def test_thompson_draws_are_normal_around_the_mean() -> None:
    """Over seeds, (score - mean) / (v * width) is standard normal; `redraw` has the same law."""
    sums = make_sums(np.random.default_rng(3), 20, 5, unseen=0.0)
    settings = PolicySettings(thompson_scale=0.4)
    fixed = score("ucb", sums, settings, 0)
    served = np.array([score("thompson", sums, settings, seed).score for seed in range(500)])
    for drawn in (served, redraw("thompson", sums, settings, 1, 500)):
        standard = ((drawn - fixed.mean) / (0.4 * fixed.width)).ravel()
        assert stats.kstest(standard, "norm").pvalue > 1e-4


def test_beta_thompson_draws_follow_the_posterior() -> None:
    """Over seeds an item's draws follow Beta(a0 + s, b0 + n - s); `redraw` has the same law."""
    sums = make_sums(np.random.default_rng(4), 6, 5)
    settings = PolicySettings(beta_prior=(2.0, 30.0))
    served = np.array([score("beta_thompson", sums, settings, seed).score for seed in range(2_000)])
    for drawn in (served, redraw("beta_thompson", sums, settings, 1, 2_000)):
        for j in range(6):
            law = stats.beta(2 + sums.s[j], 30 + sums.n[j] - sums.s[j])
            assert stats.kstest(drawn[:, j], law.cdf).pvalue > 1e-4
            assert score("beta_thompson", sums, settings, 0).mean[j] == pytest.approx(law.mean())
            assert score("beta_thompson", sums, settings, 0).width[j] == pytest.approx(law.std())


@pytest.mark.parametrize("mode", ["thompson", "beta_thompson"])
def test_redraws_are_reproducible_and_not_the_served_draw(mode: str) -> None:
    """The same seed redraws the same scores; they differ from the draw that was served."""
    sums, settings = make_sums(np.random.default_rng(5), 8, 3, unseen=0.0), PolicySettings()
    drawn = redraw(mode, sums, settings, 9, 5)
    assert drawn.shape == (5, 8)
    assert np.array_equal(drawn, redraw(mode, sums, settings, 9, 5))
    assert not (drawn == score(mode, sums, settings, 9).score).any()


def test_redraws_of_an_unseen_item_are_infinite_unless_nothing_is_explored() -> None:
    """`redraw` follows `score` at both ends of the scale."""
    sums = make_sums(np.random.default_rng(2), 50, 5)
    for scale in (0.0, 0.5):
        settings = PolicySettings(thompson_scale=scale)
        served = np.isinf(score("thompson", sums, settings, 3).score)
        assert (np.isinf(redraw("thompson", sums, settings, 3, 4)) == served).all()
        assert served.any() == (scale > 0)


def test_only_modes_that_draw_redraw() -> None:
    """There is nothing to redraw where the score is fixed."""
    sums = make_sums(np.random.default_rng(5), 8, 3)
    expected = "mode: expected one of \\('beta_thompson', 'randomized_ucb', 'thompson'\\), got 'ucb'"
    with pytest.raises(ValueError, match=expected):
        redraw("ucb", sums, PolicySettings(), 0, 3)


def centred_by_loop(sums: CandidateSums, settings: PolicySettings) -> tuple[list[float], list[float]]:
    """Mean and width of `randomized_ucb`, edge by edge."""
    m, means, widths = settings.pooled_mean, [], []
    for j in range(len(sums.n)):
        of_item = (sums.s[j] + settings.item_strength) / (sums.n[j] + settings.item_strength / m)
        mean = variance = 0.0
        for c, w in enumerate(sums.weights):
            if sums.edge[j, c]:
                known = sums.d[j, c] + settings.edge_strength / m
                believed = (m + of_item) / 2 * settings.edge_strength / m
                theta = (sums.b[j, c] - (sums.a[j, c] - sums.d[j, c]) * of_item + believed) / known
                rate = min(max(theta, 0.02 * m), 0.97)
                mean += w * theta
                variance += w * w * rate * (1 - rate) / known
        means.append(mean)
        widths.append(math.sqrt(variance))
    return means, widths


@pytest.mark.parametrize("pooled_mean", [0.005, 0.3, 0.97])
def test_randomized_ucb_is_the_sum_over_edges(pooled_mean: float) -> None:
    """Mean and width equal a loop over the edges, seen and unseen; the score is mean + optimism * width * Z."""
    settings = PolicySettings(pooled_mean=pooled_mean, optimism=0.8, edge_strength=1.5, item_strength=9.0)
    sums = make_sums(np.random.default_rng(6), 60, 7)
    mean, width = centred_by_loop(sums, settings)
    scores = score("randomized_ucb", sums, settings, 4)
    np.testing.assert_allclose(scores.mean, mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scores.width, width, rtol=1e-12)
    drawn = (scores.score - scores.mean) / (0.8 * scores.width)
    assert (drawn[scores.width > 0] >= 0.6 - 1e-9).all()
    still = score("randomized_ucb", sums, replace(settings, optimism=0.0), 4)
    assert np.array_equal(still.score, still.mean)


@pytest.mark.parametrize("drawn_by", ["score", "redraw"])
def test_optimism_is_drawn_as_its_formula_says(drawn_by: str) -> None:
    """((Z - 0.6) / 0.4)^2 is exponential with mean 1, in scores and in redraws."""
    sums = make_sums(np.random.default_rng(7), 40, 4)
    sums = take(sums, np.flatnonzero(sums.edge.any(axis=1)))
    settings = PolicySettings()
    first = score("randomized_ucb", sums, settings, 0)
    if drawn_by == "score":
        values = np.array([score("randomized_ucb", sums, settings, seed).score for seed in range(500)])
    else:
        values = redraw("randomized_ucb", sums, settings, 3, 500)
    z = (values - first.mean) / (settings.optimism * first.width)
    assert stats.kstest((((z - 0.6) / 0.4) ** 2).ravel(), stats.expon.cdf).pvalue > 1e-3


def test_centred_means_do_not_count_shared_rewards_twice() -> None:
    """Two clusters always shown together with weight 1/2: the mean, where the published form says twice that."""
    shows, m, half = 1e6, 0.1, np.full((1, 2), 0.5)
    sums = CandidateSums(
        weights=np.array([0.5, 0.5]),
        edge=np.ones((1, 2), np.bool_),
        a=shows * half,
        d=shows * half**2,
        b=shows * m * half,
        n=np.array([shows]),
        s=np.array([shows * m]),
        keys=np.zeros(1, np.uint64),
    )
    settings = PolicySettings(pooled_mean=0.02)
    assert score("randomized_ucb", sums, settings, 0).mean[0] == pytest.approx(m, rel=1e-2)


@pytest.mark.parametrize(
    ("impressions", "rewards", "pooled"), [(0, 0, 0.5), (999, 12, 0.0125), (10**10, 0, 1e-9), (10, 50, 0.97)]
)
def test_the_pooled_mean_is_in_the_name_to_the_digit(impressions: int, rewards: int, pooled: float) -> None:
    """What the name says is what is computed with, from no data at all to more reward than impressions."""
    settings = with_pooled_mean(PolicySettings(), impressions=impressions, rewards=rewards)
    assert settings.pooled_mean == pooled
    name = describe("randomized_ucb", settings)
    assert float(name.partition("pooled_mean=")[2].rstrip(")")) == pooled


def test_uniform_ties_all() -> None:
    """Every candidate has the same score, so picking is uniform."""
    assert not score("uniform", make_sums(np.random.default_rng(5), 8, 3), PolicySettings(), 1).score.any()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("alpha", -0.1, "0 <= alpha <= 100"),
        ("alpha", math.nan, "0 <= alpha <= 100"),
        ("thompson_scale", 101.0, "0 <= thompson_scale <= 100"),
        ("prior_mean", 1.5, "0 <= prior_mean <= 1"),
        ("prior_strength", math.inf, "0 <= prior_strength"),
        ("prior_strength", 1e-12, "0 or at least 2"),
        ("epsilon", 2.0, "0 <= epsilon <= 1"),
        ("beta_prior", (0.0, 1.0), "1e-06 <= beta_prior"),
        ("beta_prior", (1.0,), "two numbers"),
        ("estimator", "median", "one of"),
        ("unseen", "zero", "one of"),
    ],
)
def test_a_setting_out_of_range_is_refused(field: str, value: Any, expected: str) -> None:
    """The error names the field, what was expected, and what came."""
    with pytest.raises(ValueError, match=f"^{field}: expected {expected}.*, got "):
        PolicySettings(**{field: value})


def test_the_prior_cannot_bound_unseen_edges_without_strength() -> None:
    """unseen='prior' with no prior would divide by 0."""
    with pytest.raises(ValueError, match="prior_strength: expected more than 0"):
        PolicySettings(unseen="prior")


def test_an_unknown_mode_is_refused() -> None:
    """Scoring and naming list the modes there are."""
    sums = make_sums(np.random.default_rng(5), 8, 3)
    with pytest.raises(ValueError, match=r"mode: expected one of .*'ucb'.*, got 'greedy'"):
        score("greedy", sums, PolicySettings(), 0)
    with pytest.raises(ValueError, match=r"mode: expected one of .*'ucb'.*, got 'greedy'"):
        describe("greedy", PolicySettings())


@pytest.mark.parametrize(
    ("mode", "settings", "name"),
    [
        ("ucb", PolicySettings(), "ucb(alpha=0.3, estimator=averaged)"),
        ("thompson", PolicySettings(thompson_scale=1.0), "thompson(thompson_scale=1, estimator=averaged)"),
        (
            "exploit",
            PolicySettings(prior_mean=0.05, prior_strength=2.0, estimator="diagonal", unseen="prior"),
            "exploit(prior_mean=0.05, prior_strength=2, estimator=diagonal, unseen=prior)",
        ),
        ("beta_thompson", PolicySettings(beta_prior=(2.0, 38.5)), "beta_thompson(beta_prior=2:38.5)"),
        ("epsilon_greedy", PolicySettings(epsilon=0.05), "epsilon_greedy(epsilon=0.05, estimator=averaged)"),
        ("uniform", PolicySettings(), "uniform"),
    ],
)
def test_a_policy_name_states_what_it_depends_on(mode: str, settings: PolicySettings, name: str) -> None:
    """The recorded name holds the settings that the mode reads."""
    assert describe(mode, settings) == name


def test_every_mode_has_a_name() -> None:
    """A mode that can be scored can be described."""
    assert all(describe(mode, PolicySettings()).startswith(mode) for mode in MODES)
