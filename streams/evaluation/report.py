"""Off-policy evaluation of fixed policies on a log: what each would have earned on the slates that were shown.

Invariants: the parameters of a policy come from other slates than those it is evaluated on, unless the caller gives
them and answers for it; the logging policy's own reward on the same slates stands beside every estimate; equal
inputs and seed give equal reports.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bandits.backend import Backend
from bandits.ope import Estimate, Interval, NoSupport, Support, bootstrap_means, normal_interval
from bandits.sums import UNIT, Float64, N, S, Sums
from streams.evaluation.ask import ask
from streams.evaluation.estimates import Estimated, Limits, estimate_logged, estimate_policy, prefix_gap
from streams.evaluation.reward_models import fit_models
from streams.evaluation.slates import LoggedSlates
from streams.evaluation.target import TargetPolicy

MAX_UNKNOWN_SHARE = 0.01
MIN_SLATES = 2
MAX_CELLS = 20_000_000  # slates times slots: bounds memory


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        limits: of weights, and of what is refused.
        candidates: "logged", "around" (items with an edge to a cluster of the context) or "all".
        draws: draws of Thompson scores behind a probability, a slate.
        folds: of the cross-fitted reward model; 1 = fitted on the slates that it predicts.
        strength: slates of the overall mean that each cell of the reward model starts from.
        resamples: of the bootstrap.
        seed: of draws, folds and bootstrap.
    """

    limits: Limits = field(default_factory=Limits)
    candidates: str = "around"
    draws: int = 400
    folds: int = 3
    strength: float = 100.0
    resamples: int = 2_000
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """One estimate of a policy's reward a slate, with intervals of the same coverage.

    Attributes:
        estimator: its name.
        value: the estimate.
        bootstrap: percentile interval.
        normal: normal interval.
        anytime: interval that stays valid while the log grows, where there is one.
        over_logged: bootstrap interval of the value less what the logging policy earned on the same slates.
    """

    estimator: str
    value: float
    bootstrap: Interval
    normal: Interval
    anytime: Interval | None
    over_logged: Interval | None


@dataclass(frozen=True)
class PolicyReport:
    """What the log says of one policy.

    Attributes:
        policy: its name.
        refused: why it says nothing; empty if it says something.
        support: behind the weights of all shown items; None for the logging policy, or where there are no weights.
        rows: estimates.
        notes: by estimator, what to know of it, or why it is missing.
    """

    policy: str
    refused: tuple[str, ...]
    support: Support | None
    rows: list[Row]
    notes: dict[str, str]


@dataclass(frozen=True)
class Report:
    """An evaluation.

    Attributes:
        log: name of the log.
        slates: slates evaluated on.
        items: shown items in them.
        slots: number of positions.
        unknown_share: share of shown items without a propensity.
        left_out: slates left out because of them.
        logged: the logging policy on the same slates.
        policies: the policies that were asked about.
        notes: what to know of the log.
    """

    log: str
    slates: int
    items: int
    slots: int
    unknown_share: float
    left_out: int
    logged: PolicyReport
    policies: list[PolicyReport]
    notes: list[str]

    @property
    def refused(self) -> bool:
        """At least one policy was refused."""
        return any(policy.refused for policy in self.policies)


