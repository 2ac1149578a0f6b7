"""What an optimizer step adds to the weights, by tensor and by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.holdings import Sampler, read_back
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample
from sentinel_hooks.probes.tensors import RollUp

EVERY = 20  # steps


class UpdateProbe(Probe):
    """2-norms of the update and of the weights before it, from the master weights of this rank.

    Values are contributions to the *square* of the norm, estimated from the elements that the
    `sampler` chooses (see `coordinates` for the standard error) or, if it is exact, taken from
    all of them. Weights are read before and after the optimizer step: what did not change has an
    update of 0, for whatever reason. Weights are the fp32 masters where there are some.
    """

    name = "updates"
    signals = (
        "tensor_update_norm",
        "layer_update_norm",
        "tensor_weight_norm",
        "layer_weight_norm",
    )
    every = EVERY
    core = False

    def __init__(self, sampler: Sampler) -> None:
        holdings = sampler.holdings
        announced = holdings.announced
        self._sampler = sampler
        self._updates = RollUp("update_norm", holdings.tensors, announced)
        self._weights = RollUp("weight_norm", holdings.tensors, announced)
        absent = holdings.absent
        self._absent = self._updates.missing(absent) | self._weights.missing(absent)
        self._measures = bool(announced)
        self._first = (0, 0)
        self._before: Tensor | None = None
        self._sums: Tensor | None = None

    def series(self) -> Sequence[Series]:
        return [*self._updates.series(), *self._weights.series()]

    def missing(self) -> Mapping[str, str]:
        return self._absent

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = (first, first + len(self._updates.series()))

    def update_began(self) -> None:
        self._before = self._sums = None
        if self._measures:
            self._before = self._taken()

    def update_ended(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            selection = self._sampler.now()
            update = self._taken().sub_(before)
            self._sums = torch.cat([selection.squares(update), selection.squares(before)])

    def _taken(self) -> Tensor:
        return self._sampler.now().take_all(self._sampler.holdings.storages())

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._before = None

    def read(self, sample: Sample) -> None:
        sums, self._sums = self._sums, None
        if sums is not None:
            read_back(sample, sums, lambda squares: self._put(sample, squares))
            self._sampler.done(sample.step)

    def _put(self, sample: Sample, squares: list[float]) -> None:
        count = len(squares) // 2
        self._updates.put(sample, self._first[0], squares[:count])
        self._weights.put(sample, self._first[1], squares[count:])
