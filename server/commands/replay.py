"""`freshet replay`: a recorded log through joiner and learner, or to a running server."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.commands.backend_choice import backend_option, chosen_backend
from server.commands.kafka_topics import kafka_options
from server.commands.tls_options import tls_of, tls_options

_ROWS_ASKED = 20_000
_FEWEST_REWARDED = 10

if TYPE_CHECKING:
    from server.channels import ClientTls
    from streams.logs import EventLog
    from streams.replay import ReplayReport


@click.command()
@click.argument("kind", required=False, type=click.Choice(["kuairand", "open-bandit", "jsonl"]))
@click.argument("path", required=False, type=click.Path(path_type=Path, exists=True))
@kafka_options("Fold the source topics of these brokers instead of a file.", name="--from-kafka")
@click.option("--batch-rows", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="Micro-batch.")
@backend_option
@click.option(
    "--mode",
    default="ucb",
    show_default=True,
    type=click.Choice(["exploit", "ucb", "thompson", "beta_thompson", "uniform", "randomized_ucb"]),
    help="Policy of the replay estimate.",
)
@click.option(
    "--evaluate-every",
    type=click.IntRange(0),
    help="Ask the policy on every n-th row; 0 = do not estimate. Default: on about 20,000 rows.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32))
@click.option("--limit", type=click.IntRange(1), help="Stop after so many rows.")
@click.option("--save-graph", type=click.Path(path_type=Path), help="Save the log's graph there, to serve it.")
@click.option("--to", "address", help="Send the log to a running server, host:port, instead of folding it here.")
@click.option(
    "--patience-s", default=60.0, show_default=True, help="With --to: how long to wait for a server that is away."
)
@tls_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def replay(
    kind: str | None,
    path: Path | None,
    bootstrap: str | None,
    prefix: str,
    events_prefix: str,
    graph: Path | None,
    config: Path | None,
    batch_rows: int,
    backend: str,
    mode: str,
    evaluate_every: int | None,
    seed: int,
    limit: int | None,
    save_graph: Path | None,
    address: str | None,
    patience_s: float,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    as_json: bool,
) -> None:
    """Fold a recorded log: KIND is the format of PATH.

    For kuairand PATH is a folder, for open-bandit a CSV file, for jsonl a .jsonl or .jsonl.gz file. With
    --from-kafka the log is what the source topics hold, whatever their partitions.

    Counts and state hash depend on the log alone, not on the micro-batches. Exit codes: 0 done, 2 the log cannot
    be read, 3 the server is gone.
    """
    from bandits.artifact import save_graph as save
    from bandits.join_rule import JoinRule
    from bandits.policies import PolicySettings
    from server.commands.output import fail, note, print_json, rows_progress
    from streams.logs import LogError
    from streams.replay import PolicyAsker
    from streams.replay import replay as fold

    if bootstrap:
        _from_kafka(bootstrap, (prefix, events_prefix), graph, config, backend, as_json=as_json)
        return
    if kind is None or path is None:
        fail("expected KIND and PATH of a log, or --from-kafka", code=2)
    tls = tls_of(tls_ca, tls_certificate, tls_key)
    try:
        log = _read(kind, path)
    except LogError as error:
        fail(str(error), code=2)
    log = log.first(limit) if limit else log
    if save_graph:
        save(log.graph, save_graph)
        note(f"saved graph {log.graph.version} to {save_graph}")
    if address:
        _send(address, log, batch_rows, patience_s, tls, as_json=as_json)
        return
    asker = None
    if evaluate_every is None:
        evaluate_every = max(1, len(log) // _ROWS_ASKED)
    if evaluate_every:
        asker = PolicyAsker(mode=mode, settings=PolicySettings(), every=evaluate_every, seed=seed)
    with rows_progress(len(log), "replaying", quiet=as_json) as progress:
        report = fold(
            log,
            rule=JoinRule(),
            backend=chosen_backend(backend),
            batch_rows=batch_rows,
            clock=time.perf_counter,
            progress=progress,
            asker=asker,
        )
    if as_json:
        print_json(asdict(report))
    else:
        _show(report)


def _from_kafka(
    bootstrap: str,
    prefixes: tuple[str, str],
    graph: Path | None,
    config: Path | None,
    backend: str,
    *,
    as_json: bool,
) -> None:
    from bandits.sums import state_hash
    from server.commands.kafka_topics import on_topics
    from server.commands.output import print_json, rows_progress
    from streams.artifact_dir import Artifacts
    from streams.kafka.verify_topics import fold_sources

    with rows_progress(None, "replaying", quiet=as_json) as progress:
        began = time.perf_counter()
        folded = on_topics(
            fold_sources, bootstrap, prefixes, Artifacts([graph] if graph else []), config, backend, progress
        )
        seconds = time.perf_counter() - began
    report = {
        "rows": folded.rows,
        "clicks": folded.clicks,
        "refused": folded.refused,
        "clicks_waiting": folded.waiting,
        **folded.tally.as_dict(),
        "seconds": seconds,
        "events_per_second": (folded.rows + folded.clicks) / max(seconds, 1e-9),
        "state_hash": state_hash(folded.learner.graph, folded.learner.sums),
    }
    if as_json:
        print_json(report)
    else:
        _show_values(report)


def _show_values(report: dict[str, Any]) -> None:
    for name, value in report.items():
        click.echo(f"{name:>24}  {value:,.1f}" if isinstance(value, float) else f"{name:>24}  {value}")


def _read(kind: str, path: Path) -> "EventLog":
    from streams.logs import read_jsonl, read_kuairand, read_open_bandit

    if kind == "jsonl":
        return read_jsonl(path).events
    return read_kuairand(path) if kind == "kuairand" else read_open_bandit(path)


def _send(
    address: str, log: "EventLog", batch_rows: int, patience_s: float, tls: "ClientTls | None", *, as_json: bool
) -> None:
    import grpc

    from server.commands.output import fail, print_json, rows_progress
    from server.replay_client import ServerGone, send_log

    try:
        with rows_progress(len(log), "sending", quiet=as_json) as progress:
            began = time.perf_counter()
            sent = send_log(address, log, batch_rows=batch_rows, patience_s=patience_s, progress=progress, tls=tls)
            seconds = time.perf_counter() - began
    except ServerGone as error:
        fail(f"{address}: {error}", code=3)
    except grpc.RpcError as error:
        fail(f"{address}: {error.code().name}: {error.details()}", code=3)
    report = {
        "log": log.name,
        "rows": sent.rows,
        "clicks": sent.clicks,
        "scored": sent.scored,
        "retries": sent.retries,
        "refused": len(sent.refused),
        "first_refusal": sent.refused[0] if sent.refused else None,
        "seconds": seconds,
        "events_per_second": (sent.rows + sent.clicks) / max(seconds, 1e-9),
    }
    if as_json:
        print_json(report)
    else:
        _show_values(report)


def _show(report: "ReplayReport") -> None:
    click.echo(f"{report.log}: {report.rows:,} shown items, {report.clicks:,} clicks")
    click.echo(f"  {report.events_per_second:,.0f} events/s in joiner and learner ({report.seconds:.2f} s)")
    for name, value in report.counts.items():
        click.echo(f"  {name:<24}{value:>12,}")
    if report.policy:
        policy = report.policy
        reward = f"{policy.reward:.4f} ± {policy.standard_error:.4f}"
        if policy.rewarded < _FEWEST_REWARDED:
            reward = f"unknown, only {policy.rewarded} of the rows it agrees with were rewarded"
        click.echo(f"  {policy.policy}: replay estimate {reward}")
        click.echo(f"  it chose the logged item on {policy.matched:,} of {policy.asked:,} rows asked")
        click.echo(f"  logged policy on the same rows: {policy.logged_reward:.4f}")
        click.echo(f"  {'unbiased' if policy.unbiased else 'BIASED'}: {report.note}")
    click.echo(f"  state hash {report.state_hash}")
