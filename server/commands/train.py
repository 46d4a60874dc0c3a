"""`freshet train`: two towers from a log, and the embeddings that `freshet build-graph` reads.

Invariant: what is reported was measured on events later than everything that was learned from.
"""

from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from server.commands.output import BAD_INPUT, NOT_RUNNING, fail, json_option, note, print_json, rows_progress

if TYPE_CHECKING:
    from streams.corpus.train import TrainReport


@click.command()
@click.argument("kind", type=click.Choice(["kuairand", "movielens", "tables"]))
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the results.")
@click.option("--epochs", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Passes.")
@click.option("--dim", default=64, show_default=True, type=click.IntRange(2, 1_024), help="Of an embedding.")
@click.option("--batch", default=512, show_default=True, type=click.IntRange(2, 65_536), help="Events of a step.")
@click.option("--learning-rate", default=2e-3, show_default=True, type=click.FloatRange(1e-6, 1.0))
@click.option("--temperature", default=0.1, show_default=True, type=click.FloatRange(0.01, 10.0))
@click.option("--id-dropout", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Ids hidden.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option(
    "--test-share",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0.01, 0.8),
    help="Of the events, the latest: held out for the report.",
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write the users of the held-out part there, for `freshet simulate --world`.",
)
@click.option(
    "--least-likes",
    default=5,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Leave out of --held-out who likes fewer items in that part.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out.")
@json_option
def train(
    kind: str,
    folder: Path,
    out: Path,
    epochs: int,
    dim: int,
    batch: int,
    learning_rate: float,
    temperature: float,
    id_dropout: float,
    seed: int,
    test_share: float,
    held_out: Path | None,
    least_likes: int,
    resume: bool,
    as_json: bool,
) -> None:
    """Learn embeddings of users and items from the earlier part of a log.

    KIND is the format of FOLDER: kuairand (KuaiRand-Pure), movielens (MovieLens 100k), or tables (events.csv,
    users.csv and items.csv of your own). The last tenth of the events, or --test-share of them, is held out for the
    report; the tenth before it chooses the epoch.

    Exit codes: 0 done, 2 bad input, 3 a library is not installed, 130 interrupted.
    """
    from streams.corpus.errors import CorpusError, MissingLibrary
    from streams.corpus.readers import read_interactions
    from streams.corpus.train import Training, TrainSettings
    from streams.corpus.train_step import ModelSettings

    model = ModelSettings(
        dim=dim,
        batch=batch,
        learning_rate=learning_rate,
        temperature=temperature,
        id_dropout=id_dropout,
        seed=seed,
    )
    try:
        log = read_interactions(kind, folder)
        training = Training(log, TrainSettings(model=model, epochs=epochs, test_share=test_share))
        later_users = training.later_users(least_likes=least_likes) if held_out else None
        out.mkdir(parents=True, exist_ok=True)
        with rows_progress(epochs * training.steps, "training", quiet=as_json) as progress:

            def told(done: int, numbers: dict[str, float]) -> None:
                if not as_json:
                    found = f"recall@50 {numbers['validation_recall']:.4f} on the validation part"
                    note(f"epoch {done}: loss {numbers['loss']:.4f}, {found}")

            report, parameters = training.run(out, resume=resume, told=told, stepped=progress)
        training.export(parameters, report, out)
        people = None
        if held_out is not None and later_users is not None:
            people = training.held_out(parameters, later_users)
            people.save(held_out)
    except MissingLibrary as error:
        fail(str(error), code=NOT_RUNNING)
    except (CorpusError, OSError) as error:
        fail(str(error), code=BAD_INPUT)
    if as_json:
        print_json(asdict(report))
        return
    _show(report, out)
    if people is not None:
        told_new = f"{len(people.new_items):,} items that nobody had liked before"
        click.echo(f"{len(people.users):,} users of the held-out part in {held_out}, and {told_new}")


def _show(report: "TrainReport", out: Path) -> None:
    click.echo(f"{report.log}: {report.train_events:,} likes learned from on {report.device}")
    click.echo(f"recall@50 over {report.test_events:,} later likes, {report.test_new_items:,} of new items:")
    click.echo(f"{'':24}{'all':>8}{'known users':>14}{'new items':>12}")
    rows = {
        f"two towers, epoch {report.best_epoch}": report.model,
        "popularity": report.popularity,
        "recent popularity": report.recent_popularity,
    }
    for label, found in rows.items():
        shares = (found.all, found.known_users, found.new_items)
        cells = ("-" if isnan(share) else f"{share:.4f}" for share in shares)
        click.echo("{:24}{:>8}{:>14}{:>12}".format(label, *cells))
    click.echo(f"embeddings of users and items in {out}, for freshet build-graph")
