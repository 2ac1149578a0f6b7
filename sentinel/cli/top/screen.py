"""A terminal that is drawn on and gives its keys one by one, and is left as it was found."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable
from types import FrameType, TracebackType

from rich.console import Console, RenderableType
from rich.live import Live

_KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|\x1b(?![\[O]|$)|[^\x1b]", re.DOTALL)
_NAMES = {
    **dict.fromkeys((b"\x1b[A", b"\x1bOA", b"k"), "up"),
    **dict.fromkeys((b"\x1b[B", b"\x1bOB", b"j"), "down"),
    **dict.fromkeys((b"p", b" "), "pause"),
    **dict.fromkeys((b"q", b"Q", b"\x04"), "quit"),
    b"s": "sort",
    b"r": "refresh",
}
_ENDS = (signal.SIGTERM, signal.SIGHUP)
_HANDLED = (*_ENDS, signal.SIGWINCH, signal.SIGTSTP)


def split_keys(data: bytes) -> tuple[list[str], bytes]:
    """The keys in what a terminal has sent, by name, and the beginning of one not yet whole."""
    names, end = [], 0
    while found := _KEY.match(data, end):
        end = found.end()
        if found[0] in _NAMES:
            names.append(_NAMES[found[0]])
    return names, data[end:][-32:]


class Screen:
    """`with Screen(console) as screen:` in the main thread; both ends of it are a terminal.

    Whatever ends the block, SIGTERM and SIGHUP included, the terminal is as before afterwards; so
    it is while the process is stopped by ctrl-Z.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._fd = sys.stdin.fileno()
        self._mode = termios.tcgetattr(self._fd)
        self._alarm, self._wakes = socket.socketpair()
        self._alarm.setblocking(False)
        self._wakes.setblocking(False)
        self._handlers: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._stopped = False
        self._begun = b""

    def __enter__(self) -> Screen:
        for number in _HANDLED:
            self._handlers[number] = signal.signal(number, self._hear)
        signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
        try:
            self._enter()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number in self._handlers:  # it is ending: nothing may cut it short
            signal.signal(number, signal.SIG_IGN)
        try:
            self._leave()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._alarm.close()
            self._wakes.close()

    def _enter(self) -> None:
        tty.setcbreak(self._fd, termios.TCSANOW)
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _leave(self) -> None:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(self._fd, termios.TCSANOW, self._mode)
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):
                live.stop()

    def _hear(self, number: int, _: FrameType | None) -> None:
        if number in _ENDS:
            raise SystemExit(128 + number)
        self._stopped = self._stopped or number == signal.SIGTSTP

    def wake(self) -> None:
        """Have `wait` return. From any thread, at any time."""
        with contextlib.suppress(OSError):  # it is about to wake, or over
            self._alarm.send(b"\0")

    def draw(self, picture: RenderableType) -> None:
        """Show this, in place of what was there."""
        assert self._live is not None
        self._live.update(picture, refresh=True)

    def wait(self) -> list[str]:
        """Wait for keys, a `wake`, or a new size; returns the keys, which may be none.

        "quit" also when the terminal has hung up.
        """
        ready, _, _ = select.select([self._fd, self._wakes], [], [])
        if self._wakes in ready:
            self._wakes.recv(4096)
        if self._stopped:
            self._stopped = False
            self._leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._enter()
        if self._fd not in ready:
            return []
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            data = b""
        names, self._begun = split_keys(self._begun + data)
        return names if data else ["quit"]
