"""How long the page of a long run waits for its charts, beside reading the same bytes from SQLite.

    python -m benchmarks.first_paint [--steps 100000] [--repeat 7] [--write]

A run of so many steps, 25 signals without a label, 24 layers and 8 ranks is put into a state
directory by the store's own code, and a real daemon started on it. Then the questions that the page
asks are asked over its socket, each several times, in turn; printed is the median of each, from
sending to the last byte of the answer. The floor is `SELECT` of all bytes that the file has of what
the answer is made from, as sheets are stored. `--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.engine_throughput import processor
from benchmarks.results import write_part
from sentinel import wire
from sentinel.daemon.counts import Counts
from sentinel.daemon.historian import Historian
from sentinel.engine.run import RunEngine
from sentinel.store.bins import MISSING, Floats, Singles
from sentinel.store.history import History
from sentinel.store.history_row import ALONE, Row, greatest, is_of_ranks, signal_of
from sentinel.store.recording import Recording
from sentinel.store.shapes import RankRow, RunRow
from sentinel.store.store import Store
from sentinel.wire import Series
from tests.daemon.process import Daemon

RUN = "long-run"
RANKS, LAYERS = 8, 24
BEGAN = 1_760_000_000.0  # s since 1970
SECONDS = 0.5  # a step
_GIB = float(1 << 30)
PLAIN = {  # about what value, and how much it wavers from step to step
    "loss": (2.0, 0.02),
    "lr": (3e-4, 0.0),
    "grad_norm": (1.0, 0.1),
    "clip_coefficient": (0.9, 0.05),
    "loss_scale": (65536.0, 0.0),
    "skipped": (0.0, 0.0),
    "overflow": (0.0, 0.0),
    "nonfinite_activation": (0.0, 0.0),
    "nonfinite_gradient": (0.0, 0.0),
    "nonfinite_update": (0.0, 0.0),
    "step_seconds": (SECONDS, 0.01),
    "data_seconds": (0.01, 0.002),
    "forward_seconds": (0.15, 0.004),
    "backward_seconds": (0.3, 0.006),
    "optimizer_seconds": (0.04, 0.001),
    "exposed_communication_seconds": (0.05, 0.004),
    "tokens_per_second": (2e6, 4e4),
    "model_flops_utilization": (0.41, 0.01),
    "device_memory_reserved_bytes": (60 * _GIB, 0.0),
    "device_memory_peak_bytes": (58 * _GIB, 0.01 * _GIB),
    "device_memory_limit_bytes": (80 * _GIB, 0.0),
    "host_memory_process_bytes": (30 * _GIB, 0.01 * _GIB),
    "host_memory_used_bytes": (200 * _GIB, 0.1 * _GIB),
    "host_memory_limit_bytes": (1000 * _GIB, 0.0),
    "monitor_share": (0.004, 0.0005),
}
LABELED = ("layer_grad_norm", "layer_update_norm", "layer_weight_norm")
SPIKE = 0.7  # of the run, where one layer of one rank goes wrong


def make_state(state_dir: Path, steps: int = 100_000) -> None:
    """A state directory with the run in it, as a daemon leaves it that has watched all of it."""
    store = Store.open(state_dir)
    ended = BEGAN + SECONDS * steps
    row = RunRow(RUN, "finished", steps, RANKS, BEGAN, ended, "torchrun train.py")
    ranks = [
        RankRow(rank, "node-1", 1000 + rank, f"cuda:{rank}", steps, "", ended)
        for rank in range(RANKS)
    ]
    store.save_runs([(row, ranks)])
    store.close()
    recording = Recording.open(state_dir)
    history = History(recording.database)
    first = _first_row()
    for begin in range(1, steps + 1, 4096):
        end = min(begin + 4096, steps + 1)
        values = _values(first, np.arange(begin, end), steps)
        for at, step in enumerate(range(begin, end)):
            now = BEGAN + SECONDS * step
            history.append(RUN, Row(step, now, values[at], first.form))
        history.flush()
    history.flush(everything=True)
    recording.close()


def _first_row() -> Row:
    """What a step of such a run is kept as, with the form that a real engine's steps have."""
    engine, kept = RunEngine(RUN, []), _Kept()
    engine.watch(Historian(RUN, kept, Counts()))
    series = (
        *map(Series, PLAIN),
        *(Series(name, f"layers.{at}") for name in LABELED for at in range(LAYERS)),
    )
    packed = np.ones(len(series)).tobytes()
    for rank in range(RANKS):
        engine.feed(rank, _hello(rank, series), BEGAN)
    for rank in range(RANKS):
        engine.feed(rank, wire.Frame(1, 1, BEGAN, packed), BEGAN)
    (row,) = kept.rows
    return row


