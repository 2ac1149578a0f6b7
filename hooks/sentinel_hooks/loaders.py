"""The loaders that the training loops of this process take their batches from."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import cast

from sentinel.errors import ControlError
from sentinel_hooks.batches import B, Batches, Place

MAX_MARKS = 256  # checkpoints whose place in the data is remembered

_UNWATCHED = (
    "no loader is known to be trained on: the loop must take its batches through watch.batches"
)


@dataclass(frozen=True)
class _Mark:
    """Where a loader was when a checkpoint was saved."""

    loader: weakref.ref[Batches[object]]
    place: Place
    trained: bool  # and it was being trained on


class Loaders:
    """All that went through `watch.batches`. Only those that are trained on are meddled with."""

    def __init__(self) -> None:
        self._all: list[weakref.ref[Batches[object]]] = []
        self._marks: dict[str, list[_Mark]] = {}

    def add(self, batches: Batches[B]) -> None:
        """One more; it is not kept alive."""
        living = [one for one in self._all if one() not in (None, batches)]
        self._all = [*living, weakref.ref(cast(Batches[object], batches))]

    def _living(self) -> list[Batches[object]]:
        return [one for reference in self._all if (one := reference()) is not None]

    def _trained(self) -> list[Batches[object]]:
        """Those that a loop over them trains on now; between two passes, those it trained on."""
        now = [one for one in self._living() if one.present() is not None]
        return now or [one for one in self._living() if one.trained]

    def mark(self, tag: str) -> None:
        """A checkpoint of this name was saved: remember where the data are."""
        self._marks.pop(tag, None)
        self._marks[tag] = [
            _Mark(weakref.ref(one), one.place(), one.present() is not None)
            for one in self._living()
        ]
        while len(self._marks) > MAX_MARKS:
            del self._marks[next(iter(self._marks))]

    def cannot_skip(self) -> str:
        """Why no batches can be skipped, or nothing."""
        return "" if self._trained() else _UNWATCHED

    def skip(self, count: int) -> None:
        """Leave out the next `count` batches of each. Raises `ControlError`."""
        if why := self.cannot_skip():
            raise ControlError(why)
        for one in self._trained():
            one.skip(count)

    def take_back(self, count: int) -> None:
        """Skip so many less."""
        for one in self._trained():
            one.take_back(count)

    def cannot_rewind(self, tag: str) -> str:
        """Why the data cannot be sent back to where they were at this checkpoint, or nothing."""
        try:
            targets = self._targets(tag)
        except ControlError as error:
            return str(error)
        return next((why for one, place in targets if (why := one.cannot_rewind(place))), "")

    def rewind(self, tag: str) -> None:
        """Send every loader that is trained on back to it. Raises `ControlError`."""
        if why := self.cannot_rewind(tag):
            raise ControlError(why)
        for one, place in self._targets(tag):
            one.rewind(place)

    def _targets(self, tag: str) -> list[tuple[Batches[object], Place]]:
        marks = self._marks.get(tag)
        if marks is None:
            raise ControlError(f"where the data were at {tag!r} is not known to this process")
        trained = self._trained()
        if not trained:
            raise ControlError(_UNWATCHED)
        if any(one.trained and one.loader() not in trained for one in marks):
            raise ControlError(f"a loader that was trained on at {tag!r} is so no more")
        places = {id(one.loader()): one.place for one in marks}
        return [(one, places.get(id(one), Place(1, 0))) for one in trained]
