"""The picture of a graph report: four distributions on one page."""

from pathlib import Path
from typing import Any

import numpy as np

from bandits.graph import Int64
from streams.corpus.errors import optional_library
from streams.corpus.report import GraphCounts, GraphReport


def draw_report(report: GraphReport, counts: GraphCounts, path: Path) -> None:
    """Draw degrees of items and clusters, users of clusters and coverage over W as a PNG file.

    Raises:
        MissingLibrary: matplotlib is not installed.
    """
    figures = optional_library("matplotlib.figure", needed_for="the picture", extra="graph")
    figure = figures.Figure(figsize=(11, 7), layout="constrained")  # without pyplot: no display, no global state
    axes = figure.subplots(2, 2)
    _histogram(axes[0, 0], counts.item_degree, "clusters of an item", "items")
    axes[0, 0].set_title(f"{report.items_without_cluster:,} of {report.n_items:,} items in no cluster")
    _histogram(axes[0, 1], counts.cluster_users, f"users with the cluster among their {counts.k}", "clusters")
    missed = f"{report.clusters_without_users:,} of {report.n_clusters:,} clusters"
    axes[0, 1].set_title(f"{missed} without users ({counts.n_users:,} looked at)")
    widths = list(report.coverage_by_w)
    axes[1, 0].plot(widths, [100 * report.coverage_by_w[width] for width in widths], marker="o")
    axes[1, 0].set(xlabel="items of a cluster (W)", ylabel="% of the corpus in a cluster", ylim=(0, 103))
    axes[1, 0].set_xscale("log", base=2)
    axes[1, 0].set_xticks(widths, [str(width) for width in widths])
    axes[1, 0].set_title(f"coverage {report.coverage:.1%}; {report.items_unreached:,} items unreached")
    ranked = np.sort(counts.item_degree)[::-1]
    share = np.cumsum(ranked) / max(1, ranked.sum())
    axes[1, 1].plot(np.arange(1, len(share) + 1) / len(share) * 100, share * 100)
    axes[1, 1].set(xlabel="% of items, best connected first", ylabel="% of edges", ylim=(0, 103))
    axes[1, 1].set_title(f"the best connected 1 % hold {report.top_percent_share:.1%} of the edges")
    figure.suptitle(f"{report.version}: {report.n_clusters:,} clusters, {report.n_edges:,} edges")
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _histogram(axis: Any, counts: Int64, what: str, of: str) -> None:
    edges = np.unique(np.rint(np.geomspace(1, counts.max() + 2, 30)).astype(int))
    axis.hist(counts + 1, bins=edges, color="tab:blue")  # by one to the right, so that zero has a place
    axis.set_xscale("log")
    marks = [mark for mark in (0, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 100_000) if mark <= counts.max()]
    axis.set_xticks([mark + 1 for mark in marks], [f"{mark:,}" for mark in marks])
    axis.minorticks_off()
    axis.set(xlabel=what, ylabel=of)
