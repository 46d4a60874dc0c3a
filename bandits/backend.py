"""The places where sums are kept and read: NumPy as the reference, Numba as the fast CPU path, CuPy on a GPU.

Invariant: every backend gives the same bits; only their speed differs.
"""

from collections.abc import Callable
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


def _ignore(line: str) -> None:
    """Told nothing."""


BACKENDS = ("auto", "numba", "numpy", "cupy")


def choose_backend(
    name: str = "auto",
    *,
    extended: bool = False,
    gpu_crossover: int = 0,
    tell: Callable[[str], None] | None = None,
) -> Backend:
    """Backend by name; "auto" takes the fastest that this machine has.

    Args:
        name: "auto", "numba", "numpy" or "cupy".
        extended: True if facts will open and close impressions, or have positions or an age: what that needs is
            compiled now, so that no feedback waits for it.
        gpu_crossover: facts of a micro-batch from which on the GPU of this machine is faster, as `benchmarks.gpu`
            measures it; 0 = not measured, and "auto" does not look for a GPU.
        tell: is told, in one line, why a GPU is not used, or not any more: the processor goes on. None = a full GPU
            that was asked for by name is an error, `DeviceFull`, of whoever adds.

    Raises:
        ValueError: no backend has this name.
        NoDevice: "cupy" was asked for, and there is no GPU that can be used.
    """
    if name not in BACKENDS:
        raise ValueError(f'backend: expected one of {", ".join(BACKENDS)}, got "{name}"')
    if name == "numpy":
        return NumpyBackend()
    if name == "cupy" or (name == "auto" and gpu_crossover > 0):
        from bandits.cupy_device import NoDevice, open_device

        try:
            device = open_device()
        except NoDevice as error:
            if name == "cupy":
                raise
            if tell is not None:
                tell(f"no GPU is used, sums are added on the processor: {error}")
        else:
            from bandits.backend_cupy import CupyBackend

            strict = name == "cupy" and tell is None
            return CupyBackend(
                device, crossover_facts=gpu_crossover, strict=strict, extended=extended, tell=tell or _ignore
            )
    # Numba takes half a second to import and compiles on first use: only who needs it pays.
    from bandits.backend_numba import NumbaBackend

    return NumbaBackend(extended=extended)


def serving_backend(backend: Backend) -> Backend:
    """What single slates are filled by: the processor's part where a GPU adds; one slate is too little for it."""
    processor: Backend = getattr(backend, "processor", backend)
    return processor
