"""`freshet replay-dlq`: send dead letters to their topic again."""

from dataclasses import asdict
from pathlib import Path

import click

from server.commands.kafka_topics import config_option, events_prefix_option, security_of
from server.commands.output import BAD_INPUT, NOT_RUNNING, fail, json_option, print_json, rows_progress


@click.command(name="replay-dlq")
@click.option("--bootstrap", default="127.0.0.1:9092", show_default=True, help="host:port of brokers.")
@click.option("--prefix", default="freshet", show_default=True, help="First part of the topics' names.")
@events_prefix_option
@click.option("--source", required=True, type=click.Choice(["impressions", "clicks"]), help="Whose dead letters.")
@click.option("--reason", default="", help="Only letters whose reason contains this text.")
@click.option("--since-ms", default=0, help="Only letters written at this Unix time in milliseconds or later.")
@click.option("--dry-run", is_flag=True, help="Count them, send nothing.")
@click.option("--timeout-s", default=30.0, show_default=True, help="How long the broker may take to answer.")
@config_option
@json_option
def replay_dlq(
    *,
    config: Path | None,
    bootstrap: str,
    prefix: str,
    events_prefix: str,
    source: str,
    reason: str,
    since_ms: int,
    dry_run: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Send dead letters again, each at most once, with their original key and bytes.

    What is still wrong becomes a dead letter anew. An event that is sent twice counts once.
    Exit codes: 0 done, 2 no such topic, 3 the broker fails.
    """
    from kafka.errors import KafkaError

    from streams.kafka.dead_letter_replay import replay_dead_letters
    from streams.topics import TopicNames

    security = security_of(config)
    try:
        names = TopicNames(prefix, events_prefix)
        topic = names.impressions if source == "impressions" else names.clicks
        with rows_progress(None, "dead letters", quiet=as_json) as progress:
            result = replay_dead_letters(
                bootstrap,
                names,
                topic,
                reason=reason,
                since_ms=since_ms,
                dry_run=dry_run,
                timeout_s=timeout_s,
                progress=progress,
                security=security,
            )
    except ValueError as error:
        fail(str(error), code=BAD_INPUT)
    except ConnectionError as error:
        fail(str(error), code=NOT_RUNNING)
    except KafkaError as error:
        fail(f"the Kafka broker at {bootstrap} failed: {error}", code=NOT_RUNNING)
    if as_json:
        print_json(asdict(result))
        return
    verb = "would be sent" if dry_run else "sent again"
    click.echo(f"{result.read:,} letters read, {result.sent:,} {verb}, {result.repeats:,} repeats")
    for why, count in sorted(result.reasons.items(), key=lambda pair: -pair[1]):
        click.echo(f"  {count:>8,}  {why}")
