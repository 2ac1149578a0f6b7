"""Text that comes from a run, made harmless: names, summaries, what a process has said."""

from __future__ import annotations

import unicodedata

NAME = 200  # characters of one name
PROSE = 500  # characters of a summary, an advice, a detail


def plain(text: str, limit: int = NAME) -> str:
    """One line of printable characters, at most `limit` of them."""
    return cut(" ".join(_printable(text).split()), limit)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain_lines(text: str, limit: int) -> str:
    """Lines of printable characters, indented as they were, at most `limit` characters.

    Where there are more, it is the middle that is left out: of a stack, both where a process
    stands, which comes first, and where it began are wanted, and the former more.
    """
    lines = [_printable(line).rstrip() for line in text.replace("\t", "    ").splitlines()]
    whole = "\n".join(lines)
    if len(whole) <= limit:
        return whole
    mark = "\n… left out …\n"
    kept = max(0, limit - len(mark))
    return whole[: kept - kept // 4] + mark + whole[len(whole) - kept // 4 :]


def _printable(text: str) -> str:
    return "".join(
        " " if unicodedata.category(character)[0] in "CZ" else character for character in text
    )
