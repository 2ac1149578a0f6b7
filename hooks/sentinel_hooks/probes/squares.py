"""Sums of squares of tensors on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from sentinel_hooks.probes.readback import number

_SHORT = 1 << 14  # elements: a tensor of no more is added up in one call with others
_CHUNK = 5 << 17  # elements added up in single precision; sums of chunks are double
_SINGLE = (torch.float32, torch.float64)
_SHORT_CHUNK = 1 << 16  # of types with few digits, whose rounding errors do not cancel


@torch.no_grad()
def squares(tensors: Sequence[Tensor]) -> list[float]:
    """The sum of squares of each of these tensors on the CPU, to 5e-6 or better.

    Not finite only if an element is not. The error is that of adding up in single precision:
    below 1e-6 for normally distributed elements and at most 6e-6 for their cubes, where chunks of
    a million elements have twice that, and torch's own norm of 2.4 million 3e-4. Memory is what
    takes the time: on a gradient that is not in the cache this costs as much as a plain sum.
    """
    short = [one.numel() <= _SHORT and one.dtype != torch.float64 for one in tensors]
    small = [one for one, is_short in zip(tensors, short, strict=True) if is_short]
    large = [_parts(one) for one, is_short in zip(tensors, short, strict=True) if not is_short]
    whole = iter(_numbers(torch._foreach_norm(small, 2, dtype=torch.float32) if small else ()))
    parts = iter(_numbers([part for own in large for part in own]))
    sums = iter([sum(islice(parts, len(own))) for own in large])
    found = [next(whole) ** 2 if is_short else next(sums) for is_short in short]
    if not math.isfinite(sum(found)):
        for place, square in enumerate(found):
            if not math.isfinite(square):
                found[place] = _wide_square(tensors[place])
    return found


@torch.inference_mode()  # of so many tensors at once a third of the time would be autograd's
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each of these tensors, one at least, on their device, and nothing waits.

    In single precision: infinite beyond 1e19, where squares overflow.
    """
    double = any(one.dtype == torch.float64 for one in tensors)
    wide = torch.float64 if double else torch.float32  # torch does not narrow
    found = list(torch._foreach_norm(list(tensors), 2, dtype=wide))
    if double or len({one.device for one in found}) > 1:
        found = [one.to(found[0].device, torch.float32) for one in found]
    return torch.stack(found)


def _parts(tensor: Tensor) -> list[Tensor]:
    """The sums of squares of the chunks of a tensor, 0-d."""
    flat = tensor.reshape(-1)
    single = flat.dtype in _SINGLE
    size = _CHUNK if single else _SHORT_CHUNK
    chunks = torch.split(flat, size) if flat.numel() > size else (flat,)
    wide = chunks if single else [chunk.to(torch.float32) for chunk in chunks]
    return [torch.dot(chunk, chunk) for chunk in wide]


def _numbers(tensors: Sequence[Tensor]) -> list[float]:
    """The values of 0-d tensors, in one go."""
    if len({one.dtype for one in tensors}) > 1:
        tensors = [one.double() for one in tensors]
    values: list[float] = torch.stack(list(tensors)).tolist() if tensors else []
    return values


def _wide_square(tensor: Tensor) -> float:
    """Single precision may just have overflowed."""
    return number(tensor.to(torch.float64).square().sum())
