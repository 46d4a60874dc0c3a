"""Compiles what events are joined and learned with, or reads it from the cache on disk, before the first one comes.

On a machine where that was never done it takes seconds of a processor, which no caller and no partition should wait
for. It is done by an invented micro-batch that goes all the way.
"""

import numpy as np

from bandits.backend import Backend
from bandits.graph import build_graph
from bandits.join_rule import JoinRule
from bandits.joiner import compile_joins
from bandits.learner import Learner
from bandits.outcomes import Outcomes


def compile_learning(rule: JoinRule, backend: Backend) -> Outcomes:
    """Join and learn an invented micro-batch, and forget it.

    Args:
        rule: says what joining and learning need.
        backend: adds the facts.

    Returns:
        The facts of the micro-batch, for the same to be done with what else takes them.
    """
    facts = compile_joins(rule)
    items = [*facts.item_ids]
    graph = build_graph(
        version="first use",
        centroids=[],
        n_clusters=1,
        item_ids=sorted(set(items)),
        edge_item=np.arange(len(set(items))),
        edge_cluster=np.zeros(len(set(items)), np.int32),
    )
    Learner.empty(graph, backend).apply(facts, offset=0)
    return facts
