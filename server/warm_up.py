"""What a process does before its first caller comes, so that none waits for the compiler or for memory."""

from contextlib import suppress

import numpy as np

from bandits.backend import Backend
from bandits.context import Context
from bandits.drawn_propensity import compile_integrals
from server.compile_beside import CompilingBeside
from server.life_cycle import Exploration
from server.limits import WARM_UP_CANDIDATES
from server.scoring import SlateRules
from server.snapshot import Snapshot, Torn

_SLATE = 10


def compile_what_answers(
    backend: Backend, *, beside: CompilingBeside, exploration: Exploration | None, rules: SlateRules
) -> None:
    """Compile it, or read it from the cache on disk, before any graph is known; `beside` was begun before."""
    if backend.name != "numba":
        compile_integrals()
        return
    from server.lane.warm_up import compile_calls

    compile_calls(backend, beside)
    if exploration is not None:
        exploration.warm_up(rules)


def score_once(snapshot: Snapshot, *, mode: str, rules: SlateRules) -> None:
    """Fill a slate of the graph that is served, if there is one."""
    parameters = snapshot.current
    if parameters is None or parameters.graph.n_clusters == 0:
        return
    items = np.arange(min(parameters.graph.n_items, WARM_UP_CANDIDATES), dtype=np.int32)
    user = Context(np.zeros(1, np.int32), np.ones(1))
    with suppress(Torn):  # where another process writes
        parameters.fill(items, user, mode=mode, slate_size=_SLATE, seed=0, rules=rules)
