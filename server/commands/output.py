"""How commands speak: results on standard output, everything else on standard error, and one sentence on failure.

Invariant: with `--json` standard output holds JSON and nothing else.

Exit codes of every command: 0 done and all is well; 1 what was checked does not hold; 2 wrong usage or bad input;
3 could not start, or could not go on; 130 interrupted.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

OK, DOES_NOT_HOLD, BAD_INPUT, NOT_RUNNING, INTERRUPTED = 0, 1, 2, 3, 130

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else.")


class CommandFailed(click.ClickException):
    """A command that ends with an exit code and one sentence on standard error."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code

    def show(self, file: Any = None) -> None:
        """Print the sentence."""
        click.echo(f"freshet: {self.message}", file=file or sys.stderr)


def fail(message: str, *, code: int) -> NoReturn:
    """End the command with one sentence and an exit code."""
    raise CommandFailed(message, code)


def note(message: str) -> None:
    """Tell a person something that is not the result."""
    click.echo(message, file=sys.stderr)  # not err=True, which writes past a progress bar and garbles it


def print_json(result: Any, *, indent: bool = True) -> None:
    """Print a result as JSON; without `indent` on one line."""
    import orjson

    options = orjson.OPT_SERIALIZE_NUMPY | (orjson.OPT_INDENT_2 if indent else 0)
    click.echo(orjson.dumps(result, option=options, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"expected something that JSON has, got {type(value).__name__}")


@contextmanager
def rows_progress(total: int | None, label: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal; yields what to tell the number of rows done so far.

    Args:
        total: rows in all, None if not known.
        label: what is being done.
        quiet: show nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
