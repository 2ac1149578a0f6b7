"""One line on the terminal that says how far a long work has come, and vanishes."""

from __future__ import annotations

import contextlib
import sys

from sentinel import clock

_CLEAR = "\r\x1b[K"


class Progress:
    """Shown only if `wanted` and stderr is a terminal. Call `clear` before writing anything."""

    def __init__(self, *, wanted: bool = True, every: float = 0.2) -> None:
        """`every`: seconds between two states of it."""
        self._every = every
        self._shown = False
        self._begun = self._last = clock.monotonic()
        self._on = False
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._on = wanted and sys.stderr.isatty()

    def tell(self, what: str, share: float | None, rows: int) -> None:
        """So many rows are done of this, in all; `share` of it where that is known."""
        known = "" if share is None else f"{100 * share:.0f}%, "
        rate = rows / max(clock.monotonic() - self._begun, 1e-9)
        self.say(f"{what[:40]}: {known}{rows:,} rows, {rate:,.0f} rows/s")

    def say(self, text: str) -> None:
        """This is where it stands; `text` is one line."""
        now = clock.monotonic()
        if self._on and now - self._last >= self._every:
            self._last = now
            self._shown = True
            self._write(f"{_CLEAR}{text[:79]}")

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write(_CLEAR)
            self._shown = False

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):  # nobody looks any more
            self._on = False
