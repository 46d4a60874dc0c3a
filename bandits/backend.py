"""The places where sums are kept and read: NumPy as the reference, Numba as the fast CPU path.

Invariant: every backend gives the same bits; only their speed differs.
"""

from typing import Protocol

from bandits.backend_numpy import NumpyBackend
from bandits.context import Context
from bandits.graph import Graph
from bandits.policies import CandidateSums
from bandits.sums import Facts, Int32, Sums


class Backend(Protocol):
    """What a backend can do."""

    name: str

    def add(self, graph: Graph, sums: Sums, facts: Facts) -> None:
        """Add a micro-batch to the sums, in place. Pairs without an edge change only n and s of the item."""

    def gather(self, graph: Graph, sums: Sums, items: Int32, context: Context) -> CandidateSums:
        """Sums of candidates in a context, in natural units.

        Args:
            graph: the graph that numbers `items` and orders `sums`.
            sums: the sums.
            items: int32 of shape (n,), item numbers within the graph.
            context: K clusters and their weights.

        Returns:
            Columns of shape (n, K) and (n,); zero where the graph has no edge.
        """


def choose_backend(name: str = "auto", *, extended: bool = False) -> Backend:
    """Backend by name; "auto" takes the fastest that this machine has.

    Args:
        name: "auto", "numba" or "numpy".
        extended: True if facts will open and close impressions, or have positions or an age: what that needs is
            compiled now, so that no feedback waits for it.

    Raises:
        ValueError: no backend has this name.
    """
    if name == "numpy":
        return NumpyBackend()
    if name in ("auto", "numba"):
        # Numba takes half a second to import and compiles on first use: only who needs it pays.
        from bandits.backend_numba import NumbaBackend

        return NumbaBackend(extended=extended)
    raise ValueError(f'backend: expected "auto", "numba" or "numpy", got "{name}"')
