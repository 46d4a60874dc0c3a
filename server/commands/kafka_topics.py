"""Commands that read the topics themselves: their options, and how a broker that does not answer is told."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from server.commands.backend_choice import chosen_backend
from server.commands.output import BAD_INPUT, NOT_RUNNING, fail

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


def events_prefix_option(function: Function) -> Function:
    """The option that names the events' topics where others share them."""
    text = "First part of the names of impressions, clicks and items, where it is another."
    return click.option("--events-prefix", default="", help=text)(function)


def kafka_options(what: str, *, name: str = "--kafka") -> Callable[[Function], Function]:
    """Options that name the topics.

    Args:
        what: help of the option that names the brokers.
        name: of that option.
    """
    options = (
        click.option(name, "bootstrap", metavar="HOST:PORT", help=what),
        click.option("--prefix", default="freshet", show_default=True, help="First part of the topics' names."),
        events_prefix_option,
        click.option("--graph", type=click.Path(path_type=Path), help="Graph of the workers."),
        click.option("--config", type=click.Path(path_type=Path), help="TOML file with the workers' join rule."),
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
    graph: Path | None,
    config: Path | None,
    backend: str,
    progress: Callable[[int], None],
) -> Result:
    """Run a reader of the topics, and end the command with one sentence where that cannot be done."""
    from aiokafka.errors import KafkaError

    from bandits.artifact import DamagedGraph, load_graph
    from server.settings import SettingsError, load_settings
    from streams.outcome_codec import LedgerError
    from streams.topics import TopicNames

    if graph is None:
        fail("--graph: expected the artifact that the workers learn under, got none", code=BAD_INPUT)
    try:
        rule = load_settings(config).join.rule()
        names, loaded = TopicNames(*prefixes), load_graph(graph)
    except (SettingsError, DamagedGraph, ValueError) as error:
        fail(str(error), code=BAD_INPUT)
    try:
        return asyncio.run(
            read(
                bootstrap,
                names=names,
                graph=loaded,
                rule=rule,
                backend=chosen_backend(backend),
                progress=progress,
            )
        )
    except LedgerError as error:
        fail(f"{names.outcomes}: {error}", code=NOT_RUNNING)
    except (KafkaError, OSError) as error:
        fail(f"{bootstrap}: the topics cannot be read: {error}", code=NOT_RUNNING)
