"""Commands that read the topics themselves: their options, and how a broker that does not answer is told."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from server.commands.backend_choice import chosen_backend
from server.commands.output import BAD_INPUT, NOT_RUNNING, fail

if TYPE_CHECKING:  # they bring NumPy along, which the help of a command does not need
    from streams.artifact_dir import Artifacts
    from streams.kafka.security import KafkaSecurity

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


def events_prefix_option(function: Function) -> Function:
    """The option that names the events' topics where others share them."""
    text = "First part of the names of impressions, clicks and items, where it is another."
    return click.option("--events-prefix", default="", help=text)(function)


def config_option(function: Function) -> Function:
    """The option of a command that needs no settings but those of its connections."""
    text = "TOML file that says how connections to brokers are secured; else the one FRESHET_CONFIG names."
    return click.option("--config", type=click.Path(path_type=Path), help=text)(function)


def security_of(config: Path | None) -> "KafkaSecurity":
    """What connections to brokers are made with; ends the command where a setting is wrong."""
    from server.settings import SettingsError, load_settings
    from streams.kafka.security import SecurityError

    try:
        return load_settings(config).kafka.security()
    except (SettingsError, SecurityError) as error:
        fail(str(error), code=BAD_INPUT)


def kafka_options(
    what: str, *, name: str = "--kafka", graph: str = "Graph of the workers.", several: bool = False
) -> Callable[[Function], Function]:
    """Options that name the topics.

    Args:
        what: help of the option that names the brokers.
        name: of that option.
        graph: help of the option that names the graph.
        several: whether it may be given more than once.
    """
    options = (
        click.option(name, "bootstrap", metavar="HOST:PORT", help=what),
        click.option("--prefix", default="freshet", show_default=True, help="First part of the topics' names."),
        events_prefix_option,
        click.option("--graph", type=click.Path(path_type=Path), multiple=several, help=graph),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            help="TOML file with the workers' join rule, and how connections to brokers are secured.",
        ),
    )

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def on_topics(
    read: Callable[..., Coroutine[Any, Any, Result]],
    bootstrap: str | None,
    prefixes: tuple[str, str],
    artifacts: "Artifacts",
    config: Path | None,
    backend: str,
    progress: Callable[[int], None],
) -> Result:
    """Run a reader of the topics, and end the command with one sentence where that cannot be done.

    Args:
        read: is given the first graph.
        bootstrap: host:port of brokers.
        prefixes: first parts of the topics' names.
        artifacts: what `--graph` names.
        config: settings file.
        backend: of the sums.
        progress: told how far it is.
    """
    from aiokafka.errors import KafkaError

    from server.settings import SettingsError, load_settings
    from streams.artifact_dir import NoArtifact
    from streams.kafka.handshake import check_brokers
    from streams.outcome_codec import LedgerError
    from streams.topics import TopicNames, TopicsError

    try:
        settings = load_settings(config)
        rule, security = settings.join.rule(), settings.kafka.security()
        names, loaded = TopicNames(*prefixes), artifacts.first()
    except (SettingsError, NoArtifact, ValueError) as error:  # a damaged graph is one
        fail(f"--graph: {error}" if isinstance(error, NoArtifact) else str(error), code=BAD_INPUT)
    try:
        check_brokers(bootstrap or "", security)
        return asyncio.run(
            read(
                bootstrap,
                names=names,
                graph=loaded,
                rule=rule,
                backend=chosen_backend(backend),
                progress=progress,
                security=security,
            )
        )
    except NoArtifact as error:
        fail(f"--graph: {error}", code=BAD_INPUT)
    except (ConnectionError, TopicsError) as error:
        fail(str(error), code=NOT_RUNNING)
    except LedgerError as error:
        fail(f"{names.outcomes}: {error}", code=NOT_RUNNING)
    except (KafkaError, OSError) as error:
        fail(f"{bootstrap}: the topics cannot be read: {error}", code=NOT_RUNNING)
