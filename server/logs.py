"""Structured logs: one JSON object a line, or readable lines on a terminal.

Invariant: a traceback shows where, never the values of variables, which hold what callers sent about their users.
"""

import logging
import sys
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

_LOGGED_FRAMES = 20
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
        plain = structlog.dev.plain_traceback
        last: list[Processor] = [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]
    else:
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_LOGGED_FRAMES)
        last = [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer(default=str)]
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    ).bind(**bound)
    return logger
