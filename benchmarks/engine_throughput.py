"""How many frames a second one engine judges, beside the floor of only decoding them.

    python benchmarks/engine_throughput.py [--ranks 64 512] [--series 200] [--seconds 5]

Every rank reports every step; frames are encoded beforehand and decoded by `sentinel.wire` as the
daemon does. Rules are the shipped pack. Printed for each number of ranks: frames/s of decoding
alone and of decoding and judging, on one core by process time; what of a core that takes at one
and at ten steps a second; and the longest time that one frame held up the next, which is the one
that completes a step.
"""

from __future__ import annotations

import argparse
import platform
import random
import struct
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

from sentinel import wire
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.engine.run import RunEngine
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
    options = parser.parse_args()
    print(f"{_processor()}; Python {platform.python_version()}, numpy {version('numpy')}, ", end="")
    print(f"msgspec {version('msgspec')}")
    print(f"{'ranks':>5} {'series':>6} {'decode/s':>9} {'judge/s':>8} {'of floor':>8} ", end="")
    print(f"{'at 1/s':>7} {'at 10/s':>7} {'longest':>9}")
    for ranks in options.ranks:
        _row(ranks, options.series, options.seconds)


def _row(ranks: int, series: int, seconds: float) -> None:
    floor = _decode_only(ranks, series, seconds)
    rate, longest = _decode_and_judge(ranks, series, seconds)
    print(
        f"{ranks:>5} {series:>6} {floor:>9,.0f} {rate:>8,.0f} {rate / floor:>8.3f} "
        f"{ranks / rate:>7.1%} {10 * ranks / rate:>7.1%} {1000 * longest:>6.2f} ms"
    )


def _decode_only(ranks: int, series: int, seconds: float) -> float:
    """Frames a second."""
    bodies = list(next(_steps(ranks, series)))
    count, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        for body in bodies:
            wire.decode_from_rank(body)
        count += ranks
    return count / (time.process_time() - began)


def _decode_and_judge(ranks: int, series: int, seconds: float) -> tuple[float, float]:
    """Frames a second, and the longest time that one took."""
    engine = RunEngine("benchmark", load(resolve_pack("default")))
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


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
