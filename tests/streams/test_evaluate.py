"""Off-policy evaluation of whole logs: against a known truth, another library, and the server itself."""

from dataclasses import replace

import numpy as np
import pytest

from bandits.ope import NoSupport
from bandits.simulator.clicks import Cascade
from bandits.slates import pick
from bandits.sums import Sums, state_hash
from streams.evaluation import EvaluationSettings, SpecError, evaluate, parse_target, read_source
from streams.evaluation.estimates import Limits
from streams.evaluation.parameters import learn, stored_parameters
from streams.evaluation.reference import check_reference
from streams.evaluation.reward_models import fit_models
from streams.evaluation.slot_probabilities import prefix_probabilities, slot_probabilities
from streams.store import StoreError
from tests.streams.simulated_store import BACKEND, fill_store, log_events, simulate

KEYS = np.arange(6, dtype=np.uint64)
PICKERS = [
    (np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), 1, 0.0),
    (np.array([1.0, 1.0, 1.0, 0.5, 0.5, 0.0]), 1, 0.3),
    (np.array([np.inf, np.inf, 2.0, 1.0, 1.0, 0.0]), 2, 0.2),
    (np.zeros(6), 1, 0.0),
    (np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), 4, 0.5),
]


def run(log, specs, *, sums=None, **changes):
    return evaluate(
        log,
        [parse_target(spec) for spec in specs],
        sums=sums or Sums.zeros(log.graph),
        backend=BACKEND,
        settings=EvaluationSettings(**{"resamples": 500, "draws": 150} | changes),
        progress=lambda done: None,
    )


def values(policy):
    return {row.estimator: row for row in policy.rows}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store of 3,000 uniform slates of 3 out of 12 items."""
    simulated, folder = simulate(), tmp_path_factory.mktemp("independent")
    fill_store(folder, simulated, log_events(simulated, 3_000))
    return simulated, folder


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """A store of 4,000 uniform slates of 2 out of 5 items, read by users who stop at what they like."""
    simulated = simulate(n_items=5, slate_size=2, clicks=Cascade(patience=0.6, after_click=0.05))
    folder = tmp_path_factory.mktemp("cascade")
    fill_store(folder, simulated, log_events(simulated, 4_000))
    return simulated, folder


@pytest.mark.parametrize(("scores", "top_m", "explore_share"), PICKERS)
def test_probabilities_are_not_those_of_the_picker(scores, top_m, explore_share):
    """Slot and prefix probabilities are the frequencies with which the server's picker fills slates."""
    picked = {"keys": KEYS, "slate_size": 3, "top_m": top_m, "explore_share": explore_share}
    slates = np.array([pick(scores, seed=seed, **picked).chosen for seed in range(20_000)])
    settings = {"top_m": top_m, "explore_share": explore_share}
    table = slot_probabilities(scores[None], slate_size=3, **settings)
    seen = np.stack([(slates == item).mean(axis=0) for item in range(6)])
    np.testing.assert_allclose(table, seen, atol=5 * 0.5 / 20_000**0.5)
    np.testing.assert_allclose(table.sum(axis=0), 1.0)
    for chosen in np.unique(slates, axis=0)[:8]:
        prefix, _ = prefix_probabilities(scores[None], chosen, np.zeros((6, 3)), **settings)
        frequency = [(slates[:, : k + 1] == chosen[: k + 1]).all(axis=1).mean() for k in range(3)]
        np.testing.assert_allclose(prefix, frequency, atol=5 * 0.5 / 20_000**0.5)


def test_drawn_scores_are_averaged_wrongly():
    """Over several draws, probabilities are the mean of those of each draw, prefixes included."""
    scores = np.random.default_rng(0).standard_normal((7, 6))
    chosen = np.argsort(-scores[0])[:3]
    settings = {"top_m": 1, "explore_share": 0.2}
    each = [slot_probabilities(row[None], slate_size=3, **settings) for row in scores]
    np.testing.assert_allclose(slot_probabilities(scores, slate_size=3, **settings), np.mean(each, axis=0))
    values_of = np.random.default_rng(1).random((6, 3))
    one = [prefix_probabilities(row[None], chosen, values_of, **settings) for row in scores]
    whole = prefix_probabilities(scores, chosen, values_of, **settings)
    np.testing.assert_allclose(whole, np.mean(one, axis=0))


def test_the_value_on_the_way_to_a_slot_is_of_another_policy():
    """If only the chosen item of each slot is worth 1, the value at a slot is the chance of getting that far."""
    scores = np.array([[3.0, 3.0, 2.0, 1.0, 1.0, 0.0], [0.0, 5.0, 1.0, 1.0, 4.0, 4.0]])
    chosen = np.array([1, 4, 0])
    worth = (np.arange(6)[:, None] == chosen).astype(float)
    prefix, value = prefix_probabilities(scores, chosen, worth, top_m=1, explore_share=0.2)
    assert (prefix > 0).all()
    np.testing.assert_allclose(value, prefix)


