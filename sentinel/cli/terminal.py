"""Lines for a person who looks on; nothing that goes wrong in writing them goes any further."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

import click

Style = dict[str, str | bool]

PLAIN: Style = {}
FAINT: Style = {"dim": True}
GOOD: Style = {"fg": "green", "bold": True}
WARNING: Style = {"fg": "yellow", "bold": True}
BAD: Style = {"fg": "red", "bold": True}
HEADING: Style = {"bold": True}
OF_SEVERITY: dict[str, Style] = {"info": PLAIN, "warning": WARNING, "critical": BAD}


def plain(text: str) -> str:
    """On one line, and without what a terminal would obey: ranks name things as they like."""
    return "".join(character if character.isprintable() else " " for character in text)


def styled(text: str, style: Style) -> str:
    """The text with the codes of its style, which `click.echo` takes out where nobody sees them."""
    if not style:
        return text
    color = style.get("fg")
    return click.style(
        text,
        fg=color if isinstance(color, str) else None,
        bold=True if style.get("bold") else None,
        dim=True if style.get("dim") else None,
    )


class Terminal:
    """Where lines go, each with a prefix; colors only where a person reads them."""

    def __init__(self, stream: TextIO | None = None, prefix: str = "sentinel: ") -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._prefix = prefix
        with contextlib.suppress(OSError, ValueError):
            self._colored = self._stream.isatty()

    def line(self, text: str, style: Style = PLAIN) -> None:
        """One line."""
        self._write(self._prefix + self._styled(plain(text), style))

    def heading(self, text: str) -> None:
        """A line that opens a part."""
        self._write("\n" + self._styled(f"== {plain(text)} ".ljust(79, "="), HEADING))

    def block(self, text: str) -> None:
        """Several lines as they are, set apart."""
        for line in text.splitlines():
            self._write(f"    | {plain(line)}")

    def _styled(self, text: str, style: Style) -> str:
        return styled(text, style) if self._colored else text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self._let_go()
        except (OSError, ValueError):
            pass  # nobody reads: the run matters more

    def _let_go(self) -> None:
        """What could not be written must not fail once more when the interpreter ends."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
