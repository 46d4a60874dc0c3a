"""`freshet gammas`: how likely the slot at each position is looked at, from slots that were filled at random."""

from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--kind", type=click.Choice(["store", "jsonl"]), help="What SOURCE is, where its name does not tell.")
@click.option("--graph", type=click.Path(exists=True, path_type=Path), help="Graph to see JSONL under.")
@click.option(
    "--positions", default=10, show_default=True, type=click.IntRange(2, 5_000), help="How many, from the top."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def gammas(source: Path, kind: str | None, graph: Path | None, positions: int, as_json: bool) -> None:
    """Estimate position bias from SOURCE, a data directory of an embedded server or a JSONL log.

    What tells is chance: slots of `slate.top_m` above 1, of `slate.explore_share`, of mode uniform. Exit codes: 0
    every position is estimated, 1 some are not, 2 wrong options or bad input, 3 the store cannot be read.
    """
    import math

    from bandits.artifact import DamagedGraph, load_graph
    from bandits.position_bias import estimate_gammas
    from server.commands.output import fail, print_json, rows_progress
    from streams.evaluation.sources import kind_of, read_source
    from streams.logs import LogError
    from streams.outcome_codec import LedgerError
    from streams.store import StoreError

    try:
        with rows_progress(None, "reading", quiet=as_json) as progress:
            log = read_source(
                source, kind=kind or kind_of(source), graph=load_graph(graph) if graph else None, progress=progress
            )
    except (LogError, DamagedGraph) as error:
        fail(str(error), code=2)
    except (StoreError, LedgerError) as error:
        fail(str(error), code=3)
    top = log.position < positions
    estimate = estimate_gammas(
        slate=log.slate[top],
        item=log.item[top],
        position=log.position[top],
        propensity=log.propensity[top],
        reward=log.reward[top],
    )
    rows = [
        {
            "position": number,
            "gamma": None if math.isnan(gamma) else gamma,
            "error": None if math.isnan(error) else error,
            "used": used,
            "shown": shown,
        }
        for number, (gamma, error, used, shown) in enumerate(
            zip(*(c.tolist() for c in (estimate.gamma, estimate.error, estimate.used, estimate.shown)), strict=True)
        )
    ]
    missing = [str(row["position"]) for row in rows if row["gamma"] is None]
    setting = [round(min(row["gamma"], 1.0), 4) for row in rows if row["gamma"]]
    if as_json:
        print_json({"positions": rows, "position_gammas": None if missing else setting, "note": log.note})
    else:
        click.echo("position   gamma   +-       random / shown items")
        for row in rows:
            told = "   ?      ?   " if row["gamma"] is None else f"{row['gamma']:.4f}  {row['error']:.4f}"
            click.echo(f"{row['position']:8}  {told}  {row['used']:,} / {row['shown']:,}")
        if not missing:
            click.echo(f"\n[join]\nposition_gammas = {setting}")
    if missing:
        click.echo(
            f"position {', '.join(missing)}: too few rewards in slots that were filled at random; "
            "raise slate.top_m or slate.explore_share for a while",
            err=True,
        )
        raise SystemExit(1)
