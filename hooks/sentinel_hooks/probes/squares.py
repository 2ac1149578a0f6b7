"""Sums of squares of tensors on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sentinel_hooks.probes.readback import number

_SHORT = 1 << 14  # elements: a tensor of no more is added up in one call with others
_CHUNK = 5 << 17  # elements added up in single precision; sums of chunks are double
_SHORT_CHUNK = 1 << 16  # of types with few digits, whose rounding errors do not cancel


def squares(tensors: Sequence[Tensor]) -> list[float]:
    """The sum of squares of each of these tensors on the CPU, to 5e-6 or better.

    Not finite only if an element is not. The error is that of adding up in single precision:
    below 1e-6 for normally distributed elements and at most 6e-6 for their cubes, where chunks of
    a million elements have twice that, and torch's own norm of 2.4 million 3e-4. Memory is what
    takes the time: on a gradient that is not in the cache this costs as much as a plain sum.
    """
    small = [one for one in tensors if one.numel() <= _SHORT]
    norms = torch._foreach_norm(small, 2, dtype=torch.float32) if small else ()
    quick = iter(torch.stack(tuple(norms)).tolist() if norms else ())
    found = []
    for one in tensors:
        square = next(quick) ** 2 if one.numel() <= _SHORT else _square(one)
        found.append(square if math.isfinite(square) else _wide_square(one))
    return found


def _square(tensor: Tensor) -> float:
    flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
    single = flat.dtype in (torch.float32, torch.float64)
    if flat.numel() <= _CHUNK and single:
        return number(torch.dot(flat, flat))
    total = 0.0
    for chunk in torch.split(flat, _CHUNK if single else _SHORT_CHUNK):
        wide = chunk if single else chunk.to(torch.float32)
        total += number(torch.dot(wide, wide))
    return total


def _wide_square(tensor: Tensor) -> float:
    """Single precision may just have overflowed."""
    return number(tensor.to(torch.float64).square().sum())
