"""RESULTS.md: one part for each benchmark that writes there, under a heading of its own."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
_PART = re.compile(r"^(?=# )", re.MULTILINE)


def write_part(text: str, path: Path = RESULTS) -> None:
    """Put a part, whose first line is its heading (`# ...`), in the place of the one so headed, or
    at the end. The other parts stay as they are."""
    heading = text.splitlines()[0]
    if not heading.startswith("# "):
        raise ValueError(f"a part begins with its heading, '# ...', not with {heading!r}")
    parts = _PART.split(path.read_text()) if path.exists() else []
    parts = [one.strip() for one in parts if one.strip()]
    headings = [one.splitlines()[0] for one in parts]
    if heading in headings:
        parts[headings.index(heading)] = text.strip()
    else:
        parts.append(text.strip())
    path.write_text("\n\n".join(parts) + "\n")
