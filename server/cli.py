"""The `freshet` program: its commands, and how it ends.

Invariants: `freshet --help` imports no command; a failure is one sentence on standard error and an exit code of
`server.commands.output`, never a traceback, unless FRESHET_DEBUG is set.
"""

import importlib
import importlib.util
import os
import sys
from typing import Any

import click

from server.commands.output import INTERRUPTED, NOT_RUNNING

DEBUG_VARIABLE = "FRESHET_DEBUG"

# Command: what `freshet --help` says of it. Its module in `server.commands` is imported when it is used.
COMMANDS = {
    "demo": "The whole loop on this machine, with simulated users.",
    "serve": "Serve slates and learn from feedback, embedded.",
    "worker": "Join and learn from the Kafka topics.",
    "init-topics": "Create the Kafka topics, or check them.",
    "replay-dlq": "Send dead letters again.",
    "simulate": "Simulated users against a running server, or without one.",
    "build-graph": "From embeddings to the graph that is served.",
    "train": "From logged interactions to embeddings.",
    "replay": "A recorded log through joiner and learner.",
    "evaluate": "What other policies would have earned on a log.",
    "gammas": "How likely each position is looked at.",
    "verify": "Check the state against the ledger, bit for bit.",
    "inspect": "Look into a data directory.",
    "bench": "Measure this machine.",
    "doctor": "Check this machine and the settings.",
}


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of `COMMANDS`."""
        return list(filter(_exists, COMMANDS))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name not in COMMANDS or not _exists(cmd_name):
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"server.commands.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


def _exists(name: str) -> bool:
    return importlib.util.find_spec(f"server.commands.{name.replace('-', '_')}") is not None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="freshet", prog_name="freshet")
def freshet() -> None:
    """Real-time bandit recommender: learns from impressions and clicks in under a second.

    Exit codes: 0 done, 1 what was checked does not hold, 2 wrong usage or bad input, 3 could not start or go on,
    130 interrupted.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the program and end the process."""
    debug = bool(os.environ.get(DEBUG_VARIABLE))
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its library would print what is said here in a sentence
    try:
        # Without standalone mode a command's exit code comes back, and interrupts are not swallowed.
        result: Any = freshet.main(arguments, prog_name="freshet", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Exception as error:
        if debug:
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        click.echo(
            f"freshet: {type(error).__name__}: {reason} (set {DEBUG_VARIABLE}=1 for the traceback)", err=True
        )
        code = NOT_RUNNING
    sys.exit(code)
