"""A DeepSpeed script as a stranger would write it: its own model, data and loop, one line added.

Everything the tests vary comes by environment, so that the loop stays what a user has.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from tests.hooks.scripts.gpt import Gpt, batch

STAGE = int(os.environ["STAGE"])
STEPS = int(os.environ.get("STEPS", "40"))
BAD = range(*map(int, os.environ.get("BAD", "0,0").split(",")))  # global steps, from 0
INJECT = os.environ.get("INJECT", "forward")
BAD_RANK = 1


def nan_hook(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output * float("nan")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    model = Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": STAGE},
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if os.environ.get("ATTACH", "1") == "1":
        import sentinel

        sentinel.attach(engine)
    rank = dist.get_rank()
    target = model.get_submodule("blocks.1.mlp")
    plain_forward = target.forward
    losses = []
    for step in range(STEPS):
        bad = rank == BAD_RANK and step in BAD
        hook = target.register_forward_hook(nan_hook) if bad and INJECT == "hook" else None
        if INJECT == "forward":
            target.forward = (lambda x: plain_forward(x) * float("nan")) if bad else plain_forward
        tokens = batch(2 * step + rank)
        loss = engine(tokens[:, :-1], tokens[:, 1:])
        engine.backward(loss)
        engine.step()
        losses.append(loss.item().hex())
        if hook is not None:
            hook.remove()
        if rank == 0 and (pace := os.environ.get("PACE")):
            Path(pace).write_text(str(step))
    if out := os.environ.get("OUT"):
        Path(f"{out}.{rank}").write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
