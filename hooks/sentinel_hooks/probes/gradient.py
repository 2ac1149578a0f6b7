"""Gradient norms, whole and by layer, and where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sentinel.wire import Finding, Series
from sentinel_hooks.probes.probe import Barrier, Gradients, Outcome, Probe, Sample

_CHUNK = 1 << 18  # elements added up in single precision; sums of chunks are double
_SHORT_CHUNK = 1 << 16  # of types with few digits, whose rounding errors do not cancel


class GradientProbe(Probe):
    """Norms of the gradient shards that this rank holds, before clipping, without a collective.

    A layer is a module that owns parameters. `layer_grad_norm` carries the *sum of squares* of
    the rank's shards of it, which the daemon adds over ranks; `announced` are the layers whose
    shards this rank answers for, so that replicas count once. `whole`: this rank sees every
    gradient in full, so that its own total is the global norm. `no_norm` says why there is no
    global norm when there is none, `no_shards` why the shards cannot be read, `no_update` why it
    cannot be known whether they were applied.

    On the CPU squares are exact to about 1e-6 whatever the size and type of the gradients. On a
    device they are taken in single precision and read when the gradients are gone, so that there
    a shard with elements beyond 1e19 counts as infinite.
    """

    name = "gradient norms"
    signals = ("grad_norm", "layer_grad_norm", "nonfinite_gradient", "nonfinite_update")

    def __init__(
        self,
        layers: Sequence[str],
        announced: Sequence[int],
        *,
        whole: bool,
        no_norm: str = "",
        no_shards: str = "",
        no_update: str = "",
    ) -> None:
        self._layers = layers
        self._announced = () if no_shards else announced
        self._whole = whole
        self._no_shards = no_shards
        self._absent = {"grad_norm": no_norm} if no_norm else {}
        if no_update:
            self._absent["nonfinite_update"] = no_update
        if no_shards:
            self._absent |= dict.fromkeys(("layer_grad_norm", "nonfinite_gradient"), no_shards)
        elif not announced:
            reason = "the same gradients are reported by another rank"
            self._absent["layer_grad_norm"] = reason
        self._place: dict[Series, int] = {}
        self._measured: Measured | None = None
        self._final: Measured | None = None
        self._outcome: Outcome | None = None

    def series(self) -> Sequence[Series]:
        plain = ("nonfinite_gradient", "nonfinite_update", "grad_norm")
        whole = [Series(name) for name in plain if name not in self._absent]
        return [*whole, *(Series("layer_grad_norm", self._layers[i]) for i in self._announced)]

    def missing(self) -> Mapping[str, str]:
        return self._absent

    def start(self, first: int, barrier: Barrier) -> None:
        self._place = {one: index for index, one in enumerate(self.series(), first)}

    def gradients_ready(self, gradients: Gradients) -> None:
        self._measured = Measured(gradients)

    def gradients_final(self, gradients: Gradients) -> None:
        if self._measured is None:
            self._measured = Measured(gradients)
        elif self._measured.suspect:  # the loop may have mended what was not finite
            self._final = Measured(gradients)

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def read(self, sample: Sample) -> None:
        measured, self._measured = self._measured, None
        final, self._final = self._final, None
        outcome, self._outcome = self._outcome, None
        if measured is None and self._no_shards:
            measured = Measured(Gradients((), ()))
        if measured is None or outcome is None or outcome.overflow:
            # After an overflow in fp16 the gradients say nothing: their scale was too large.
            return
        seen, own = measured, outcome.grad_norm
        parts = [*seen.waiting, *(final.waiting if final else ())]
        waiting = len(parts)
        if isinstance(own, Tensor):
            parts.append(own.detach().to(torch.float32).reshape(1))

        def fill(values: list[float]) -> None:
            squares, bad = seen.by_layer(values)
            applied = bad if final is None else final.by_layer(values[seen.size :])[1]
            norm = values[-1] if isinstance(own, Tensor) else own
            # A finite norm beside these is the last step's, or made of -1 for "not finite".
            unsound = bool(bad or outcome.skipped)
            masked = norm is not None and (unsound or not 0 <= norm < math.inf)
            sample.bad_gradients = unsound or masked
            harmful = (bool(applied) or masked) and not outcome.skipped
            self._put(sample, squares, bad, _unmask(squares) if masked else norm)
            self._put_one(sample, "nonfinite_update", float(harmful))

        if waiting or isinstance(own, Tensor):
            sample.later(torch.cat(parts), fill)
        else:
            fill([])

    def _put(
        self, sample: Sample, squares: dict[int, float], bad: set[int], norm: float | None
    ) -> None:
        self._put_one(sample, "nonfinite_gradient", float(len(bad)))
        if bad:
            # Gradients go from the last layer to the first: the last is where it began.
            sample.find(Finding("nonfinite_gradient", self._layers[max(bad)]))
        if norm is None and self._whole:
            norm = _root(squares.values())
        if norm is not None:
            self._put_one(sample, "grad_norm", norm)
        for layer in self._announced:
            square = squares.get(layer, 0.0)
            self._put_one(sample, "layer_grad_norm", square, self._layers[layer])

    def _put_one(self, sample: Sample, signal: str, value: float, label: str = "") -> None:
        index = self._place.get(Series(signal, label))
        if index is not None:
            sample.put(index, value)


def _root(squares: Iterable[float]) -> float:
    return math.sqrt(sum(squares))


def _unmask(squares: dict[int, float]) -> float:
    """The norm where the trainer says -1 or infinity for any that is not finite.

    NaN or Inf as this rank's shards have it; NaN where they are fine and another rank's are not.
    """
    total = _root(squares.values())
    return math.nan if math.isfinite(total) else total


class Measured:
    """What was measured of a set of gradients: numbers on the CPU, tensors to wait for else.

    `suspect`: not known to be finite. `waiting` are 1-d tensors to be read back, `size` elements
    together, which `by_layer` wants.
    """

    def __init__(self, gradients: Gradients) -> None:
        shards = gradients.shards
        self._layers = gradients.layers
        self._scale = gradients.scale
        self.waiting: list[Tensor] = []
        self._squares: list[float] = []
        if all(shard.device.type == "cpu" for shard in shards):
            self._squares = _squares([shard.detach() for shard in shards])
            if isinstance(self._scale, Tensor):
                self._scale = float(self._scale)
        else:
            norms = torch._foreach_norm(list(shards), 2, dtype=torch.float32)
            self.waiting.append(torch.stack(norms))
            if isinstance(self._scale, Tensor):
                self.waiting.append(self._scale.detach().to(torch.float32).reshape(1))
        self.suspect = bool(self.waiting) or not math.isfinite(sum(self._squares))
        self.size = sum(tensor.numel() for tensor in self.waiting)

    def by_layer(self, values: Sequence[float]) -> tuple[dict[int, float], set[int]]:
        """The sums of squares of each layer, unscaled, and the layers that are not finite."""
        count = len(self._layers)
        squares = [value * value for value in values[:count]] if self.waiting else self._squares
        scale = values[count] if isinstance(self._scale, Tensor) else self._scale
        sums: dict[int, float] = {}
        for layer, square in zip(self._layers, squares, strict=True):
            sums[layer] = sums.get(layer, 0.0) + square / scale / scale
        return sums, {layer for layer, total in sums.items() if not math.isfinite(total)}


def _squares(shards: Sequence[Tensor]) -> list[float]:
    """The sum of squares of each of these tensors on the CPU.

    Small ones are taken in one call, since most of their cost would be the calls.
    """
    small = [shard for shard in shards if shard.numel() <= _SHORT_CHUNK]
    norms = torch._foreach_norm(small, 2, dtype=torch.float32) if small else ()
    quick = iter(torch.stack(tuple(norms)).tolist() if norms else ())
    squares = []
    for shard in shards:
        square = next(quick) ** 2 if shard.numel() <= _SHORT_CHUNK else math.nan
        squares.append(square if math.isfinite(square) else _square(shard))
    return squares


def _square(shard: Tensor) -> float:
    """The sum of squares of one tensor on the CPU; not finite only if an element is not."""
    flat = shard.reshape(-1)
    size = _CHUNK if flat.dtype.itemsize >= 4 else _SHORT_CHUNK
    total = 0.0
    for chunk in torch.split(flat, size):
        wide = chunk if chunk.dtype == torch.float64 else chunk.to(torch.float32)
        total += float(torch.dot(wide, wide))
    if math.isfinite(total):
        return total
    return float(flat.to(torch.float64).square().sum())  # single precision may just overflow
