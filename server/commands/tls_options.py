"""Options of commands that call a server: how their connections are encrypted."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from server.commands.output import BAD_INPUT, fail

if TYPE_CHECKING:  # gRPC takes a moment to load, which the help of a command does not need
    from server.channels import ClientTls

Function = TypeVar("Function", bound=Callable[..., Any])
_PEM = click.Path(path_type=Path, dir_okay=False)


def tls_options(function: Function) -> Function:
    """`--tls-ca`, `--tls-certificate` and `--tls-key`."""
    for option in (
        click.option("--tls-key", type=_PEM, help="PEM; its key."),
        click.option("--tls-certificate", type=_PEM, help="PEM; our own, where the server asks callers for one."),
        click.option("--tls-ca", type=_PEM, help="PEM; who vouches for the server. Encrypts the connections."),
    ):
        function = option(function)
    return function


def tls_of(tls_ca: Path | None, tls_certificate: Path | None, tls_key: Path | None) -> "ClientTls | None":
    """What the options name; ends the command where a file cannot be used."""
    from server.channels import ChannelError, read_tls

    try:
        return read_tls(tls_ca, tls_certificate, tls_key)
    except ChannelError as error:
        fail(str(error), code=BAD_INPUT)
