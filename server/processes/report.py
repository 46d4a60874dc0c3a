"""What a process has counted, as plain values that travel between processes."""

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

Series = tuple[str, dict[str, str], float]
Family = tuple[str, str, str, list[Series]]  # name, help, type, series


def families_of(registry: CollectorRegistry) -> list[Family]:
    """All families of a registry."""
    return [
        (
            family.name,
            family.documentation,
            family.type,
            [(sample.name, dict(sample.labels), float(sample.value)) for sample in family.samples],
        )
        for family in registry.collect()
    ]


def metric_of(name: str, documentation: str, kind: str, series: list[Series]) -> Metric:
    """A family as a registry's collector hands it on."""
    metric = Metric(name, documentation, kind)
    for sample, labels, value in series:
        metric.add_sample(sample, labels, value)
    return metric