def test_ties_across_the_first_ranks_are_guessed():
    """Where the order of the rest depends on the past, prefixes are refused rather than approximated."""
    scores, chosen = np.array([[2.0, 1.0, 1.0]]), np.array([0, 1])
    with pytest.raises(NoSupport, match="tie across the first 2 ranks"):
        prefix_probabilities(scores, chosen, np.zeros((3, 2)), top_m=2, explore_share=0.0)


def test_learning_from_a_log_is_not_the_servers(filled):
    """The sums learned from all slates of a store are the store's own, bit for bit."""
    _, folder = filled
    log = read_source(folder, kind="store")
    graph, stored = stored_parameters(folder, BACKEND)
    assert log.reward.sum() > 500
    assert state_hash(graph, learn(log, BACKEND)) == state_hash(graph, stored)


def test_intervals_miss_the_truth_of_a_simulated_store(filled):
    """What policies would have earned, known from the simulator, lies within the intervals that the log gives."""
    simulated, folder = filled
    first, rest = read_source(folder, kind="store").split(0.3)
    sums = learn(first, BACKEND)
    specs = ["ucb", "thompson", "epsilon_greedy:epsilon=0.2", "exploit:top_m=4"]
    report = run(rest, specs, sums=sums, limits=Limits(alpha=0.01))
    assert report.slates == 2_100
    for policy, spec in zip(report.policies, specs, strict=True):
        truth, found = simulated.truth(parse_target(spec), sums), values(policy)
        for name in ("ips", "snips", "dr"):
            for interval in (found[name].bootstrap, found[name].normal):
                assert interval.low <= truth <= interval.high, (spec, name, truth)
        assert found["ips"].anytime.low <= truth <= found["ips"].anytime.high
        assert truth > report.logged.rows[0].anytime.high  # else the log's own mean would pass as well
        assert found["dr"].over_logged.low > 0
        assert "effective sample size" in policy.notes["rips"]  # three slots of twelve items are too many


def test_a_bias_that_intervals_leave_out_is_not_told(filled):
    """Where clipping or switching gives up weight, and where the model alone speaks, the report says how much."""
    first, rest = read_source(filled[1], kind="store").split(0.3)
    sums = learn(first, BACKEND)
    notes = run(rest, ["ucb"], sums=sums).policies[0].notes
    assert "the model alone" in notes["dm"]
    assert notes["clipped_ips"] == "too low: 17% of the weight lies above the limit of 10 and is cut off"
    assert notes["switch_dr"] == "100% of the weight lies above 10: there the model alone speaks"
    spared = run(rest, ["ucb"], sums=sums, limits=Limits(clip=12.1, switch=12.1)).policies[0].notes
    assert not {"clipped_ips", "clipped_dr", "switch_dr"} & spared.keys()


def test_position_effects_between_items_are_missed(cascade):
    """Where users stop at what they like, estimators by prefix still find the value."""
    simulated, folder = cascade
    first, rest = read_source(folder, kind="store").split(0.3)
    sums = learn(first, BACKEND)
    specs = ["ucb:alpha=0.01", "thompson:thompson_scale=1", "exploit:top_m=2,explore_share=0.1"]
    report = run(rest, specs, sums=sums, limits=Limits(alpha=0.01))
    for policy, spec in zip(report.policies, specs, strict=True):
        truth, found = simulated.truth(parse_target(spec), sums), values(policy)
        for name in ("rips", "cascade_dr"):
            assert found[name].normal.low <= truth <= found[name].normal.high, (spec, name, truth)
            assert found[name].value > report.logged.rows[0].value


def test_the_logged_policy_is_not_its_own_value(filled):
    """Asked about the policy that made the log, every weight is 1 and weighted estimates are the plain mean."""
    _, folder = filled
    report = run(read_source(folder, kind="store"), ["uniform"])
    found = values(report.policies[0])
    assert report.policies[0].support.max_weight == pytest.approx(1.0)
    for name in ("replay", "ips", "clipped_ips", "snips", "rips"):
        assert found[name].value == pytest.approx(report.logged.rows[0].value)
        assert found[name].over_logged == pytest.approx((0.0, 0.0), abs=1e-12)


