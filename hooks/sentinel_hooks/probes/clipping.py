"""What gradient clipping did."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

_EPSILON = 1e-6  # DeepSpeed's, in every one of its optimizers


class ClippingProbe(Probe):
    """What clipping multiplied the gradients by: min(1, threshold / (norm + 1e-6)).

    The formula of DeepSpeed (`clip_grad_norm_` at stage 0, `unscale_and_clip_grads` in its ZeRO
    and fp16 optimizers, `clip_tensors_by_global_norm` in bf16), with the norm that was announced
    as `grad_norm`. A step that was skipped was not clipped: nothing is said of it. `threshold`
    reads the norm beyond which gradients are clipped; `absent` says why nothing can be told.
    """

    name = "gradient clipping"
    signals = ("clip_coefficient",)

    def __init__(
        self,
        threshold: Callable[[], float | None],
        device: torch.device,
        absent: str = "",
    ) -> None:
        self._threshold = threshold
        self._device = device
        self._absent = absent
        self._first = 0
        self._norm: int | None = None
        self._outcome: Outcome | None = None

    def series(self) -> Sequence[Series]:
        return () if self._absent else (Series("clip_coefficient"),)

    def missing(self) -> Mapping[str, str]:
        return {"clip_coefficient": self._absent} if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first
        known = [one.signal for one in barrier.series]
        self._norm = known.index("grad_norm") if "grad_norm" in known else None

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def read(self, sample: Sample) -> None:
        outcome, self._outcome = self._outcome, None
        place = self._norm
        if self._absent or place is None or outcome is None or outcome.skipped or outcome.overflow:
            return
        threshold = self._threshold()

        def fill(_: list[float]) -> None:
            if threshold is not None and not sample.is_missing(place):
                sample.put(self._first, coefficient(threshold, sample.values[place]))

        sample.later(torch.empty(0, device=self._device), fill)  # after the gradient probe's


def coefficient(threshold: float, norm: float) -> float:
    """What gradients of this norm are multiplied by; without a threshold (0) by 1."""
    if threshold <= 0:
        return 1.0
    if math.isnan(norm):
        return norm
    return min(1.0, threshold / (norm + _EPSILON))
