"""`freshet init-topics`: create the topics, or say how existing ones differ."""

from dataclasses import asdict
from pathlib import Path

import click

from server.commands.kafka_topics import config_option, events_prefix_option, security_of
from server.commands.output import BAD_INPUT, DOES_NOT_HOLD, NOT_RUNNING, fail, json_option, print_json


@click.command(name="init-topics")
@click.option("--bootstrap", default="127.0.0.1:9092", show_default=True, help="host:port of brokers.")
@click.option("--prefix", default="freshet", show_default=True, help="First part of the topics' names.")
@events_prefix_option
@click.option("--source-partitions", default=8, show_default=True, help="Of impressions and clicks each.")
@click.option("--item-partitions", default=8, show_default=True, help="Of items, outcomes and parameters each.")
@click.option("--replication-factor", default=1, show_default=True, help="Of every topic.")
@click.option("--source-retention-h", default=168.0, show_default=True, help="Of impressions and clicks, in hours.")
@click.option("--long-retention-h", default=8760.0, show_default=True, help="Of ledger and dead letters, in hours.")
@click.option("--timeout-s", default=30.0, show_default=True, help="How long the broker may take to answer.")
@config_option
@json_option
def init_topics(
    *,
    config: Path | None,
    bootstrap: str,
    prefix: str,
    events_prefix: str,
    source_partitions: int,
    item_partitions: int,
    replication_factor: int,
    source_retention_h: float,
    long_retention_h: float,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Create the topics that are missing and verify the others; safe to repeat.

    Nothing of an existing topic is changed: if a setting differs, the difference is shown and nothing is created.
    Exit codes: 0 all topics are as declared, 1 some are not, 2 wrong input, 3 the broker does not answer.
    """
    from streams import topics

    security = security_of(config)
    try:
        settings = topics.TopicSettings(
            names=topics.TopicNames(prefix, events_prefix),
            source_partitions=source_partitions,
            item_partitions=item_partitions,
            replication_factor=replication_factor,
            source_retention_ms=round(source_retention_h * 3_600_000),
            long_retention_ms=round(long_retention_h * 3_600_000),
        )
        report = topics.init_topics(bootstrap, topics.plan_topics(settings), timeout_s=timeout_s, security=security)
    except ValueError as error:
        fail(str(error), code=BAD_INPUT)
    except topics.TopicsError as error:
        fail(str(error), code=NOT_RUNNING)
    if as_json:
        print_json(asdict(report) | {"ok": report.ok})
    else:
        for name in report.created:
            click.echo(f"created   {name}")
        for name in report.verified:
            click.echo(f"verified  {name}")
        for difference in report.differences:
            click.echo(f"DIFFERS   {difference}")
    if not report.ok:
        raise SystemExit(DOES_NOT_HOLD)
