"""What a daemon recorded of a run, as what happened to it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from sentinel import wire
from sentinel.engine import event
from sentinel.errors import ReplayError, StateError, WireError
from sentinel.replay.messages import Moment
from sentinel.store.chunk import DAEMON, Recorded
from sentinel.store.recording import Recording

# What the daemon keeps to itself: its engine never heard of these.
_OTHERS = (wire.Standing, wire.Report, wire.BlackBoxPart, wire.Unknown)


def moments(recording: Recording, run: str) -> Iterator[Moment]:
    """All that the engine of a recorded run heard of. Raises `ReplayError`."""
    try:
        for number, entry in enumerate(recording.messages(run), 1):
            try:
                moment = _moment(entry)
            except (ReplayError, WireError) as error:
                raise ReplayError(f"run {run}, message {number}: {error}") from None
            if moment is not None:
                yield moment
    except StateError as error:
        raise ReplayError(f"run {run}: {error}") from None


def _moment(entry: Recorded) -> Moment | None:
    now, rank, body = entry
    if not math.isfinite(now):
        raise ReplayError("it has no time")
    if body is None:
        return Moment(now, rank, None)
    if rank == DAEMON:
        return Moment(now, rank, event.decode(body))
    message = wire.decode_from_rank(body)
    return None if isinstance(message, _OTHERS) else Moment(now, rank, message)
