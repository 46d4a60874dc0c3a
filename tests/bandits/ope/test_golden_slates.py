"""Values of slate estimators against an independent library, and their behaviour on short slates."""

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bandits.ope import (
    Estimate,
    NoSupport,
    cascade_dr,
    expected_reward,
    importance_weights,
    independent_ips,
    prefix_weights,
    pseudo_inverse,
    reward_interaction_ips,
    standard_ips,
)


@pytest.fixture
def slates(golden: dict[str, Any]) -> dict[str, np.ndarray]:
    inputs = {name: np.array(column) for name, column in golden["obp_slate_small"]["inputs"].items()}
    assert (inputs["position"].reshape(12, 3) == np.arange(3)).all()
    ratio = {
        name: importance_weights(inputs[f"{name}_e"], inputs[name]).reshape(12, 3)
        for name in ("pscore", "pscore_item_position", "pscore_cascade")
    }
    q, pi = inputs["q_hat"].reshape(12, 3, 5), inputs["eval_action_dist"].reshape(12, 3, 5)
    return {
        "reward": inputs["reward"].reshape(12, 3),
        "slate": ratio["pscore"][:, 0],
        "slot": ratio["pscore_item_position"],
        "prefix": ratio["pscore_cascade"],
        "model_reward": np.take_along_axis(q, inputs["action"].reshape(12, 3, 1), axis=2)[:, :, 0],
        "model_value": expected_reward(pi, q),
    }


def _estimate(name: str, s: dict[str, np.ndarray], **settings: Any) -> Estimate:
    if name == "CascadeDR":
        model = {"model_reward": s["model_reward"], "model_value": s["model_value"]}
        return cascade_dr(s["prefix"], s["reward"], **model, **settings)
    kind = name.removeprefix("SN")
    settings |= {"self_normalised": name.startswith("SN")}
    if kind == "SIPS":
        return standard_ips(s["slate"], s["reward"], **settings)
    if kind == "IIPS":
        return independent_ips(s["slot"], s["reward"], **settings)
    return reward_interaction_ips(s["prefix"], s["reward"], **settings)


NAMES = ("SIPS", "IIPS", "RIPS", "SNSIPS", "SNIIPS", "SNRIPS", "CascadeDR")


@pytest.mark.parametrize("name", NAMES)
def test_slate_estimator_differs_from_the_independent_library(
    name: str, golden: dict[str, Any], slates: dict[str, np.ndarray]
) -> None:
    """The value equals the reference to 1e-9 and is the mean of the terms, one per slate."""
    estimate = _estimate(name, slates)
    assert_allclose(estimate.value, golden["obp_slate_small"]["expected"][name], rtol=0, atol=1e-9)
    assert estimate.terms.shape == (12,)
    assert_allclose(estimate.terms.mean(), estimate.value, rtol=0, atol=1e-12)
    assert_allclose(estimate.influence.mean(), estimate.value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_padding_of_short_slates_leaks_into_the_estimate(name: str, slates: dict[str, np.ndarray]) -> None:
    """What stands beyond a slate's length changes nothing, and a slot that no slate has is no error."""
    length = np.array([3, 2, 1, 0] * 3)
    outside = np.arange(3) >= length[:, None]
    loud = {n: np.where(outside, 7.5, c) if c.ndim == 2 else c for n, c in slates.items()}
    assert_allclose(
        _estimate(name, loud, length=length).terms, _estimate(name, slates, length=length).terms, rtol=0, atol=1e-12
    )
    short = _estimate(name, slates, length=np.full(12, 2))
    two_slots = {n: c[:, :2] if c.ndim == 2 else c for n, c in slates.items()}
    assert_allclose(short.value, _estimate(name, two_slots).value, rtol=0, atol=1e-12)


def test_running_product_is_not_the_cascade_weight(golden: dict[str, Any], slates: dict[str, np.ndarray]) -> None:
    """Conditional slot probabilities multiply to the logged prefix probabilities, and the last to the slate's."""
    inputs = golden["obp_slate_small"]["inputs"]
    conditional = {}
    for name, logits in (("eval", inputs["eval_logits"]), ("log", inputs["behavior_logits"])):
        left = np.exp(np.array(logits))
        chosen = np.array(inputs["action"]).reshape(12, 3)
        conditional[name] = np.empty((12, 3))
        for slot in range(3):
            conditional[name][:, slot] = left[np.arange(12), chosen[:, slot]] / left.sum(axis=1)
            left[np.arange(12), chosen[:, slot]] = 0
    prefix = prefix_weights(importance_weights(conditional["eval"], conditional["log"]))
    assert_allclose(prefix, slates["prefix"], rtol=1e-9)
    assert_allclose(prefix[:, -1], slates["slate"], rtol=1e-9)


def test_pseudo_inverse_is_not_the_sum_of_slot_ratios(golden: dict[str, Any]) -> None:
    """Two slots: w = sum of the slot ratios - 1, with the value computed by hand."""
    case = golden["ope_closed_form"]["slates"][0]
    i = np.arange(case["n"])
    chosen = np.stack([i % 2, i % 4 // 2], axis=1)
    w = importance_weights(np.where(chosen == 0, 0.8, 0.2), np.full(chosen.shape, 0.5))
    reward = (chosen == 1).all(axis=1)
    assert_allclose(pseudo_inverse(w, reward).value, case["computed_pi_ips"], rtol=1e-12)


def test_slot_without_weight_is_divided_by_zero() -> None:
    """A self-normalised slate estimate is refused, naming the position, where all weights of a slot are 0."""
    with pytest.raises(NoSupport, match="position 1"):
        independent_ips([[1.0, 0.0], [2.0, 0.0]], [[1, 0], [0, 1]], self_normalised=True)


@pytest.mark.parametrize("length", [[3, 1], [-1, 1], [0.5, 1]])
def test_impossible_slate_length_is_taken(length: list[float]) -> None:
    """Lengths that are no integers from 0 to the width are refused by name."""
    with pytest.raises(ValueError, match="length: expected integers from 0 to 2"):
        standard_ips([1.0, 1.0], [[1, 0], [0, 1]], length=length)
