"""`freshet demo`: the whole loop on one machine, with simulated users, over gRPC.

Invariants: the server is a `freshet serve` of its own with nothing but the graph; it is gone when the command ends;
a temporary data directory is removed.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.commands.output import BAD_INPUT, DOES_NOT_HOLD, NOT_RUNNING, fail, json_option, print_json
from server.commands.serve import MODES

if TYPE_CHECKING:
    from server.demo.scene import ClickModelName, Scene

_CLICK_MODELS = ("position", "cascade", "dependent", "independent")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def user_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how simulated users behave, shared with `freshet simulate`."""
    options: list[Decorator] = [
        click.option(
            "--users", default=2_000, show_default=True, type=click.IntRange(1, 1_000_000), help="How many."
        ),
        click.option(
            "--rate",
            default=300.0,
            show_default=True,
            type=click.FloatRange(1, 5_000),
            help="Slates a second, of all users together.",
        ),
        click.option(
            "--seed", default=7, show_default=True, type=click.IntRange(0, 2**31), help="Of world and users."
        ),
        click.option(
            "--click-model",
            default="position",
            show_default=True,
            type=click.Choice(_CLICK_MODELS),
            help="How users look at a slate; all but independent see the top first.",
        ),
        click.option(
            "--delay-ms",
            default=0.0,
            show_default=True,
            type=click.FloatRange(0, 600_000),
            help="Median time from impression to click.",
        ),
        click.option(
            "--drift",
            "drift_s",
            default=0.0,
            show_default=True,
            type=click.FloatRange(0, 1e6),
            help="Half-life of tastes in seconds; 0 = they stay.",
        ),
    ]
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)


@click.command()
@click.option("--seconds", default=40.0, show_default=True, type=click.FloatRange(1, 3_600), help="How long.")
@user_options
@click.option("--mode", default="randomized_ucb", show_default=True, type=click.Choice(MODES), help="How to score.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the data there; else it is removed.")
@json_option
def demo(
    seconds: float,
    users: int,
    rate: float,
    seed: int,
    click_model: "ClickModelName",
    delay_ms: float,
    drift_s: float,
    mode: str,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show Freshet learn: a small graph, a server, and simulated users who click what they like.

    The server knows nothing at first. The chart shows clicks a slate as they happen, next to what uniformly random
    slates and the best possible ones are worth to the same users. Nothing leaves this machine.

    Exit codes: 0 done, 1 calls have failed, 2 bad input, 3 the server could not start or go on, 130 interrupted.
    """
    from server.demo.child import ServerFailed
    from server.demo.run import UsersGaveUp
    from server.demo.scene import Scene
    from server.demo.users import Habits

    scene = Scene(seed, clicks=click_model, drift_half_life_s=drift_s)
    habits = Habits(users=users, slates_per_s=rate, delay_ms=delay_ms, seed=seed)
    try:
        with _folder(data_dir) as folder:
            result = _run(scene, habits, folder, seconds=seconds, mode=mode, as_json=as_json)
    except (ServerFailed, UsersGaveUp) as error:
        fail(str(error), code=NOT_RUNNING)
    except OSError as error:
        fail(f"{data_dir or tempfile.gettempdir()}: {error.strerror}", code=BAD_INPUT)
    if as_json:
        print_json(result | {"seed": seed, "users": users, "click_model": click_model, "mode": mode})
    if result["errors"]:
        fail(
            f"{result['errors']} calls or events failed, such as {next(iter(result['error_examples']))}",
            code=DOES_NOT_HOLD,
        )


def _run(scene: "Scene", habits: Any, folder: Path, *, seconds: float, mode: str, as_json: bool) -> dict[str, Any]:
    from rich.console import Console

    from bandits.artifact import save_graph
    from server.demo.child import ServerProcess
    from server.demo.run import run_users
    from server.demo.scene import TEMPERATURE, K
    from server.demo.summary import summarize, table, totals

    graph = folder / f"{scene.graph.version}.graph"
    if not graph.exists():
        save_graph(scene.graph, graph)
    server = ServerProcess(
        folder,
        log_file=folder / "server.log",
        arguments=["--graph", str(graph), "--mode", mode],
        environment={"FRESHET_CONTEXT__K": str(K), "FRESHET_CONTEXT__TEMPERATURE": str(TEMPERATURE)},
    )
    console = f"http://{server.addresses['http']}/"
    title = f"freshet demo: {habits.users:,} simulated users, {scene.graph.n_items} items; console {console}"
    try:
        tally, took_s, on_the_way = run_users(
            server.addresses["serving"],
            scene,
            habits,
            seconds=seconds,
            title=title,
            quiet=as_json,
            check=server.check,
        )
    finally:
        server.stop()
    if not as_json:
        screen = Console()
        screen.print()
        screen.print(table(tally, took_s))
        screen.print()
        screen.print(totals(tally, took_s))
    return summarize(tally, took_s) | {"console": console, "clicks_on_the_way": on_the_way}


@contextmanager
def _folder(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield data_dir
        return
    with tempfile.TemporaryDirectory(prefix="freshet-demo-") as folder:
        yield Path(folder)