def test_slates_are_predicted_by_a_model_that_saw_them(filled):
    """With folds, changing the rewards of a slate does not change its own prediction; in-sample it does."""
    _, folder = filled
    log = read_source(folder, kind="store").first(300)
    changed = log.reward.copy()
    changed[log.slate == 7] += 5.0
    for folds, moved in ((3, False), (1, True)):
        before = fit_models(log, folds=folds, strength=10.0, seed=0)
        after = fit_models(replace(log, reward=changed), folds=folds, strength=10.0, seed=0)
        for table in ("reward", "below"):
            own = before.at(log, getattr(before, table))[log.slate == 7]
            new = after.at(log, getattr(after, table))[log.slate == 7]
            assert (not np.array_equal(own, new)) == moved


def test_missing_propensities_are_guessed(tmp_path):
    """With too many propensities unknown everything is refused and the share told; a few slates are left out."""
    simulated = simulate()
    events = log_events(simulated, 400)
    for shown, _ in events[:100]:
        shown.items[0].propensity = 0.0
    fill_store(tmp_path, simulated, events)
    log = read_source(tmp_path, kind="store")
    refused = run(log, ["uniform"]).policies[0]
    assert "8.3% of 1200 shown items have no propensity" in refused.refused[0]
    assert not refused.rows
    kept = run(log.keep(np.arange(400) >= 97), ["uniform"])
    assert (kept.slates, kept.left_out, kept.refused) == (300, 3, False)


def test_memory_is_claimed_for_any_slates(filled, monkeypatch):
    """A log with too many slots in all is refused before columns are made of it."""
    monkeypatch.setattr("streams.evaluation.report.MAX_CELLS", 8_000)
    with pytest.raises(ValueError, match="expected at most 8000 slots, got 3000 slates of up to 3"):
        run(read_source(filled[1], kind="store"), ["uniform"])


def test_an_empty_store_is_evaluated(tmp_path):
    """A store without impressions is refused in one sentence."""
    fill_store(tmp_path, simulate(), [])
    with pytest.raises(StoreError, match="has no impressions, there is nothing to evaluate"):
        read_source(tmp_path, kind="store")


def test_equal_runs_differ(filled):
    """The same log, policies and seed give the same report; another seed redraws Thompson scores."""
    log = read_source(filled[1], kind="store").first(400)
    sums = learn(log, BACKEND)
    limits = Limits(min_effective_rounds=10)
    first = run(log, ["thompson"], sums=sums, limits=limits)
    assert run(log, ["thompson"], sums=sums, limits=limits) == first
    assert run(log, ["thompson"], sums=sums, limits=limits, seed=1) != first


def test_reference_values_of_another_library_differ(data_dir):
    """Through the same code as the command, 36 values on real logs equal the reference to 1e-9."""
    found = check_reference(data_dir / "obd_ope")
    assert len(found) == 36
    assert [one for one in found if not one.ok] == []


def test_a_log_without_support_is_evaluated(data_dir):
    """Campaign women has propensities down to 1e-6: one row outweighs the rest, so there is no estimate."""
    log = read_source(data_dir / "obd" / "bts" / "women" / "women.csv", kind="open-bandit")
    policy = run(log, ["uniform"]).policies[0]
    assert "effective sample size 2.1 of 10000 rounds" in policy.refused[0]
    assert not policy.rows


def test_a_deterministic_policy_finds_support_in_a_small_log(data_dir):
    """Of 5,000 uniform rows over 80 items 68 speak for a policy that always knows its choice: too few, and told."""
    log = read_source(data_dir / "obd" / "random" / "all" / "all.csv", kind="open-bandit")
    first, rest = log.split(0.5)
    ucb, uniform = run(rest, ["ucb", "uniform"], sums=learn(first, BACKEND)).policies
    assert ucb.refused
    assert ucb.support.effective_rounds < 100
    assert values(uniform)["ips"].value == pytest.approx(rest.reward.mean())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("linucb", "mode: expected one of exploit, ucb"),
        ("ucb:alpha", 'expected name=value, got "alpha"'),
        ("ucb:alpha=much", 'alpha: expected a number, got "much"'),
        ("ucb:alpha=-1", "alpha: expected 0 <= alpha <= 100, got -1"),
        ("ucb:beta=1", 'got "beta"'),
        ("ucb:top_m=0", "top_m: expected 1 or more, got 0"),
        ("ucb:explore_share=2", "explore_share: expected 0 to 1, got 2"),
        ("beta_thompson:beta_prior=1", "beta_prior: expected two numbers"),
        ("ucb:estimator=other", "estimator: expected one of"),
    ],
)
def test_a_wrong_policy_is_taken(spec, message):
    """What is wrong in a policy is named."""
    with pytest.raises(SpecError) as error:
        parse_target(spec)
    assert message in str(error.value)
