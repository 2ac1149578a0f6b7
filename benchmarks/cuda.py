"""What watching costs on a CUDA device, beside nothing.

    python -m benchmarks.cuda [--blocks N] [--steps N] [--write]

Trains three GPTs in bfloat16 in a plain loop on one device: one whose steps the device needs longer
for than the host, one for which both need about as long, and one whose steps wait for the host,
which has to start some five hundred small kernels. Blocks of watched steps alternate with as many
that are not watched. A step's time is that between two CUDA events at its ends; the first steps of
a block do not count. Medians say what most steps take; in means what is measured now and then
counts, too, and with it what a quieter machine would not have. `nothing` is the same comparison of
unwatched blocks with each other: what such a ratio can resolve here. Of smaller models there are
more blocks, since the host is noisier than the device.
`--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

import sentinel
from benchmarks.results import write_part
from tests.hooks.scripts.gpt import Gpt

VOCABULARY = 8192
WARM_UP = 20  # steps of a block that do not count; what is measured every 20 is then known


@dataclass(frozen=True)
class Size:
    """A model, and the rows and columns of its batches."""

    title: str
    width: int
    layers: int
    rows: int
    length: int
    often: int  # pairs of blocks for each one that is asked for


SIZES = (
    Size("bound by the device", width=2048, layers=16, rows=16, length=1024, often=1),
    Size("bound by both", width=1024, layers=12, rows=8, length=1024, often=3),
    Size("bound by the host", width=512, layers=12, rows=4, length=256, often=6),
)


@dataclass(frozen=True)
class Taken:
    """What the steps of a block took, in ms."""

    median: float
    mean: float


class Training:
    """A GPT in a plain loop on the device."""

    def __init__(self, size: Size) -> None:
        torch.manual_seed(0)
        model = Gpt(vocabulary=VOCABULARY, width=size.width, layers=size.layers, heads=16)
        self.model = model.to("cuda", torch.bfloat16)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        shape = (size.rows, size.length + 1)
        self.tokens = torch.randint(VOCABULARY, shape, device="cuda")
        self.parameters = sum(one.numel() for one in self.model.parameters())

    def step(self) -> None:
        """One optimizer step; waits for nothing."""
        self.model(self.tokens[:, :-1], self.tokens[:, 1:]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def block(self, steps: int) -> Taken:
        """So many steps that count."""
        moments = []
        for _ in range(steps + WARM_UP + 1):
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # untyped there
            moment.record()
            moments.append(moment)
            self.step()
        torch.cuda.synchronize()
        counted = moments[WARM_UP:]
        took: list[float] = [a.elapsed_time(b) for a, b in pairwise(counted)]
        return Taken(statistics.median(took), statistics.mean(took))


def watched(training: Training, steps: int) -> Taken:
    """A block under all that `sentinel.attach` does in the training process."""
    watch = sentinel.attach(
        model=training.model, optimizer=training.optimizer, daemon="/nowhere/sentinel.sock"
    )
    try:
        return training.block(steps)
    finally:
        watch.detach()


def unwatched(training: Training, steps: int) -> Taken:
    """A block with nothing added."""
    return training.block(steps)


Pair = tuple[Taken, Taken]  # blocks side by side, the second unwatched


def pairs(
    training: Training, one: Callable[[Training, int], Taken], blocks: int, steps: int
) -> list[Pair]:
    """Blocks of one kind, and unwatched ones beside them: before and after in turn."""
    found = []
    for number in range(blocks):
        if number % 2:
            found.append((one(training, steps), unwatched(training, steps)))
        else:
            plain = unwatched(training, steps)
            found.append((one(training, steps), plain))
    return found


def row(size: Size, blocks: int, steps: int) -> str:
    """The line of a table for this size."""
    training = Training(size)
    unwatched(training, steps)
    nothing = pairs(training, unwatched, size.often * blocks, steps)
    seen = pairs(training, watched, size.often * blocks, steps)
    found = [
        f"{statistics.median(plain.median for _, plain in seen):.2f} ms",
        f"{statistics.median(ours.median for ours, _ in seen):.2f} ms",
        *(_ratio(blocks, lambda taken: taken.median) for blocks in (seen, nothing)),
        *(_ratio(blocks, lambda taken: taken.mean) for blocks in (seen, nothing)),
    ]
    return f"| {size.title} | {training.parameters / 1e6:.0f}M | {' | '.join(found)} |"


def _ratio(blocks: list[Pair], of: Callable[[Taken], float]) -> str:
    """The median ratio, and the quartiles if there are some."""
    ratios = [of(one) / of(plain) for one, plain in blocks]
    if len(ratios) < 2:
        return f"{ratios[0]:.3f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def main() -> int:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description="What watching costs on a CUDA device.")
    parser.add_argument("--blocks", type=int, default=6, help="pairs, of the largest model")
    parser.add_argument("--steps", type=int, default=40, help="steps of a block that count")
    parser.add_argument("--write", action="store_true", help="into benchmarks/RESULTS.md")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("this needs a CUDA device, and torch finds none", file=sys.stderr)
        return 1
    lines = [
        "# What watching costs on a CUDA device",
        "",
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16, a plain loop; "
        f"{', '.join(str(size.often * options.blocks) for size in SIZES)} pairs of blocks of "
        f"{options.steps} steps, {WARM_UP} more before them. Ratios are medians, with quartiles. "
        "`python -m benchmarks.cuda --write`",
        "",
        "| steps | parameters | unwatched | watched | ratio | of nothing | of means | of nothing |",
        "|---|---|---|---|---|---|---|---|",
        *(row(size, options.blocks, options.steps) for size in SIZES),
    ]
    print("\n".join(lines))
    if options.write:
        write_part("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
