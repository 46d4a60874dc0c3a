"""The GPU backend: large micro-batches are added where the sums live, on the device, all else on the processor.

Invariant: equal to the NumPy reference bit for bit, wherever a batch was added.

A batch goes to the device once, as packed columns, and its sums stay there until somebody reads them; then the rows
that have changed come back. So a fold of a long log, whose sums are read at its end, hardly moves them at all, and
a loop that publishes rows after every micro-batch moves those rows each time.
"""

from collections.abc import Callable

from bandits.backend_numba import NumbaBackend
from bandits.context import Context
from bandits.cupy_device import Device, DeviceFull
from bandits.cupy_sums import ResidentSums
from bandits.graph import Graph
from bandits.policies import CandidateSums
from bandits.sums import Facts, Int32, Sums

_SMALL_IN_A_ROW = 64  # batches below the crossover after which sums leave the device again


class CupyBackend:
    """Adds on a GPU, gathers on the processor.

    Args:
        device: the GPU.
        crossover_facts: batches of fewer facts are added by the processor; 0 = none.
        strict: raise where the device's memory is full; False = go on with the processor.
        extended: as of `bandits.backend.choose_backend`.
        tell: is told, in one line, when the device is given up.

    Attributes:
        processor: adds what the device does not, and gathers.
        facts_on_device: facts added on the device so far.
    """

    name = "cupy"

    def __init__(
        self,
        device: Device,
        *,
        crossover_facts: int = 0,
        strict: bool = True,
        extended: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.processor = NumbaBackend(extended=extended)
        self.device = device
        self.facts_on_device = 0
        self._crossover_facts, self._strict, self._tell = crossover_facts, strict, tell
        self._small = 0
        self._given_up = False

    def add(self, graph: Graph, sums: Sums, facts: Facts) -> None:
        """See `Backend.add`.

        Raises:
            DeviceFull: sums or batch do not fit, and the backend is strict; nothing has been added.
        """
        if self._takes(sums, facts):
            try:
                resident = sums.holder
                if not isinstance(resident, ResidentSums) or resident.device is not self.device:
                    sums.release()
                    resident = ResidentSums(self.device, graph, sums)
                capped = resident.add(facts)
            except DeviceFull as error:
                if self._strict:
                    raise
                self._given_up = True
                self._tell(f"{error}; sums are added on the processor from here on")
            else:
                sums.lend(resident)
                sums.saturated += capped
                self.facts_on_device += len(facts)
                return
        sums.release()
        self.processor.add(graph, sums, facts)

    def gather(self, graph: Graph, sums: Sums, items: Int32, context: Context) -> CandidateSums:
        """See `Backend.gather`; one slate is too little for a device, see `bandits.cupy_slates` for many."""
        return self.processor.gather(graph, sums.at_rest(), items, context)

    def _takes(self, sums: Sums, facts: Facts) -> bool:
        """Whether a batch is for the device: one that is large, or that comes between large ones."""
        if self._given_up or not facts.is_plain or not len(facts):
            return False
        if len(facts) >= self._crossover_facts:
            self._small = 0
            return True
        self._small += 1
        return sums.holder is not None and self._small <= _SMALL_IN_A_ROW
