"""Logs of JSON lines, for whoever is not Sentinel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.traces.trace import Row


def read(path: Path) -> Iterator[Row]:
    """The rows; NaN and the infinities are words or bare, and what is null or lacking is None."""
    with path.open() as file:
        for line in file:
            values = json.loads(line)
            numbers = (values.get(name) for name in ("loss", "grad_norm", "lr"))
            yield Row(values["step"], *(None if one is None else float(one) for one in numbers))
