"""A watched directory: the newest artifact that is placed in it is put in force, or refused with a reason.

Invariants: nothing is read of an artifact while its files still change; what was refused is looked at again only
when its files have changed; whatever lies in the directory, the server goes on with the graph that it has.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from bandits.artifact import DamagedGraph, read_manifest
from server.errors import Refused
from server.graph_changes import GraphChanges
from server.metrics import Metrics
from streams.artifact_dir import Signature, artifacts
from streams.embedded import LoopFailed
from streams.store import StoreError

OVERLAP = "overlap"  # folder within an artifact: the map that sums are inherited through


class GraphWatch:
    """Looks into a directory again and again.

    Args:
        directory: holds artifacts, each a directory.
        interval_s: seconds between looks.
        changes: put artifacts in force.
        seen: whether a version has been in force before; asked at the first look alone.
        metrics: where loads and refusals are counted.
        log: where they are told.
    """

    def __init__(
        self,
        directory: Path,
        *,
        interval_s: float,
        changes: GraphChanges,
        seen: Callable[[str], bool],
        metrics: Metrics,
        log: FilteringBoundLogger,
    ) -> None:
        self._directory = directory
        self._interval_s = interval_s
        self._changes = changes
        self._seen = seen
        self._metrics = metrics
        self._log = log
        self._first = True
        self._found: tuple[str, Signature] | None = None  # at the look before
        self._handled: tuple[str, Signature] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freshet-graph-watch", daemon=True)
        self.refusal = ""

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; a load that is under way is finished."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Look once, and load what is new and has not changed since the look before."""
        newest = next(iter(artifacts(self._directory)), None)
        if newest is None or newest == self._handled:
            return
        name, _ = newest
        if self._first and self._was_in_force(name):
            self._handled = newest
        elif newest == self._found:
            self._handled = newest if self._load(name) else None
        self._first = False
        self._found = newest

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.look()
            except OSError as error:
                self._log.warning("graph_dir cannot be read", error=str(error))

    def _was_in_force(self, name: str) -> bool:
        try:
            return self._seen(read_manifest(self._directory / name).version)
        except DamagedGraph:
            return False

    def _load(self, name: str) -> bool:
        """Whether the artifact is dealt with: in force, or refused."""
        overlap = f"{name}/{OVERLAP}" if (self._directory / name / OVERLAP).is_dir() else ""
        try:
            graph, switch = self._changes.load(name, overlap_path=overlap)
        except Refused as refused:
            self.refusal = refused.message
            self._metrics.graph_loads.labels(result="refused").inc()
            self._log.error("graph refused", artifact=name, reason=refused.message)
            return True
        except (LoopFailed, StoreError, OSError) as error:
            self._log.warning("graph not loaded", artifact=name, reason=str(error))
            return False
        self.refusal = ""
        self._metrics.graph_loads.labels(result="loaded").inc()
        self._log.info("graph loaded", artifact=name, version=graph.version, **vars(switch))
        return True
