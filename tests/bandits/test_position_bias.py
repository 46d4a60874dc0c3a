"""Position bias: gammas from randomised slots, and the true order of items where users look at the top first."""

import numpy as np
import pytest

from bandits.backend import choose_backend
from bandits.context import Context
from bandits.events import Clicks, Impressions
from bandits.forgetting import ageing
from bandits.graph import build_graph
from bandits.join_rule import JoinRule
from bandits.joiner import Joiner
from bandits.learner import Learner
from bandits.policies import PolicySettings, estimate, estimate_centred
from bandits.position_bias import estimate_gammas
from bandits.served_sums import served_items, served_rows
from bandits.simulator.clicks import PositionBased
from bandits.slates import pick
from bandits.sums import EXCESS, Facts, Sums
from streams.outcome_codec import decode_outcomes, encode_outcomes

TASTES = np.array([0.1, 0.2, 0.3])
THETA = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
GAMMA = (1.0, 0.6, 0.35, 0.2, 0.12, 0.07)
ITEMS = [f"item-{n}" for n in range(6)]
NOW_MS = 1_700_000_000_000
UNIT = 1 << 15
GRAPH = build_graph(
    version="v",
    centroids=[],
    n_clusters=2,
    item_ids=ITEMS,
    edge_item=np.repeat(np.arange(6), 2),
    edge_cluster=[0, 1] * 6,
)


