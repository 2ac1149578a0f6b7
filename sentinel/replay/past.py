"""Past runs, wherever they come from: a daemon's recordings, and other tools' logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentinel.errors import ReplayError
from sentinel.replay import recorded
from sentinel.replay.log import moments, open_log
from sentinel.replay.messages import Moment
from sentinel.store.recording import FILE_NAME, Recording


@dataclass(frozen=True)
class Past:
    """One run that is over, to be read once.

    `progress` is the share that has been read, or None where that is not known. Only with a
    `clock` is it known when nothing happened. `notes` are what a person should know of how it was
    read; they grow while it is. `alone`: it is the only one of its file.
    """

    run: str
    moments: Iterator[Moment]
    progress: Callable[[], float | None]
    clock: bool
    notes: Sequence[str] = ()
    alone: bool = True


def open_past(file: Path, *, format: str, columns: Mapping[str, str]) -> Iterator[Past]:
    """The runs in a file or a state directory, each to be read before the next is asked for.

    `format` and `columns` are those of `open_log`. Raises `ReplayError`, `StateError`.
    """
    if (file / FILE_NAME).exists():
        yield from _recorded(file)
    else:
        log = open_log(file, format=format, columns=columns)
        yield Past(log.run, moments(log), log.progress, clock=False, notes=log.notes)


def _recorded(state_dir: Path) -> Iterator[Past]:
    recording = Recording.open(state_dir, readonly=True)
    try:
        if not (runs := recording.runs()):
            raise ReplayError(f"{state_dir}: no run was recorded here")
        for run in runs:
            reading = _Reading(state_dir, recording, run)
            alone = len(runs) == 1
            yield Past(run, iter(reading), reading.progress, clock=True, alone=alone)
    finally:
        recording.close()


class _Reading:
    """A recorded run, and how much of it has been read."""

    def __init__(self, state_dir: Path, recording: Recording, run: str) -> None:
        self._state_dir, self._recording, self._run = state_dir, recording, run
        self._total = max(1, recording.entries(run))
        self._read = 0

    def __iter__(self) -> Iterator[Moment]:
        try:
            for moment in recorded.moments(self._recording, self._run):
                self._read += 1
                yield moment
        except ReplayError as error:
            raise ReplayError(f"{self._state_dir}: {error}") from None

    def progress(self) -> float:
        return min(1.0, self._read / self._total)
