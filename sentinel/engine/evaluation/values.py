"""What expressions are evaluated to, over all labels at once, and on what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from sentinel.engine.language.expression import Reading
from sentinel.engine.window import Bools, Floats


class Values(NamedTuple):
    """The elements of a number. Where `missing`, the value means nothing."""

    values: Floats
    missing: Bools

    def of_label(self, index: int | None) -> Values:
        """Those of one index along the first axis, which are missing where that is not known."""
        if index is not None and index < len(self.values):
            return Values(np.asarray(self.values[index]), np.asarray(self.missing[index]))
        rest = self.values.shape[1:]
        return Values(np.full(rest, np.nan), np.ones(rest, bool))


class Truths(NamedTuple):
    """The elements of a condition; never both true and missing."""

    true: Bools
    missing: Bools


class Source(Protocol):
    """What was measured at one step."""

    def read(self, reading: Reading) -> Values:
        """The signal's elements at this step; all of them missing when nobody measures it."""
        ...


@runtime_checkable
class Clock(Protocol):
    """A moment that also knows how long ago things were measured."""

    def since(self, reading: Reading) -> Values:
        """The seconds since each of the signal's elements was measured, missing if never."""
        ...


Result = TypeVar("Result", Values, Truths)


class Operator(Generic[Result]):
    """A function of the step, evaluated once for each."""

    def __init__(self, function: Callable[[Source], Result]) -> None:
        self._function: Callable[[Source], Result] = function
        self._last: tuple[Source, Result] | None = None

    def __call__(self, source: Source) -> Result:
        if self._last is None or self._last[0] is not source:
            self._last = (source, self._function(source))
        return self._last[1]
