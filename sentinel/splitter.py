"""Cuts what comes over a connection into messages (see `wire`)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sentinel.errors import WireError

MAX_MESSAGE = 4 * 1024 * 1024  # bytes of one message, without its length

_LENGTH = struct.Struct(">I")


class Splitter:
    """Cuts a stream of bytes into the bodies of messages of `limit` bytes at most."""

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield every message that `data` completes. Raises `WireError` on a length too great."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, start)
                if length > self.limit:
                    raise WireError(f"message of {length} bytes announced, limit is {self.limit}")
                end = start + _LENGTH.size + length
                if len(self._buffer) < end:
                    return
                body = bytes(self._buffer[start + _LENGTH.size : end])
                start = end
                yield body
        finally:
            del self._buffer[:start]
