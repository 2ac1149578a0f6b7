"""How many frames a second one engine judges, beside the floor of only decoding them.

    python -m benchmarks.engine_throughput [--ranks 64 512] [--series 200] [--seconds 5]
                                           [--memory-steps 2000] [--write]

Every rank reports every step; frames are encoded beforehand and decoded by `sentinel.wire` as the
daemon does. Rules are the shipped pack. Printed for each number of ranks: frames/s of decoding
alone and of decoding and judging, on one core by process time; what a step of all ranks takes; the
longest time that one frame held up the next, which is the one that completes a step; what
giving each step to the history of the run adds to it, what writing that takes in another thread,
and the bytes of a step in the file; and by how much the process grows in as many steps as
`--memory-steps` says, after as many to warm up (there are 16 snapshots of all windows, one each 100
steps). `--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import gc
import platform
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from msgspec import structs

from benchmarks.results import write_part
from sentinel import wire
from sentinel.daemon.counts import Counts
from sentinel.daemon.historian import Historian
from sentinel.engine.evaluation.values import Source
from sentinel.engine.layout import Axis
from sentinel.engine.observer import Observer
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.engine.run import RunEngine
from sentinel.store.history import History
from sentinel.store.reading import whole
from sentinel.store.recording import Recording
from sentinel.wire import VERSION, Frame, Hello, Series

PLAIN = (
    *("loss", "lr", "grad_norm", "nonfinite_activation", "nonfinite_gradient"),
    *("nonfinite_update", "skipped", "step_seconds", "data_seconds", "forward_seconds"),
    *("backward_seconds", "optimizer_seconds", "monitor_seconds", "tokens_per_second"),
    *("host_memory_process_bytes", "host_memory_used_bytes", "host_memory_limit_bytes"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="of process time, for each row")
    parser.add_argument("--memory-steps", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="benchmarks/RESULTS.md")
    options = parser.parse_args()
    lines = [
        "# How fast frames are judged",
        "",
        "Written by `python -m benchmarks.engine_throughput --write`, whose description says what "
        "is measured.",
        "",
        f"{processor()}, one core; Python {platform.python_version()}, "
        f"numpy {version('numpy')}, msgspec {version('msgspec')}; pack default",
        "",
        "| ranks | series | frames decoded a second | and judged | a step of all ranks "
        "| longest frame | of it kept | written | bytes kept | grown by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for ranks in options.ranks:
        lines.append(_row(ranks, options.series, options.seconds, options.memory_steps))
        print(lines[-1], flush=True)
    if options.write:
        write_part("\n".join(lines))


def _row(ranks: int, series: int, seconds: float, memory_steps: int) -> str:
    floor = _decode_only(ranks, series, seconds)
    rate, longest = _decode_and_judge(ranks, series, seconds)
    keeping, writing, size = _keep(ranks, series, seconds)
    grown = _growth(ranks, series, memory_steps)
    return (
        f"| {ranks} | {series} | {floor:,.0f} | {rate:,.0f} | {1000 * ranks / rate:.1f} ms "
        f"| {1000 * longest:.1f} ms | {1000 * keeping:.2f} ms | {1000 * writing:.2f} ms "
        f"| {size:,.0f} | {grown / 2**20:.2f} MiB in {memory_steps} steps |"
    )


def _growth(ranks: int, series: int, steps: int) -> int:
    """By how many bytes the process grows in so many steps, after as many to warm up."""
    engine = RunEngine("benchmark", load(resolve_pack("default")))
    for rank in range(ranks):
        engine.feed(rank, _hello(rank, ranks, series), 0.0)
    every = [list(step) for step in islice(_steps(ranks, series), 7)]  # values that come again
    before = 0
    for step in range(1, 2 * steps + 1):
        for rank, body in enumerate(every[step % len(every)]):
            message = wire.decode_from_rank(body)
            assert isinstance(message, Frame)
            engine.feed(rank, structs.replace(message, step=step, sequence=step), 0.1 * step)
        if step == steps:
            before = resident()
    assert engine.step == 2 * steps
    return resident() - before


def resident() -> int:
    """How many bytes of memory this process takes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _decode_only(ranks: int, series: int, seconds: float) -> float:
    """Frames a second."""
    bodies = list(next(_steps(ranks, series)))
    count, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        for body in bodies:
            wire.decode_from_rank(body)
        count += ranks
    return count / (time.process_time() - began)


