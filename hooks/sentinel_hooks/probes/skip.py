"""Steps that did not change the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample


class SkipProbe(Probe):
    """Silently skipped steps, and those that an fp16 loss scaler skipped.

    `absent` names those of the two that this trainer does not show, with the reason.
    """

    name = "skipped steps"
    signals = ("skipped", "overflow")

    def __init__(self, absent: Mapping[str, str]) -> None:
        self._absent = {name: absent[name] for name in self.signals if name in absent}
        self._names = [name for name in self.signals if name not in absent]
        self._first = 0
        self._outcome: Outcome | None = None

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self._names]

    def missing(self) -> Mapping[str, str]:
        return self._absent

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def read(self, sample: Sample) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is None:
            return
        seen = {"skipped": outcome.skipped, "overflow": outcome.overflow}
        for index, name in enumerate(self._names, self._first):
            value = seen[name]
            if value is not None:
                sample.put(index, float(value))
