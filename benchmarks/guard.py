"""What the guard costs with its collective: two ranks on gloo, in one machine.

    torchrun --standalone --nproc_per_node 2 -m benchmarks.guard [--steps N] [--blocks N]

Trains the GPTs of `benchmarks.overhead` under DistributedDataParallel. Blocks of guarded steps
alternate with blocks that are not even watched. Rank 0 prints, for each size:

look     the seconds in which the guard looks at gradients, over the seconds of the step
agree    those in its all-reduce, waiting for the other rank included, over the same
paired   the median ratio of the time of a guarded step to that of the same step unguarded, with
         its quartiles: all that comes with the guard, and the steps' own probes

Ranks wait for each other at the end of the backward pass in any case, so that what the guard
waits for is mostly how far they have come apart since. On GPUs it has not been run.
"""

from __future__ import annotations

import argparse
import os
import statistics
from datetime import timedelta
from time import perf_counter

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.overhead import LENGTH, SIZES, TOKENS, VOCABULARY, WARM_UP
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.options import Options
from sentinel_hooks.adapters.plain import PlainAdapter
from sentinel_hooks.guard import Guard, Look
from tests.hooks.scripts.gpt import Gpt, batch


class TimedGuard(Guard):
    """Adds up the seconds in which it looks and in which it agrees with the other rank."""

    looked = agreed = 0.0

    def _ask(self, look: Look) -> bool | torch.Tensor:
        began = perf_counter()
        found = super()._ask(look)
        TimedGuard.looked += perf_counter() - began
        return found

    def _anywhere(self, here: bool | torch.Tensor) -> bool:
        began = perf_counter()
        found = super()._anywhere(here)
        TimedGuard.agreed += perf_counter() - began
        return found


def block(
    model: DistributedDataParallel, optimizer: torch.optim.Optimizer, steps: int, *, guard: bool
) -> list[tuple[float, float, float]]:
    """For each step its seconds, and of them those of looking and of agreeing."""
    adapter = None
    if guard:
        adapter = choose(model=model, optimizer=optimizer, options=Options(guard=True))
        assert isinstance(adapter, PlainAdapter)
        adapter._finite_only = TimedGuard(adapter.device, adapter.panel.fence, adapter.panel.cost)
        for probe in adapter.panel.probes:
            adapter.panel.retire(probe, "left out")
        adapter.install(lambda _: None, lambda _: None)
    found = []
    rows = TOKENS // LENGTH
    for seed in range(WARM_UP + steps):
        tokens = batch(seed, size=rows, length=LENGTH, vocabulary=VOCABULARY)
        before = TimedGuard.looked, TimedGuard.agreed
        began = perf_counter()
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
        took = perf_counter() - began
        found.append((took, TimedGuard.looked - before[0], TimedGuard.agreed - before[1]))
    if adapter is not None:
        adapter.detach()
    return found[WARM_UP:]


def measure(size: str, options: argparse.Namespace) -> None:
    """Guarded and unguarded blocks in alternation, and what rank 0 has found."""
    torch.manual_seed(0)
    width, layers, heads = SIZES[size]
    inner = Gpt(vocabulary=VOCABULARY, width=width, layers=layers, heads=heads)
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    guarded, ratios = [], []
    for turn in range(options.blocks):
        blocks = {
            guard: block(model, optimizer, options.steps, guard=guard)
            for guard in ((True, False) if turn % 2 else (False, True))
        }
        guarded += blocks[True]
        pairs = zip(blocks[True], blocks[False], strict=True)
        ratios += [one[0] / other[0] for one, other in pairs]
    took, looked, agreed = (sum(column) for column in zip(*guarded, strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    if dist.get_rank() == 0:
        print(
            f"{size}: look {100 * looked / took:.2f}%, agree {100 * agreed / took:.2f}% "
            f"({1e6 * agreed / len(guarded):.0f} us a step), "
            f"paired {middle:.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="in a block")
    parser.add_argument("--blocks", type=int, default=4, help="guarded ones, and as many others")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    for size in SIZES:
        measure(size, options)
    dist.barrier()
    os._exit(0)  # torch's gloo may abort at an orderly exit


if __name__ == "__main__":
    main()
