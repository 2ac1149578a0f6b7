"""What watching costs on a CUDA device, beside nothing.

    python -m benchmarks.cuda [--blocks N] [--steps N] [--write]

Trains two GPTs in bfloat16 in a plain loop on one device: one whose steps the device needs longer
for than the host, and one whose steps wait for the host, which has to start some thousand small
kernels. Blocks of watched steps alternate with as many that are not watched. A step's time is that
between two CUDA events at its ends; the first steps of a block do not count. `nothing` is the same
comparison of unwatched blocks with each other: what such a ratio can resolve here.
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
WARM_UP = 5  # steps of a block that do not count


@dataclass(frozen=True)
class Size:
    """A model, and the rows and columns of its batches."""

    title: str
    width: int
    layers: int
    rows: int
    length: int


SIZES = (
    Size("bound by the device", width=2048, layers=16, rows=16, length=1024),
    Size("bound by the host", width=512, layers=12, rows=4, length=256),
)


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

    def block(self, steps: int) -> float:
        """The median time of so many steps, in ms."""
        moments = []
        for _ in range(steps + WARM_UP + 1):
            moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            moment.record()
            moments.append(moment)
            self.step()
        torch.cuda.synchronize()
        counted = moments[WARM_UP:]
        took: list[float] = [a.elapsed_time(b) for a, b in pairwise(counted)]
        return statistics.median(took)


def watched(training: Training, steps: int) -> float:
    """A block under all that `sentinel.attach` does in the training process."""
    watch = sentinel.attach(
        model=training.model, optimizer=training.optimizer, daemon="/nowhere/sentinel.sock"
    )
    try:
        return training.block(steps)
    finally:
        watch.detach()


def unwatched(training: Training, steps: int) -> float:
    """A block with nothing added."""
    return training.block(steps)


def ratio(
    training: Training, one: Callable[[Training, int], float], blocks: int, steps: int
) -> tuple[float, float, float]:
    """The median ratio of blocks of one kind to unwatched ones beside them, and both times."""
    pairs = []
    for number in range(blocks):
        if number % 2:
            pairs.append((one(training, steps), unwatched(training, steps)))
        else:
            plain = unwatched(training, steps)
            pairs.append((one(training, steps), plain))
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


def main() -> int:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description="What watching costs on a CUDA device.")
    parser.add_argument("--blocks", type=int, default=6, help="pairs of blocks")
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
        f"{options.blocks} pairs of blocks of {options.steps} steps. "
        "`python -m benchmarks.cuda --write`",
        "",
        "| steps | parameters | unwatched | watched | ratio | ratio of nothing |",
        "|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        training = Training(size)
        unwatched(training, options.steps)
        nothing, _, _ = ratio(training, unwatched, options.blocks, options.steps)
        seen, with_us, without = ratio(training, watched, options.blocks, options.steps)
        lines.append(
            f"| {size.title} | {training.parameters / 1e6:.0f}M | {without:.2f} ms | "
            f"{with_us:.2f} ms | {seen:.3f} | {nothing:.3f} |"
        )
    print("\n".join(lines))
    if options.write:
        write_part("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
