"""Whether ranks that should hold the same weights do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

EVERY = 20  # steps
_PART = 24  # bits, which single precision holds exactly
_MASK = (1 << _PART) - 1
_AS_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ReplicaProbe(Probe):
    """A checksum of the bits of the weights, right before the optimizer changes them.

    `held` has, by the ranks that hold the same (as text), the tensors of this rank that are
    replicated over them. Bits and no norm, since one flipped bit, or an update that was another
    on one rank, hardly changes a norm; ranks that hold replicas do the same arithmetic on the same
    numbers, and come to the same bits (Megatron-LM compares hashes of them for the same reason).
    The sum of the bits as whole numbers, modulo 2**48: exact in any order, also on a device, where
    nothing waits for it.
    """

    name = "replicas"
    signals = ("replica_checksum",)
    every = EVERY
    core = False

    def __init__(self, held: Mapping[str, Sequence[Tensor]], absent: str = "") -> None:
        self._held = {} if absent else dict(held)
        self._absent = absent
        self._first = 0
        self._sums: Tensor | None = None

    def series(self) -> Sequence[Series]:
        return [Series("replica_checksum", ranks) for ranks in self._held]

    def missing(self) -> Mapping[str, str]:
        return {"replica_checksum": self._absent} if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def update_began(self) -> None:
        if self._held:
            self._sums = torch.stack([checksum(tensors) for tensors in self._held.values()])

    def optimizer_ended(self, outcome: Outcome) -> None:
        """A step that the optimizer skipped shows the weights as any other."""

    def read(self, sample: Sample) -> None:
        sums, self._sums = self._sums, None
        if sums is None:
            return
        parts = torch.stack([sums & _MASK, (sums >> _PART) & _MASK]).to(torch.float32)

        def fill(values: list[float]) -> None:
            count = len(values) // 2
            for place in range(count):
                whole = int(values[place]) + (int(values[count + place]) << _PART)
                sample.put(self._first + place, float(whole))

        sample.later(parts.reshape(-1), fill)


@torch.no_grad()
def checksum(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of the bits of these tensors, one at least, as whole numbers: int64, 0-d.

    Each tensor counts by its place, so that two that have changed places show.
    """
    total = torch.zeros((), dtype=torch.int64, device=tensors[0].device)
    for place, tensor in enumerate(tensors, 1):
        bits = tensor.detach().view(_AS_WHOLE[tensor.element_size()])
        total += bits.sum(dtype=torch.int64).to(total.device) * place
    return total
