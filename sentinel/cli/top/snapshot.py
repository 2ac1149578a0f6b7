"""What `sentinel top` shows, as it was at one moment; asked of the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from sentinel import clock
from sentinel.cli.client import Client
from sentinel.cli.record import OVER

if TYPE_CHECKING:
    from sentinel.store.shapes import HoldJSON, IncidentJSON, RankJSON

Number = float | str | None
"""As in JSON: "NaN", "Infinity" and "-Infinity" are strings, None is not measured."""

WAIT = "collective_wait_seconds"
MEMORY, WITHOUT_DEVICE = "device_memory_reserved_bytes", "host_memory_process_bytes"
_LATELY = 128  # steps, of which the newest value counts: of many ranks not every step is kept
_MOST_RANKS = 2048  # in one answer


class Incidents(Struct, frozen=True):
    """How many incidents a run has had; `worst` is the severity of the worst that is open."""

    open: int = 0
    total: int = 0
    worst: str | None = None


class Trend(Struct, frozen=True):
    """The loss over the whole run."""

    values: list[Number] = []


class RunLine(Struct, frozen=True):
    """One run, as the overview has it."""

    run: str
    state: str
    step: int
    world_size: int
    incidents: Incidents = Incidents()
    latest: Mapping[str, Number] = {}
    sparkline: Trend = Trend()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self.state in OVER

    @property
    def needs_somebody(self) -> bool:
        """Whether a person should look at it before others."""
        return self.state in ("held", "pausing") or (self.incidents.open > 0 and not self.is_over)


class _Heatmap(Struct, frozen=True):
    rows: list[str]
    values: list[list[Number]]


@dataclass(frozen=True)
class Snapshot:
    """All runs, and one of them in full.

    `incidents` are the open ones of that run; `by_rank` has the newest value of a signal on those
    ranks where it is known. `numbers` False: the daemon is of a version that tells none.
    """

    at: float
    runs: Sequence[RunLine] = ()
    chosen: str | None = None
    ranks: Sequence[RankJSON] = ()
    hold: HoldJSON | None = None
    incidents: Sequence[IncidentJSON] = ()
    by_rank: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    numbers: bool = True


def take(client: Client, wanted: str | None) -> Snapshot:
    """Ask for all that there is to show, and for the run `wanted` in full, or where there is no
    such run, for the one that needs a person most.

    Raises `SentinelError` when nobody answers, or not as expected.
    """
    overview = client.read_if_known("/api/v1/runs")
    if overview is not None:
        runs = msgspec.json.decode(overview, type=list[RunLine])
    else:
        runs = [
            RunLine(entry["run"], entry["state"], entry["step"], entry["world_size"])
            for entry in reversed(client.status())
        ]
    runs.sort(key=lambda line: line.is_over)  # stable: otherwise newest first, as they come
    if not runs:
        return Snapshot(clock.wall(), numbers=overview is not None)
    chosen = next((line for line in runs if line.run == wanted), None) or max(
        runs, key=lambda line: (line.needs_somebody, not line.is_over)
    )
    (status,) = client.status(chosen.run)
    return Snapshot(
        clock.wall(),
        runs,
        chosen.run,
        status["ranks"],
        status["hold"],
        [one for one in client.incidents(chosen.run) if one["state"] == "open"],
        _by_rank(client, chosen) if overview is not None and not chosen.is_over else {},
        overview is not None,
    )


def _by_rank(client: Client, run: RunLine) -> dict[str, dict[int, float]]:
    """Newest values by rank: how long it waits for others, and its memory."""
    memory = MEMORY if MEMORY in run.latest else WITHOUT_DEVICE
    found = {}
    for name, signal in (("wait", WAIT), ("memory", memory)):
        asked = {"signal": signal, "rows": "rank", "columns": 2, "max_rows": _MOST_RANKS}
        query = urlencode({**asked, "from": max(0, run.step - _LATELY)})
        answer = client.read_if_known(f"/api/v1/runs/{quote(run.run, safe='')}/heatmap?{query}")
        if answer is not None:
            found[name] = newest(msgspec.json.decode(answer, type=_Heatmap))
    return found


def newest(cells: _Heatmap) -> dict[int, float]:
    """The last value of each row that has one."""
    found = {}
    for row, values in zip(cells.rows, cells.values, strict=True):
        known = [float(value) for value in values if value is not None]
        if known and row.isdecimal():
            found[int(row)] = known[-1]
    return found
