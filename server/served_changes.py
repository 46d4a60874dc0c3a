"""Changes as they are served: whatever learners keep besides, the snapshot holds the rows that scores are made of.

Invariant: a change without extra rows passes as it is.
"""

from dataclasses import replace

import numpy as np

from bandits.forgetting import ageing
from bandits.policy_settings import PolicySettings
from bandits.served_sums import served_items, served_rows
from bandits.sums import HALF_LIFE, LATEST, Int64
from streams.change import Change


def served(change: Change, settings: PolicySettings) -> tuple[Change, Int64 | None]:
    """What a server takes over of a change.

    Args:
        change: as the loop hands it over.
        settings: of the policy that scores.

    Returns:
        The change with the rows to be scored from; and what of their d is in flight, int64 parallel to them, unit
        2^-30, None where nothing ever is.
    """
    if change.extra_rows is None or change.time_rows is None:
        return change, None
    newest, past = ageing(change.time_rows[:, LATEST], change.time_rows[:, HALF_LIFE], change.now_ms)
    degrees = np.diff(change.graph.item_ptr)[change.items]
    owner = np.repeat(np.arange(len(change.items)), degrees)
    kept = (change.edge_rows, change.extra_rows, newest[owner], past[owner])
    rows, in_flight = served_rows(*kept, settings, owner)
    items = served_items(change.item_rows, *kept, owner)
    return replace(change, edge_rows=rows, item_rows=items, extra_rows=None, time_rows=None), in_flight
