"""Shadowed slates and the shadow policies' standings as metrics; an estimate without support is absent."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.shadow.awaited import AwaitedRewards
from server.shadow.standings import Standing


class SlatesCollector(Collector):
    """Counts shadowed slates where they are scored, or where they wait for rewards.

    Args:
        outcomes: slates by what became of them.
    """

    def __init__(self, outcomes: Callable[[], Mapping[str, int]]) -> None:
        self._outcomes = outcomes

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The family."""
        slates = CounterMetricFamily("freshet_shadow_slates", "Shadowed slates.", labels=["outcome"])
        for outcome, count in self._outcomes().items():
            slates.add_metric([outcome], count)
        yield slates


class ShadowCollector(Collector):
    """Reads the standings when scraped.

    Args:
        awaited: slates whose rewards they are of.
    """

    def __init__(self, awaited: AwaitedRewards) -> None:
        self._awaited = awaited

    def describe(self) -> Iterator[Metric]:
        """Nothing: as `server.collectors`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families."""
        standings = self._awaited.standings()
        yield _by_policy("supported", "1 where there are estimates.", standings, lambda s: not s.refused)
        yield _by_policy(
            "effective_slates", "Slates that bear on the policy.", standings, lambda s: s.effective_slates
        )
        yield _by_policy("mean_weight", "1 with full support.", standings, lambda s: s.mean_weight)
        yield _by_policy("max_weight", "Largest weight of a slot.", standings, lambda s: s.max_weight)
        logged = "Reward per shown item of the shadowed slates, as they were served."
        yield GaugeMetricFamily("freshet_shadow_logged_reward", logged, value=standings[0].logged)
        estimate = GaugeMetricFamily(
            "freshet_shadow_reward_estimate", "Reward per shown item.", labels=["policy", "estimator"]
        )
        bound = GaugeMetricFamily(
            "freshet_shadow_reward_bound",
            "Ends of the 95 % intervals, which may be watched.",
            labels=["policy", "of", "bound"],
        )
        for one in standings:
            _estimates(one, estimate, bound)
        yield estimate
        yield bound
        missed = "Records of clicks that could not be taken: rewards of shadowed slates may be missing."
        yield CounterMetricFamily(
            "freshet_shadow_click_records_passed_over", missed, value=self._awaited.records_passed_over
        )
        waiting = "Shadowed slates that wait for rewards."
        yield GaugeMetricFamily("freshet_shadow_pending_slates", waiting, value=self._awaited.pending)


def _by_policy(
    name: str, documentation: str, standings: Sequence[Standing], value: Callable[[Standing], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"freshet_shadow_{name}", documentation, labels=["policy"])
    for one in standings:
        family.add_metric([one.name], float(value(one)))
    return family


def _estimates(one: Standing, estimate: GaugeMetricFamily, bound: GaugeMetricFamily) -> None:
    for estimator, value in (("ips", one.ips), ("snips", one.snips), ("lift", one.lift)):
        if value is not None:
            estimate.add_metric([one.name, estimator], value)
    for of, interval in (("value", one.value_interval), ("lift", one.lift_interval)):
        if interval is not None:
            bound.add_metric([one.name, of, "low"], interval[0])
            bound.add_metric([one.name, of, "high"], interval[1])
