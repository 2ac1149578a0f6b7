"""Gradient norms that a trainer masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample


class MaskingProbe(Probe):
    """Whether the trainer's own norm hid that the gradient was not finite.

    DeepSpeed says -1, infinity, nothing, the norm of an earlier step or, in versions that take
    the root of (-1)^2, 1. A norm of NaN hides nothing. Read after the gradient probe, which says
    in the sample whether the gradient was finite; after an overflow in fp16 it was not.
    """

    name = "masked gradient norm"
    signals = ("grad_norm_masked",)

    def __init__(self, device: torch.device, absent: str = "") -> None:
        self._device = device
        self._absent = absent
        self._first = 0
        self._outcome: Outcome | None = None

    def series(self) -> Sequence[Series]:
        return () if self._absent else (Series("grad_norm_masked"),)

    def missing(self) -> Mapping[str, str]:
        return {"grad_norm_masked": self._absent} if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def read(self, sample: Sample) -> None:
        outcome, self._outcome = self._outcome, None
        if outcome is None or self._absent:
            return
        own = outcome.grad_norm

        def fill(values: list[float]) -> None:
            said = values[0] if isinstance(own, Tensor) else own
            bad = True if outcome.overflow or outcome.skipped else sample.bad_gradients
            if said is not None and not 0 <= said < math.inf:
                bad = True
            if bad is not None:
                sample.put(self._first, float(bad and (said is None or not math.isnan(said))))

        if isinstance(own, Tensor):
            sample.later(own.detach().to(torch.float32).reshape(1), fill)
        else:
            sample.later(torch.empty(0, device=self._device), fill)  # after the gradient probe's