def shown(slates: int, *, seed: int, chance: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items by position, their propensities and clicks: the worst on top, but a share of the slates at random."""
    rng = np.random.default_rng(seed)
    worst_first = np.tile(np.arange(6)[::-1], (slates, 1))
    random = rng.permuted(worst_first, axis=1)
    items = np.where(rng.random((slates, 1)) < chance, random, worst_first)
    propensity = np.where(items == worst_first, 1 - chance, 0.0) + chance / 6
    clicked = PositionBased(GAMMA).clicks(THETA[items], rng.random((2, slates, 6)))
    return items, propensity, clicked


def learned(rule: JoinRule, items: np.ndarray, clicked: np.ndarray) -> Learner:
    """What joiner and learner make of slates in one context of two overlapping clusters."""
    slates = len(items)
    at = np.arange(slates)
    ones = np.full(slates, NOW_MS)
    impressions = Impressions(
        request_ids=[f"r{n}" for n in range(slates)],
        occurred_at_ms=ones,
        ingested_at_ms=ones,
        offset=at,
        index=np.zeros(slates, np.int32),
        item_ends=6 * (at + 1),
        item_ids=[ITEMS[n] for n in items.ravel().tolist()],
        context_ends=2 * (at + 1),
        context_cluster=np.tile(np.array([0, 1], np.int32), slates),
        context_x=np.tile(np.array([UNIT // 2, UNIT // 4]), slates),
        position=np.tile(np.arange(6, dtype=np.int32), slates),
    )
    slate, place = np.nonzero(clicked)
    count = len(slate)
    clicks = Clicks(
        request_ids=[f"r{n}" for n in slate.tolist()],
        item_ids=[ITEMS[n] for n in items[slate, place].tolist()],
        reward=np.full(count, UNIT),
        occurred_at_ms=np.full(count, NOW_MS),
        ingested_at_ms=np.full(count, NOW_MS),
        offset=np.arange(count),
        index=np.zeros(count, np.int32),
    )
    learner = Learner.empty(GRAPH, choose_backend("numpy"))
    outcomes, _ = Joiner(rule).join(impressions, clicks)
    learner.apply(decode_outcomes(encode_outcomes(outcomes)), offset=0)
    return learner


def means(learner: Learner, settings: PolicySettings) -> np.ndarray:
    """Estimated means in the context of the slates."""
    sums = learner.sums
    extra, times = sums.with_extra()
    newest, past = ageing(times[:, 1], times[:, 0], NOW_MS)
    owner = np.repeat(np.arange(6), 2)
    rows, _ = served_rows(sums.edge, extra, newest[owner], past[owner], settings, owner)
    user = Context(np.array([0, 1], np.int32), np.array([0.5, 0.25]))
    gathered = choose_backend("numpy").gather(GRAPH, Sums(rows, sums.item), np.arange(6, dtype=np.int32), user)
    return estimate(gathered, settings)[0]


def test_the_true_order_is_recovered_where_the_plain_one_fails() -> None:
    """The best items were shown at the bottom: without gammas they look worst, with them they are best."""
    items, _, clicked = shown(6_000, seed=1)
    settings = PolicySettings(estimator="averaged")
    plain = means(learned(JoinRule(), items, clicked), settings)
    corrected = means(learned(JoinRule(position_gammas=GAMMA), items, clicked), settings)
    assert np.argsort(-corrected).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.argsort(-plain).tolist() != [0, 1, 2, 3, 4, 5]
    assert np.abs(corrected / (0.75 * THETA) - 1).max() < 0.1  # sum w * theta over weights that add up to 3/4
    assert np.abs(plain / (0.75 * THETA) - 1).max() > 0.5


def test_gammas_estimated_from_randomised_slots_do_as_well() -> None:
    """Estimate from a log, set what was estimated, learn another log: the true order again."""
    items, propensity, clicked = shown(8_000, seed=2)
    rows = np.arange(len(items))
    told = estimate_gammas(
        slate=np.repeat(rows, 6),
        item=items.ravel(),
        position=np.tile(np.arange(6), len(items)),
        propensity=propensity.ravel(),
        reward=clicked.ravel().astype(float),
    )
    assert np.abs(told.gamma - GAMMA).max() < 0.06
    assert (np.abs(told.gamma - GAMMA) <= 4 * told.error + 1e-12).all()
    assert told.error[0] == 0
    rule = JoinRule(position_gammas=tuple(np.minimum(told.gamma, 1.0)))
    items, _, clicked = shown(6_000, seed=3)
    corrected = means(learned(rule, items, clicked), PolicySettings())
    assert np.argsort(-corrected).tolist() == [0, 1, 2, 3, 4, 5]


def test_slates_permuted_by_the_picker_tell_their_gammas() -> None:
    """The best four of six permuted uniformly: gammas of four positions; below, chance has no say."""
    rng = np.random.default_rng(5)
    slates = 4_000
    keys = np.arange(6, dtype=np.uint64)
    picks = [
        pick(rng.normal(THETA, 0.3), keys=keys, slate_size=6, top_m=4, seed=int(rng.integers(2**63)))
        for _ in range(slates)
    ]
    items = np.array([one.chosen for one in picks])
    propensity = np.array([one.propensity for one in picks])
    clicked = PositionBased(GAMMA).clicks(THETA[items], rng.random((2, slates, 6)))
    told = estimate_gammas(
        slate=np.repeat(np.arange(slates), 6),
        item=items.ravel(),
        position=np.tile(np.arange(6), slates),
        propensity=propensity.ravel(),
        reward=clicked.ravel().astype(float),
    )
    assert np.abs(told.gamma[:4] - GAMMA[:4]).max() < 0.08
    assert np.isnan(told.gamma[4:]).all()
    assert told.used.tolist() == [slates] * 4 + [0, 0]


def test_positions_that_share_no_item_with_the_top_are_not_guessed() -> None:
    """NaN where the log cannot say, even though there were clicks."""
    told = estimate_gammas(
        slate=[0, 0, 1, 1], item=[0, 1, 0, 1], position=[0, 2, 0, 2], propensity=[0.5] * 4, reward=[1.0] * 4
    )
    assert told.gamma[0] == 1.0
    assert np.isnan(told.gamma[1:]).all()
    with pytest.raises(ValueError, match="expected columns of one length"):
        estimate_gammas(slate=[0], item=[0, 1], position=[0], propensity=[0.5], reward=[1.0])


@pytest.mark.parametrize("estimator", ["averaged", "diagonal"])
def test_without_gammas_what_is_served_is_what_was_learned(estimator: str) -> None:
    """No excess, nothing in flight, nothing forgotten: the same rows, bit for bit."""
    items, _, clicked = shown(50, seed=4)
    learner = learned(JoinRule(), items, clicked)
    assert learner.sums.extra is None
    extra, _ = learner.sums.with_extra()
    ones = np.ones(len(extra))
    settings = PolicySettings(estimator=estimator)  # type: ignore[arg-type]
    rows, in_flight = served_rows(learner.sums.edge, extra, ones, 0 * ones, settings, np.repeat(np.arange(6), 2))
    assert rows.tolist() == learner.sums.edge.tolist()
    assert not in_flight.any()


def test_items_are_served_by_how_often_they_were_looked_at() -> None:
    """n and s of an item, which the modes with priors start from, have the true order too."""
    items, _, clicked = shown(4_000, seed=7)
    sums = learned(JoinRule(position_gammas=GAMMA), items, clicked).sums
    extra, _ = sums.with_extra()
    ones, owner = np.ones(len(extra)), np.repeat(np.arange(6), 2)
    told = served_items(sums.item, sums.edge, extra, ones, 0 * ones, owner)
    assert np.abs(told[:, 1] / UNIT / told[:, 0] / THETA - 1).max() < 0.15
    assert (told[:, 0] < sums.item[:, 0]).all()
    plain = learned(JoinRule(), items, clicked).sums
    extra, _ = plain.with_extra()
    assert served_items(plain.item, plain.edge, extra, ones, 0 * ones, owner).tolist() == plain.item.tolist()


def centred(gammas: np.ndarray, weights: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and width of `randomized_ucb` for the users of each cluster alone, after impressions of one item.

    Args:
        gammas: float64 of shape (n,), of each impression.
        weights: float64 of shape (n, 3), of its user.
        seed: of what is clicked.
    """
    n = len(gammas)
    clicked = np.random.default_rng(seed).random(n) < gammas * (weights @ TASTES)
    graph = build_graph(
        version="v", centroids=[], n_clusters=3, item_ids=["a"], edge_item=[0, 0, 0], edge_cluster=[0, 1, 2]
    )
    sums, settings = Sums.zeros(graph), PolicySettings(pooled_mean=0.2)
    facts = Facts(
        item=np.zeros(n, np.int32),
        context=np.arange(n, dtype=np.int32),
        impressions=np.ones(n, np.int64),
        reward=clicked * UNIT,
        context_ptr=3 * np.arange(n + 1),
        context_cluster=np.tile(np.arange(3, dtype=np.int32), n),
        context_x=np.maximum(np.rint(weights * UNIT), 1).astype(np.int64).ravel(),
        gamma=np.rint(gammas * UNIT).astype(np.int64),
    )
    choose_backend("numpy").add(graph, sums, facts)
    extra, _ = sums.with_extra()
    ones, owner = np.ones(3), np.zeros(3, np.int64)
    rows, _ = served_rows(sums.edge, extra, ones, 0 * ones, settings, owner)
    items = served_items(sums.item, sums.edge, extra, ones, 0 * ones, owner)
    told = []
    for cluster in range(3):
        user = Context(np.array([cluster], np.int32), np.ones(1))
        gathered = choose_backend("numpy").gather(graph, Sums(rows, items), np.zeros(1, np.int32), user)
        told.append(estimate_centred(gathered, settings))
    mean, width = np.array(told)[:, :, 0].T
    return mean, width


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("positions", [(0.2,), (1.0, 0.6, 0.35, 0.2, 0.12, 0.07)])
def test_positions_do_not_blow_up_how_far_an_edge_is_from_its_item(
    positions: tuple[float, ...], *, overlapping: bool
) -> None:
    """Randomised UCB ends at the means that it has where all is looked at, and knows how far it may be off."""
    rng, runs, n = np.random.default_rng(11), 60, 3_000
    seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"biased": [], "plain": []}
    for run in range(runs):
        weights = rng.dirichlet([1.0] * 3, n) if overlapping else np.eye(3)[rng.integers(3, size=n)]
        gammas = rng.choice(positions, n)
        seen["biased"].append(centred(gammas, weights, seed=run))
        seen["plain"].append(centred(np.ones(n), weights, seed=run))
    biased, plain = (np.array([mean for mean, _ in told]) for told in seen.values())
    error = np.sqrt((biased.var(axis=0) + plain.var(axis=0)) / runs)
    off = np.abs(biased.mean(axis=0) - plain.mean(axis=0))
    assert (off < 4 * error + 0.003).all(), (biased.mean(axis=0), plain.mean(axis=0))
    claimed = np.array([width for _, width in seen["biased"]]).mean(axis=0)
    assert (claimed > 0.8 * biased.std(axis=0)).all()
    if not overlapping:
        assert (claimed < 1.3 * biased.std(axis=0)).all()


