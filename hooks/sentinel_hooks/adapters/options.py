"""What a caller of `attach` may choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to measure, and whether to guard; `attach` says what each means."""

    exact_updates: bool = False
    peak_flops: float | None = None  # operations a second
    nccl_timing: bool = False
    checkpoints: str = ""  # the folder that the engine's are in
    guard: bool = False


DEFAULT = Options()
