"""What watching costs, beside what others do and beside nothing.

    python -m benchmarks.overhead [--steps N] [--blocks N] [--only NAME] [--write]

Trains two GPTs, of about 11M and 0.9M parameters, in a plain loop on the CPU with one thread and
1,024 tokens a step. Blocks of watched steps alternate with as many that are not watched. For each
probe alone, for the core, for all of Sentinel, and for what others do, two figures are given:

direct   the seconds spent in the added code, by its own clock, over the seconds of the step
paired   the median ratio of the time of a watched step to that of the same step unwatched, with
         its quartiles; "nothing" shows what such a ratio can resolve on this machine

The first steps of a block do not count: what is done once, when watching begins, is no running
cost. Of those that do, twenty by default, every twentieth is among them; of what is measured at
every step half as many are enough. `--write` puts the tables into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

import sentinel
from benchmarks.results import write_part
from benchmarks.rivals import RIVALS, Rival
from sentinel import wire
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.options import Options
from tests.hooks.scripts.gpt import Gpt, batch

VOCABULARY = 65
LENGTH = 256
TOKENS = 1024
SIZES = {"11M": (384, 6, 6), "0.9M": (128, 4, 4)}  # width, layers, heads
WARM_UP = 3  # steps of a block that do not count

Block = tuple[list[float], list[float]]  # seconds of each step, and in the added code


class Training:
    """A small GPT in a plain loop."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        torch.manual_seed(0)
        self.model = Gpt(vocabulary=VOCABULARY, width=width, layers=layers, heads=heads)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)
        self.parameters = sum(one.numel() for one in self.model.parameters())

    def step(self, seed: int) -> float:
        """One step; its seconds."""
        rows = TOKENS // LENGTH
        tokens = batch(seed, size=rows, length=LENGTH, vocabulary=VOCABULARY)
        began = time.perf_counter()
        self.model(tokens[:, :-1], tokens[:, 1:]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began


Watch = Callable[[Training, int], Block]


def unwatched(training: Training, steps: int) -> Block:
    """A block with nothing added."""
    return [training.step(seed) for seed in range(steps)], [0.0] * steps


def everything(training: Training, steps: int) -> Block:
    """All that `sentinel.attach` does in the training thread, its frames going nowhere."""
    watch = sentinel.attach(
        model=training.model, optimizer=training.optimizer, daemon="/nowhere/sentinel.sock"
    )
    frames: list[wire.Frame] = []
    setattr(watch._emitter, "put", frames.append)  # noqa: B010 - mypy forbids to replace methods
    names = [one.signal for one in watch._adapter.panel.series]
    took = [training.step(seed) for seed in range(steps)]
    watch.detach()
    return took, [_monitor_seconds(frame.values, names) for frame in frames]


def _monitor_seconds(values: bytes, names: list[str]) -> float:
    return memoryview(values).cast("d")[names.index("monitor_seconds")]


def guarded(training: Training, steps: int) -> Block:
    """A block under guard, of which only the guard's own look counts as added code."""
    adapter = choose(
        model=training.model, optimizer=training.optimizer, options=Options(guard=True)
    )
    for probe in adapter.panel.probes:
        adapter.panel.retire(probe, "left out")
    adapter.install(lambda _: None, lambda _: None)
    took, own = [], []
    for seed in range(steps):
        before = adapter.panel.cost.total
        took.append(training.step(seed))
        own.append(adapter.panel.cost.total - before)
    adapter.detach()
    return took, own


def probes(chosen: Callable[[str, bool], bool]) -> Watch:
    """A block watched by those probes of which `chosen` says yes to name and `core`."""

    def watched(training: Training, steps: int) -> Block:
        adapter = choose(model=training.model, optimizer=training.optimizer)
        adapter.install(lambda _: None, lambda _: None)
        for probe in adapter.panel.probes:
            if probe.name != "own cost" and not chosen(probe.name, probe.core):
                adapter.panel.retire(probe, "left out")
        names = [one.signal for one in adapter.panel.series]
        took, own = [], []
        for seed in range(steps):
            took.append(training.step(seed))
            own += [_monitor_seconds(s.value_bytes(), names) for s in adapter.panel.settled()]
        adapter.detach()
        return took, own

    return watched


def only(wanted: str) -> Watch:
    """A block watched by the probe of this name."""
    return probes(lambda name, _: name == wanted)


def rival(make: Callable[[], Rival]) -> Watch:
    """A block watched by somebody else's code."""

    def watched(training: Training, steps: int) -> Block:
        other = make()
        remove = other.attach(training.model, training.optimizer)
        took, own = [], []
        for seed in range(steps):
            before = other.seconds
            took.append(training.step(seed))
            own.append(other.seconds - before)
        remove()
        return took, own

    return watched


@dataclass
class Row:
    """What was measured of one way to watch."""

    name: str
    interval: str
    direct: list[float] = field(default_factory=list)
    paired: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        direct, ratio = 100 * statistics.mean(self.direct), statistics.median(self.paired)
        low, _, high = statistics.quantiles(self.paired, n=4)
        spread = f"{low:.3f} to {high:.3f}"
        return f"| {self.name} | {self.interval} | {direct:.2f}% | {ratio:.3f} | {spread} |"


def cases(training: Training) -> Iterator[tuple[str, str, Watch]]:
    """Name, interval and way of everything that is compared."""
    adapter = choose(model=training.model, optimizer=training.optimizer)
    measured = [probe for probe in adapter.panel.probes if probe.series()]
    yield "nothing", "", unwatched
    yield "**all of Sentinel**", "as below", everything
    core_and_memory = probes(lambda name, core: core or name == "host memory")
    yield "core: loss to non-finite values, memory", "1", core_and_memory
    yield "guard alone", "1", guarded
    for probe in measured:
        yield f"{probe.name} alone", str(probe.every), only(probe.name)
    for name, make in RIVALS.items():
        try:
            make()
        except ImportError:
            print(f"not installed, left out: {name}")
        else:
            yield name, "1", rival(make)


def compare(training: Training, options: argparse.Namespace) -> list[Row]:
    """Every case, in alternation with unwatched blocks."""
    for seed in range(3):
        training.step(seed)
    rows = []
    for name, interval, watched in cases(training):
        if options.only and options.only not in name:
            continue
        row = Row(name, interval)
        steps = options.steps if interval not in ("", "1") else max(2, options.steps // 2)
        for turn in range(options.blocks):
            blocks = [watched, unwatched] if turn % 2 else [unwatched, watched]
            first, second = (_counted(way(training, WARM_UP + steps)) for way in blocks)
            (took, own), (alone, _) = (first, second) if turn % 2 else (second, first)
            row.direct.append(sum(own) / sum(took))
            row.paired += [with_it / without for with_it, without in zip(took, alone, strict=True)]
        print(row, flush=True)
        rows.append(row)
    return rows


def _counted(block: Block) -> Block:
    took, own = block
    return took[WARM_UP:], own[WARM_UP:]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    text = [_machine()]
    for size in SIZES:
        training = Training(*SIZES[size])
        head = (
            f"\n## {training.parameters / 1e6:.2f}M parameters, {TOKENS:,} tokens a step\n\n"
            "| watched by | every n steps | direct | paired | quartiles |\n|---|---|---|---|---|"
        )
        print(head)
        text += [head, *map(str, compare(training, options))]
    if options.write:
        write_part(_INTRODUCTION + "\n".join(text))


_INTRODUCTION = """# What watching costs

Written by `python -m benchmarks.overhead --write`, whose description says what is measured and how.

"""


def _machine() -> str:
    versions = ["torch", "lightning", "wandb"]
    found = [f"{name} {_version(name)}" for name in versions if _version(name)]
    return (
        f"{_processor()}, {os.cpu_count()} cores, one thread, {platform.system()}; "
        f"Python {platform.python_version()}, {', '.join(found)}; float32"
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="in a block")
    parser.add_argument("--blocks", type=int, default=1, help="watched ones of each kind")
    parser.add_argument("--only", metavar="NAME", help="rows whose name has this in it")
    parser.add_argument("--write", action="store_true", help="benchmarks/RESULTS.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
