"""`watch.batches`: the training loop's loader, with somebody beside it who takes notes.

A loader that is trained on can be told to leave batches out, and to go back to an earlier place.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from sentinel.errors import ControlError
from sentinel_hooks.data_order import Order
from sentinel_hooks.notes import Notes
from sentinel_hooks.probes.fingerprint import fingerprint
from sentinel_hooks.probes.source import Source

MAX_PASSES = 64  # over one loader that can be gone back to

B = TypeVar("B")

Ids = Callable[[B], object]
_END = object()


@dataclass(frozen=True)
class Place:
    """Behind the first `position` batches of a pass over a loader.

    `batch` is the fingerprint of the last of them, "" where it is not known.
    """

    number: int
    position: int
    batch: str = ""


@dataclass
class _Begun:
    """A pass that was begun: in which order, and how many batches it has given."""

    order: Order | None
    given: int = 0


class Batches(Generic[B]):
    """A loader that is iterated as before, as often as before.

    `position` is the number of batches that the latest iterator has taken, those that were skipped
    included; `passes` how many iterators there were. After data were rewound they say which pass
    is gone through again. All else that is asked of it is asked of the loader.
    """

    def __init__(self, loader: Iterable[B], notes: Notes, ids: Ids[B] | None) -> None:
        self.loader = loader
        self.position = 0
        self.passes = 0
        self.trained = False  # a batch of it was trained on
        self._notes = notes
        self._ids = ids
        self._newest = 0
        self._skips = 0  # batches to be thrown away
        self._begun: dict[int, _Begun] = {}
        self._live: list[weakref.ref[_Pass[B]]] = []

    def __iter__(self) -> Iterator[B]:
        return self._begin()

    def _begin(self) -> _Pass[B]:
        self._newest += 1
        self._begun[self._newest] = _Begun(self._notes.order(self.loader))
        self._begun.pop(self._newest - MAX_PASSES, None)
        self.position, self.passes = 0, self._newest
        begun = _Pass(self, self._newest)
        self._live = [one for one in self._live if one() is not None] + [weakref.ref(begun)]
        return begun

    def __getattr__(self, name: str) -> object:
        if name == "loader":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self.loader, name)

    def _ids_of(self, batch: object) -> object:
        ids = self._ids
        said = [] if ids is None else self._notes.ask(lambda: ids(cast(B, batch)))
        if not said:
            self._ids = None  # it raised: it is not asked again
        return said[0] if said else ()

    # What may be ordered while nobody asks for a batch.

    def present(self) -> _Pass[B] | None:
        """The pass that goes on and is trained on, if there is one."""
        passes = [one for reference in self._live if (one := reference()) is not None]
        trained = [one for one in passes if one.source.trained and not one.source.over]
        self.trained = self.trained or bool(trained)
        return trained[-1] if trained else None

    def place(self) -> Place:
        """Where the loop is."""
        passes = [one for reference in self._live if (one := reference()) is not None]
        going = self.present() or next((p for p in reversed(passes) if not p.source.over), None)
        if going is None:
            return Place(self._newest + 1, 0)
        return Place(going.number, going.position, going.source.batch)

    def skip(self, count: int) -> None:
        """Take the next `count` batches from the loader and throw them away."""
        self._skips += count

    def take_back(self, count: int) -> None:
        """Skip so many less, of those that are still to be skipped."""
        self._skips -= min(count, self._skips)

    def cannot_rewind(self, place: Place) -> str:
        """Why the loop cannot be sent back there, or nothing."""
        if isinstance(self.loader, Iterator) and not isinstance(self.loader, Sized):
            return "the loader is an iterator, which cannot be gone through again"
        if self.present() is None:
            return "no loop that is trained on goes over the loader now"
        begun = [self._begun.get(one) for one in range(place.number, self._newest + 1)]
        if None in begun[:1]:
            return f"pass {place.number} over the loader is too long ago"
        if any(one is None or one.order is None for one in begun):
            return "the order of the loader could not be read"
        return ""

    def rewind(self, place: Place) -> None:
        """Go on behind that place, in the iterator that the loop has. Raises `ControlError`."""
        present = self.present()
        if present is None or (why := self.cannot_rewind(place)):
            raise ControlError(why if present else "no loop goes over the loader now")
        present.rewind(place, self._newest)
        self._skips = 0

    # What a pass asks.

    def order_of(self, number: int) -> Order:
        """In which order this pass was begun. Raises `ControlError`."""
        begun = self._begun.get(number)
        if begun is None or begun.order is None:
            raise ControlError(f"pass {number} over the loader cannot be begun again")
        return begun.order

    def given_in(self, number: int) -> int:
        """How many batches this pass gave before the next one was begun."""
        return self._begun[number].given

    def gave(self, number: int, position: int) -> None:
        """This pass has come so far."""
        self.passes, self.position = number, position
        if (begun := self._begun.get(number)) is not None:
            begun.given = max(begun.given, position)

    def is_to_skip(self, one: _Pass[B]) -> bool:
        """Whether the batch that this pass has taken is to be thrown away; counts it."""
        if not self._skips or self.present() not in (None, one):
            return False
        self._skips -= 1
        return True


class SizedBatches(Batches[B]):
    """Of a loader that has a length."""

    def __len__(self) -> int:
        return len(cast(Sized, self.loader))


class BatchIterator(Batches[B]):
    """Of what is an iterator itself, and is read but once."""

    def __init__(self, loader: Iterator[B], notes: Notes, ids: Ids[B] | None) -> None:
        super().__init__(loader, notes, ids)
        self._pass: _Pass[B] | None = None

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        if self._pass is None:
            self._pass = self._begin()
        return next(self._pass)


class SizedBatchIterator(BatchIterator[B], SizedBatches[B]):
    """Of one that has a length too, such as DeepSpeed's loader: `iter` begins it anew."""

    def __iter__(self) -> Iterator[B]:
        self._pass = self._begin()
        return self


