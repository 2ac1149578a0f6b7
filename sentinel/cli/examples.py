"""Examples at the end of a command's `--help`, each a line that can be copied as it stands."""

from __future__ import annotations

INDENT = "  "
HEADING = "Examples:"


def examples(*lines: str) -> str:
    """The epilog of a command. A line may end in ` # and say why`."""
    return "\n".join(("\b", HEADING, *(f"{INDENT}{line}" for line in lines)))
