"""Logged rounds with reference estimates, read once."""

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandits.ope import expected_reward, importance_weights, tabular_model

POLICIES = ("random", "bts")


def read_columns(path: Path) -> dict[str, np.ndarray]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    rows = list(csv.DictReader(text.decode().splitlines()))
    return {name: np.array([row[name] for row in rows]) for name in rows[0] if name and name != "timestamp"}


@pytest.fixture(scope="session")
def golden(data_dir: Path) -> dict[str, Any]:
    """Every reference file for off-policy evaluation, by stem."""
    paths = [*(data_dir / "golden").glob("*.json"), data_dir / "obd_ope" / "ope_reference.json"]
    return {path.stem: json.loads(path.read_text()) for path in paths}


@dataclass(frozen=True)
class Case:
    """One evaluation policy on one log, campaign `all`; `v_fitted` is missing where no round file has it."""

    weight: np.ndarray
    reward: np.ndarray
    q_tabular: np.ndarray
    v_tabular: np.ndarray
    q_fitted: np.ndarray
    v_fitted: np.ndarray | None
    covered_log: np.ndarray
    evaluation: np.ndarray


@pytest.fixture(scope="session")
def women_propensity(data_dir: Path) -> np.ndarray:
    """Propensities of the Thompson sampling log of campaign women, down to 1e-6."""
    return read_columns(data_dir / "obd" / "bts" / "women" / "women.csv")["propensity_score"].astype(float)


def _integers(column: np.ndarray) -> np.ndarray:
    return column.astype(np.int64)


@pytest.fixture(scope="session")
def cases(data_dir: Path) -> dict[str, Case]:
    """The four pairs of policies on campaign `all`, from the raw logs and the table of the evaluation policy."""
    table = read_columns(data_dir / "obd_ope" / "bts_policy_all.csv")
    bts = np.stack([table[f"obp_nsim100k_pos{k}"].astype(float) for k in (1, 2, 3)], axis=1)
    policy = {"bts": bts, "random": np.full_like(bts, 1 / 80)}
    found = {}
    for logged in POLICIES:
        log = read_columns(data_dir / "obd" / logged / "all" / "all.csv")
        other = POLICIES[1 - POLICIES.index(logged)]
        rounds = read_columns(data_dir / "obd_ope" / f"rounds_{other}_from_{logged}_all.csv.gz")
        action, position = _integers(log["item_id"]), _integers(log["position"]) - 1
        reward = log["click"].astype(float)
        q = tabular_model(action, position, reward, n_actions=80, n_positions=3, strength=100)
        for evaluation in POLICIES:
            pi = policy[evaluation][:, position].T
            found[f"{evaluation}_from_{logged}_all"] = Case(
                weight=importance_weights(
                    policy[evaluation][action, position], log["propensity_score"].astype(float)
                ),
                reward=reward,
                q_tabular=q[action, position],
                v_tabular=expected_reward(pi, q[:, position].T),
                q_fitted=rounds["q_lr"].astype(float),
                v_fitted=rounds["v_lr"].astype(float) if evaluation == other else None,
                covered_log=np.bincount(action * 3 + position, minlength=240).reshape(80, 3)[:, position].T,
                evaluation=pi,
            )
    return found
