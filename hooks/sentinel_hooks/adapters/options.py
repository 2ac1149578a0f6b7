"""What a caller of `attach` may choose about measuring."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to measure; `attach` says what each means."""

    exact_updates: bool = False
    peak_flops: float | None = None  # operations a second
    nccl_timing: bool = False
    checkpoints: str = ""  # the folder that the engine's are in


DEFAULT = Options()
