"""All that can happen to a run: what its ranks say, and what the daemon itself does.

The daemon hands everything to the engine through `take`, and keeps it as it does so; a replay
hands the same to another engine, which then says the same.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from sentinel.engine.run import RunEngine
from sentinel.engine.transition import Transition
from sentinel.errors import ReplayError
from sentinel.wire import Frame, FromRank


class Began(Struct, frozen=True, array_like=True, tag="began"):
    """An engine begins to judge the run; one that did before is gone.

    `clean_steps` make a checkpoint healthy. `continues`: it is the same job as before, so that an
    open incident is gone on with. `returns`: it is another that comes back after this step, and
    goes on with the incident alone. Otherwise that is closed. `step` is the one up to which the
    run's checkpoints were on record, or None when there was no such run.
    """

    clean_steps: int
    continues: bool = False
    step: int | None = None
    returns: int | None = None


class Ticked(Struct, frozen=True, array_like=True, tag="ticked"):
    """Time has passed."""


class Resumed(Struct, frozen=True, array_like=True, tag="resumed"):
    """The run was held and goes on."""


class Ended(Struct, frozen=True, array_like=True, tag="ended"):
    """The job has ended: no more will come."""


OfDaemon = Began | Ticked | Resumed | Ended
Happening = FromRank | Ticked | Resumed | Ended | None  # None: the rank's connection has ended

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[OfDaemon] = msgspec.msgpack.Decoder(OfDaemon)


def encode(event: OfDaemon) -> bytes:
    """An event of the daemon's, to be recorded."""
    return _encoder.encode(event)


def decode(body: bytes) -> OfDaemon:
    """What `encode` made this of. Raises `ReplayError`."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReplayError(
            f"a recorded event that this version of Sentinel does not know: {error}"
        ) from None


def take(engine: RunEngine, rank: int, event: Happening, now: float) -> list[Transition]:
    """Tell the engine what has happened; `rank` is the one that it happened to, if it did to one.

    Never raises for what a message says.
    """
    if isinstance(event, Frame):  # as nearly always
        return engine.feed(rank, event, now)
    if event is None:
        return engine.disconnected(rank, now)
    if isinstance(event, Ticked):
        return engine.tick(now)
    if isinstance(event, Ended):
        return engine.ended(now)
    if isinstance(event, Resumed):
        engine.resumed()
        return []
    return engine.feed(rank, event, now)
