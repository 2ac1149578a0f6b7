"""Real logs with labels: a folder with `labels.json` and `data/RUN.jsonl`.

`labels.json` is an object of runs by name, each with `suite` ("training" or "system") and
`anomalies`: an array of `type`, `confidence` ("certain" or "likely"), `start_index` and
`end_index`, which count rows from 0, both inclusive.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# How the labels call what rules' names call otherwise.
_KINDS = {"plateau": "Plateau", "zero_loss": "ZeroLoss"}


@dataclass(frozen=True)
class Labelled:
    """One thing that went wrong, or perhaps did."""

    type: str
    start: int
    end: int
    certain: bool

    @property
    def kind(self) -> str:
        """As `eligible` wants it."""
        return _KINDS.get(self.type, self.type)

    @property
    def is_plateau(self) -> bool:
        return self.type == "plateau"


@dataclass(frozen=True)
class LabelledRun:
    """A log and its labels. `source` is what its name begins with, up to the first `_`."""

    name: str
    suite: str
    path: Path
    steps: Sequence[int]
    events: tuple[Labelled, ...]

    @property
    def source(self) -> str:
        return self.name.partition("_")[0]

    def __len__(self) -> int:
        return len(self.steps)


def load(folder: Path) -> list[LabelledRun]:
    """All runs of the folder. Raises `OSError`, `ValueError` or `KeyError` where it is another."""
    found = json.loads((folder / "labels.json").read_text())
    return [_run(folder, name, run) for name, run in found.items()]


def _run(folder: Path, name: str, run: dict[str, object]) -> LabelledRun:
    path = folder / "data" / f"{name}.jsonl"
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines() if line.strip()]
    events = run["anomalies"]
    assert isinstance(events, list)
    return LabelledRun(
        name,
        str(run["suite"]),
        path,
        steps,
        tuple(
            Labelled(
                one["type"], one["start_index"], one["end_index"], one["confidence"] == "certain"
            )
            for one in events
        ),
    )
