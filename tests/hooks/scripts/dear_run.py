"""A plain loop over DistributedDataParallel on two ranks, one of whose probes is dear.

Started by `torchrun -m` from the repository's root with a folder that gets one file per rank. The
sender looks at the job's board ten times as often as usual, so that little time is needed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from sentinel_hooks import watch as watching
from sentinel_hooks.attach import attach
from sentinel_hooks.probes.host_memory import HostMemoryProbe
from sentinel_hooks.probes.probe import Sample
from tests.hooks.scripts.gpt import Gpt, batch

STEPS = 110


def dear(probe: HostMemoryProbe, sample: Sample) -> None:
    """Read nothing, slowly."""
    time.sleep(0.03)
    for place in probe._index.values():
        sample.put(place, 1.0)


def train(*, watch: bool) -> list[str]:
    torch.manual_seed(2)
    model = DistributedDataParallel(Gpt())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watched = attach(model=model, optimizer=optimizer, run="run") if watch else None
    losses = []
    for step in range(STEPS):
        rows = batch(10 * step + dist.get_rank())
        loss = model(rows[:, :-1], rows[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item().hex())
    if watched is not None:
        watched.close()
    return losses


def main() -> None:
    os.environ["SENTINEL_RAISE"] = "1"
    torch.set_num_threads(1)
    for thing, name, broken in ((HostMemoryProbe, "read", dear), (watching, "HEARTBEAT", 0.2)):
        setattr(thing, name, broken)
    dist.init_process_group("gloo")
    results = {"plain": train(watch=False), "watched": train(watch=True)}
    out = Path(sys.argv[1]) / f"rank{dist.get_rank()}.json"
    out.write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # torch's gloo may abort at an orderly exit


if __name__ == "__main__":
    main()
