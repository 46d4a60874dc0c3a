"""The modes of packed slates as tables that compiled loops index by number, and rank tables side by side."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bandits.numba_scores import POLICY
from bandits.policies import DRAWN_MODES
from bandits.slates_numba import explored_tables
from freshet.v1 import recommender_pb2
from server.requests import MODE_NAMES
from server.rules import NamedRules

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ModeTable:
    """The rules in force by number of the mode.

    Attributes:
        rules: what the table was made of.
        known: bool, whether there is such a mode.
        compiled: bool, whether it has compiled loops.
        rows: float64, `bandits.numba_scores.POLICY` of the compiled ones.
        shares: float64, exploration share.
    """

    rules: NamedRules
    known: Bool
    compiled: Bool
    rows: Float64
    shares: Float64

    @classmethod
    def of(cls, rules: NamedRules) -> "ModeTable":
        """The table of some rules; a message's byte finds its entry whatever it is."""
        known, compiled = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
        rows, shares = np.zeros((256, len(POLICY))), np.zeros(256)
        for number, mode in MODE_NAMES.items():
            known[number], shares[number] = True, rules.slate.share_of(mode)
            policy = rules.slate.compiled.get(mode)
            if policy is not None:
                compiled[number], rows[number] = True, policy.row
        return cls(rules, known, compiled, rows, shares)

    def message(self, number: int) -> recommender_pb2.PackedPolicy:
        """What was used in a mode."""
        mode = MODE_NAMES[number]
        exact, estimated = recommender_pb2.PROPENSITY_KIND_EXACT, recommender_pb2.PROPENSITY_KIND_ESTIMATED
        return recommender_pb2.PackedPolicy(
            mode=number,  # type: ignore[arg-type]
            policy=self.rules.names[mode],
            propensity_kind=estimated if mode in DRAWN_MODES else exact,
        )


def tables_side_by_side(candidates: Int64, sizes: Int64, shares: Float64) -> tuple[Float64, Int64]:
    """Rank tables of slates that explore, each distinct one once.

    Args:
        candidates: int64 of shape (S,).
        sizes: int64 of shape (S,); 0 = no slate.
        shares: float64 of shape (S,).

    Returns:
        The tables' numbers, float64; int64 of shape (S, 6): place, rows and columns of head and band of each.
    """
    at = np.zeros((len(sizes), 6), np.int64)
    if not shares.any():
        return np.zeros(1), at
    exploring = np.flatnonzero((shares > 0) & (sizes > 0)).tolist()
    if not exploring:
        return np.zeros(1), at
    parts: list[Float64] = []
    places: dict[tuple[int, int, float], list[int]] = {}
    used = 0
    for slate in exploring:
        key = int(candidates[slate]), int(sizes[slate]), float(shares[slate])
        if key not in places:
            place: list[int] = []
            for part in explored_tables(*key):
                place += [used, *part.shape]
                parts.append(part.ravel())
                used += part.size
            places[key] = place
        at[slate] = places[key]
    return np.concatenate(parts), at
