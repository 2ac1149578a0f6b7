"""The reference trainer under a stand-in for Sentinel that breaks off step 3.

`ending_job.py stop ...`: as an ordered stop does, on every rank. `fail`: an error on rank 1 alone.
"""

from __future__ import annotations

import sys

import sentinel
from sentinel_hooks.reference.__main__ import main
from sentinel_hooks.reference.trainer import Trainer


class Watch:
    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        print(f"left by {kind.__name__ if kind else 'the end'}", flush=True)


def attach(trainer: Trainer, checkpoints: str) -> Watch:
    original = trainer.engine.step

    def step() -> None:
        original()
        if trainer.engine.global_steps < 3:
            return
        if ending == "stop":
            raise SystemExit(0)
        if trainer.engine.global_rank == 1:
            raise RuntimeError("rank 1 has had enough")

    trainer.engine.step = step
    return Watch()


if __name__ == "__main__":
    ending = sys.argv.pop(1)
    sentinel.attach = attach  # type: ignore[assignment]
    main()
