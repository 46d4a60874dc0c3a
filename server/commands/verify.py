"""`freshet verify`: recompute a store from its ledger and source log, and compare bit for bit."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from server.commands.backend_choice import backend_option, chosen_backend
from server.commands.kafka_topics import kafka_options


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data directory of an embedded server.")
@kafka_options(
    "Check the topics of these brokers instead.",
    graph="Graph of the workers, or a directory of graphs; repeat it until all that the ledger names are there.",
    several=True,
)
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    data_dir: Path | None,
    bootstrap: str | None,
    prefix: str,
    events_prefix: str,
    graph: tuple[Path, ...],
    config: Path | None,
    backend: str,
    as_json: bool,
) -> None:
    """Check that the state is the fold of the ledger and the ledger the join of the source log.

    Servers and workers may be running: what is compared is read as it was at one moment. Exit codes: 0 everything
    holds, 1 something differs, 2 wrong options, 3 the store or the topics cannot be read.
    """
    from server.commands.kafka_topics import on_topics
    from server.commands.output import fail, print_json, rows_progress
    from streams.outcome_codec import LedgerError
    from streams.store import StoreError
    from streams.verify import verify_store

    if (data_dir is None) == (bootstrap is None):
        fail("expected --data-dir or --kafka, one of them", code=2)
    with rows_progress(None, "verifying", quiet=as_json) as progress:
        if data_dir is None:
            from streams.artifact_dir import Artifacts
            from streams.kafka.verify_topics import verify_topics

            artifacts = Artifacts(graph)
            read = partial(verify_topics, artifacts=artifacts)
            result = on_topics(read, bootstrap, (prefix, events_prefix), artifacts, config, backend, progress)
        else:
            try:
                result = verify_store(
                    data_dir, backend=chosen_backend(backend), progress=lambda done, _total: progress(done)
                )
            except (StoreError, LedgerError) as error:
                fail(str(error), code=3)
    if as_json:
        print_json(asdict(result) | {"ok": result.ok})
    else:
        for check in result.checks:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
        click.echo(f"state hash {result.state_hash} over {result.ledger_records:,} ledger records")
    if not result.ok:
        raise SystemExit(1)
