"""A terminal for a command, as a person has one: a pty, its size, keys, and what was written."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from types import TracebackType

from tests.daemon.process import PATIENCE, environment

_NOTHING: Mapping[str, str] = {}
_CODES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class Terminal:
    """`with Terminal("top", "--state", ...) as terminal:`: `sentinel` runs in it.

    It has 80 columns and 24 lines. `written` is all that came, as it came.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str] = _NOTHING) -> None:
        self._outer, self._inner = pty.openpty()
        self._size(80, 24)
        self.before = termios.tcgetattr(self._inner)
        self.written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sentinel", *arguments],
            stdin=self._inner,
            stdout=self._inner,
            stderr=self._inner,
            env={
                **{k: v for k, v in environment().items() if k not in ("COLUMNS", "LINES")},
                "TERM": "xterm-256color",
                "PYTHONUTF8": "1",
                **env,
            },
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        os.close(self._outer)
        os.close(self._inner)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._outer, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Pull at the corner of the window."""
        self._size(columns, lines)
        self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: bytes) -> None:
        """Type this."""
        os.write(self._outer, keys)

    @property
    def mode(self) -> list[object]:
        """How the terminal is set."""
        return list(termios.tcgetattr(self._inner))

    def await_text(self, text: str) -> str:
        """Wait until this has been written since the last call, and a little of what follows."""
        found, deadline = b"", time.monotonic() + PATIENCE
        while text.encode() not in _CODES.sub(b"", found):
            assert time.monotonic() < deadline, f"{text!r} has not come: {found!r}"
            assert self.process.poll() is None or self._ready(), self.written.decode()
            found += self._read()
        return _CODES.sub(b"", found).decode()

    def end(self) -> int:
        """Read on until the process has ended; returns its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            self._read()
        while self._ready():
            self._read()
        return self.process.returncode

    def _ready(self) -> bool:
        return bool(select.select([self._outer], [], [], 0.05)[0])

    def _read(self) -> bytes:
        data = os.read(self._outer, 65536) if self._ready() else b""
        self.written += data
        return data
