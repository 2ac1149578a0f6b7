"""What the sampler says of the GPUs of its node, and the file in which it says it.

The file is replaced whole, so that a reader never sees half of one; a reader that finds something
else there takes it for no report at all. Moments are seconds on the machine's monotonic clock.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

MAX_FILE = 1 << 20  # bytes
MAX_EVENTS = 16  # Xid events that are kept of one GPU

_Text = Annotated[str, Meta(max_length=500)]


class XidEvent(Struct, frozen=True, array_like=True):
    """An Xid error of a GPU, and when it was heard of."""

    code: int
    at: float


class Gpu(Struct, frozen=True, array_like=True):
    """One GPU, as it was last read.

    `uuid` and `bus` (PCI: domain:bus:device) name it, `parts` are the UUIDs of its MIG devices.
    `values` are by signal, or `signal|label`; `reasons` tell why a signal is not among them.
    `at` is when the reading was complete, 0 before the first one. `hanging` names a call that has
    not returned for so long that the reading is overdue.
    """

    index: int
    uuid: _Text
    bus: _Text
    parts: Annotated[tuple[_Text, ...], Meta(max_length=64)] = ()
    at: float = 0.0
    values: Annotated[dict[_Text, float], Meta(max_length=256)] = {}
    reasons: Annotated[dict[_Text, _Text], Meta(max_length=256)] = {}
    events: Annotated[tuple[XidEvent, ...], Meta(max_length=MAX_EVENTS)] = ()
    hanging: _Text = ""


class Report(Struct, frozen=True, array_like=True):
    """All GPUs of a node, or in `trouble` why none can be read.

    `interval` is how many seconds lie between two readings; `lasting`: the trouble will not go
    away by waiting.
    """

    interval: float
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=256)] = ()
    trouble: _Text = ""
    lasting: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Report)


def write(path: Path, report: Report) -> None:
    """Put this report in place of the one before. Raises `OSError`."""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _encoder.encode(report))
    finally:
        os.close(descriptor)
    os.replace(fresh, path)


class Reader:
    """Looks at a report again and again; reads it only when it is another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._report: Report | None = None

    def read(self) -> Report | None:
        """The newest report; None when there is none, or nothing that can be understood."""
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                self._report = None
                self._seen = seen
                with open(self._path, "rb") as file:
                    self._report = _decoder.decode(file.read(MAX_FILE))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            self._report = None
        return self._report
