"""What a graph costs to build, over items and clusters: `python -m benchmarks.corpus [--quick] [--write FOLDER]`.

Invariants: every size is built in a process of its own, so that its peak of memory is its own; processor seconds
are of all threads together, so that another load on the machine counts little.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bandits.graph import Float32
from bandits.simulator.world import Float64, directions
from benchmarks.measure import machine
from streams.corpus.build import build_corpus
from streams.corpus.clusters import USERS_PER_CLUSTER, ClusterSettings

DIM, TOP_W, TASTES = 64, 200, 500
ITEMS_OVER = [(1_000, items) for items in (10_000, 30_000, 100_000, 300_000, 1_000_000)]
CLUSTERS_OVER = [(clusters, 100_000) for clusters in (250, 500, 1_000, 2_000, 4_000)]
LARGEST = [(4_000, 1_000_000)]
QUICK = [(8, 300), (8, 600), (16, 300)]
CLUSTERING, JOINING = "clustering users", "joining items"
_LONGEST_S = 600
_BLOCK = 10_000


@dataclass(frozen=True)
class Cost:
    """What one size cost.

    Attributes:
        clusters, items: the size.
        cpu_s: processor seconds by stage.
        input_mib: memory of the embeddings.
        peak_mib: most memory of the process, libraries and input included.
        wall_s: seconds of the build.
    """

    clusters: int
    items: int
    cpu_s: dict[str, float]
    input_mib: float
    peak_mib: float
    wall_s: float


def build(clusters: int, items: int) -> Cost:
    """Build one graph of directions around `TASTES` tastes, 50 users a cluster, in this process."""
    rng = np.random.default_rng(0)
    tastes = directions(rng.standard_normal((TASTES, DIM)))
    users = _around(tastes, USERS_PER_CLUSTER * clusters, rng)
    corpus = _around(tastes, items, rng)
    spent: dict[str, float] = {}

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        began_s = time.process_time()
        yield lambda done: None
        spent[label] = time.process_time() - began_s

    began_s = time.perf_counter()
    build_corpus(
        users=users,
        items=corpus,
        item_ids=[f"item-{number}" for number in range(items)],
        clusters=ClusterSettings(n_clusters=clusters),
        top_w=TOP_W,
        stage=stage,
    )
    wall_s = time.perf_counter() - began_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(clusters, items, spent, (users.nbytes + corpus.nbytes) / 2**20, peak_mib, wall_s)


def _around(tastes: Float64, n: int, rng: np.random.Generator) -> Float32:
    """Directions around tastes, block by block, so that making them takes less memory than the build."""
    rows = np.empty((n, DIM), np.float32)
    for start in range(0, n, _BLOCK):
        block = rows[start : start + _BLOCK]
        noise = rng.standard_normal(block.shape) / DIM**0.5
        block[:] = directions(tastes[rng.integers(0, TASTES, len(block))] + noise)
    return rows


def measure(sizes: Sequence[tuple[int, int]], *, tell: Callable[[str], None]) -> list[Cost]:
    """Build every size in a process of its own."""
    costs = []
    for clusters, items in sizes:
        tell(f"{clusters:,} clusters, {items:,} items ...")
        command = [sys.executable, "-m", "benchmarks.corpus", "--one", str(clusters), str(items)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=_LONGEST_S)
        costs.append(Cost(**json.loads(done.stdout)))
    return costs


def table(costs: Sequence[Cost]) -> str:
    """The costs as Markdown."""
    lines = [
        "| clusters | items | k-means | joining items | graph | wall clock | memory, of which input |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cost in costs:
        stages = (cost.cpu_s[CLUSTERING], cost.cpu_s[JOINING], cost.cpu_s["building the graph"], cost.wall_s)
        seconds = " | ".join(f"{value:.1f} s" for value in stages)
        memory = f"{cost.peak_mib:,.0f} MiB, {cost.input_mib:,.0f}"
        lines.append(f"| {cost.clusters:,} | {cost.items:,} | {seconds} | {memory} |")
    return "\n".join(lines)


def draw(over_items: Sequence[Cost], over_clusters: Sequence[Cost], path: Path) -> None:
    """Processor seconds by stage and memory, over items and over clusters."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "freshet", "font.size": 9}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, costs, name in ((axes[0], over_items, "items"), (axes[1], over_clusters, "clusters")):
            sizes = [getattr(cost, name) for cost in costs]
            for label in (CLUSTERING, JOINING):
                axis.plot(sizes, [cost.cpu_s[label] for cost in costs], marker="o", label=label)
            axis.set(xscale="log", yscale="log", xlabel=name, ylabel="processor seconds")
            axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            memory = axis.twinx()
            memory.plot(sizes, [cost.peak_mib for cost in costs], color="gray", linestyle=":", label="memory")
            memory.set(ylabel="MiB", ylim=(0, None))
            axis.plot([], [], color="gray", linestyle=":", label="peak memory (right)")
            axis.legend()
        axes[0].set_title(f"over items, {over_items[0].clusters:,} clusters")
        axes[1].set_title(f"over clusters, {over_clusters[0].items:,} items")
        figure.savefig(path, metadata={"Date": None})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="draw corpus-build.svg there")
    parser.add_argument("--one", type=int, nargs=2, metavar=("CLUSTERS", "ITEMS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(asdict(build(*options.one))))
        return 0
    named, sizes = machine(), QUICK if options.quick else list(dict.fromkeys(ITEMS_OVER + CLUSTERS_OVER + LARGEST))
    costs = measure(sizes, tell=lambda line: print(line, file=sys.stderr, flush=True))
    found: dict[tuple[int, int], Any] = {(cost.clusters, cost.items): cost for cost in costs}
    print(f"{named}\n\n{table(costs)}")
    if options.write:
        over_items, over_clusters = (QUICK[:2], QUICK[::2]) if options.quick else (ITEMS_OVER, CLUSTERS_OVER)
        path = options.write / "corpus-build.svg"
        draw([found[size] for size in over_items], [found[size] for size in over_clusters], path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
