"""`freshet serve`: the server until it is told to stop.

Invariants: a signal stops it gracefully with exit code 0, a second one at once; when learning has failed the
process ends with exit code 3, so that whoever watches it starts it again from what is on disk.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from server.commands.backend_choice import CHOICES
from server.commands.output import BAD_INPUT, NOT_RUNNING, fail, json_option, print_json

if TYPE_CHECKING:
    from server.app import App
    from server.processes.supervisor import Supervisor
    from server.settings import Settings

_FAILURE_CHECK_S = 0.25
_READY_CHECK_S = 0.02
MODES = ("exploit", "ucb", "thompson", "beta_thompson", "epsilon_greedy", "uniform", "randomized_ucb")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; else the one FRESHET_CONFIG names.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the store is kept.")
@click.option("--graph", type=click.Path(path_type=Path), help="Graph artifact that an empty store starts from.")
@click.option("--address", metavar="HOST:PORT", help="Where callers score and send feedback.")
@click.option("--operations-address", metavar="HOST:PORT", help="For the operators' network.")
@click.option("--http-address", metavar="HOST:PORT", help="Metrics, health and the console page.")
@click.option("--backend", type=CHOICES, help="What adds and gathers the sums.")
@click.option("--kafka", metavar="HOST:PORT", help="Kafka mode: brokers of the workers' topics.")
@click.option("--kafka-prefix", metavar="NAME", help="First part of the topics' names.  [default: freshet]")
@click.option("--kafka-events-prefix", metavar="NAME", help="That of impressions, clicks and items.")
@click.option("--processes", type=int, metavar="N", help="That answer callers, from one memory.  [default: 1]")
@click.option("--mode", type=click.Choice(MODES), help="How to score where a request does not say.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Lowest level logged.")
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), help="How to log.")
@click.option(
    "--grace-s", default=20.0, show_default=True, type=click.FloatRange(0, 3600), help="For calls in flight."
)
@click.option("--stop-on-eof", is_flag=True, hidden=True, help="Stop when standard input ends.")
@json_option
def serve(
    *,
    config: Path | None,
    kafka: str | None,
    kafka_prefix: str | None,
    kafka_events_prefix: str | None,
    processes: int | None,
    mode: str | None,
    log_level: str | None,
    log_format: str | None,
    grace_s: float,
    stop_on_eof: bool,
    as_json: bool,
    **flat: Any,
) -> None:
    """Serve slates over gRPC and learn from feedback, in one process with its store on disk.

    With --processes N so many processes answer callers on one port, from memory that one more process keeps: that
    one learns, and operators call it.

    With --kafka feedback goes to the topics instead, and parameters come from `freshet worker`s.

    Settings come from options, the environment (FRESHET_DATA_DIR, FRESHET_POLICY__ALPHA, ...), files in
    /run/secrets and a TOML file, strongest first. SIGTERM and SIGINT stop the server: calls in flight are answered,
    what was accepted is written.

    With --json prints one line when it is ready and one when it has stopped; logs go to standard error.

    Exit codes: 0 stopped as told, 2 a setting is wrong, 3 could not start (store, graph, address)
    or learning failed.
    """
    # Before NumPy is loaded: products of a call are small, and threads that spin for more of them take processors
    # from the calls. Whoever sets the variable knows better.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from bandits.cupy_device import NoDevice
    from server.app import StartError
    from server.logs import log_all
    from server.settings import SettingsError, load_settings

    overrides = {name: value for name, value in flat.items() if value is not None}
    groups: dict[str, dict[str, Any]] = {
        "kafka": {"bootstrap": kafka, "prefix": kafka_prefix, "events_prefix": kafka_events_prefix},
        "server": {"processes": processes},
        "policy": {"mode": mode},
        "log": {"level": log_level, "format": log_format},
    }
    for name, group in groups.items():
        given = {key: value for key, value in group.items() if value is not None}
        if given:
            overrides[name] = given
    try:
        settings = load_settings(config, **overrides)
    except SettingsError as error:
        fail(str(error), code=BAD_INPUT)
    log_all(settings.log.level, settings.log.format)
    stop = _stop_on_signals()
    if stop_on_eof:
        threading.Thread(target=_wait_for_eof, args=(stop.set,), name="freshet-eof", daemon=True).start()
    if not as_json:
        _show_settings(settings)
    try:
        app = _make(settings)
        app.start()
    except (StartError, NoDevice) as error:
        fail(str(error), code=NOT_RUNNING)
    failed = _wait_for_parameters(app, stop) if settings.kafka.bootstrap else None
    if app.graph_version is not None or not settings.kafka.bootstrap:
        _tell_ready(app, as_json=as_json)
    # What lives as long as the server need not be walked through by each full collection, which stops all calls.
    gc.collect()
    gc.freeze()
    failed = failed or _wait(app, stop)
    try:
        app.stop(grace_s)
    except Exception as error:  # a store that cannot be written cannot be closed cleanly either
        failed = failed or app.failed or str(error)
    failed = failed or app.failed
    if as_json:
        print_json({"event": "stopped", "failed": failed}, indent=False)
    if failed:
        fail(f"learning has stopped: {failed}", code=NOT_RUNNING)
    if not as_json:
        click.echo("stopped")


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # the second one does not wait

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop


def _wait_for_eof(then: Callable[[], None]) -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    then()


def _make(settings: "Settings") -> "App | Supervisor":
    if settings.server.processes == 1:
        from server.app import App

        return App(settings)
    from server.processes.supervisor import Supervisor

    return Supervisor(settings)


def _wait(app: "App | Supervisor", stop: threading.Event) -> str | None:
    """Block until told to stop, or until learning has failed; why it failed."""
    while not stop.wait(_FAILURE_CHECK_S):
        if app.failed:
            return app.failed
    return None


def _wait_for_parameters(app: "App | Supervisor", stop: threading.Event) -> str | None:
    """Block until the parameters topic has been read to its end: who reads "ready" may send callers."""
    while app.graph_version is None and not app.failed:
        if stop.wait(_READY_CHECK_S):
            return None
    return app.failed


def _show_settings(settings: "Settings") -> None:
    click.echo("settings")
    for name, value in settings.redacted().items():
        if isinstance(value, dict):
            inner = ", ".join(f"{key}={part}" for key, part in value.items())
            click.echo(f"  {name:<20}{inner}")
        else:
            click.echo(f"  {name:<20}{'' if value is None else value}")


def _tell_ready(app: "App | Supervisor", *, as_json: bool) -> None:
    addresses = vars(app.addresses)
    graph = app.graph_version
    if as_json:
        ready = {"event": "ready", "addresses": addresses, "graph_version": graph, "version": app.version}
        print_json(ready | {"settings": app.settings.redacted()}, indent=False)
        return
    click.echo("ready")
    click.echo(f"  slates, feedback    {addresses['serving']}")
    click.echo(f"  operations          {addresses['operations']}")
    click.echo(f"  console, metrics    http://{addresses['http']}/")
    click.echo(f"  graph               {graph or 'none yet: LoadGraph or UpsertItems'}")
