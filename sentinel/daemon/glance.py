"""How a run has gone, at a glance: its loss in a few points, and what was measured last.

Read from its history, so that it is there too of a run whose job is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from sentinel.daemon import charts
from sentinel.daemon.charts import Wanted
from sentinel.store.history_reading import HistoryReader, Look
from sentinel.store.shapes import RunRow

SHOWN = (
    "loss",
    "grad_norm",
    "lr",
    "step_seconds",
    "tokens_per_second",
    "model_flops_utilization",
    "device_memory_reserved_bytes",
)
POINTS = 120
_REMEMBERED = 1000  # runs that have ended


class SparklineJSON(TypedDict):
    """The loss over the whole run, in a few points."""

    steps: list[int]
    values: list[float | str | None]


@dataclass(frozen=True)
class Glance:
    """See above. `latest` has, of `SHOWN`, what was measured at the last step."""

    sparkline: SparklineJSON
    latest: dict[str, float | str]


class Glances:
    """Of runs that have ended, what was found is kept. Not for two threads at once."""

    def __init__(self, past: HistoryReader) -> None:
        self._past = past
        self._ended: dict[tuple[str, float, int], Glance] = {}

    def of(self, row: RunRow) -> Glance:
        """Of one run, as it was written just now. Raises `StateError`."""
        if row.ended is None:
            return self._read(row.name)
        key = (row.name, row.ended, row.step)
        if key not in self._ended:
            while len(self._ended) >= _REMEMBERED:
                del self._ended[next(iter(self._ended))]
            self._ended[key] = self._read(row.name)
        return self._ended[key]

    def _read(self, run: str) -> Glance:
        look = self._past.look(run)
        if look is None:
            return Glance(SparklineJSON(steps=[], values=[]), {})
        return Glance(_sparkline(look, run), _latest(look, run))


def _sparkline(look: Look, run: str) -> SparklineJSON:
    found = charts.series(
        look, run, [Wanted("loss", "")], charts.span(look, None, None, POINTS), False
    )
    values = found["series"][0]["mean"] if found["series"] else []
    return SparklineJSON(steps=found["steps"][: len(values)], values=values)


def _latest(look: Look, run: str) -> dict[str, float | str]:
    last = look.extent.last
    wanted = [Wanted(signal, "") for signal in SHOWN]
    found = charts.series(look, run, wanted, charts.span(look, last, last, 2), False)
    values = {one["signal"]: one["mean"][-1] for one in found["series"] if one["mean"]}
    return {signal: value for signal, value in values.items() if value is not None}
