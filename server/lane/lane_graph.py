"""What compiled reading of requests must know of a graph: its ids, and its centroids.

Invariant: it belongs to one graph, whose arrays it keeps alive.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from bandits.graph import Graph
from bandits.numba_addresses import addresses, row
from server.lane.id_index import IdIndex


class LaneGraph:
    """A graph as the compiled loops of a call take it.

    Args:
        graph: the graph.

    Attributes:
        graph: the graph.
        centroids: row of `bandits.numba_context.CENTROIDS`.
        largest: magnitude of any number in the centroids.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._centroids = np.ascontiguousarray(graph.centroids, np.float32)
        self.centroids = row([*addresses(self._centroids), graph.n_clusters, self._centroids.shape[1]])
        self.largest = float(max(self._centroids.max(initial=0), -self._centroids.min(initial=0)))

    @cached_property
    def _ids(self) -> IdIndex:
        return IdIndex(self.graph)

    @property
    def index(self) -> npt.NDArray[np.int64]:
        """Row of `server.lane.find_ids.INDEX`; finding ids is prepared when it is asked for first."""
        return self._ids.row
