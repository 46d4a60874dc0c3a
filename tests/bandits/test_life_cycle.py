"""Who is in the exploration lane, and that nothing but their scores depends on it."""

import itertools

import numpy as np
import pytest

from bandits.graph import build_graph
from bandits.graph_edit import GraphEdit, edited
from bandits.life_cycle import (
    CLUSTER_CAP,
    GRADUATED,
    IN_LANE,
    ITEM_CAP,
    KNOWN,
    OLD,
    LifeCycle,
    candidate_states,
    cluster_impressions,
    has_lane,
    item_states,
    settled,
)
from bandits.policies import MODES, CandidateSums, PolicySettings, score
from bandits.slates import pick
from bandits.sums import UNIT, A, Sums

HOUR_MS = 3_600_000


def candidates(n, *, k=2, seed=0):
    """Sums as after some impressions, the first two items unseen."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(1, 50, (n, k)).astype(float)
    shown[:2] = 0
    return CandidateSums(
        weights=np.full(k, 1 / k),
        edge=rng.random((n, k)) < 0.8,
        a=shown / k,
        d=shown / k**2,
        b=rng.random((n, k)) * shown / k,
        n=shown.sum(axis=1),
        s=np.floor(rng.random(n) * shown.sum(axis=1)),
        keys=np.arange(n, dtype=np.uint64) * np.uint64(977),
    )


def states_of(rules, sums, **more):
    given = {"age_ms": None, "open_clusters": None} | more
    return candidate_states(rules, sums, score("ucb", sums, PolicySettings(), 0).width, **given)


def test_every_rule_sends_out_whom_it_names():
    """By rewards, width, age, impressions and clusters, each alone, at its bound."""
    sums = candidates(40)
    width = score("ucb", sums, PolicySettings(), 0).width
    middle = float(np.median(width))
    age = np.arange(40) * HOUR_MS
    cases = (
        (LifeCycle(graduate_rewards=10), {}, GRADUATED, sums.s >= 10),
        (LifeCycle(graduate_width=middle), {}, KNOWN, width <= middle),
        (LifeCycle(max_age_ms=5 * HOUR_MS), {"age_ms": age}, OLD, age > 5 * HOUR_MS),
        (LifeCycle(max_item_impressions=30), {}, ITEM_CAP, sums.n >= 30),
        (LifeCycle(), {"open_clusters": np.array([True, False])}, CLUSTER_CAP, ~sums.edge[:, 0]),
    )
    for rules, more, state, out in cases:
        found = states_of(rules, sums, **more)
        assert out.any()
        assert (found == np.where(out, state, IN_LANE)).all(), rules


def test_nothing_set_leaves_everyone_in_the_lane():
    """The default is exploration without bounds."""
    sums = candidates(30)
    everything = states_of(LifeCycle(), sums, age_ms=np.full(30, 10**15), open_clusters=np.ones(2, np.bool_))
    assert (everything == IN_LANE).all()


def test_an_item_of_unknown_age_does_not_grow_old():
    """0 means that nobody said when it was published."""
    rules = LifeCycle(max_age_ms=HOUR_MS)
    item = np.zeros((3, 2), np.int64)
    published = np.array([0, 5 * HOUR_MS, 9 * HOUR_MS])
    assert item_states(rules, item, published, now_ms=10 * HOUR_MS).tolist() == [IN_LANE, OLD, IN_LANE]
    assert item_states(rules, item, None, now_ms=10 * HOUR_MS).tolist() == [IN_LANE] * 3


@pytest.mark.parametrize("mode", sorted(MODES))
def test_outside_the_lane_the_mean_ranks(mode):
    """Whoever left is ranked by its mean, whoever stays as before; modes without a lane rank by nothing else."""
    sums = candidates(25)
    before = score(mode, sums, PolicySettings(), 7)
    states = np.where(np.arange(25) % 2, GRADUATED, IN_LANE).astype(np.int8)
    after = settled(mode, before, states)
    first = before.score[::2] if mode != "uniform" else np.full(13, np.inf)
    assert np.array_equal(after.score[::2], first)
    assert np.array_equal(after.score[1::2], before.mean[1::2])
    assert np.array_equal(after.mean, before.mean)
    assert has_lane(mode) == (mode not in ("exploit", "epsilon_greedy"))


def test_leaving_the_lane_never_raises_an_optimistic_score():
    """A graduated item competes by what is known of it."""
    sums = candidates(40)
    before = score("ucb", sums, PolicySettings(), 0)
    after = settled("ucb", before, np.full(40, GRADUATED, np.int8))
    assert (after.score <= before.score).all()
    assert np.isfinite(after.score).all()


@pytest.mark.parametrize(("top_m", "explore_share"), [(1, 0.0), (3, 0.0), (2, 0.3)])
def test_propensities_stay_exact(top_m, explore_share):
    """How often an item lands at a position is what the slate says, with half of the candidates out of the lane."""
    sums = candidates(7)
    states = np.array([IN_LANE, GRADUATED, IN_LANE, OLD, IN_LANE, GRADUATED, IN_LANE], np.int8)
    scores = settled("ucb", score("ucb", sums, PolicySettings(), 0), states).score
    draws = 6_000
    seen = np.zeros((7, 3))
    said = np.full((7, 3), np.nan)
    for seed in range(draws):
        slate = pick(scores, keys=sums.keys, slate_size=3, top_m=top_m, explore_share=explore_share, seed=seed)
        for position, (item, propensity) in enumerate(zip(slate.chosen, slate.propensity, strict=True)):
            seen[item, position] += 1
            said[item, position] = propensity
    for item, position in itertools.product(range(7), range(3)):
        frequency, propensity = seen[item, position] / draws, np.nan_to_num(said[item, position])
        assert frequency == pytest.approx(propensity, abs=4 * np.sqrt(0.25 / draws))


def test_impressions_of_the_lane_are_added_up_by_cluster():
    """Only items in the lane count, and a number that no longer stands for an item does not."""
    graph = build_graph(
        version="v",
        centroids=[],
        n_clusters=3,
        item_ids=list("abc"),
        edge_item=[0, 0, 1, 2],
        edge_cluster=[0, 1, 1, 2],
    )
    sums = Sums.zeros(graph)
    sums.edge[:, A] = np.array([1, 2, 4, 8]) * UNIT
    states = np.array([IN_LANE, IN_LANE, GRADUATED], np.int8)
    assert cluster_impressions(graph, sums, states).tolist() == [1, 6, 0]
    without = edited(graph, GraphEdit("v+1", retired=["b"]))
    assert cluster_impressions(without, sums, states).tolist() == [1, 2, 0]


def test_a_bound_of_nothing_is_refused():
    """0 would mean that nobody is ever explored; leave it out instead."""
    with pytest.raises(ValueError, match="max_item_impressions: expected above 0, got 0"):
        LifeCycle(max_item_impressions=0)
