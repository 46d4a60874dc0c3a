"""A process that edits the graph of an embedded loop twelve times, with feedback between, and says how far it is.

python -m tests.streams.editing_process FOLDER
"""

import sys
import time
from pathlib import Path

from bandits.graph_edit import GraphEdit
from streams.embedded import LoopLimits
from tests.streams.loops import ITEMS, clicked, offer, settle, shown, started


def main(folder: Path) -> None:
    """See the module's head."""
    loop = started(folder, limits=LoopLimits(max_edited_items=3))
    for n in range(12):
        settle(offer(loop, shown(f"r{n}", *ITEMS, f"new-{n}"), clicked(f"r{n}", ITEMS[n % 6])))
        gone = [f"new-{n - 1}"] if n else []
        loop.edit_graph(GraphEdit(f"v1+{n}", [f"new-{n}"], [[n % 8]], retired=gone))
        sys.stdout.write(f"{n + 1}\n")
        sys.stdout.flush()
        time.sleep(0.02)  # for the artifact that is written anew in the background
    loop.stop(grace_s=30)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
