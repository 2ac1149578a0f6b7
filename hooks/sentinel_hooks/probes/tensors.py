"""The parameter tensors of a model, and their numbers rolled up to layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Sample

MAX_TENSORS = 512  # of a model; with more of them only its layers are reported


@dataclass(frozen=True)
class Tensors:
    """The trainable parameters of a model, in its order; a *layer* is a module that owns some.

    Tensor `i` is called `names[i]`, has `sizes[i]` elements on all ranks together, and belongs to
    layer `layers[layer_of[i]]`; a tensor that several modules share belongs to the first.
    `rows[i]` is the number of rows of an embedding, 0 for any other tensor.
    """

    names: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    layer_of: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()

    @cached_property
    def layer_sizes(self) -> tuple[int, ...]:
        """The number of elements of each layer."""
        sizes = [0] * len(self.layers)
        for layer, size in zip(self.layer_of, self.sizes, strict=True):
            sizes[layer] += size
        return tuple(sizes)

    @property
    def too_many(self) -> str:
        """Why there are no series for single tensors; "" where there are."""
        if len(self.names) <= MAX_TENSORS:
            return ""
        count = len(self.names)
        return f"the model has {count} parameter tensors: above {MAX_TENSORS} only layers are sent"


class RollUp:
    """The series of one quantity, by tensor and by layer: `tensor_<of>` and `layer_<of>`.

    `announced` are the tensors that this rank answers for. With `mean` a value is an average
    over elements instead of a sum over them.
    """

    def __init__(
        self, of: str, tensors: Tensors, announced: Sequence[int], *, mean: bool = False
    ) -> None:
        self.tensor_signal, self.layer_signal = f"tensor_{of}", f"layer_{of}"
        self._tensors = tensors
        self._announced = sorted(announced)
        self._single = [] if tensors.too_many else self._announced
        self._layers = sorted({tensors.layer_of[one] for one in announced})
        self._members: list[list[int]] = [[] for _ in self._layers]  # tensors of each layer
        place = {layer: at for at, layer in enumerate(self._layers)}
        for one in self._announced:
            self._members[place[tensors.layer_of[one]]].append(one)
        self._mean = mean

    def series(self) -> list[Series]:
        """The tensors' series, then the layers'."""
        names, layers = self._tensors.names, self._tensors.layers
        return [
            *(Series(self.tensor_signal, names[one]) for one in self._single),
            *(Series(self.layer_signal, layers[one]) for one in self._layers),
        ]

    def missing(self, absent: str) -> dict[str, str]:
        """Signals without a series and why, where `absent` says why nothing can be measured."""
        if not absent and not self._announced:
            absent = "the same parameters are reported by another rank"
        if absent:
            return {self.tensor_signal: absent, self.layer_signal: absent}
        return {self.tensor_signal: self._tensors.too_many} if not self._single else {}

    def put(self, sample: Sample, first: int, sums: Sequence[float | None]) -> None:
        """Put `sums[i]`, a sum over the elements that this rank has of tensor `i`, for each.

        `first` is the index of the first of the series. None is what was not measured: such a
        tensor is missing, and so is its layer.
        """
        values = [sums[one] for one in self._single]
        for members in self._members:
            own = [sums[one] for one in members]
            values.append(None if None in own else sum(filter(None, own)))
        if self._mean:
            tensors = self._tensors
            sizes = [tensors.sizes[one] for one in self._single]
            sizes += [tensors.layer_sizes[layer] for layer in self._layers]
            values = [
                None if value is None else value / size
                for value, size in zip(values, sizes, strict=True)
            ]
        if None not in values:
            sample.put_run(first, [value for value in values if value is not None])
            return
        for index, value in enumerate(values, first):
            if value is not None:
                sample.put(index, value)
