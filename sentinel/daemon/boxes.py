"""Black boxes that were handed over, as JSON: see `archive`. Everything here reads the disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypedDict

from sentinel.blackbox import MAX_FILE, BlackBox, Record, read
from sentinel.clock import isoformat
from sentinel.daemon.archive import FOLDER
from sentinel.engine.layout import is_norm
from sentinel.errors import BlackBoxError
from sentinel.signals import CATALOG
from sentinel.store.shapes import number_json

MAX_SERIES = 1000  # that are shown of each step, those without a label first
_NAME = re.compile(r"rank([0-9]{1,9})\.blackbox")
_INCIDENT = re.compile(r"[A-Za-z0-9]{1,64}")


class BoxJSON(TypedDict):
    """A black box: whose, and the steps in it (null: it holds none that can be read)."""

    rank: int
    first_step: int | None
    last_step: int | None


class FindingJSON(TypedDict):
    """What a probe has found at a step, and where."""

    signal: str
    module: str
    micro_batch: int | None


class BoxStepJSON(TypedDict):
    """One step: what was measured, by series; the fingerprint of each micro-batch; findings."""

    step: int
    at: str | None
    values: dict[str, float | str]
    batches: list[str]
    findings: list[FindingJSON]


class BlackBoxJSON(TypedDict):
    """The last steps of one rank. `series` are those that were measured and are shown, of which the
    file has `dropped_series` more. Of signals in `squares` the values are the squares of this
    rank's part: the signal is the root of their sum over all ranks. `torn`: steps that were being
    written when the process died."""

    run: str
    rank: int
    world_size: int
    host: str
    pid: int
    started: str | None
    series: list[str]
    dropped_series: int
    squares: list[str]
    torn: int
    steps: list[BoxStepJSON]


class Boxes:
    """The black boxes in a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER

    def of(self, incident: str) -> list[BoxJSON]:
        """Those that came with an incident, by rank; what cannot be read is left out."""
        folder = self._place(incident)
        found = []
        for path in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []:
            if name := _NAME.fullmatch(path.name):
                box = _opened(path)
                steps = [record.frame.step for record in box.records] if box else []
                first, last = (min(steps), max(steps)) if steps else (None, None)
                found.append(BoxJSON(rank=int(name[1]), first_step=first, last_step=last))
        return sorted(found, key=lambda one: one["rank"])

    def read(self, incident: str, rank: int) -> BlackBoxJSON | None:
        """One of them; None where there is none that can be read."""
        folder = self._place(incident)
        box = _opened(folder / f"rank{rank}.blackbox") if folder is not None else None
        return None if box is None else _shown(box)

    def _place(self, incident: str) -> Path | None:
        """Where an incident's are; no name can lead anywhere else."""
        return self._folder / incident if _INCIDENT.fullmatch(incident) else None


def _opened(path: Path) -> BlackBox | None:
    try:
        with path.open("rb") as file:
            return read(file.read(MAX_FILE))
    except (OSError, BlackBoxError):
        return None


def _shown(box: BlackBox) -> BlackBoxJSON:
    names = [*dict.fromkeys(name for record in box.records for name, _ in box.measured(record))]
    kept = sorted(names, key=lambda name: "/" in name)[:MAX_SERIES]
    head = box.header
    return BlackBoxJSON(
        run=head.run,
        rank=head.rank,
        world_size=head.world_size,
        host=head.host,
        pid=head.pid,
        started=_time(head.started),
        series=kept,
        dropped_series=len(names) - len(kept),
        squares=sorted(one for one in {name.partition("/")[0] for name in kept} if _is_square(one)),
        torn=box.torn,
        steps=[_step(record, frozenset(kept), box) for record in box.records],
    )


def _is_square(signal: str) -> bool:
    return signal in CATALOG and is_norm(signal)


def _step(record: Record, kept: frozenset[str], box: BlackBox) -> BoxStepJSON:
    frame = record.frame
    return BoxStepJSON(
        step=frame.step,
        at=_time(frame.time),
        values={name: number_json(value) for name, value in box.measured(record) if name in kept},
        batches=[*record.batches],
        findings=[
            FindingJSON(signal=one.signal, module=one.module, micro_batch=one.micro_batch)
            for one in frame.findings
        ],
    )


def _time(seconds: float) -> str | None:
    """A moment as a rank has told it; None where that is none."""
    try:
        return isoformat(seconds)
    except (ValueError, OverflowError, OSError):
        return None
