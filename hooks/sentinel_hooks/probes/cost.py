"""What Sentinel itself costs, and what of its frames could not be sent."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from sentinel.signals import DROPS
from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample


class CostProbe(Probe):
    """Host seconds spent in our own code since the last step's reading, and their share of it.

    The last of the probes, so that what the others take at this boundary counts for this step
    (all but the handing over of the sample itself, which counts for the next). Nothing can be
    said of the share of the step in which it begins to measure.
    """

    name = "own cost"
    signals = ("monitor_seconds", "monitor_share", "monitor_queue", "monitor_dropped")

    def __init__(self) -> None:
        self._first = 0
        self._barrier: Barrier | None = None
        self._resumed: float | None = None

    def series(self) -> Sequence[Series]:
        plain = map(Series, self.signals[:3])
        return (*plain, *(Series("monitor_dropped", reason) for reason in DROPS))

    def start(self, first: int, barrier: Barrier) -> None:
        self._first, self._barrier = first, barrier
        barrier.cost.take()

    def resumed(self) -> None:
        self._resumed = perf_counter()

    def read(self, sample: Sample) -> None:
        barrier, resumed = self._barrier, self._resumed
        if barrier is None:
            return
        self._resumed = None
        cost = barrier.cost.take()
        sample.put(self._first, cost)
        if resumed is not None:
            sample.put(self._first + 1, cost / max(perf_counter() - resumed, 1e-9))
        sender = barrier.sender
        if sender is not None:
            sample.put(self._first + 2, sender.waiting)
            for index, reason in enumerate(DROPS, self._first + 3):
                sample.put(index, sender.dropped.get(reason, 0))
