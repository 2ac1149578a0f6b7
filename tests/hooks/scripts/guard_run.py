"""Plain loops under guard on two ranks, one after the other, and one whose other rank dies.

Started by `torchrun -m` from the repository's root with a folder that gets one file per rank.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sentinel
from sentinel.errors import AttachError
from sentinel_hooks.adapters.choice import choose
from sentinel_hooks.adapters.options import Options
from tests.hooks.scripts.counted import Counter
from tests.hooks.scripts.gpt import Gpt, batch, digest
from tests.hooks.watched import Watched

STEPS, BAD = 5, 2
Change = Callable[[Any], None]


def loop(
    *,
    guard: bool | None = True,
    reduced: bool = True,
    bad: float = math.nan,
    left_out: bool = False,
    spoil: Change = lambda _: None,
) -> dict[str, Any]:
    """Train; in step `BAD` a gradient of rank 1 gets a bad element before gradients are averaged.

    `guard` None: without a watch; not `reduced`: each rank keeps its own gradients; `left_out`:
    what the guard should do is done by hand.
    """
    torch.manual_seed(2)
    model: nn.Module = Gpt()
    weight = model.get_parameter("head.weight")
    model = DistributedDataParallel(model, bucket_cap_mb=0.01) if reduced else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watched = None
    if guard is not None:
        options = Options(guard=guard)
        watched = Watched(choose(model=model, optimizer=optimizer, options=options))
        spoil(watched.adapter)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.9)
    losses, rates = [], []
    counted = Counter()
    for step in range(STEPS):
        corrupt = step == BAD and dist.get_rank() == 1
        handle = _corrupt(weight, bad) if corrupt else None
        rows = batch(100 * step + dist.get_rank())
        loss = model(rows[:, :-1], rows[:, 1:])
        loss.backward()
        losses.append(loss.item().hex())
        rates.append(optimizer.param_groups[0]["lr"])
        if not (left_out and step == BAD):
            optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if handle:
            handle.remove()
    result: dict[str, Any] = {
        "losses": losses,
        "rates": rates,
        "collectives": counted.count,
        "weights": digest((*model.parameters(), *_moments(optimizer))),
    }
    if watched is not None:
        result["steps"] = [seen.values for seen in watched.steps]
        result["found"] = [seen.findings for seen in watched.steps]
        watched.adapter.detach()
    return result


def _corrupt(weight: Tensor, value: float) -> Any:
    def corrupt(gradient: Tensor) -> Tensor:
        bad = gradient.clone()
        bad[3, 5] = value
        return bad

    return weight.register_hook(corrupt)  # type: ignore[no-untyped-call]


def _moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [one for state in optimizer.state.values() for one in state.values()]


def blinded(adapter: Any) -> None:
    """A fault of ours, on rank 1 alone, in looking at gradients."""
    if dist.get_rank() == 1:

        def fail() -> None:
            raise RuntimeError("broken on purpose")

        adapter._to_apply = fail


def huge() -> dict[str, Any]:
    """An element of rank 0 whose square is more than any float: a doubt, and no harm."""
    weight = nn.Parameter(torch.ones(4, dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    optimizer = torch.optim.SGD([weight], lr=1e-200)
    adapter = choose(model=model, optimizer=optimizer, options=Options(guard=True))
    adapter.install(lambda _: None, lambda _: None)
    seen = []
    for bad in (1.0, math.inf):
        rank = dist.get_rank()
        weight.grad = torch.full_like(weight, 1e200 if rank == 0 else bad)
        optimizer.step()
        seen.append(weight.tolist())
    adapter.detach()
    return {"weights": seen}


def disagreeing() -> dict[str, Any]:
    """Rank 0 asks for a guard and rank 1 does not."""
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters())
    refused = ""
    try:
        sentinel.attach(
            model=model, optimizer=optimizer, daemon="/nowhere.sock", guard=dist.get_rank() == 0
        ).detach()
    except AttachError as error:
        refused = str(error)
    dist.barrier()
    return {"refused": refused, "optimizer": sorted(vars(optimizer))}


def agreeing() -> dict[str, Any]:
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters())
    watch = sentinel.attach(model=model, optimizer=optimizer, daemon="/nowhere.sock", guard=True)
    hello: Any = watch.greeting()[0]
    watch.detach()
    return {"guard": hello.guard}


def bereaved() -> str:
    """Rank 1 dies between its backward pass and its step; what rank 0's step raises."""
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters())
    adapter = choose(model=model, optimizer=optimizer, options=Options(guard=True))
    adapter.install(lambda _: None, lambda _: None)
    rows = batch(0)
    model(rows[:, :-1], rows[:, 1:]).backward()
    if dist.get_rank() == 1:
        os._exit(0)
    before = [one.detach().clone() for one in model.parameters()]
    try:
        optimizer.step()
    except RuntimeError as error:
        kept = all(map(torch.equal, before, model.parameters()))
        return f"{type(error).__name__}, weights {'kept' if kept else 'changed'}"
    return "nothing"


class Lines(logging.Handler):
    """What Sentinel logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    out = Path(sys.argv[1]) / f"rank{dist.get_rank()}.json"
    os.environ["SENTINEL_RAISE"] = "1"
    results: dict[str, Any] = {
        "unwatched": loop(guard=None, bad=0.0),
        "unguarded": loop(guard=False, bad=0.0),
        "guarded": loop(bad=0.0),
        "bad": loop(),
        "by hand": loop(guard=None, left_out=True),
        "own": loop(reduced=False, bad=math.inf),
        "own by hand": loop(guard=None, reduced=False, bad=math.inf, left_out=True),
        "huge": huge(),
        "disagreeing": disagreeing(),
        "agreeing": agreeing(),
    }
    os.environ["SENTINEL_RAISE"] = "0"
    log = Lines()
    logging.getLogger("sentinel_hooks").addHandler(log)
    results["blinded"] = {**loop(spoil=blinded, bad=0.0), "log": log.lines}
    results["bereaved"] = ""
    out.write_text(json.dumps(results))
    results["bereaved"] = bereaved()
    out.write_text(json.dumps(results))
    os._exit(0)  # torch's gloo may abort at an orderly exit


if __name__ == "__main__":
    main()
