"""Log lines can be read by programs and by people, and keep what callers sent to themselves."""

import io
import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog

from server.logs import LogFormat, log_all, make_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def fail(log_format: LogFormat, stream: io.StringIO) -> str:
    private = 41 * 271  # noqa: F841 - a value that is nowhere in the source
    try:
        raise ValueError("why")
    except ValueError:
        make_logger("info", log_format, stream).exception("call_failed", rpc="Score")
    return stream.getvalue()


def test_a_line_is_one_json_object() -> None:
    """Level, time, event and fields; a traceback with its frames."""
    stream = io.StringIO()
    log = make_logger("info", "auto", stream, version="1")
    log.info("serving", address="a:1")
    log.debug("not shown")
    line = orjson.loads(stream.getvalue())
    assert (line["event"], line["level"], line["address"], line["version"]) == ("serving", "info", "a:1", "1")
    assert line["timestamp"].endswith("Z")
    error = orjson.loads(fail("json", io.StringIO()))
    assert (error["exception"][0]["exc_type"], error["exception"][0]["exc_value"]) == ("ValueError", "why")
    assert error["exception"][0]["frames"][-1]["name"] == "fail"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_tracebacks_hold_no_values(log_format: LogFormat) -> None:
    """Variables of a handler hold what callers sent about their users."""
    logged = fail(log_format, io.StringIO())
    assert "ValueError" in logged
    assert f"{41 * 271}" not in logged


def test_a_terminal_gets_readable_lines() -> None:
    """Not JSON where a person looks on."""
    stream = Terminal()
    make_logger("info", "auto", stream).info("serving", address="a:1")
    assert "serving" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """What is configured for the whole process, as it was before the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored_logging")
def test_lines_of_libraries_are_like_our_own() -> None:
    """Whoever parses the log of a worker finds no line in it that is not JSON, and no chatter of libraries."""
    stream = io.StringIO()
    log_all("info", "json", stream)
    library = logging.getLogger("aiokafka.consumer")
    structlog.get_logger("freshet.kafka").info("owns", learners=[1, 2])
    library.info("chatter")
    library.warning("gone: %s", "node 1")
    try:
        raise ValueError("why")
    except ValueError:
        library.exception("broken")
    ours, warning, error = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert (ours["event"], ours["learners"], ours["level"]) == ("owns", [1, 2], "info")
    assert (warning["event"], warning["level"], warning["logger"]) == (
        "gone: node 1",
        "warning",
        "aiokafka.consumer",
    )
    assert error["level"] == "error"
    assert error["exception"][0]["exc_value"] == "why"
    assert all(line["timestamp"].endswith("Z") for line in (ours, warning, error))