def evaluate(
    log: LoggedSlates,
    targets: Sequence[TargetPolicy],
    *,
    sums: Sums,
    backend: Backend,
    settings: EvaluationSettings,
    progress: Callable[[int], None],
) -> Report:
    """Evaluate policies on a log.

    Args:
        log: the slates to evaluate on.
        targets: the policies.
        sums: their parameters, of the graph of the log.
        backend: reads them.
        settings: how.
        progress: told the number of slates that were asked about, over all policies.

    Raises:
        NoSupport: the log has fewer than two slates.
        ValueError: a setting does not fit the log, or the log is too large.
    """
    if len(log) < MIN_SLATES:
        raise NoSupport(f"{log.name}: expected at least {MIN_SLATES} slates to evaluate on, got {len(log)}")
    if log.whole and len(log) * log.slots > MAX_CELLS:
        raise ValueError(
            f"{log.name}: expected at most {MAX_CELLS} slots, got {len(log)} slates of up to {log.slots}"
        )
    unknown, known = _without_unknown(log)
    why = _unknown_reason(log, unknown)
    used = log if why else known
    models = fit_models(used, folds=min(settings.folds, len(used)), strength=settings.strength, seed=settings.seed)
    found: list[Estimated] = []
    impressions, rewards = int(sums.item[:, N].sum()), float(sums.item[:, S].sum()) / UNIT
    targets = [target.fitted(impressions=impressions, rewards=rewards) for target in targets]
    for number, target in enumerate(targets):
        if why:
            found.append(Estimated(refused=(why,)))
            continue
        answers = ask(
            used,
            target,
            sums=sums,
            backend=backend,
            models=models,
            candidates=settings.candidates,
            draws=settings.draws,
            prefixes=used.whole and used.slots > 1 and not prefix_gap(used),
            seed=settings.seed,
            progress=partial(_further, progress, number * len(used)),
        )
        found.append(estimate_policy(used, answers, models, settings.limits))
    notes = [used.note] if used.note else []
    if len(log) > len(used):
        notes.append(f"{len(log) - len(used)} slates were left out: they have items without a propensity")
    logged, policies = _with_intervals(used, found, [target.name for target in targets], settings)
    return Report(
        log=log.name,
        slates=len(used),
        items=len(used.slate),
        slots=used.slots,
        unknown_share=unknown,
        left_out=len(log) - len(used),
        logged=logged,
        policies=policies,
        notes=notes,
    )


def _further(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _without_unknown(log: LoggedSlates) -> tuple[float, LoggedSlates]:
    """Share of shown items without a propensity, and the slates that have none."""
    unknown = log.propensity == 0
    if not unknown.any():
        return 0.0, log
    return float(unknown.mean()), log.keep(log.per_slate(unknown.astype(np.float64)) == 0)


def _unknown_reason(log: LoggedSlates, share: float) -> str:
    if share <= MAX_UNKNOWN_SHARE:
        return ""
    return (
        f"{share:.1%} of {len(log.slate)} shown items have no propensity (0 = unknown), expected at most "
        f"{MAX_UNKNOWN_SHARE:.0%}: without it nothing is known of what was not shown"
    )


def _with_intervals(
    log: LoggedSlates, found: list[Estimated], names: list[str], settings: EvaluationSettings
) -> tuple[PolicyReport, list[PolicyReport]]:
    """Intervals of all estimates from the same resampled slates, so that differences are paired."""
    alpha = settings.limits.alpha
    logged, anytime = estimate_logged(log, alpha=alpha)
    everything = [logged, *(estimate for one in found for estimate in one.estimates.values())]
    means = bootstrap_means(
        np.stack([estimate.influence for estimate in everything]),
        rng=np.random.default_rng(settings.seed),
        resamples=settings.resamples,
    )
    first = _row("on_policy", logged, means[0], anytime, None, alpha)
    reports, at = [], 1
    for name, one in zip(names, found, strict=True):
        rows = []
        for estimator, estimate in one.estimates.items():
            rows.append(_row(estimator, estimate, means[at], one.anytime.get(estimator), means[0], alpha))
            at += 1
        reports.append(PolicyReport(name, one.refused, one.support, rows, one.notes))
    return PolicyReport("logged policy", (), None, [first], {}), reports


def _row(
    name: str,
    estimate: Estimate,
    means: Float64,
    anytime: Interval | None,
    logged_means: Float64 | None,
    alpha: float,
) -> Row:
    return Row(
        estimator=name,
        value=estimate.value,
        bootstrap=_percentiles(means, alpha),
        normal=normal_interval(estimate.influence, alpha=alpha),
        anytime=anytime,
        over_logged=None if logged_means is None else _percentiles(means - logged_means, alpha),
    )


def _percentiles(means: Float64, alpha: float) -> Interval:
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return Interval(float(low), float(high))
