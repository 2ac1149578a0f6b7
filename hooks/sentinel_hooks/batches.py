"""`watch.batches`: the training loop's loader, with somebody beside it who takes notes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Generic, TypeVar, cast

from sentinel_hooks.probes.mark import Mark, Marker
from sentinel_hooks.probes.panel import Panel
from sentinel_hooks.probes.source import Source

B = TypeVar("B")

Ids = Callable[[B], object]


class Notes:
    """Where a pass over a loader puts down what it sees; faults in doing so stay here."""

    def __init__(self, panel: Panel, marker: Marker, on_phase: Callable[[str], None]) -> None:
        self._panel = panel
        self._marker = marker
        self._on_phase = on_phase
        self._pid = os.getpid()

    def began(self) -> Mark | None:
        """The loop begins to wait for what comes next."""
        if os.getpid() != self._pid:  # a process forked off, such as a loader's worker
            return None
        marks: list[Mark] = []
        self._run(lambda: self._on_phase("data"))
        self._run(lambda: marks.append(self._marker.now()))
        return marks[0] if marks else None

    def waited(self, source: Source, began: Mark | None) -> None:
        """It waits no more."""
        if began is not None:
            self._run(lambda: source.waited((began, self._marker.now())))

    def came(self, source: Source, batch: object) -> None:
        """It got this batch."""
        if os.getpid() == self._pid:
            self._panel.batch_came(source, batch)

    def ask(self, ids: Callable[[], object]) -> list[object]:
        """What the caller's own function says; empty if it raised."""
        said: list[object] = []
        self._panel.fence.run("ids= of watch.batches", lambda: said.append(ids()))
        return said

    def _run(self, function: Callable[[], None]) -> None:
        self._panel.fence.run("watching the loader", function)


class Batches(Generic[B]):
    """A loader that is iterated as before, as often as before.

    `position` is the number of batches that the latest iterator has given, `passes` how many
    iterators there were. All else that is asked of it is asked of the loader.
    """

    def __init__(self, loader: Iterable[B], notes: Notes, ids: Ids[B] | None) -> None:
        self.loader = loader
        self.position = 0
        self.passes = 0
        self._notes = notes
        self._ids = ids

    def __iter__(self) -> Iterator[B]:
        self.position, self.passes = 0, self.passes + 1
        return _Pass(self.loader, self._notes, self._gave, self._ids_of if self._ids else None)

    def __getattr__(self, name: str) -> object:
        if name == "loader":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self.loader, name)

    def _gave(self, number: int) -> None:
        self.position = number

    def _ids_of(self, batch: object) -> object:
        ids = self._ids
        said = [] if ids is None else self._notes.ask(lambda: ids(cast(B, batch)))
        if not said:
            self._ids = None  # it raised: it is not asked again
        return said[0] if said else ()


class SizedBatches(Batches[B]):
    """Of a loader that has a length."""

    def __len__(self) -> int:
        return len(cast(Sized, self.loader))


class BatchIterator(Batches[B]):
    """Of what is an iterator itself, and is read but once."""

    def __init__(self, loader: Iterator[B], notes: Notes, ids: Ids[B] | None) -> None:
        super().__init__(loader, notes, ids)
        self._pass = super().__iter__()

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        return next(self._pass)


class _Pass(Iterator[B]):
    """One pass over the loader. What the loader raises passes untouched."""

    def __init__(
        self,
        loader: Iterable[B],
        notes: Notes,
        gave: Callable[[int], None],
        ids: Callable[[object], object] | None,
    ) -> None:
        self._notes = notes
        self._gave = gave
        self._count = 0
        self._source = Source(ids)
        began = notes.began()
        self._inner = iter(loader)  # may start worker processes, which takes its time
        notes.waited(self._source, began)

    def __next__(self) -> B:
        began = self._notes.began()
        try:
            batch = next(self._inner)
        except StopIteration:
            self._source.over = True
            raise
        self._notes.waited(self._source, began)
        self._notes.came(self._source, batch)
        self._count += 1
        self._gave(self._count)
        return batch


def watched(loader: Iterable[B], notes: Notes, ids: Ids[B] | None) -> Batches[B]:
    """The loader with these notes taken beside it; it has a length, or a `next`, if it had one."""
    if isinstance(loader, Batches):
        return loader
    if isinstance(loader, Iterator):
        return BatchIterator(loader, notes, ids)
    kind = SizedBatches if isinstance(loader, Sized) else Batches
    return kind(loader, notes, ids)
