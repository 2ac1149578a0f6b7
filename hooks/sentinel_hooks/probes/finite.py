"""Whether tensors are finite, and which tensors there are in what a module returned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sentinel_hooks.probes.readback import number
from sentinel_hooks.probes.squares import norms, squares

_DEPTH = 3  # how deep tensors are looked for


def is_bad(values: Tensor) -> bool:
    """Whether an element of this detached tensor on the CPU is NaN or Inf.

    A sum is quick, and looked into only when it is not finite: it may just have overflowed.
    """
    # Half precision overflows at 65,504: there the sum is taken in single precision.
    wide = torch.float32 if values.dtype == torch.float16 else None
    return not math.isfinite(number(values.sum(dtype=wide))) and not bool(
        torch.isfinite(values).all()
    )


def may_not_be_finite(tensors: Sequence[Tensor]) -> bool | Tensor:
    """Whether one of these may have a NaN or Inf: their squares may just have overflowed.

    On a device it is a flag there, and nothing waits.
    """
    if all(one.is_cpu for one in tensors):
        return not math.isfinite(sum(squares(tensors)))
    return not_finite(norms(tensors))


def not_finite(values: Tensor) -> Tensor:
    """Whether an element is NaN or Inf, as a flag on their device."""
    return torch.isfinite(values).all().logical_not()


def tensors_in(output: object, depth: int = _DEPTH) -> Sequence[Tensor]:
    """The floating-point tensors in what a module returned: itself, or in tuples and dicts."""
    if isinstance(output, Tensor):
        local = output if type(output) is Tensor else _local(output)
        return (local,) if local.is_floating_point() and local.numel() else ()
    if not depth:
        return ()
    parts: Iterable[object] = ()
    if isinstance(output, tuple | list):
        parts = output
    elif isinstance(output, Mapping):
        parts = output.values()
    return [tensor for part in parts for tensor in tensors_in(part, depth - 1)]


def _local(tensor: Tensor) -> Tensor:
    """Of a tensor spread over ranks only our part: the whole would take a collective."""
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()
