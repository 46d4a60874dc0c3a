"""Slates of packed calls are shadowed as those of single ones are."""

import numpy as np
import pytest

from freshet.v1 import events_pb2, recommender_pb2
from server.errors import Refused
from server.metrics import Metrics
from server.packed.dictionary import Dictionary
from server.packed.packed_slates import PackedSlates
from server.shadow.policies import ShadowPolicy
from tests.server.packed.packing import packed
from tests.server.shadow.shadowed import ITEMS, Shadowed

POLICIES = (ShadowPolicy("greedy", "exploit"), ShadowPolicy("drawn", "thompson"))


def filler(shadowed: Shadowed, served: str) -> PackedSlates:
    return PackedSlates(
        snapshot=shadowed.snapshot,
        rules=shadowed.rules,
        k=3,
        temperature=0.5,
        default_mode=served,
        metrics=Metrics(),
        shadows=shadowed.shadows,
    )


def requests(rng: np.random.Generator, count: int, *, first: int = 0) -> list[recommender_pb2.ScoreRequest]:
    """Slates of several users, lengths, modes and candidates, some of them unknown."""
    made = []
    for number in range(first, first + count):
        ids = [*rng.permutation(ITEMS)[: rng.integers(3, 9)].tolist(), "nobody knows it"]
        made.append(
            recommender_pb2.ScoreRequest(
                request_id=f"r{number}",
                item_ids=rng.permutation(ids).tolist(),
                slate_size=int(rng.integers(1, 4)),
                cluster_weights=events_pb2.ClusterWeights(
                    cluster_ids=[int(rng.integers(4)), 4], weights=[0.5, 0.25]
                ),
                mode=int(rng.choice([0, 3, 5])),  # type: ignore[arg-type]  # 5 has no compiled loops
                seed=int(rng.integers(2**63)),
            )
        )
    return made


def queries(asked: list[recommender_pb2.ScoreRequest], known: dict[str, int]) -> recommender_pb2.PackedQueries:
    message = packed(asked, known=known)
    message.request_ids.extend(request.request_id for request in asked)
    return message


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_packed_slates_are_shadowed_as_single_ones(share: float) -> None:
    """The same requests in messages of many and one by one: the same slates chosen, weighed and rewarded alike."""
    rng = np.random.default_rng(3)
    rules = {"served": "uniform", "share": share, "explore_share": 0.5}
    single, together = Shadowed(*POLICIES, **rules), Shadowed(*POLICIES, **rules)
    slates, dictionary, known = filler(together, "uniform"), Dictionary(), dict[str, int]()
    for turn in range(12):
        asked = requests(rng, 16, first=16 * turn)
        slates.fill(queries(asked, known), dictionary)
        for request in asked:
            reply = single.service.Score(request, None)  # type: ignore[arg-type]
            if rng.random() < 0.5:
                for shadowed in (single, together):
                    shadowed.click(request.request_id, reply.items[0].item_id)
    for shadowed in (single, together):
        shadowed.close()
    assert together.awaited.standings() == single.awaited.standings()
    assert together.shadows.outcomes() == single.shadows.outcomes()
    assert 0 < together.awaited.standings()[0].slates <= 192
    assert (together.awaited.standings()[0].slates == 192) == (share == 1.0)
    assert together.awaited.standings()[0].logged > 0


def test_slates_without_ids_are_counted_and_refused_ones_are_not_looked_at() -> None:
    """Nothing is followed that no click could be told for, and nobody's slate is made up."""
    shadowed = Shadowed(*POLICIES)
    slates, asked = filler(shadowed, "ucb"), requests(np.random.default_rng(4), 5)
    slates.fill(packed(asked, known={}), Dictionary())
    assert shadowed.shadows.outcomes()["unnamed"] == 5
    asked[1].cluster_weights.weights[0] = 2.0
    answer = slates.fill(queries(asked, {}), Dictionary())
    assert [error.slate for error in answer.errors] == [1]
    assert shadowed.awaited.pending == 4


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["a"], r"queries.request_ids: expected 2 entries, one a slate, or none, got 1 entries"),
        (["a", ""], r"queries.request_ids\[1\]: expected 1 to 256 bytes, got an empty string"),
        (["a", "x" * 257], r"queries.request_ids\[1\]: expected 1 to 256 bytes, got 257 bytes"),
    ],
)
def test_ids_that_do_not_fit_the_slates_are_refused(ids: list[str], told: str) -> None:
    """The message as a whole, by the field."""
    shadowed = Shadowed(*POLICIES)
    message = packed(requests(np.random.default_rng(4), 2), known={})
    message.request_ids.extend(ids)
    with pytest.raises(Refused, match=told):
        filler(shadowed, "ucb").fill(message, Dictionary())
