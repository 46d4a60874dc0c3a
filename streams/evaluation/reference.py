"""Recomputes the reference values of an independent library through the code that `freshet evaluate` runs.

The reference folder (`obd_ope`) lies beside the logs (`obd`): estimates of two policies, uniform and Bernoulli
Thompson sampling, from the logs of both, campaign `all`, with the tabular reward model fitted in-sample.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bandits.graph import Int32
from bandits.ope import expected_reward
from bandits.sums import Float64
from streams.evaluation.ask import Answers
from streams.evaluation.estimates import Limits, estimate_policy
from streams.evaluation.reward_models import fit_models
from streams.evaluation.slates import LoggedSlates
from streams.evaluation.sources import read_source
from streams.logs import LogError

TOLERANCE = 1e-9
LOGS = ("random", "bts")
_NAMES = {
    "ips": "ipw",
    "clipped_ips": "ipw_clip10",
    "snips": "snipw",
    "dm": "dm|tabular_m100",
    "dr": "dr|tabular_m100",
    "clipped_dr": "dr_clip10|tabular_m100",
    "switch_dr": "switch_dr_10|tabular_m100",
}


@dataclass(frozen=True)
class Comparison:
    """One value of ours beside the reference."""

    case: str
    estimator: str
    ours: float
    reference: float

    @property
    def ok(self) -> bool:
        """They agree."""
        return abs(self.ours - self.reference) <= TOLERANCE


def check_reference(folder: Path) -> list[Comparison]:
    """Recompute every value that both sides have.

    Raises:
        LogError: a file is missing or not what it should be.
    """
    try:
        reference: dict[str, Any] = json.loads((folder / "ope_reference.json").read_text(encoding="utf-8"))
        policy = {"bts": _policy(folder / "bts_policy_all.csv")}
    except (OSError, ValueError, KeyError) as error:
        raise LogError(f"{folder}: expected the reference values, got {error}") from error
    policy["random"] = np.full_like(policy["bts"], 1.0 / len(policy["bts"]))
    found = []
    for logged in LOGS:
        log = read_source(folder.parent / "obd" / logged / "all" / "all.csv", kind="open-bandit")
        for evaluated in LOGS:
            case = f"{evaluated}_from_{logged}_all"
            found += _compare(case, log, policy[evaluated], reference[case])
    return found


def _policy(path: Path) -> Float64:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([[float(row[f"obp_nsim100k_pos{slot}"]) for slot in (1, 2, 3)] for row in rows])


def _compare(case: str, log: LoggedSlates, policy: Float64, reference: dict[str, Any]) -> list[Comparison]:
    items: Int32 = log.graph.lookup([str(number) for number in range(len(policy))])
    models = fit_models(log, folds=1, strength=100.0, seed=0)
    by_slot = expected_reward(policy.T, models.reward[0, items].T)
    action = np.argsort(items)[log.item]  # item number in the log -> row of the policy table
    answers = Answers(
        probability=policy[action, log.position],
        model_value=by_slot[log.position],
        prefix=np.full(len(log.slate), np.nan),
        prefix_value=np.full(len(log.slate), np.nan),
    )
    ours = estimate_policy(log, answers, models, Limits(clip=10.0, switch=10.0))
    if ours.support is None or ours.refused:
        raise LogError(f"{case}: expected a log with support, got {'; '.join(ours.refused)}")
    found = [
        Comparison(case, name, ours.estimates[name].value, float(reference["estimates"][theirs]["value"]))
        for name, theirs in _NAMES.items()
    ]
    found.append(Comparison(case, "effective sample size", ours.support.effective_rounds, float(reference["ess"])))
    found.append(Comparison(case, "largest weight", ours.support.max_weight, float(reference["w_max"])))
    return found