def test_a_click_learns_with_the_gamma_of_its_impression() -> None:
    """A setting that changes between impression and click does not mix two gammas."""
    items, _, clicked = shown(40, seed=6)
    together = learned(JoinRule(position_gammas=GAMMA), items, clicked)
    assert together.sums.extra is not None
    assert together.sums.extra[:, EXCESS].any()
    joiner = Joiner(JoinRule(position_gammas=(1.0, 0.5)))
    slate = Impressions(
        ["r"], *(np.array([NOW_MS]) for _ in "ab"), np.zeros(1, np.int64), np.zeros(1, np.int32),
        np.array([2]), ["item-0", "item-1"], np.array([1]), np.zeros(1, np.int32), np.array([UNIT]),
        np.array([0, 1], np.int32),
    )  # fmt: skip
    shown_facts, change = joiner.join(slate, Clicks.none())
    joiner.apply(change)
    joiner.rule = JoinRule(position_gammas=(1.0, 0.1))
    zeros = np.zeros(1, np.int64)
    late = Clicks(
        ["r"], ["item-1"], np.array([UNIT]), np.array([NOW_MS]), np.array([NOW_MS]), zeros, zeros.astype(np.int32)
    )
    clicked_facts, _ = joiner.join(Impressions.none(), late)
    assert shown_facts.gamma is not None
    assert clicked_facts.gamma is not None
    assert (shown_facts.gamma.tolist(), clicked_facts.gamma.tolist()) == ([UNIT, UNIT // 2], [UNIT // 2])
