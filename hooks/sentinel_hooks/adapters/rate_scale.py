"""A factor on the learning rate that stays, whatever else sets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sentinel.errors import ControlError

Group = dict[str, object]  # of an optimizer


@dataclass(frozen=True)
class Rates:
    """The learning rates that a checkpoint was saved with: those of a schedule, and the factor."""

    factor: float
    unscaled: tuple[float, ...]


class RateScale:
    """Scales the learning rate of all groups and keeps it scaled, whoever else sets it.

    Between `relax` and `tighten`, while a trainer lets its scheduler step, the unscaled rates
    are there, so that schedules of both kinds go right: those that compute a rate anew and
    those that work on the one they find. Rates that a loop sets outside are looked at before
    each optimizer step: one that is closer to the unscaled rate than to what we left is taken
    for a schedule of its own and scaled; else it was made from ours and stays.
    """

    def __init__(self, groups: Callable[[], Sequence[Group]]) -> None:
        self._groups = groups
        self._factor = self._factor_before = 1.0
        self._unscaled: list[float] = []
        self._scaled: list[float] = []
        self._relaxed = False

    def scale(self, factor: float) -> None:
        """From now on, this many times the learning rate. Raises `ControlError`."""
        before = self._factor
        self._become(before * factor)
        self._factor_before = before

    def undo(self) -> None:
        """Take the last scaling back, as if it had never been asked for."""
        self._become(self._factor_before)

    def _become(self, factor: float) -> None:
        for group in self._groups():
            _rate(group)  # raises before anything is changed
        self.settle()
        self.relax()
        self._factor = factor
        self.tighten()

    def note(self) -> Rates | None:
        """What a checkpoint that is being saved is to be known by; None while nothing is scaled."""
        self.settle()
        return Rates(self._factor, tuple(self._unscaled)) if self._scaled else None

    def loaded(self, kept: Rates | None) -> None:
        """A checkpoint was loaded, after `relax`: go on with the factor it was saved with.

        `kept` is what `note` said when it was saved. None: its rates stand as they were loaded.
        """
        self._relaxed = False
        self._factor = self._factor_before = 1.0
        self._unscaled, self._scaled = [], []
        groups = self._groups()
        if kept is None or len(kept.unscaled) != len(groups):
            return
        self._factor = self._factor_before = kept.factor
        for group, rate in zip(groups, kept.unscaled, strict=True):
            _set(group, rate)
        self._relaxed = True
        self.tighten()

    def settle(self) -> None:
        """Before an optimizer step: scale what somebody else has set since the last one."""
        for place, (group, unscaled, left) in enumerate(
            zip(self._groups(), self._unscaled, self._scaled, strict=bool(self._scaled))
        ):
            rate = _rate(group)
            if rate == left:
                continue
            if left <= 0 or _apart(rate, unscaled) < _apart(rate, left):
                self._unscaled[place], self._scaled[place] = rate, rate * self._factor
                _set(group, rate * self._factor)
            else:
                self._unscaled[place], self._scaled[place] = rate / self._factor, rate

    def relax(self) -> None:
        """Put the unscaled rates back, for a scheduler that is about to step."""
        self._relaxed = True
        for group, rate in zip(self._groups(), self._unscaled, strict=bool(self._unscaled)):
            _set(group, rate)

    def tighten(self) -> None:
        """Scale the rates that the scheduler has left; nothing if they are scaled already."""
        relaxed, self._relaxed = self._relaxed, False
        if not relaxed or (self._factor == 1.0 and not self._scaled):
            return
        self._unscaled = [_rate(group) for group in self._groups()]
        self._scaled = [rate * self._factor for rate in self._unscaled]
        for group, rate in zip(self._groups(), self._scaled, strict=True):
            _set(group, rate)


def _rate(group: Group) -> float:
    rate = group["lr"]
    if isinstance(rate, Tensor | float | int):
        return float(rate)
    raise ControlError(f"a learning rate of type {type(rate).__name__} cannot be scaled")


def _set(group: Group, rate: float) -> None:
    old = group["lr"]
    if isinstance(old, Tensor):
        old.fill_(rate)
    else:
        group["lr"] = rate


def _apart(one: float, other: float) -> float:
    """How far two rates are apart, by their ratio."""
    if one <= 0 or other <= 0:
        return 0.0 if one == other else math.inf
    return abs(math.log(one / other))
