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


_SHARED: tuple[Processor, ...] = (
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


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
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[*_SHARED, *_last(log_format, out)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,
    ).bind(**bound)
    return logger


def log_all(level: str = "info", log_format: LogFormat = "auto", stream: TextIO | None = None) -> None:
    """Have every logger of this process write lines of the same kind: structlog's, and those of the libraries.

    Args:
        level: the lowest level that is written; of libraries nothing below a warning is.
        log_format: as for `make_logger`.
        stream: where lines go; None = standard error.
    """
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    last = _last(log_format, out)
    structlog.configure(
        processors=[*_SHARED, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_SHARED],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _last(log_format: LogFormat, out: TextIO) -> list[Processor]:
    """What makes a line of an event."""
    if log_format == "console" or (log_format == "auto" and out.isatty()):
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_LOGGED_FRAMES)
    return [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer(default=str)]
