"""What every sample of a process leads to: its health, the rules that follow the sums, and whoever looks at them.

Invariant: the health says whether slates are served and whether learning has failed, as of the latest sample; a
failure is logged once.
"""

from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from server.health import Health
from server.limits import PRIOR_REFIT_S
from server.rules import RulesInForce
from server.snapshot import Parameters, Snapshot
from server.vitals import Sample


class Sampling:
    """Takes samples, as `server.vitals.Vitals` makes them.

    Args:
        snapshot: the parameters served.
        rules: that follow them.
        health: of the process.
        log: where it is told that learning has stopped.
        looks: called with the parameters, once the rules have followed them.
    """

    def __init__(
        self,
        *,
        snapshot: Snapshot,
        rules: RulesInForce,
        health: Health,
        log: FilteringBoundLogger,
        looks: Sequence[Callable[[Parameters], None]] = (),
    ) -> None:
        self._snapshot = snapshot
        self._rules = rules
        self._health = health
        self._log = log
        self._looks = looks
        self._failure_logged = False
        self._prior_fitted = ("", 0.0)  # for which graph, and when

    def take(self, sample: Sample) -> None:
        """Take one."""
        if sample.loop.failed and not self._failure_logged:
            self._failure_logged = True
            self._log.error("learning_stopped", reason=sample.loop.failed)
        self._health.update(ready=sample.ready, failed=sample.loop.failed)
        parameters = self._snapshot.current
        if parameters is None:
            return
        self._rules.follow(parameters)
        graph, at_s = self._prior_fitted
        if parameters.graph.version != graph or sample.at_s - at_s >= PRIOR_REFIT_S:
            self._rules.refit(parameters)
            self._prior_fitted = (parameters.graph.version, sample.at_s)
        for look in self._looks:
            look(parameters)
