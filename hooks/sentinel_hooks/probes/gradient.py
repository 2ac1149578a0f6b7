"""Gradient norms, whole, by layer and by tensor, and where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.finite import not_finite
from sentinel_hooks.probes.probe import Barrier, Gradients, Outcome, Probe, Sample
from sentinel_hooks.probes.readback import number
from sentinel_hooks.probes.squares import norms, squares
from sentinel_hooks.probes.tensors import RollUp, Tensors

_WARY = 100  # steps
_NONE: Mapping[str, Sequence[int]] = {}


class GradientProbe(Probe):
    """Norms of the gradient shards that this rank holds, before clipping, without a collective.

    `tensor_grad_norm`, `layer_grad_norm` and `summed_grad_norm` carry *sums of squares* of the
    rank's shards, which the daemon adds over ranks; `announced` are the tensors whose shards this
    rank answers for, so that replicas count once. `whole`: this rank sees every gradient in full,
    so that its own total is the global norm. `no_norm` says why there is no global norm when
    there is none, `no_shards` why the shards cannot be read, `no_update` why it cannot be known
    whether they were applied. `replicas` are the tensors whose gradients, once reduced, are the
    same on several ranks, by these ranks; `no_replicas` says why there are none.

    On a device nobody knows in time whether gradients are finite. So they are to be looked at again
    before they are applied, if they may be others by then; for some steps after some that were not
    finite (`is_wary`), in any case.

    On the CPU squares are exact to a few millionths whatever the size and type of the gradients.
    On a device they are taken in single precision and read when the gradients are gone, so that
    there a shard with elements beyond 1e19 counts as infinite.
    """

    name = "gradient norms"
    signals = (
        "grad_norm",
        "summed_grad_norm",
        "layer_grad_norm",
        "tensor_grad_norm",
        "nonfinite_gradient",
        "nonfinite_update",
        "replica_grad_norm",
    )

    def __init__(
        self,
        tensors: Tensors,
        announced: Sequence[int],
        *,
        whole: bool,
        no_norm: str = "",
        no_shards: str = "",
        no_update: str = "",
        replicas: Mapping[str, Sequence[int]] = _NONE,
        no_replicas: str = "",
    ) -> None:
        self._tensors = tensors
        self._announced = () if no_shards else announced
        self._whole = whole
        self._no_shards = no_shards
        self._parts = RollUp("grad_norm", tensors, self._announced)
        self._absent = self._parts.missing(no_shards)
        summed = self._absent.get("layer_grad_norm")
        self._absent |= {"summed_grad_norm": summed} if summed else {}
        self._absent |= {"nonfinite_gradient": no_shards} if no_shards else {}
        self._absent |= {"nonfinite_update": no_update} if no_update else {}
        self._absent |= {"grad_norm": no_norm} if no_norm else {}
        without = no_shards or no_replicas
        self._replicas = {} if without else replicas
        self._absent |= {"replica_grad_norm": without} if without else {}
        self._place: dict[str, int] = {}
        self._first = 0  # of the series of parts
        self._measured: Measured | None = None
        self._final: Measured | None = None
        self._outcome: Outcome | None = None
        self._taken = False  # to be applied as they were measured
        self._wary = 0  # steps for which nothing is taken for granted

    def series(self) -> Sequence[Series]:
        norms = [Series("replica_grad_norm", ranks) for ranks in self._replicas]
        return [*map(Series, self._plain()), *norms, *self._parts.series()]

    def _plain(self) -> list[str]:
        plain = ("nonfinite_gradient", "nonfinite_update", "grad_norm", "summed_grad_norm")
        return [name for name in plain if name not in self._absent]

    def missing(self) -> Mapping[str, str]:
        return self._absent

    def start(self, first: int, barrier: Barrier) -> None:
        self._place = {name: index for index, name in enumerate(self._plain(), first)}
        self._first = first + len(self._place) + len(self._replicas)

    @property
    def measured(self) -> Measured | None:
        """What was measured of this step's gradients so far."""
        return self._measured

    @property
    def asks_again(self) -> bool:
        """Whether to be told of the gradients once more, right before the optimizer's step."""
        return self._measured is None or self._measured.suspect

    @property
    def is_wary(self) -> bool:
        """Whether gradients were not finite just now, or not long ago."""
        return self._wary > 0 or (self._measured is not None and self._measured.is_bad)

    def gradients_ready(self, gradients: Gradients) -> None:
        self._measured = Measured(gradients)

    def gradients_final(self, gradients: Gradients) -> None:
        if self._measured is None:
            self._measured = Measured(gradients)
        elif self.asks_again:  # the loop may have mended what was not finite
            self._final = Measured(gradients)

    def taken_as_seen(self) -> None:
        """These gradients are not looked at again before they are applied."""
        self._taken = True

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def read(self, sample: Sample) -> None:
        measured, self._measured = self._measured, None
        final, self._final = self._final, None
        outcome, self._outcome = self._outcome, None
        taken, self._taken = self._taken, False
        self._wary = max(0, self._wary - 1)
        if measured is None and self._no_shards:
            measured = Measured(Gradients((), ()))
        if measured is None or outcome is None or outcome.overflow:
            # After an overflow in fp16 the gradients say nothing: their scale was too large.
            return
        seen, own = measured, outcome.grad_norm
        count = len(self._tensors.names)
        parts = [*seen.waiting, *(final.waiting if final else ())]
        waiting = len(parts)
        if isinstance(own, Tensor):
            parts.append(own.detach().to(torch.float32).reshape(1))

        def fill(values: list[float]) -> None:
            sums = seen.by_tensor(values, count)
            applied = sums if final is None else final.by_tensor(values[seen.size :], count)
            harmful = _not_finite(applied)
            bad = _not_finite(sums) or harmful
            norm = values[-1] if isinstance(own, Tensor) else own
            # A finite norm beside these is the last step's, or made of -1 for "not finite".
            unsound = bool(bad or outcome.skipped)
            masked = norm is not None and (unsound or not 0 <= norm < math.inf)
            sample.bad_gradients = unsound or masked
            if bad:
                self._wary = _WARY
            sample.bad_parameters = [self._tensors.names[one] for one in bad]
            self._put(sample, sums, bad, _unmask(sums) if masked else norm)
            if not (harmful and taken):
                destroys = bool(harmful or masked) and not outcome.skipped
                self._put_one(sample, "nonfinite_update", float(destroys))

        if waiting or isinstance(own, Tensor):
            sample.later(torch.cat(parts), fill)
        else:
            fill([])

    def detach(self) -> None:
        self._measured = self._final = None

    def _put(self, sample: Sample, sums: list[float], bad: list[int], norm: float | None) -> None:
        layers = {self._tensors.layer_of[one] for one in bad}
        self._put_one(sample, "nonfinite_gradient", float(len(layers)))
        if norm is None and self._whole:
            norm = _root(sums)
        if norm is not None:
            self._put_one(sample, "grad_norm", norm)
        self._put_one(sample, "summed_grad_norm", sum(sums[one] for one in self._announced))
        norms = [_root(sums[one] for one in places) for places in self._replicas.values()]
        sample.put_run(self._first - len(norms), norms)
        self._parts.put(sample, self._first, sums)

    def _put_one(self, sample: Sample, signal: str, value: float) -> None:
        index = self._place.get(signal)
        if index is not None:
            sample.put(index, value)


