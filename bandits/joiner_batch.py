"""What a micro-batch holds once it has been looked at: rows that are new, and clicks to be decided now."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bandits.reward_rule import Int64
from bandits.row_index import SoughtBatch
from bandits.texts import Pairs

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Key = tuple[str, str]  # (request_id, item_id)

NO_NUMBERS: Int64 = np.empty(0, np.int64)
NO_FLAGS: Bool = np.empty(0, np.bool_)


@dataclass
class NewRows:
    """Rows of a batch that were never seen before.

    Attributes:
        keys: (request_id, item_id) of each row.
        sought: how all rows of the batch were looked for.
        slate: int64, number of each row's slate in the batch.
        occurred_ms: int64, when each was shown.
        ingested_ms: int64, when the log took each.
        context: int64, number of each row's context among those below.
        context_ends: int64, as in `Impressions`.
        context_cluster: int32.
        context_x: int64, unit 2^-15.
        gamma: int32, unit 2^-15; empty where positions do not matter.
        passed: bool, True where a row is of a surface that is not learned from; empty where all are.
    """

    keys: Pairs
    sought: SoughtBatch
    slate: Int64
    occurred_ms: Int64
    ingested_ms: Int64
    context: Int64
    context_ends: Int64
    context_cluster: Int32
    context_x: Int64
    gamma: Int32
    passed: Bool


@dataclass
class Reactions:
    """Clicks that are on time, with the number of their row (-1 = none yet), in the order of their log.

    Attributes:
        keys: of each click.
        row: int64.
        occurred_ms: int64.
        ingested_ms: int64.
        reward: int64, unit 2^-15: what it is worth by itself and, once it was judged and joined, what it adds.
        kind: int64, see `bandits.join_rule.kind_numbers`.
        identity: int64, equal for the same reaction sent again.
        offset: int64, place in the source log.
        index: int32.
        resolved: int64, numbers of the waiting clicks among them; they come first.
        joined: bool, those that count.
        wait: bool, those that have no row yet.
        value: int64 of those that joined: the value of their kind after each; empty where no rewards are kept.
        total: int64 likewise: the reward of their row.
    """

    keys: Pairs
    row: Int64
    occurred_ms: Int64
    ingested_ms: Int64
    reward: Int64
    kind: Int64
    identity: Int64
    offset: Int64
    index: Int32
    resolved: Int64
    joined: Bool = field(default_factory=lambda: np.empty(0, np.bool_))
    wait: Bool = field(default_factory=lambda: np.empty(0, np.bool_))
    value: Int64 = field(default_factory=lambda: NO_NUMBERS)
    total: Int64 = field(default_factory=lambda: NO_NUMBERS)

    @property
    def wait_keys(self) -> Pairs:
        """Keys of those that wait."""
        return self.keys.take(self.wait)
