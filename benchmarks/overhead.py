"""What watching costs: seconds inside Sentinel's own code over the seconds of a step.

    python -m benchmarks.overhead [--steps N] [--width W] [--layers L] [--tokens T]

Trains a small GPT in a plain loop on the CPU with one thread, in alternating blocks of steps:
watched, and not watched. Prints the direct figure, which is the share of the step that our own
code takes by its own clock; beside it the same for the simplest code that sees as much (a sum of
every module's output, a norm of every gradient), since on a busy machine memory is slow for both;
and the paired ratio of step times with its null: two unwatched steps over each other, which shows
what the machine can resolve.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sentinel_hooks.adapters.adapter import Adapter
from sentinel_hooks.adapters.choice import choose
from tests.hooks.scripts.gpt import Gpt, batch

VOCABULARY = 256


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Gpt(
        vocabulary=VOCABULARY, width=options.width, layers=options.layers, heads=options.heads
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    rows = options.tokens // options.length

    def step(seed: int) -> float:
        tokens = batch(seed, size=rows, length=options.length, vocabulary=VOCABULARY)
        began = time.perf_counter()
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    for seed in range(3):
        step(seed)
    print(f"machine     {_processor()}, {os.cpu_count()} cores, {platform.system()}")
    print(f"versions    Python {platform.python_version()}, torch {torch.__version__}")
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"model       {count / 1e6:.1f}M parameters, {len(list(model.modules()))} modules")
    print(f"step        {options.tokens} tokens, float32, one thread")
    _report(step, lambda: choose(model=model, optimizer=optimizer), Simple(model), options.steps)


class Simple:
    """The simplest code that sees as much, as hooks on the model; counts its seconds."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._sums: list[torch.Tensor] = []
        self._seconds = 0.0

    def install(self) -> Callable[[], float]:
        """Begin; the result ends it and returns the seconds it took."""
        self._seconds = 0.0
        handles = [module.register_forward_hook(self._sum) for module in self._model.modules()]
        last = next(self._model.parameters())  # the embedding: its gradient comes last
        handles.append(last.register_post_accumulate_grad_hook(self._norms))  # type: ignore[no-untyped-call]

        def remove() -> float:
            for handle in handles:
                handle.remove()
            return self._seconds

        return remove

    def _sum(self, module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        began = time.perf_counter()
        self._sums.append(output.detach().sum(dtype=torch.float32))
        self._seconds += time.perf_counter() - began

    def _norms(self, last: torch.Tensor) -> None:
        began = time.perf_counter()
        grads = [p.grad for p in self._model.parameters() if p.grad is not None]
        norms = torch._foreach_norm(grads, 2, dtype=torch.float32)
        torch.stack([*norms, *self._sums]).tolist()
        self._sums = []
        self._seconds += time.perf_counter() - began


def _report(
    step: Callable[[int], float], attach: Callable[[], Adapter], simple: Simple, steps: int
) -> None:
    """Alternate watched and unwatched steps, in an order that a drift of the machine cancels."""
    peers: list[float] = []
    own: list[float] = []
    shares: list[float] = []
    ratios: list[float] = []
    nulls: list[float] = []
    for block in range(steps):
        before, after = step(block), step(block)
        nulls.append(after / before)
        adapter = attach()
        adapter.install(lambda _: None, lambda _: None)
        step(block)
        watched = step(block)
        cost = _cost(adapter)
        adapter.detach()
        unwatched = step(block)
        remove = simple.install()
        took = step(block)
        peers.append(remove() / took)
        own.append(cost)
        shares.append(cost / watched)
        ratios.append(watched / unwatched)
    print(f"own code    {1e3 * statistics.median(own):.3f} ms a step")
    print(f"direct      {100 * statistics.median(shares):.2f} % of a step, median of {steps}")
    print(f"simplest    {100 * statistics.median(peers):.2f} % of a step")
    print(f"paired      {statistics.median(ratios):.3f} (null {statistics.median(nulls):.3f})")


def _cost(adapter: Adapter) -> float:
    sample = adapter.panel.settled()[-1]
    names = [one.signal for one in adapter.panel.series]
    return sample.values[names.index("monitor_seconds")]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="pairs of steps to compare")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of a step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
