"""All runs, one a line: where they are, and how they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rich.table import Table
from rich.text import Text

from sentinel.cli.top.letters import NOTHING, Letters, number, percent, scaled, seconds, size
from sentinel.cli.top.snapshot import Number, RunLine

_STATE_STYLES = {
    "running": "green",
    "pausing": "yellow",
    "held": "bold red",
    "resuming": "yellow",
    "lost": "red",
    "finished": "dim",
}
_SEVERITY_STYLES = {"critical": "bold red", "warning": "bold yellow"}


@dataclass(frozen=True)
class _Column:
    """A signal that is shown where a run has it and the terminal is wide enough."""

    title: str
    signal: str
    shown: Callable[[Number], str]
    least: int = 0  # columns of the terminal


_COLUMNS = (
    _Column("tok/s", "tokens_per_second", scaled),
    _Column("s/step", "step_seconds", seconds),
    _Column("grad norm", "grad_norm", partial(number, digits=3), 96),
    _Column("lr", "lr", partial(number, digits=3), 108),
    _Column("MFU", "model_flops_utilization", percent, 118),
    _Column("memory", "device_memory_reserved_bytes", size, 130),
)


def window(runs: Sequence[RunLine], chosen: str | None, count: int) -> Sequence[RunLine]:
    """So many runs, the chosen one among them."""
    at = next((at for at, line in enumerate(runs) if line.run == chosen), 0)
    begin = max(0, min(at - count // 2, len(runs) - count))
    return runs[begin : begin + count]


def table(runs: Sequence[RunLine], chosen: str | None, width: int, letters: Letters) -> Table:
    """These runs under a heading, for a terminal of this width."""
    trend = max(8, min(40, width // 7)) if any(line.sparkline.values for line in runs) else 0
    columns = [
        one
        for one in _COLUMNS
        if width >= one.least and any(one.signal in line.latest for line in runs)
    ]
    grid = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    grid.add_column("", no_wrap=True, width=1)
    grid.add_column("run", ratio=1, no_wrap=True, min_width=8)
    grid.add_column("state", no_wrap=True, min_width=8)
    grid.add_column("step", justify="right", no_wrap=True, min_width=6)
    grid.add_column("loss", justify="right", no_wrap=True, min_width=6)
    grid.add_column("", no_wrap=True, width=trend)
    for one in columns:
        grid.add_column(one.title, justify="right", no_wrap=True, min_width=6)
    grid.add_column("incidents", justify="right", no_wrap=True)
    for line in runs:
        grid.add_row(
            letters.mark if line.run == chosen else "",
            letters.text(line.run, "bold" if line.run == chosen else "dim" * line.is_over),
            letters.text(line.state, _STATE_STYLES.get(line.state, "")),
            letters.text(str(line.step)),
            _loss(line, letters),
            letters.text(letters.sparkline(line.sparkline.values, trend), "cyan"),
            *(letters.text(one.shown(line.latest.get(one.signal))) for one in columns),
            _incidents(line, letters),
        )
    return grid


def _loss(line: RunLine, letters: Letters) -> Text:
    loss = line.latest.get("loss")
    bad = isinstance(loss, str)  # "NaN", "Infinity"
    return letters.text(number(loss), "bold red" if bad else "")


def _incidents(line: RunLine, letters: Letters) -> Text:
    """As `2 open`, and `5` for those that are over."""
    found = line.incidents
    if found.open:
        style = _SEVERITY_STYLES.get(found.worst or "", "bold")
        return letters.text(f"{found.open} open", style)
    return letters.text(str(found.total) if found.total else NOTHING, "dim")
