"""Off-policy evaluation: what would another policy have earned on this log? Pure functions over columns.

Promise: no function reads a log, a clock or a global random generator; what the log cannot answer is refused
(`NoSupport`), never guessed.
"""

from bandits.ope.confidence_sequence import ConfidenceSequence, confidence_interval
from bandits.ope.estimators import (
    Estimate,
    direct_method,
    doubly_robust,
    expected_reward,
    ips,
    replay,
    self_normalised_doubly_robust,
    snips,
)
from bandits.ope.intervals import Interval, bootstrap_intervals, bootstrap_means, normal_interval
from bandits.ope.reward_model import tabular_model
from bandits.ope.running import RunningSums
from bandits.ope.slate_estimators import (
    cascade_dr,
    independent_ips,
    prefix_weights,
    pseudo_inverse,
    reward_interaction_ips,
    standard_ips,
)
from bandits.ope.support import (
    NoSupport,
    Support,
    measure_support,
    reasons_to_refuse,
    require_support,
    share_covered,
)
from bandits.ope.weights import (
    clip_weights,
    importance_weights,
    shrink_weights,
    smooth_weights,
    switch_weights,
)

__all__ = [
    "ConfidenceSequence",
    "Estimate",
    "Interval",
    "NoSupport",
    "RunningSums",
    "Support",
    "bootstrap_intervals",
    "bootstrap_means",
    "cascade_dr",
    "clip_weights",
    "confidence_interval",
    "direct_method",
    "doubly_robust",
    "expected_reward",
    "importance_weights",
    "independent_ips",
    "ips",
    "measure_support",
    "normal_interval",
    "prefix_weights",
    "pseudo_inverse",
    "reasons_to_refuse",
    "replay",
    "require_support",
    "reward_interaction_ips",
    "self_normalised_doubly_robust",
    "share_covered",
    "shrink_weights",
    "smooth_weights",
    "snips",
    "standard_ips",
    "switch_weights",
    "tabular_model",
]
