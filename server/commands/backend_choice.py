"""The backend of a command that folds a log: by name, with the GPU's crossover from the environment."""

import os
from typing import TYPE_CHECKING

import click

from server.commands.output import BAD_INPUT, fail

if TYPE_CHECKING:
    from bandits.backend import Backend

CHOICES = click.Choice(["auto", "numba", "numpy", "cupy"])
backend_option = click.option(
    "--backend", default="auto", show_default=True, type=CHOICES, help="What adds the facts; equal bits."
)

_CROSSOVER = "FRESHET_GPU_CROSSOVER"


def chosen_backend(name: str) -> "Backend":
    """Backend by name; where a GPU fills up half-way, the processor goes on, and standard error says so.

    Ends the command with a sentence if "cupy" was asked for and there is no GPU that can be used.
    """
    from bandits.backend import choose_backend
    from bandits.cupy_device import NoDevice

    given = os.environ.get(_CROSSOVER, "0")
    if not given.isdecimal():
        fail(f"{_CROSSOVER}: expected a whole number of facts, got {given!r}", code=BAD_INPUT)
    try:
        return choose_backend(name, gpu_crossover=int(given), tell=lambda line: click.echo(line, err=True))
    except NoDevice as error:
        fail(f"--backend cupy: {error}", code=BAD_INPUT)
