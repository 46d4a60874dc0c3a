"""Reward models of a log, cross-fitted: a slate is predicted by a model that has not seen it.

Invariant: the folds depend on the number of slates and the seed alone.
"""

from dataclasses import dataclass

import numpy as np

from bandits.graph import Int32, Int64
from bandits.ope import tabular_model
from bandits.sums import Float64
from streams.evaluation.slates import LoggedSlates

MAX_CELLS = 50_000_000  # folds * items * positions


@dataclass(frozen=True, eq=False)
class RewardModels:
    """Mean reward by item and position, one table a fold; the last row is for items that the graph does not have.

    Attributes:
        fold: int64 of shape (n_slates,), the table that a slate is predicted by.
        reward: float64 of shape (folds, n_items + 1, n_positions), of the slot.
        below: the same, of the slot and all below it.
    """

    fold: Int64
    reward: Float64
    below: Float64

    def at(self, log: LoggedSlates, table: Float64) -> Float64:
        """Prediction of a table for each row of the log, float64 of shape (n_rows,)."""
        predicted: Float64 = table[self.fold[log.slate], log.item, log.position]
        return predicted

    def expected(self, probability: Float64, items: Int32) -> Float64:
        """Expected reward of each slot, float64 of shape (folds, S), of probabilities of shape (n, S)."""
        table = self.reward[:, items, : probability.shape[1]]
        value: Float64 = np.einsum("ns,fns->fs", probability, table)
        return value


def fit_models(log: LoggedSlates, *, folds: int, strength: float, seed: int) -> RewardModels:
    """Fit the models.

    Args:
        log: the log.
        folds: 1 = one model of all slates, which has seen what it predicts.
        strength: slates of the overall mean that each cell starts from.
        seed: of the assignment to folds.

    Raises:
        ValueError: there are fewer slates than folds, or the tables would be too large.
    """
    shape = (log.graph.n_items + 1, log.slots)
    if folds > len(log):
        raise ValueError(f"folds: expected at most {len(log)}, as many as slates, got {folds}")
    if folds * shape[0] * shape[1] > MAX_CELLS:
        raise ValueError(f"reward model: expected at most {MAX_CELLS} cells, got {folds * shape[0] * shape[1]}")
    fold = np.random.default_rng(seed).permutation(len(log)) % folds
    item = np.where(log.item < 0, log.graph.n_items, log.item)
    from_here = _sum_below(log)
    tables = []
    for number in range(folds):
        rows = (fold != number)[log.slate] if folds > 1 else np.ones(len(item), np.bool_)
        for reward in (log.reward, from_here):
            tables.append(
                tabular_model(
                    item[rows],
                    log.position[rows],
                    reward[rows],
                    n_actions=shape[0],
                    n_positions=shape[1],
                    strength=strength,
                )
            )
    return RewardModels(fold, np.stack(tables[0::2]), np.stack(tables[1::2]))


def _sum_below(log: LoggedSlates) -> Float64:
    """Reward of each row and the rows below it in its slate."""
    total = np.cumsum(log.reward[::-1])[::-1]
    ends = np.cumsum(log.lengths())
    after = np.append(total, 0.0)[ends]
    below: Float64 = total - after[log.slate]
    return below
