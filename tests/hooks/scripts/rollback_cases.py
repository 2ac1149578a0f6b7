"""Roll a raw DeepSpeed engine back and forth, and write down what it trained on and how.

Started by `torchrun -m` from the repository's root with a folder, which gets checkpoints and one
file of results per rank. Its loop knows nothing of Sentinel but `watch.batches`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from sentinel.errors import ControlError
from sentinel.wire import Checkpoint, Remedies
from sentinel_hooks.adapters.deepspeed_engine import DeepSpeedAdapter
from sentinel_hooks.batches import watched
from sentinel_hooks.notes import Notes
from sentinel_hooks.probes.fingerprint import fingerprint
from sentinel_hooks.probes.mark import Marker
from tests.hooks.scripts.gpt import Gpt, batch

ENGINES = tuple((stage, dtype) for stage in range(4) for dtype in ("fp32", "bf16"))

# After so many steps of the loop, whatever their numbers: what is ordered at the boundary.
PLAN = {
    6: Remedies(rollback="mine", rewind=True),
    9: Remedies(rollback="mine"),
    12: Remedies(rollback="mine", skip_batches=2, lr_scale=0.5),
    15: Remedies(rollback="scaled", rewind=True),
    16: Remedies(checkpoint=True),
    17: Remedies(rollback="mine", rewind=True),
}
SAVES = {3: "mine", 14: "scaled"}
STEPS = 18


def engine_of(stage: int, dtype: str) -> Any:
    torch.manual_seed(7)
    model = Gpt()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "scheduler": {
            "type": "WarmupLR",
            "params": {"warmup_num_steps": 10, "warmup_max_lr": 1e-2, "warmup_type": "linear"},
        },
    }
    if dtype == "bf16":
        config["bf16"] = {"enabled": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]


def loader(engine: Any, dtype: str) -> Iterable[Any]:
    """DeepSpeed's own, or one that shuffles by what torch's global generator happens to give."""
    rows = TensorDataset(torch.cat([batch(100 * dist.get_rank() + one) for one in range(40)]))
    if dtype == "bf16":
        own: Iterable[Any] = engine.deepspeed_io(rows, num_local_io_workers=0)
        return own
    return DataLoader(rows, batch_size=2, shuffle=True)


def step(engine: Any, rows: torch.Tensor, spoil: float = 1.0) -> list[Any]:
    """One step: its number, the exact loss, the learning rate, and which batch it was."""
    loss = engine(rows[:, :-1], rows[:, 1:])
    engine.backward(loss * spoil)
    rate = engine.optimizer.param_groups[0]["lr"]
    number = engine.global_steps + 1
    engine.step()
    return [number, float(loss).hex(), rate, fingerprint(rows)]


def run(stage: int, dtype: str, folder: Path) -> dict[str, Any]:
    engine = engine_of(stage, dtype)
    adapter = DeepSpeedAdapter(engine)
    saved: list[Checkpoint] = []
    loop = Loop(adapter)
    adapter.install(loop.boundary, lambda _: None, on_saved=saved.append)
    refused = adapter.refuses(Remedies(rollback="mine"))
    notes = Notes(adapter.panel, Marker(adapter.device), lambda _: None)
    batches = watched(loader(engine, dtype), notes, None)
    adapter.loaders.add(batches)
    torch.manual_seed(dist.get_rank())
    rows, trained_on = loop.train(engine, batches, folder)
    result: dict[str, Any] = {
        "rows": rows,
        "position": batches.position,
        "refused": refused,
        "refusals": refusals(adapter, folder),
        "saved": [[one.step, one.tag, one.folder, one.bad_weights, one.present] for one in saved],
        "boundaries": loop.boundaries,
        "samples": [one.step for one in adapter.panel.settled()],
        "missing": [one.signal for one in adapter.panel.changes()],
    }
    if (stage, dtype) == (0, "fp32"):
        result["destroyed"] = destroyed(engine, adapter, trained_on[3], saved, folder)
    adapter.detach()
    engine.destroy()
    result["by_hand"] = by_hand(stage, dtype, folder, trained_on)
    return result


class Loop:
    """A training loop with somebody at its boundaries."""

    def __init__(self, adapter: DeepSpeedAdapter) -> None:
        self.adapter = adapter
        self.done = 0
        self.boundaries: list[int] = []

    def boundary(self, step: int) -> None:
        self.boundaries.append(step)
        self.done += 1
        if remedies := PLAN.get(self.done):
            if why := self.adapter.refuses(remedies):
                raise AssertionError(why)
            self.adapter.apply(remedies)

    def train(
        self, engine: Any, batches: Iterable[Any], folder: Path
    ) -> tuple[list[Any], list[torch.Tensor]]:
        rows, trained_on = [], []
        for (tokens,) in batches:
            trained_on.append(tokens)
            rows.append(step(engine, tokens))
            if tag := SAVES.get(len(rows)):
                engine.save_checkpoint(folder, tag=tag)
            if len(rows) == STEPS:
                break
        return rows, trained_on


def refusals(adapter: DeepSpeedAdapter, folder: Path) -> dict[str, str]:
    """Why some rollbacks are refused; the checkpoints are as they were afterwards."""
    found = {
        tag: adapter.refuses(Remedies(rollback=tag)) for tag in ("none", "../mine", "a/b", "..")
    }
    own = next(
        file
        for file in sorted((folder / "mine").iterdir())
        if f"pp_rank_{dist.get_rank()}_" in file.name or file.name.startswith("mp_rank")
    )
    content = own.read_bytes()
    dist.barrier()
    if dist.get_rank() == 0 or not own.name.startswith("mp_rank"):
        own.write_bytes(content[:-100])
    dist.barrier()
    found["cut"] = adapter.refuses(Remedies(rollback="mine"))
    dist.barrier()
    own.unlink(missing_ok=True)
    dist.barrier()
    found["gone"] = adapter.refuses(Remedies(rollback="mine"))
    dist.barrier()
    own.write_bytes(content)
    dist.barrier()
    found["whole"] = adapter.refuses(Remedies(rollback="mine"))
    return found


def destroyed(
    engine: Any,
    adapter: DeepSpeedAdapter,
    tokens: torch.Tensor,
    saved: list[Checkpoint],
    folder: Path,
) -> dict[str, Any]:
    """A NaN that is applied, saved, and got out of."""
    step(engine, tokens, spoil=float("nan"))
    found: dict[str, Any] = {"bad_weight": adapter.first_bad_weight()}
    engine.save_checkpoint(folder, tag="bad")
    found["saved"] = saved[-1].bad_weights
    try:
        adapter.apply(Remedies(rollback="bad"))
    except ControlError as error:
        found["rollback to it"] = str(error)
    found["going on"] = adapter.refuses(Remedies())
    found["way out"] = adapter.refuses(Remedies(rollback="mine"))
    adapter.apply(Remedies(rollback="mine"))
    found["going on then"] = adapter.refuses(Remedies())
    found["after"] = step(engine, tokens)
    return found


def by_hand(
    stage: int, dtype: str, folder: Path, trained_on: list[torch.Tensor]
) -> dict[str, list[Any]]:
    """What a process makes of the checkpoint that was started anew, with the same batches."""
    engine = engine_of(stage, dtype)
    found = {}
    for name, first in (("same data", 3), ("data going on", 9)):
        engine.load_checkpoint(folder, tag="mine")
        found[name] = [step(engine, tokens) for tokens in trained_on[first : first + 3]]
    engine.destroy()
    return found


def main() -> None:
    os.environ["SENTINEL_RAISE"] = "1"
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # needs no compiler
    deepspeed.init_distributed("gloo")
    results = {f"{s}-{dtype}": run(s, dtype, folder / f"{s}-{dtype}") for s, dtype in ENGINES}
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # torch's gloo may abort at an orderly exit


if __name__ == "__main__":
    main()
