"""What is to be done to a held run before it goes on."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Remedies(Struct, frozen=True, array_like=True):
    """What is to be done before training goes on. The defaults change nothing.

    `rollback` is the tag of a checkpoint to load, `checkpoint` to save one of the state as it
    stands, `rewind` to go back to the data that came after the one that is loaded. `skip_batches`
    leaves out that many batches of each rank from there on.
    """

    lr_scale: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    skip_batches: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    rollback: Annotated[str, Meta(max_length=512)] = ""
    checkpoint: bool = False
    rewind: bool = False

    def names(self) -> list[str]:
        """The remedies asked for, by the names under which trainers offer them, in their order."""
        asked = {
            "save_checkpoint": self.checkpoint,
            "load_checkpoint": bool(self.rollback),
            "rewind_data": self.rewind,
            "skip_batches": self.skip_batches > 0,
            "scale_lr": self.lr_scale != 1.0,
        }
        return [name for name, wanted in asked.items() if wanted]
