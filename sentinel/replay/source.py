"""The bytes of a log, from a file or a pipe, packed or not, as lines of text."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from sentinel.errors import ReplayError

MAX_LINE = 1 << 20  # characters
MAX_HEAD = 1 << 20  # bytes looked at to tell the format
_BUFFER = 1 << 18
_GZIP = b"\x1f\x8b"
_STDIN = "-"


class Source:
    """One log's bytes, read once and in order: it may be a pipe that has not ended.

    `head` is how it begins, after unpacking. Use either `lines`, or `read`. Raises `ReplayError`.
    """

    def __init__(self, path: Path, notes: list[str]) -> None:
        self.name = "standard input" if str(path) == _STDIN else printable(str(path))
        self.line = 0  # the last one that was given out
        self._notes = notes
        self._done = 0
        try:
            self._file: BinaryIO = (
                os.fdopen(0, "rb", buffering=0, closefd=False)
                if str(path) == _STDIN
                else path.open("rb", buffering=0)
            )
            status = os.fstat(self._file.fileno())
            self._size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}") from None
        self._more: Callable[[int], bytes] = self._from_file
        self.head = b""
        self.look(2)
        if self.head.startswith(_GZIP):
            packed = io.BufferedReader(_Stream(self.head, self._from_file), _BUFFER)
            self._more = gzip.GzipFile(fileobj=packed).read1
            self.head = b""

    def look(self, size: int) -> bytes:
        """The first bytes, as many as these if there are; they are read again afterwards."""
        parts, known = [self.head], len(self.head)
        while known < size and (more := self.take(size - known)):
            parts.append(more)
            known += len(more)
        self.head = b"".join(parts)
        return self.head

    def look_on(self) -> bool:
        """Look at more, as it comes; whether there was more."""
        more = self.take(max(1 << 12, len(self.head)))
        self.head += more
        return bool(more)

    def lines(self) -> Iterator[str]:
        """Every line with its end. Bytes that are no text become U+FFFD."""
        stream = io.BufferedReader(_Stream(self.head, self.take), _BUFFER)
        encoding = "utf-16" if self.is_utf16 else "utf-8-sig"
        text = io.TextIOWrapper(stream, encoding=encoding, errors="replace")
        readline = text.readline
        while line := readline(MAX_LINE):
            self.line += 1
            yield line

    def read(self) -> BinaryIO:
        """All bytes from the beginning, for a format that is not text."""
        return io.BufferedReader(_Stream(self.head, self.take), _BUFFER)

    @property
    def is_utf16(self) -> bool:
        """Whether it is such text, as PowerShell writes it."""
        return self.head.startswith((b"\xff\xfe", b"\xfe\xff"))

    def progress(self) -> float | None:
        """The share of the file that has been read, or None for a pipe."""
        return min(1.0, self._done / self._size) if self._size else None

    def error(self, reason: str, line: int | None = None) -> ReplayError:
        """An error that says where."""
        return ReplayError(f"{self.name}{'' if line is None else f':{line}'}: {reason}")

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def _from_file(self, size: int) -> bytes:
        data = self._file.read(size) or b""
        self._done += len(data)
        return data

    def take(self, size: int) -> bytes:
        """The next bytes, at most so many; none at the end."""
        try:
            return self._more(size)
        except EOFError:
            self._notes.append(f"{self.name}: the packed file ends early: what was there was read")
            self._more = _nothing
            return b""
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self.error(f"damaged gzip data: {error}") from None
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror or error}") from None


def _nothing(size: int) -> bytes:
    return b""


class _Stream(io.RawIOBase):
    """What was looked at, and then the rest."""

    def __init__(self, first: bytes, more: Callable[[int], bytes]) -> None:
        self._first = first
        self._more = more

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        data = self._first[: len(view)] or self._more(len(view))
        self._first = self._first[len(view) :]
        view[: len(data)] = data
        return len(data)


def printable(text: str) -> str:
    """A file's name as text, whatever bytes it is made of."""
    return text.encode("utf-8", "replace").decode()