class _Kept:
    """Stands where the history does."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def append(self, run: str, row: Row) -> None:
        """See `History`."""
        self.rows.append(row)


def _hello(rank: int, series: tuple[Series, ...]) -> wire.Hello:
    return wire.Hello(
        version=wire.VERSION,
        run=RUN,
        rank=rank,
        world_size=RANKS,
        incarnation=str(rank),
        host="node-1",
        pid=1000 + rank,
        device=f"cuda:{rank}",
        trainer="benchmark",
        step=0,
        series=series,
    )


def _values(first: Row, steps: np.ndarray[tuple[int], np.dtype[np.int64]], total: int) -> Singles:
    """What was measured at these steps: noise around what drifts, and one spike."""
    noise = np.random.default_rng(int(steps[0]))
    values = np.full((len(steps), len(first.values)), MISSING, np.float32)
    done = steps / total
    for sheet, columns, places in first.form.parts:
        for column, place in zip(columns, places.tolist(), strict=True):
            values[:, place] = _course(sheet, column, done, noise)
    return values


def _course(sheet: str, column: str, done: Floats, noise: np.random.Generator) -> Floats:
    size = len(done)
    if is_of_ranks(sheet, column):
        return noise.integers(0, RANKS, size).astype(float)
    signal = signal_of(sheet) or (column if sheet == ALONE else sheet)
    around, wavers = PLAIN.get(signal, (0.5, 0.05))
    course = around + wavers * noise.standard_normal(size)
    if signal == "loss":
        course += 8.0 * np.exp(-20.0 * done)
    elif signal == "host_memory_used_bytes":
        course += 400 * _GIB * done
    spike = np.abs(done - SPIKE) < 2e-4
    if column == "layers.7" or column == greatest("loss"):
        course[spike] *= 40.0
    return course


class Options(NamedTuple):
    """What is asked of a benchmark of a long run."""

    steps: int
    repeat: int
    write: bool


def options_of(description: str | None, repeat: int) -> Options:
    """The command line, with so many repetitions unless others are asked for."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=repeat)
    parser.add_argument("--write", action="store_true", help="benchmarks/RESULTS.md")
    return Options(**vars(parser.parse_args()))


def main() -> None:
    options = options_of(__doc__, repeat=7)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name) / "state"
        began = time.perf_counter()
        make_state(state, options.steps)
        made = time.perf_counter() - began
        size = (state / "telemetry.db").stat().st_size
        lines = [
            "# How long charts of a long run take",
            "",
            "Written by `python -m benchmarks.first_paint --write`, whose description says what is "
            "measured.",
            "",
            f"{processor()}; Python {platform.python_version()}, numpy {version('numpy')}, "
            f"SQLite {sqlite3.sqlite_version}; {options.steps:,} steps of {len(PLAIN)} signals, "
            f"{LAYERS} layers and {RANKS} ranks: {size / 1e6:,.0f} MB, written in {made:.1f} s",
            "",
            "| question | answered in | the first time | bytes of the answer | floor |",
            "|---|---|---|---|---|",
        ]
        daemon = Daemon(state).start()
        try:
            lines += [_row(daemon, *question, options.repeat) for question in _questions()]
        finally:
            daemon.kill()
    print("\n".join(lines))
    if options.write:
        write_part("\n".join(lines))


def _questions() -> list[tuple[str, str, str]]:
    """What it is, the path and query, and which columns of which sheets it is made from."""
    plain = "&".join(f"signal={signal}" for signal in PLAIN)
    alone, coarse = f"sheet = '{ALONE}'", "SELECT coarse"
    labeled, ranks = "sheet = 'layer_grad_norm'", "sheet = 'step_seconds by rank'"
    return [
        ("all charts", f"series?{plain}", f"{coarse} FROM history_sheets WHERE {alone}"),
        (
            "all charts with their bands",
            f"series?{plain}&band=1",
            f"SELECT coarse, body FROM history_sheets WHERE {alone}",
        ),
        (
            "loss alone, with its band",
            "series?signal=loss&band=1",
            f"SELECT coarse, body FROM history_sheets WHERE {alone}",
        ),
        (
            "layers by steps",
            "heatmap?signal=layer_grad_norm&rows=label",
            f"{coarse} FROM history_sheets WHERE {labeled}",
        ),
        (
            "ranks by steps",
            "heatmap?signal=step_seconds&rows=rank",
            f"{coarse} FROM history_sheets WHERE {ranks}",
        ),
        ("what there is", "signals", "SELECT * FROM history_columns"),
    ]


def _row(daemon: Daemon, name: str, path: str, sql: str, repeat: int) -> str:
    answers: list[bytes] = []

    def ask() -> None:
        status, body = daemon.get(f"/api/v1/runs/{RUN}/{path}")
        assert status == 200, body
        answers.append(body)

    connection = sqlite3.connect(daemon.state / "telemetry.db")
    took = [_seconds(ask) for _ in range(repeat)]
    floor = [_seconds(lambda: connection.execute(sql).fetchall()) for _ in range(repeat)]
    connection.close()
    return (
        f"| {name} | {1000 * statistics.median(took):.0f} ms | {1000 * took[0]:.0f} ms "
        f"| {len(answers[0]):,} | {1000 * statistics.median(floor):.1f} ms |"
    )


def _seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
