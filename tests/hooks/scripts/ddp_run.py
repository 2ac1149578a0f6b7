"""A plain loop over DistributedDataParallel on two ranks, with and without a watch.

Started by `torchrun -m` from the repository's root with a folder that gets one file per rank.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sentinel_hooks.adapters.choice import choose
from tests.hooks.scripts.gpt import Gpt, batch
from tests.hooks.watched import Watched


def run(*, watch: bool) -> dict[str, object]:
    torch.manual_seed(2)
    model = DistributedDataParallel(Gpt(), bucket_cap_mb=0.01)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    adapter = choose(model=model, optimizer=optimizer) if watch else None
    for probe in adapter.panel.probes if adapter is not None else ():
        probe.every = 1
    watched = Watched(adapter) if adapter is not None else None
    losses, norms = [], []
    for step in range(3):
        for micro_batch in range(2):
            rows = batch(100 * step + 10 * micro_batch + dist.get_rank())
            with model.no_sync() if micro_batch == 0 else nullcontext():
                loss = model(rows[:, :-1], rows[:, 1:])
                (loss / 2).backward()
            losses.append(loss.item().hex())
        grads = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
    result: dict[str, object] = {"losses": losses, "norms": norms}
    if watched is not None:
        result["steps"] = [seen.values for seen in watched.steps]
        result["layers"] = sum(
            one.signal == "layer_grad_norm" for one in watched.adapter.panel.series
        )
        watched.adapter.detach()
    return result


def main() -> None:
    os.environ["SENTINEL_RAISE"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {"plain": run(watch=False), "watched": run(watch=True)}
    out = Path(sys.argv[1]) / f"rank{dist.get_rank()}.json"
    out.write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # torch's gloo may abort at an orderly exit


if __name__ == "__main__":
    main()
