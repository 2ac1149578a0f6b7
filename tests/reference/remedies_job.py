"""A job of two ranks that applies every remedy to a trainer and writes down what came of it.

`torchrun ... remedies_job.py FOLDER` writes FOLDER/RANK.json: for each kind of engine, each
experiment's steps as [number, exact loss, lr, applied].
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from sentinel_hooks.reference.__main__ import launched, leave
from sentinel_hooks.reference.config import Settings
from sentinel_hooks.reference.data import Text, read_text
from sentinel_hooks.reference.faults import LrJump, Nan
from sentinel_hooks.reference.model import Decoder, Shape
from sentinel_hooks.reference.trainer import Trainer

ENGINES = ((0, "fp32"), (2, "fp32"), (2, "bf16"), (3, "bf16"))

Row = tuple[int, str, float, bool]


def run(trainer: Trainer, steps: int) -> list[Row]:
    done = [trainer.step() for _ in range(steps)]
    return [(step.number, float(step.loss).hex(), step.lr, step.applied) for step in done]


def nonfinite_modules(model: nn.Module) -> list[str]:
    """The names of modules whose output has NaN, in the order of their calls, from now on."""
    names: list[str] = []

    def look_at(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def look(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            if not bool(output.detach().isfinite().all()):
                names.append(name)

        return look

    for name, module in model.named_modules():
        module.register_forward_hook(look_at(name))
    return names


def experiment(make: Callable[[], Trainer], rank: int) -> dict[str, object]:
    trainer = make()
    run(trainer, 3)
    trainer.save_checkpoint("three")
    found: dict[str, object] = {"unbroken": run(trainer, 3)}

    Nan(module="layers.1.mlp", rank=1, step=7, batches=2).arm(trainer, rank)
    nonfinite = nonfinite_modules(trainer.engine.module)
    found["poisoned"] = run(trainer, 1)
    found["first_nonfinite"] = nonfinite[0] if nonfinite else None
    trainer.load_checkpoint("three")
    trainer.rewind_data("three")
    found["rolled_back"] = run(trainer, 3)
    trainer.skip_batches(2)
    found["skipped"] = run(trainer, 1)

    LrJump(step=8, factor=0.5).arm(trainer, rank)
    found["scaled"] = run(trainer, 2)
    trainer.save_checkpoint("scaled")
    found["scaled_on"] = run(trainer, 1)

    fresh = make()  # from here on alone: two engines of stage 3 cannot take turns
    fresh.load_checkpoint("three")
    fresh.rewind_data("three")
    found["resumed"] = run(fresh, 3)
    found["unscaled"] = run(fresh, 3)[1:]
    fresh.load_checkpoint("scaled")
    fresh.rewind_data("scaled")
    found["scaled_resumed"] = run(fresh, 1)
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    rank, _ = launched()
    torch.set_num_threads(1)
    words = read_text()
    found: dict[str, dict[str, object]] = {}
    for stage, precision in ENGINES:
        settings = Settings(
            stage=stage,
            precision=precision,
            steps=12,
            warmup=2,
            micro_batch=2,
            accumulation=2,
            save_dir=folder / f"{stage}-{precision}",
        )

        def make(settings: Settings = settings) -> Trainer:
            torch.manual_seed(0)
            model = Decoder(Shape(layers=2, width=32, heads=2, context=32), recompute=True)
            text = Text(words, rows=4, context=32, seed=0, rank=rank)
            return Trainer(model, text, settings)

        found[f"{stage}-{precision}"] = experiment(make, rank)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    leave(0)


if __name__ == "__main__":
    main()