def _root(sums: Iterable[float]) -> float:
    return math.sqrt(sum(sums))


def _not_finite(sums: Sequence[float]) -> list[int]:
    """The tensors that are not finite, in order."""
    if math.isfinite(sum(sums)):
        return []
    return [one for one, total in enumerate(sums) if not math.isfinite(total)]


def _unmask(sums: Sequence[float]) -> float:
    """The norm where the trainer says -1 or infinity for any that is not finite.

    NaN or Inf as this rank's shards have it; NaN where they are fine and another rank's are not.
    """
    total = _root(sums)
    return math.nan if math.isfinite(total) else total


class Measured:
    """What was measured of a set of gradients: numbers on the CPU, tensors to wait for else.

    `suspect`: not known to be finite. `waiting` are 1-d tensors to be read back, `size` elements
    together, which `by_tensor` wants.
    """

    def __init__(self, gradients: Gradients) -> None:
        shards = gradients.shards
        self._owners = gradients.owners
        self._scale = gradients.scale
        self.waiting: list[Tensor] = []
        self._squares: list[float] = []
        if all(shard.is_cpu for shard in shards):
            self._squares = squares(shards)
            if isinstance(self._scale, Tensor):
                self._scale = number(self._scale)
        else:
            self.waiting.append(norms(shards))
            if isinstance(self._scale, Tensor):
                self.waiting.append(self._scale.detach().to(torch.float32).reshape(1))
        self.is_bad = not math.isfinite(sum(self._squares))  # and known to be
        self.suspect = bool(self.waiting) or self.is_bad
        self.size = sum(tensor.numel() for tensor in self.waiting)

    def doubtful(self) -> bool | Tensor:
        """Whether something may not be finite; on a device a flag there, and nothing waits."""
        return not_finite(self.waiting[0]) if self.waiting else self.suspect

    def by_tensor(self, values: Sequence[float], count: int) -> list[float]:
        """The sum of squares of each of the `count` tensors, unscaled; 0 without a gradient."""
        shards = len(self._owners)
        found = [value * value for value in values[:shards]] if self.waiting else self._squares
        scale = values[shards] if isinstance(self._scale, Tensor) else self._scale
        if scale != 1:
            found = [square / scale / scale for square in found]
        sums = [0.0] * count
        for owner, square in zip(self._owners, found, strict=True):
            sums[owner] += square
        return sums
