"""`freshet simulate`: simulated users against a running server, or against the library alone.

Invariant: exactly one of a server, the library and the writing of a graph is used.
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from server.commands.demo import user_options
from server.commands.output import (
    BAD_INPUT,
    DOES_NOT_HOLD,
    NOT_RUNNING,
    fail,
    json_option,
    note,
    print_json,
    rows_progress,
)
from server.commands.serve import MODES
from server.commands.simulate_world import WorldRun, draw, make_scene, read_beside, told, use_server
from server.commands.tls_options import tls_of, tls_options

if TYPE_CHECKING:
    from server.channels import ClientTls
    from server.demo.scene import ClickModelName, Scene
    from server.demo.tally import Tally
    from server.demo.users import Habits

_NOT_WITH_WORLD = {
    "users": "users",
    "drift_s": "drift",
    "seconds": "seconds",
    "csv_file": "csv",
    "points": "points",
}
_WITH_WORLD = {
    "slates": "slates",
    "operations_address": "operations-address",
    "picture": "picture",
    "beside": "beside",
}
_FILE = click.Path(path_type=Path, dir_okay=False)
_COLUMNS = ("start_s", "end_s", "slates", "reward", "expected", "uniform", "best", "explored_share")


@click.command()
@click.option("--address", metavar="HOST:PORT", help="Server to use.")
@click.option(
    "--rounds", type=click.IntRange(1, 10_000_000), help="Without a server: so many slates, in simulated time."
)
@click.option("--write-graph", type=click.Path(path_type=Path), help="Write the world's graph there, for `serve`.")
@click.option(
    "--seconds", default=60.0, show_default=True, type=click.FloatRange(1, 86_400), help="How long, with --address."
)
@click.option(
    "--world",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --address: held-out users, as `freshet train --held-out` writes them.",
)
@click.option(
    "--slates",
    default=20_000,
    show_default=True,
    type=click.IntRange(10, 10_000_000),
    help="How many, with --world.",
)
@click.option(
    "--operations-address", metavar="HOST:PORT", help="With --world: publish its new items to the server there."
)
@click.option("--picture", type=_FILE, help="Draw the run of --world there, as .svg or .png.")
@click.option(
    "--beside",
    type=_FILE,
    multiple=True,
    help="Earlier --json results to draw too, or, without --address, alone; may be given repeatedly.",
)
@tls_options
@user_options
@click.option("--mode", type=click.Choice(MODES), help="How to score; else as the server does, or as its default.")
@click.option(
    "--csv", "csv_file", type=click.File("w", lazy=True), help="Write the curve there; - is standard output."
)
@click.option(
    "--points", default=60, show_default=True, type=click.IntRange(2, 10_000), help="Points of the curve."
)
@json_option
def simulate(
    address: str | None,
    rounds: int | None,
    write_graph: Path | None,
    seconds: float,
    world: Path | None,
    slates: int,
    operations_address: str | None,
    picture: Path | None,
    beside: tuple[Path, ...],
    users: int,
    rate: float,
    seed: int,
    click_model: "ClickModelName",
    delay_ms: float,
    drift_s: float,
    mode: str | None,
    csv_file: IO[str] | None,
    points: int,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    as_json: bool,
) -> None:
    r"""Let simulated users use a server, and compare what they click with uniform and with the best possible.

    The server must have the graph of the same world, and context.k = 5:

    \b
        freshet simulate --seed 7 --write-graph world-7
        FRESHET_CONTEXT__K=5 freshet serve --graph world-7
        freshet simulate --seed 7 --address 127.0.0.1:50051

    With --world the users are those of the later part of a log, at their embeddings, and the server has the graph
    that was built from the earlier part. A user clicks an examined item with probability 0.5 if they liked it in
    the later part, else 0.01.

    Exit codes: 0 done, 1 calls have failed, 2 bad input, 3 the server does not answer or has another graph,
    130 interrupted.
    """
    from server.demo.scene import Scene
    from server.demo.users import Habits

    if picture is not None and beside and not any((address, rounds, write_graph, world)):
        draw(picture, read_beside(beside))
        return
    if sum(given is not None for given in (address, rounds, write_graph)) != 1:
        fail("expected one of --address, --rounds and --write-graph", code=BAD_INPUT)
    _refuse_mixed(world)
    tls = tls_of(tls_ca, tls_certificate, tls_key)
    if world is not None:
        if address is None:
            fail("--world: expected --address", code=BAD_INPUT)
        run = WorldRun(
            world=world,
            address=address,
            operations_address=operations_address,
            slates=slates,
            click_model=click_model,
            quiet=as_json,
            tls=tls,
        )
        habits = Habits(slates_per_s=rate, delay_ms=delay_ms, mode=_number(mode), seed=seed)
        _use_world(run, habits, mode or "server", picture, beside, as_json=as_json)
        return
    scene = Scene(seed, clicks=click_model, drift_half_life_s=drift_s)
    if write_graph is not None:
        _write_graph(scene, write_graph, as_json=as_json)
        return
    habits = Habits(users=users, slates_per_s=rate, delay_ms=delay_ms, mode=_number(mode), seed=seed)
    to_stdout = csv_file is not None and csv_file.name == "-"
    quiet = as_json or to_stdout
    if address is not None:
        tally, seconds, on_the_way = _use_server(address, scene, habits, seconds, tls, quiet=quiet)
    else:
        tally, seconds, on_the_way = _use_library(scene, habits, mode or "randomized_ucb", rounds or 0, quiet=quiet)
    if csv_file is not None:
        _write_curve(csv_file, tally, seconds, points)
    _report(tally, seconds, on_the_way, {}, as_json=as_json, quiet=quiet)


def _refuse_mixed(world: Path | None) -> None:
    """Refuse options that do nothing with, or without, --world."""
    context = click.get_current_context()
    wrong = _NOT_WITH_WORLD if world is not None else _WITH_WORLD
    for name in wrong:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            relation = "without" if world is not None else "with"
            fail(f"--{wrong[name]}: expected {relation} --world", code=BAD_INPUT)


def _use_world(
    run: WorldRun, habits: "Habits", name: str, picture: Path | None, beside: tuple[Path, ...], *, as_json: bool
) -> None:
    from server.demo.summary import summarize

    earlier = read_beside(beside)
    scene = make_scene(run)
    tally, seconds, on_the_way = use_server(run, scene, replace(habits, users=len(scene.world.users)))
    more = {"exposure": scene.exposure.summary(), "same_for_all": scene.same_for_all()}
    if picture is not None:
        draw(picture, earlier | {name: summarize(tally, seconds) | more})
    if not as_json:
        for line in told(more):
            click.echo(line)
    _report(tally, seconds, on_the_way, more, as_json=as_json, quiet=as_json)


def _number(mode: str | None) -> Any:
    from server.requests import MODE_NUMBERS

    return MODE_NUMBERS[mode] if mode else 0


def _write_graph(scene: "Scene", folder: Path, *, as_json: bool) -> None:
    from bandits.artifact import save_graph

    try:
        save_graph(scene.graph, folder)
    except OSError as error:
        fail(f"--write-graph: {folder}: {error.strerror or error}", code=BAD_INPUT)
    if as_json:
        print_json({"graph_version": scene.graph.version, "path": folder})
    else:
        click.echo(f"wrote graph {scene.graph.version} to {folder}")


def _use_server(
    address: str, scene: "Scene", habits: "Habits", seconds: float, tls: "ClientTls | None", *, quiet: bool
) -> "tuple[Tally, float, int]":
    from server.demo.run import UsersGaveUp, run_users
    from server.settings import split_address

    try:
        split_address(address)
    except ValueError as error:
        fail(f"--address: {error}", code=BAD_INPUT)
    title = f"freshet simulate: {habits.users:,} simulated users of {address}"
    try:
        return run_users(address, scene, habits, seconds=seconds, title=title, quiet=quiet, tls=tls)
    except UsersGaveUp as error:
        fail(f"{address}: {error}", code=NOT_RUNNING)


def _use_library(
    scene: "Scene", habits: "Habits", mode: str, rounds: int, *, quiet: bool
) -> "tuple[Tally, float, int]":
    from server.demo.library import LibraryRun

    run = LibraryRun(scene, habits, mode=mode)
    with rows_progress(rounds, "simulating", quiet=quiet) as progress:
        while run.tally.counts.slates < rounds:
            run.step()
            progress(run.tally.counts.slates)
    return run.tally, run.clock_s, run.clicks_on_the_way


def _write_curve(file: IO[str], tally: "Tally", seconds: float, points: int) -> None:
    try:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for part in tally.parts(seconds, points):
            if part is not None:
                writer.writerow([getattr(part, column) for column in _COLUMNS])
        file.flush()
    except OSError as error:
        fail(f"--csv: {file.name}: {error.strerror}", code=BAD_INPUT)


def _report(
    tally: "Tally", seconds: float, on_the_way: int, more: dict[str, Any], *, as_json: bool, quiet: bool
) -> None:
    from rich.console import Console

    from server.demo.summary import summarize, table, totals

    if as_json:
        print_json(summarize(tally, seconds) | {"clicks_on_the_way": on_the_way} | more)
    elif not quiet:
        screen = Console()
        screen.print(table(tally, seconds))
        screen.print()
        screen.print(totals(tally, seconds))
    if tally.counts.errors:
        message = f"{tally.counts.errors} calls or events failed, such as {next(iter(tally.counts.examples))}"
        fail(message, code=DOES_NOT_HOLD)
    if quiet and not as_json:
        note(f"{tally.counts.slates:,} slates")
