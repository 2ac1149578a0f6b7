"""What a daemon recorded of a run, as what happened to it."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel import wire
from sentinel.replay.messages import Moment
from sentinel.store.recording import Recording

# What the daemon keeps to itself: its engine never heard of these.
_OTHERS = (wire.Standing, wire.Report, wire.Unknown)


def moments(recording: Recording, run: str) -> Iterator[Moment]:
    """All that the engine of a recorded run heard of."""
    for now, rank, body in recording.messages(run):
        message = None if body is None else wire.decode_from_rank(body)
        if not isinstance(message, _OTHERS):
            yield Moment(now, rank, message)
