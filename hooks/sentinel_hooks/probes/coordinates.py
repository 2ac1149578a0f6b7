"""Which elements of a parameter tensor stand for all of it.

Drawn without replacement from the *whole* tensor, in the same way on every rank, so that what
ranks measure on the elements they hold adds up to one sample whatever the sharding is.

The sum S of x^2 over a tensor of N elements is estimated from n of them by N/n times their sum of
squares. That is unbiased, and with k = mean(x^4) / mean(x^2)^2 (3 for a normal distribution) the
standard error of the 2-norm, relative to it, is close to

    sqrt((1 - n/N) * (k - 1) / n) / 2

(W. G. Cochran, Sampling Techniques, 3rd ed., 1977, sections 2.6 and 2.9; the 2 comes from the
root). For embeddings, drawn by row, it is that without the factor 1 - n/N, or less.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

COUNT = 1024  # elements of a tensor that are looked at


def draw(name: str, size: int, rows: int, epoch: int, count: int = COUNT) -> Tensor | None:
    """Places in the flattened tensor, ascending; None where the whole of it is taken.

    A function of the arguments alone. Every set of `count` elements is equally likely; of an
    embedding with more `rows` than that, whose gradient is zero in most rows, every set that has
    them in different rows. Either way each element is as likely to be drawn as any other.
    """
    if size <= count:
        return None
    seed = hashlib.blake2b(f"{epoch}:{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
    if rows <= count:
        return _distinct(size, count, generator)
    width = size // rows
    columns = torch.randint(width, (count,), generator=generator)
    return _distinct(rows, count, generator) * width + columns


def _distinct(size: int, count: int, generator: torch.Generator) -> Tensor:
    """This many of the numbers below `size`, ascending, every such set equally likely."""
    if size <= 4 * count:
        return torch.randperm(size, generator=generator)[:count].sort().values
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < count:  # those that come first in an endless row of draws
        drawn = torch.randint(size, (count + count // 4,), generator=generator)
        found = _once(torch.cat([found, drawn]))
    return found[:count].sort().values


def _once(drawn: Tensor) -> Tensor:
    """Each number once, where it came first."""
    values, order = drawn.sort(stable=True)
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return drawn[order[first].sort().values]