class _Pass(Iterator[B]):
    """One pass over the loader. What the loader raises passes untouched.

    After `rewind` it goes through what is left of an earlier pass, then through those that
    followed it, and ends where it would have ended.
    """

    def __init__(self, owner: Batches[B], number: int) -> None:
        self.number = number
        self.position = 0
        self.source = Source(owner._ids_of if owner._ids else None)
        self._owner = owner
        self._notes = owner._notes
        self._last = number  # the pass that the loop believes to be in
        self._limit = -1  # batches of this pass, while a later one follows it
        self._ahead: list[B] = []
        began = self._notes.began()
        self._inner = iter(owner.loader)  # may start worker processes, which takes its time
        self._notes.waited(self.source, began)

    def __next__(self) -> B:
        self._owner.trained = self._owner.trained or self.source.trained
        began = self._notes.began()
        try:
            batch = self._take()
            while self._owner.is_to_skip(self):
                batch = self._take()
        except StopIteration:
            self.source.over = True
            raise
        self._notes.waited(self.source, began)
        self._notes.came(self.source, batch)
        return batch

    def _take(self) -> B:
        while True:
            if self.position != self._limit:
                try:
                    batch = self._ahead.pop() if self._ahead else next(self._inner)
                except StopIteration:
                    if self.number == self._last:
                        raise
                else:
                    self.position += 1
                    self._owner.gave(self.number, self.position)
                    return batch
            self._begin_again(Place(self.number + 1, 0))

    def rewind(self, place: Place, last: int) -> None:
        """Go on behind this place, and end with pass `last`. Raises `ControlError`."""
        before, self._last = self._last, last
        try:
            self._begin_again(place)
        except BaseException:
            self._last = before
            raise
        self._owner.gave(self.number, self.position)

    def _begin_again(self, place: Place) -> None:
        """Put an iterator that has come to this place in place of the present one."""
        with self._owner.order_of(place.number).again():
            inner = iter(self._owner.loader)
            batch: object = None
            for count in range(place.position):
                batch = next(inner, _END)
                if batch is _END:
                    raise ControlError(f"the loader gave {count} batches, not {place.position}")
            if place.batch and fingerprint(batch) not in ("", place.batch):
                raise ControlError(
                    f"the loader gives other batches than before: its {place.position}th in pass "
                    f"{place.number} was {place.batch}, and is {fingerprint(batch)} now"
                )
            ahead = _END if place.position else next(inner, _END)
        self._inner, self.number, self.position = inner, place.number, place.position
        self._ahead = [] if ahead is _END else [cast(B, ahead)]
        self._limit = -1 if place.number == self._last else self._owner.given_in(place.number)


def watched(loader: Iterable[B], notes: Notes, ids: Ids[B] | None) -> Batches[B]:
    """The loader with these notes taken beside it; it has a length, or a `next`, if it had one."""
    if isinstance(loader, Batches):
        return loader
    sized = isinstance(loader, Sized)
    if isinstance(loader, Iterator):
        return (SizedBatchIterator if sized else BatchIterator)(loader, notes, ids)
    return (SizedBatches if sized else Batches)(loader, notes, ids)
