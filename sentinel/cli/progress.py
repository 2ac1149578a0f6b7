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
        if not self._on:
            return
        now = clock.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        known = "" if share is None else f"{100 * share:.0f}%, "
        rate = rows / max(now - self._begun, 1e-9)
        self._write(f"{_CLEAR}{what[:40]}: {known}{rows:,} rows, {rate:,.0f} rows/s")
        self._shown = True

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
