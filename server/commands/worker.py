"""`freshet worker`: join and learn, on Kafka, until told to stop."""

from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import click

from server.commands.backend_choice import CHOICES
from server.commands.kafka_topics import events_prefix_option
from server.commands.output import BAD_INPUT, NOT_RUNNING, fail


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; else the one FRESHET_CONFIG names.")
@click.option("--bootstrap", default="127.0.0.1:9092", show_default=True, help="host:port of brokers.")
@click.option("--prefix", default="freshet", show_default=True, help="First part of the topics' names.")
@events_prefix_option
@click.option("--group", default="", help="Consumer group; all workers that share the work have the same.")
@click.option("--name", default="worker-0", show_default=True, help="Of this worker; kept over restarts.")
@click.option("--graph", required=True, type=click.Path(path_type=Path), help="Graph artifact; the same for all.")
@click.option(
    "--graph-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Watched: the newest artifact there is learned under instead of --graph.",
)
@click.option(
    "--graph-watch-s",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds between looks into --graph-dir; 0 = only what LoadGraph asks for comes into force.",
)
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), help="Stores; one worker at a time.")
@click.option("--backend", type=CHOICES, help="What adds the facts.")
@click.option(
    "--static-member/--no-static-member",
    default=True,
    show_default=True,
    help="Take the same partitions over at once when coming back under the same name within a session.",
)
@click.option("--accept-gap", is_flag=True, help="Go on even if the broker has deleted what was not yet read.")
@click.option(
    "--session-timeout-ms", default=10_000, show_default=True, help="Silence after which others take over."
)
@click.option(
    "--publish-interval-ms",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Shortest time between two publications of rows; while much is waiting they come once a second.",
)
@click.option(
    "--round-interval-ms",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    help="Shortest time between two rounds: less is fresher at low traffic and costs more CPU.",
)
@click.option(
    "--http-address",
    metavar="HOST:PORT",
    help="Metrics and health: /metrics, /healthz, /readyz. Not served unless given: workers share machines.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Lowest level logged.")
def worker(
    *, config: Path | None, backend: str | None, http_address: str | None, log_level: str | None, **given: Any
) -> None:
    """Join impressions with clicks and learn from them, sharing partitions with all workers of the group.

    The join rule, the backend, `item_tower` and what secures connections (`kafka.security_protocol` and its kin)
    come from the settings, as for `freshet serve`. Exit codes: 0
    stopped as told, 2 a setting is wrong, 3 could not start, 70 could not go on: start it again, it continues from
    what is on disk.
    """
    import structlog
    from aiokafka.errors import KafkaError

    from bandits.artifact import DamagedGraph
    from bandits.cupy_device import NoDevice
    from server.http import HttpServer
    from server.logs import log_all
    from server.settings import SettingsError, load_settings, split_address
    from server.worker_pages import WorkerReports, make_worker_pages
    from streams.corpus.errors import CorpusError
    from streams.corpus.item_place import ItemPlace
    from streams.kafka.partition import WorkerError
    from streams.kafka.run_worker import run_worker
    from streams.kafka.worker_settings import WorkerSettings
    from streams.store import StoreError

    overrides: dict[str, Any] = {"backend": backend} if backend else {}
    if log_level:
        overrides["log"] = {"level": log_level}
    try:
        settings = load_settings(config, **overrides)
        security = settings.kafka.security()
        if settings.item_tower:
            ItemPlace.load(settings.item_tower)  # a damaged one is told now, not by the first item
        http = HttpServer(split_address(http_address)) if http_address else None
    except (SettingsError, CorpusError, ValueError) as error:
        fail(str(error), code=BAD_INPUT)
    except OSError as error:
        fail(str(error), code=NOT_RUNNING)
    log_all(settings.log.level, settings.log.format)
    log = structlog.get_logger("freshet.kafka")
    heartbeat_ms = max(given["session_timeout_ms"] // 5, 100)
    # A first start of a release on a machine compiles, which takes a while in which nothing else is said.
    log.info("starting", version=installed_version("freshet"), http=http and http.address, **given)
    reports = WorkerReports(given["name"])
    if http:
        http.start(make_worker_pages(reports))
    try:
        run_worker(
            WorkerSettings(
                backend=settings.backend,
                gpu_crossover=settings.gpu_crossover,
                rule=settings.join.rule(),
                security=security,
                item_tower=settings.item_tower,
                heartbeat_interval_ms=heartbeat_ms,
                **given,
            ),
            tell=reports.tell if http else None,
        )
    except (WorkerError, DamagedGraph, NoDevice, StoreError, KafkaError, OSError) as error:
        fail(str(error), code=NOT_RUNNING)
    finally:
        if http:
            http.stop()
    log.info("stopped")
