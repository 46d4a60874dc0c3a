"""`freshet bench`: what this machine can do, as ratios measured in one run."""

import importlib.util

import click

from server.commands.output import BAD_INPUT, NOT_RUNNING, fail, json_option, note


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--quick", is_flag=True, help="Tiny sizes: does it run at all.")
@json_option
def bench(names: tuple[str, ...], quick: bool, as_json: bool) -> None:
    """Measure this machine: contenders take turns in one run, results are checked against a reference.

    Without names everything is measured, which takes a minute or two on a machine that does nothing else.

    Exit codes: 0 measured, 2 there is no such benchmark, 3 the benchmarks are not installed.
    """
    if importlib.util.find_spec("benchmarks") is None:
        fail("benchmarks: expected a checkout of the source, got an installation without them", code=NOT_RUNNING)
    from benchmarks import report
    from benchmarks.__main__ import NAMES, measure

    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        fail(f"NAME: expected any of {', '.join(NAMES)}, got {', '.join(unknown)}", code=BAD_INPUT)
    measured, machine = measure(names or NAMES, quick=quick, tell=note)
    click.echo(report.as_json(measured, machine) if as_json else report.text(measured, machine))
