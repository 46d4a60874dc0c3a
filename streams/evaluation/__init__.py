"""Off-policy evaluation of logs: what another policy would have earned, and whether the log can say so."""

from streams.evaluation.report import EvaluationSettings, Report, evaluate
from streams.evaluation.slates import LoggedSlates
from streams.evaluation.sources import read_source
from streams.evaluation.target import SpecError, TargetPolicy, parse_target

__all__ = [
    "EvaluationSettings",
    "LoggedSlates",
    "Report",
    "SpecError",
    "TargetPolicy",
    "evaluate",
    "parse_target",
    "read_source",
]
