"""`freshet build-graph`: from embeddings of users and items to the graph that `freshet serve` loads.

Invariant: the graph directory is complete or not there; the same input and seed write the same bytes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from server.commands.output import BAD_INPUT, NOT_RUNNING, fail, json_option, note, print_json, rows_progress

if TYPE_CHECKING:
    from bandits.graph import Float32
    from streams.corpus.report import GraphCounts, GraphReport, Spread

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("build-graph")
@click.option("--users", required=True, type=_FILE, help="User embeddings: .npy (n, dim) or .parquet.")
@click.option("--items", required=True, type=_FILE, help="Item embeddings of the same dim: .npy or .parquet.")
@click.option("--item-ids", type=_FILE, help="Item ids, one a line; not needed if a Parquet file has them.")
@click.option("--leave-out", type=_FILE, help="Ids of items to leave out of the graph, one a line.")
@click.option("--clusters", "n_clusters", required=True, type=click.IntRange(1, 1_000_000), help="C.")
@click.option(
    "--top-w", default=200, show_default=True, type=click.IntRange(1, 100_000), help="Items of a cluster."
)
@click.option(
    "--least-clusters",
    default=0,
    show_default=True,
    type=click.IntRange(0, 64),
    help="Join items that fewer clusters chose to their nearest; from 1 on every item can be found.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--sample", default=0, type=click.IntRange(0), help="Users to cluster; 0 = 50 a cluster.")
@click.option("--iterations", default=10, show_default=True, type=click.IntRange(1, 1_000), help="Of k-means.")
@click.option(
    "--k-means",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "faiss", "cupy"]),
    help="auto = CuPy where it finds a GPU, else faiss; each gives the same bytes for the same seed.",
)
@click.option(
    "--clusters-per-user", "k", default=10, show_default=True, type=click.IntRange(1, 64), help="K of the report."
)
@click.option(
    "--inherit-from",
    type=click.Path(path_type=Path),
    help="Graph in force: start from its clusters, and write the map that LoadGraph inherits sums through.",
)
@click.option(
    "--old-users",
    type=click.Path(path_type=Path),
    help="With --inherit-from: the same users, row by row, where that graph's clusters are; else --users.",
)
@click.option("--temperature", default=0.1, show_default=True, help="With --inherit-from: as the server has it.")
@click.option("--version", default="", help="Name of the graph; else named after its contents.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New directory of the graph.")
@click.option(
    "--report", "report_dir", type=click.Path(path_type=Path), help="Also write report and picture there."
)
@json_option
def build_graph(
    users: Path,
    items: Path,
    item_ids: Path | None,
    leave_out: Path | None,
    n_clusters: int,
    top_w: int,
    least_clusters: int,
    seed: int,
    sample: int,
    iterations: int,
    k_means: Literal["auto", "faiss", "cupy"],
    k: int,
    inherit_from: Path | None,
    old_users: Path | None,
    temperature: float,
    version: str,
    out: Path,
    report_dir: Path | None,
    as_json: bool,
) -> None:
    """Cluster users and join every cluster to its W nearest items, and on request every item to a cluster.

    Prints degree distributions, how much of the corpus has a cluster, and how many items no user can reach.

    Exit codes: 0 done, 2 bad input, 3 a library is not installed, 130 interrupted.
    """
    from bandits.artifact import load_graph, save_graph
    from streams.corpus.build import build_corpus
    from streams.corpus.clusters import ClusterSettings
    from streams.corpus.embeddings import read_embeddings, read_ids
    from streams.corpus.errors import CorpusError, MissingLibrary
    from streams.corpus.inherit import first_centroids, overlap_of
    from streams.corpus.report import count_graph, report_graph
    from streams.overlap_folder import save_overlap

    def stage(label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return rows_progress(total, label, quiet=as_json)

    settings = ClusterSettings(
        n_clusters=n_clusters, seed=seed, iterations=iterations, sample=sample, library=k_means
    )
    try:
        if out.exists() or not out.absolute().parent.is_dir():
            raise CorpusError(f"{out}: expected a new directory in one that exists")
        user_rows, item_rows = read_embeddings(users).values, read_embeddings(items)
        ids = read_ids(item_ids) if item_ids else item_rows.ids
        if ids is None:
            raise CorpusError(f"{items}: expected --item-ids, as the file holds no ids")
        item_values = item_rows.values
        if leave_out:
            item_values, ids = _left_in(item_values, ids, leave_out)
        old = load_graph(inherit_from) if inherit_from else None
        old_rows = read_embeddings(old_users).values if old_users else user_rows
        start = first_centroids(old, old_rows, user_rows, k=k, temperature=temperature) if old else None
        corpus = build_corpus(
            users=user_rows,
            items=item_values,
            item_ids=ids,
            clusters=settings,
            start=start,
            top_w=top_w,
            least_clusters=least_clusters,
            version=version,
            stage=stage,
        )
        with stage("looking at users", len(user_rows)) as progress:
            counts = count_graph(corpus, user_rows, k=k, seed=seed, progress=progress)
        attributes = {
            "clusters": n_clusters,
            "iterations": iterations,
            "least_clusters": least_clusters,
            "seed": seed,
            "top_w": top_w,
        }
        save_graph(corpus.graph, out, attributes={name: str(value) for name, value in attributes.items()})
        if old:
            overlap = overlap_of(old, old_rows, corpus.graph, user_rows, k=k, temperature=temperature)
            save_overlap(overlap, out / "overlap", old=old, new=corpus.graph)
    except MissingLibrary as error:
        fail(str(error), code=NOT_RUNNING)
    except (ValueError, OSError) as error:
        fail(str(error), code=BAD_INPUT)
    report = report_graph(corpus, counts)
    if report_dir:
        _write_report(report, counts, [ids[number] for number in counts.unreached.tolist()], report_dir)
    if as_json:
        print_json(_as_json(report))
    else:
        _show(report, out)


def _left_in(values: "Float32", ids: list[str], leave_out: Path) -> "tuple[Float32, list[str]]":
    """Rows and ids of the items that the file does not name."""
    import numpy as np

    from streams.corpus.embeddings import read_ids
    from streams.corpus.errors import CorpusError

    out = set(read_ids(leave_out))
    unknown = out - set(ids)
    if unknown:
        raise CorpusError(f"{leave_out}: expected ids of the items, got {min(unknown)!r}")
    kept = [row for row, item_id in enumerate(ids) if item_id not in out]
    if not kept:
        raise CorpusError(f"{leave_out}: expected to leave items in, got all {len(ids)} of them")
    return values[np.array(kept)], [ids[row] for row in kept]


def _as_json(report: "GraphReport") -> dict[str, Any]:
    result = asdict(report)
    result["coverage_by_w"] = {str(width): share for width, share in report.coverage_by_w.items()}
    return result


def _write_report(report: "GraphReport", counts: "GraphCounts", unreached: list[str], folder: Path) -> None:
    """Write graph.json, graph.png and unreached_items.txt; a missing matplotlib costs the picture alone."""
    import json

    from streams.corpus.errors import MissingLibrary
    from streams.corpus.picture import draw_report

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "graph.json").write_text(json.dumps(_as_json(report), indent=2) + "\n", "utf-8")
    (folder / "unreached_items.txt").write_text("".join(f"{item_id}\n" for item_id in unreached), "utf-8")
    try:
        draw_report(report, counts, folder / "graph.png")
    except MissingLibrary as error:
        note(str(error))


def _show(report: "GraphReport", out: Path) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    click.echo(f"graph {report.version} in {out}")
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("", "least", "5 %", "median", "95 %", "most", "mean"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    rows: dict[str, Spread] = {
        "clusters of an item": report.clusters_of_item,
        "items of a cluster": report.items_of_cluster,
        "users of a cluster": report.users_of_cluster,
    }
    for label, found in rows.items():
        counts = (found.least, found.p05, found.p50, found.p95, found.most)
        table.add_row(label, *(f"{count:,}" for count in counts), f"{found.mean:,.1f}")
    Console().print(table)
    click.echo(f"{report.n_clusters:,} clusters, {report.n_items:,} items, {report.n_edges:,} edges")
    click.echo(f"coverage {report.coverage:.2%}: {report.items_without_cluster:,} items are in no cluster")
    by_w = ", ".join(f"{width}: {share:.1%}" for width, share in report.coverage_by_w.items())
    click.echo(f"coverage by W: {by_w}")
    looked = f"{report.users_looked_at:,} users with {report.clusters_per_user} clusters each"
    click.echo(f"items that none of {looked} can reach: {report.items_unreached:,}")
    click.echo(f"clusters that none of them has: {report.clusters_without_users:,}")
    click.echo(f"the best connected 1 % of items hold {report.top_percent_share:.1%} of the edges")
