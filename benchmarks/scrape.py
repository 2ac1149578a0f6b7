"""What a scrape of `/metrics` costs with many runs, beside the floor of the client library.

    python -m benchmarks.scrape [--runs 100] [--ranks 8] [--layers 48] [--times 15] [--write]

A daemon in this process serves runs whose ranks report every signal of the catalog that has no
label, those of layers for as many layers as `--layers` says, and collectives of four groups; each
run has judged a few steps by the shipped rules, one layer has a NaN. Printed, as medians over
`--times` scrapes of processor time, each of steps that no scrape has seen: the whole scrape; the
longest that it held up the event loop at a time (it goes on with other work between runs); what
making the steps of all runs into text takes, which the daemon does between scrapes where there are
many, once in so many seconds; the size of the answer; and the floor:
`prometheus_client.generate_latest` of as many samples, of families and labels alike, from gauges
that are set already, so that it renders and does nothing else.
`--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import statistics
import struct
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.engine_throughput import processor
from benchmarks.results import write_part
from sentinel import clock, wire
from sentinel.daemon.metrics import FEW, ROUND, Exposition
from sentinel.daemon.metrics.page import TEXT
from sentinel.daemon.service import Service, Settings
from sentinel.engine.rulefile import load, resolve_pack
from sentinel.signals import CATALOG
from sentinel.wire import Frame, Hello, Series

OF_LAYERS = ("grad_norm", "update_norm", "weight_norm", "adam_rms")
GROUPS = tuple(f"{kind} of {group}" for kind in ("all_reduce", "all_gather") for group in "ab")


class Ears:
    """A connection that is told things and does nothing."""

    def send(self, message: wire.FromDaemon) -> None:
        """See `run.Line`."""

    def refuse(self, reason: str, *, final: bool = False) -> None:
        """See `run.Line`."""
        raise AssertionError(reason)


def announced(layers: int) -> tuple[Series, ...]:
    """What a rank measures."""
    plain = [Series(s.name) for s in CATALOG.values() if s.made_by == "rank" and not s.label]
    names = [f"model.layers.{number}.mlp" for number in range(layers)]
    of_layers = [Series(f"layer_{what}", name) for what in OF_LAYERS for name in names]
    together = [
        Series(name, group)
        for name in ("collective_seconds", "collective_bytes")
        for group in GROUPS
    ]
    return (*plain, *of_layers, *together)


class Jobs:
    """Runs of so many ranks in a daemon of this process."""

    def __init__(self, service: Service, runs: int, ranks: int, layers: int) -> None:
        self._service, self._ranks, self._step = service, ranks, 0
        self._series = announced(layers)
        self._names = [f"run-{number:03d}" for number in range(runs)]
        for name in self._names:
            for rank in range(ranks):
                hello = Hello(
                    wire.VERSION, name, rank, ranks, f"{name}-{rank}", "node", 1, "cuda:0", "plain",
                    0, series=self._series,
                )  # fmt: skip
                body = wire.encode(hello)[wire.HEADER :]
                service.admit(hello, Ears(), clock.steady(), body)

    def step(self) -> None:
        """All ranks of all runs do a step; every value is another one."""
        self._step += 1
        for rank in range(self._ranks):
            values = [0.0 if one.signal.startswith(("nonfinite", "gpu_", "out_", "skip", "over"))
                      else 1.0 + (0.1 * at + 0.01 * rank + 0.001 * self._step) % 1.0
                      for at, one in enumerate(self._series)]  # fmt: skip
            values[-1 - len(GROUPS) * 2] = float("nan")
            packed = struct.pack(f"<{len(values)}d", *values)
            for name in self._names:
                frame = Frame(self._step, self._step, clock.steady(), packed)
                self._service.runs[name].hear(rank, frame, clock.steady())


@dataclass(frozen=True)
class Took:
    """Medians, in seconds of processor time: of a scrape, its longest slice, and preparing it."""

    scrape: float
    slice: float
    preparing: float


async def measure(runs: int, ranks: int, layers: int, times: int) -> tuple[Took, bytes]:
    """What it took, and the answer."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Settings(Path(folder), load(resolve_pack("default"))))
        await service.open()
        try:
            jobs, exposition = Jobs(service, runs, ranks, layers), Exposition(service)
            for _ in range(3):
                jobs.step()
            while not all(run.seen and run.engine.pulse for run in service.runs.values()):
                await asyncio.sleep(0.1)  # some ticks, for what is known by the clock
            found = []
            for _ in range(times):
                jobs.step()
                await service.settled()
                gc.collect()
                prepared = _prepare(exposition, service)
                scrape, longest, answer = _scrape(exposition)
                found.append((scrape, longest, prepared))
            return Took(*map(statistics.median, zip(*found, strict=True))), answer
        finally:
            await service.close()


def _prepare(exposition: Exposition, service: Service) -> float:
    """What the daemon does between scrapes, where there are many runs."""
    if len(service.runs) <= FEW:
        return 0.0
    began = time.thread_time()
    for name in service.runs:
        exposition.prepare(name)
    return time.thread_time() - began


def _scrape(exposition: Exposition) -> tuple[float, float, bytes]:
    """The time of a scrape by the processor, its longest part without a break, and the answer.

    It is stepped through as the event loop does, with nothing else in between.
    """
    scrape, took = exposition.text(TEXT), []
    while True:
        began = time.thread_time()
        try:
            scrape.send(None)
        except StopIteration as done:
            took.append(time.thread_time() - began)
            return sum(took), max(took), done.value
        took.append(time.thread_time() - began)


def floor(answer: bytes, times: int) -> tuple[float, int]:
    """What the client library takes to render the same samples; how many they are."""
    registry, count = CollectorRegistry(), 0
    for number, family in enumerate(text_string_to_metric_families(answer.decode())):
        by_labels: dict[tuple[str, ...], Gauge] = {}
        for sample in family.samples:
            names = tuple(sample.labels)
            if names not in by_labels:
                name = f"{family.name}_{number}_{len(by_labels)}"
                by_labels[names] = Gauge(name, family.documentation, names, registry=registry)
            gauge = by_labels[names]
            (gauge.labels(*sample.labels.values()) if names else gauge).set(sample.value)
            count += 1
    took = []
    for _ in range(times):
        gc.collect()
        began = time.thread_time()
        generate_latest(registry)
        took.append(time.thread_time() - began)
    return statistics.median(took), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="benchmarks/RESULTS.md")
    options = parser.parse_args()
    took, answer = asyncio.run(measure(options.runs, options.ranks, options.layers, options.times))
    library, samples = floor(answer, options.times)
    lines = [
        "# What a scrape costs",
        "",
        "Written by `python -m benchmarks.scrape --write`, whose description says what is "
        "measured.",
        "",
        f"{processor()}, one core; Python {platform.python_version()}, "
        f"prometheus_client {version('prometheus_client')}",
        "",
        "| runs | ranks each | samples | size | a scrape | holds up others "
        f"| between scrapes, in {ROUND:.0f} s | the library renders alone |",
        "|---|---|---|---|---|---|---|---|",
        f"| {options.runs} | {options.ranks} | {samples:,} | {len(answer) / 1e6:.2f} MB "
        f"| {1000 * took.scrape:.1f} ms | {1000 * took.slice:.1f} ms "
        f"| {1000 * took.preparing:.1f} ms | {1000 * library:.1f} ms |",
    ]
    print("\n".join(lines))
    if options.write:
        write_part("\n".join(lines))


if __name__ == "__main__":
    main()