def _keep(ranks: int, series: int, seconds: float) -> tuple[float, float, float]:
    """What keeping a step takes: seconds while it is judged, seconds of writing, bytes."""
    with tempfile.TemporaryDirectory() as name:
        recording = Recording.open(Path(name))
        history = History(recording.database)
        timed = _Timed("benchmark", history, Counts())
        _decode_and_judge(ranks, series, seconds, timed)
        history.close_run("benchmark")
        began = time.process_time()
        steps = history.flush()
        writing = time.process_time() - began
        (row,) = recording.database.rows("SELECT sum(bytes) AS size FROM history_blocks")
        recording.close()
    return timed.spent / steps, writing / steps, whole(row["size"]) / steps


class _Timed(Historian):
    """One that knows what it takes."""

    spent = 0.0

    def stepped(self, source: Source, axes: Mapping[str, Axis], step: int, now: float) -> None:
        """See `Observer`."""
        began = time.process_time()
        super().stepped(source, axes, step, now)
        self.spent += time.process_time() - began


def _decode_and_judge(
    ranks: int, series: int, seconds: float, observer: Observer | None = None
) -> tuple[float, float]:
    """Frames a second, and the longest time that one took."""
    engine = RunEngine("benchmark", load(resolve_pack("default")))
    if observer is not None:
        engine.watch(observer)
    for rank in range(ranks):
        engine.feed(rank, _hello(rank, ranks, series), 0.0)
    spent, longest, count, now = 0.0, 0.0, 0, 0.0
    for bodies in _steps(ranks, series):
        now += 0.1
        for rank, body in enumerate(bodies):
            began = time.process_time()
            message = wire.decode_from_rank(body)
            assert not isinstance(message, wire.Unknown)
            engine.feed(rank, message, now)
            took = time.process_time() - began
            spent, longest, count = spent + took, max(longest, took), count + 1
        if spent > seconds:
            assert engine.step * ranks == count, "a step was not judged"
            return count / spent, longest
    raise AssertionError("unreachable: steps go on for ever")


def _series(count: int) -> tuple[Series, ...]:
    layers = (Series("layer_grad_norm", f"layers.{at}") for at in range(count - len(PLAIN)))
    return (*map(Series, PLAIN), *layers)


def _hello(rank: int, ranks: int, series: int) -> Hello:
    return Hello(
        version=VERSION,
        run="benchmark",
        rank=rank,
        world_size=ranks,
        incarnation=str(rank),
        host=f"host{rank // 8}",
        pid=rank,
        device=f"cuda:{rank % 8}",
        trainer="benchmark",
        step=0,
        series=_series(series),
    )


def _steps(ranks: int, series: int) -> Iterator[list[bytes]]:
    """The bodies of all ranks' frames of a step, of one step after the other."""
    noise = random.Random(0)
    zero = [at for at, name in enumerate(PLAIN) if name.startswith(("nonfinite", "skipped"))]
    step = 0
    while True:
        step += 1
        bodies = []
        for _ in range(ranks):
            values = [1.0 + 0.1 * noise.random() for _ in range(series)]
            for at in zero:
                values[at] = 0.0
            values[len(PLAIN) - 1] = 100.0
            packed = struct.pack(f"<{series}d", *values)
            bodies.append(wire.encode(Frame(step, step, float(step), packed))[4:])
        yield bodies


def processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
