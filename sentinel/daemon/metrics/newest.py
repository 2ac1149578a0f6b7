"""The newest values of a run: those of its last step, or of a former one where that has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sentinel.engine.derived import DERIVED, derive, sources
from sentinel.engine.evaluation.values import Values
from sentinel.engine.language.expression import Reading
from sentinel.engine.run import RunEngine
from sentinel.engine.step import JudgedStep
from sentinel.signals import CATALOG

_READINGS = {name: Reading(name) for name in CATALOG}


class Newest:
    """Reads the steps of a run as they are at one moment, nothing of them twice."""

    def __init__(self, engine: RunEngine, step: JudgedStep) -> None:
        self.step = step
        self._engine = engine
        self._found: dict[Reading, Values] = {}
        self._every: dict[str, int] = {}
        for rank in engine.ranks.values():
            for signal, every in rank.coverage.every.items():
                self._every[signal] = max(every, self._every.get(signal, 1))

    @property
    def sampled(self) -> Iterable[str]:
        """The signals that are not measured at every step."""
        return self._every.keys()

    def steps(self, signal: str) -> Sequence[JudgedStep]:
        """The steps that may have its newest value: also former ones, if it is not for every."""
        every = max(self._every.get(one, 1) for one in sources(signal)) if self._every else 1
        return (self.step,) if every == 1 else [*self._engine.recent.within(every - 1)]

    def values(self, signal: str) -> Values | None:
        """What the newest step has that has any of it."""
        found = self._read(_READINGS[signal])
        if _has_any(found):
            return found
        for former in self.steps(signal)[1:]:
            found = former.read(_READINGS[signal])
            if _has_any(found):
                return found
        return None

    def by_label(self, label: str) -> dict[str, Values]:
        """The same of all signals with this label."""
        names, whole = self.step.table(label)
        for name, values, missing in zip(names, *whole, strict=True):
            self._found[_READINGS[name]] = Values(values, missing)
        found = {name: self.values(name) for name in self.step.columns.with_label(label)}
        return {name: values for name, values in found.items() if values is not None}

    def _read(self, reading: Reading) -> Values:
        found = self._found.get(reading)
        if found is None:
            known = reading.signal in DERIVED
            found = derive(reading, self._read) if known else self.step.read(reading)
            self._found[reading] = found
        return found


def _has_any(found: Values) -> bool:
    return bool(np.count_nonzero(found.missing) < found.missing.size)  # much faster than all()
