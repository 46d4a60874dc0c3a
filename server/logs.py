"""Structured logs: one JSON object a line, or readable lines on a terminal."""

import logging
import sys
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["auto", "json", "console"]


def make_logger(
    level: str = "info", log_format: LogFormat = "auto", stream: TextIO | None = None, **bound: Any
) -> FilteringBoundLogger:
    """A logger of its own; nothing global is configured.

    Args:
        level: the lowest level that is written.
        log_format: "auto" = console if the stream is a terminal, else JSON.
        stream: where lines go; None = standard error.
        bound: fields of every line.
    """
    out = stream or sys.stderr
    readable = log_format == "console" or (log_format == "auto" and out.isatty())
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if readable:
        last: list[Processor] = [structlog.dev.ConsoleRenderer(colors=out.isatty())]
    else:
        last = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    ).bind(**bound)
    return logger
