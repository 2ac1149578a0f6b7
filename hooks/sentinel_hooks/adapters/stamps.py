"""Whether gradients were written to since they were last looked at."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import Tensor
from torch.nn import Parameter


class Stamps:
    """The gradients of these parameters at a moment, and how often each had been written to.

    Torch counts what is written in place. What is written through `gradient.data`, or by a
    collective, it does not count.
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._parameters = tuple(parameters)
        self._stamps = [_stamp(one.grad) for one in self._parameters]

    def hold(self) -> bool:
        """Whether the gradients are the same tensors, and as they were."""
        return all(
            _holds(stamp, one.grad)
            for stamp, one in zip(self._stamps, self._parameters, strict=True)
        )


_Stamp = tuple["weakref.ref[Tensor]", int] | None


def _stamp(gradient: Tensor | None) -> _Stamp:
    return None if gradient is None else (weakref.ref(gradient), gradient._version)


def _holds(stamp: _Stamp, gradient: Tensor | None) -> bool:
    if stamp is None or gradient is None:
        return stamp is None and gradient is None
    return stamp[0]() is gradient and stamp[1] == gradient._version
