"""Somebody who looks on while rules are judged, to explain them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sentinel.engine.evaluation.values import Source
from sentinel.engine.layout import Axis
from sentinel.engine.rule import Key


class Observer(Protocol):
    """Told of everything that an engine has just judged; must not change it."""

    def framed(self, key: Key, step: int) -> None:
        """The rules of frames have been judged by this frame of a rank."""

    def stepped(self, source: Source, axes: Mapping[str, Axis], step: int, now: float) -> None:
        """The rules of steps have been judged."""

    def ticked(self, source: Source, axes: Mapping[str, Axis], step: int, now: float) -> None:
        """The rules of the clock have been judged."""

    def went_back(self, step: int) -> None:
        """The run is about to do this step again, on what was known before it: see `Snapshots`."""
