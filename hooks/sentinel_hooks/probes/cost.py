"""What Sentinel itself costs."""

from __future__ import annotations

from collections.abc import Sequence

from sentinel.wire import Series
from sentinel_hooks.probes.fence import Stopwatch
from sentinel_hooks.probes.probe import Barrier, Probe, Sample


class CostProbe(Probe):
    """Host seconds spent in our own code since the last step's reading.

    The last of the probes, so that what the others take at this boundary counts for this step
    (all but the handing over of the sample itself, which counts for the next).
    """

    name = "own cost"
    signals = ("monitor_seconds",)

    def __init__(self) -> None:
        self._first = 0
        self._stopwatch: Stopwatch | None = None

    def series(self) -> Sequence[Series]:
        return (Series("monitor_seconds"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first
        self._stopwatch = barrier.cost
        self._stopwatch.take()

    def read(self, sample: Sample) -> None:
        if self._stopwatch is not None:
            sample.put(self._first, self._stopwatch.take())
