"""Recorded messages as one block of bytes.

Each entry is the time (float64), the rank (uint32) and the length (int32; -1: the connection
ended), little endian, then the message's body. Blocks are compressed with zlib's lowest level,
which halves frames whose values come from float32 at 45 MB/s on one core, and are stored as they
are where that gains less than a tenth.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from sentinel.errors import StateError

STORED: Literal[0] = 0
ZLIB: Literal[1] = 1

DAEMON = (1 << 32) - 1  # in the place of a rank: what the daemon itself did
_HEAD = struct.Struct("<dIi")
_ENDED = -1


class Recorded(NamedTuple):
    """One message body of a rank at `now` (s); `body` None: its connection ended.

    With `DAEMON` for a rank it is an event of the daemon's own (see engine/event.py).
    """

    now: float
    rank: int
    body: bytes | None


def size(entry: Recorded) -> int:
    """Bytes that an entry takes in a block, before compression."""
    return _HEAD.size + len(entry.body or b"")


def pack(entries: Iterable[Recorded]) -> tuple[int, bytes]:
    """A block and how it is stored."""
    parts: list[bytes] = []
    for now, rank, body in entries:
        parts.append(_HEAD.pack(now, rank, _ENDED if body is None else len(body)))
        parts.append(body or b"")
    plain = b"".join(parts)
    squeezed = zlib.compress(plain, 1)
    return (ZLIB, squeezed) if len(squeezed) < 0.9 * len(plain) else (STORED, plain)


def unpack(codec: int, block: bytes) -> Iterator[Recorded]:
    """The entries of a block, in order. Raises `StateError` when it is damaged."""
    try:
        plain = zlib.decompress(block) if codec == ZLIB else block
        start = 0
        while start < len(plain):
            now, rank, length = _HEAD.unpack_from(plain, start)
            start += _HEAD.size
            if length == _ENDED:
                yield Recorded(now, rank, None)
                continue
            if length < 0 or start + length > len(plain):
                raise StateError(f"a recorded block is damaged at byte {start}")
            yield Recorded(now, rank, plain[start : start + length])
            start += length
    except (zlib.error, struct.error) as error:
        raise StateError(f"a recorded block is damaged: {error}") from error


def opens(body: bytes | None) -> bool:
    """Whether this is a `Hello`, or the daemon's beginning: what follows rests on it."""
    return body is not None and (b"\xa5hello" in body[:9] or b"\xa5began" in body[:9])
