"""Quantities that follow from what ranks report, once a step is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from sentinel.engine.evaluation.values import Values
from sentinel.engine.language.expression import Reading
from sentinel.engine.window import Floats

Read = Callable[[Reading], Values]
_SECONDS_BY_RANK = Reading("collective_seconds", by_rank=True)
_BYTES, _BYTES_BY_RANK = Reading("collective_bytes"), Reading("collective_bytes", by_rank=True)


def _ratio(over: str, under: str) -> Callable[[Read, bool], Values]:
    def derive(read: Read, by_rank: bool) -> Values:
        above, below = read(Reading(over, by_rank)), read(Reading(under, by_rank))
        return Values(above.values / below.values, above.missing | below.missing)

    return derive


def _whole(part: str) -> Callable[[Read, bool], Values]:
    """The 2-norm of all parts together; a part that is lacking would make it a wrong number."""

    def derive(read: Read, by_rank: bool) -> Values:
        parts = read(Reading(part, by_rank))
        squares = parts.values if by_rank else np.square(parts.values)  # ranks send squares
        total = np.asarray(np.sqrt(squares.sum(axis=0)))
        lacking = parts.missing.any(axis=0) if len(parts.missing) else np.ones_like(total, bool)
        return Values(total, np.asarray(lacking))

    return derive


def _wait(read: Read, by_rank: bool) -> Values:
    """How much longer a rank was in it than the fastest, which came last and did not wait."""
    each = read(_SECONDS_BY_RANK)
    least = _fastest(each)
    if by_rank:
        return Values(each.values - least[..., np.newaxis], each.missing)
    longest = np.where(each.missing, -np.inf, each.values).max(axis=-1, initial=-np.inf)
    return Values(longest - least, np.asarray(each.missing.all(axis=-1)))


def _bandwidth(read: Read, by_rank: bool) -> Values:
    """What NCCL calls a duration includes the wait for others: the fastest rank's has the least."""
    least = _fastest(read(_SECONDS_BY_RANK))
    moved = read(_BYTES_BY_RANK if by_rank else _BYTES)
    least = least[..., np.newaxis] if by_rank else least
    missing = moved.missing | ~(np.isfinite(least) & (least > 0))
    return Values(moved.values / least, missing)


def _fastest(each: Values) -> Floats:
    seconds = np.where(each.missing, np.inf, each.values)
    return np.asarray(seconds.min(axis=-1, initial=np.inf))


_DERIVED: Mapping[str, Callable[[Read, bool], Values]] = {
    "layer_update_ratio": _ratio("layer_update_norm", "layer_weight_norm"),
    "tensor_update_ratio": _ratio("tensor_update_norm", "tensor_weight_norm"),
    "update_norm": _whole("layer_update_norm"),
    "collective_wait_seconds": _wait,
    "collective_bytes_per_second": _bandwidth,
}

DERIVED = frozenset(_DERIVED)


@cache
def sources(signal: str) -> frozenset[str]:
    """The signals that a derived one is made of; of any other, itself."""
    if signal not in DERIVED:
        return frozenset((signal,))
    read: set[str] = set()

    def note(reading: Reading) -> Values:
        read.add(reading.signal)
        shape = (1, 1) if reading.by_rank else (1,)
        return Values(np.zeros(shape), np.ones(shape, bool))

    derive(Reading(signal, by_rank=True), note)
    return frozenset(read)


def derive(reading: Reading, read: Read) -> Values:
    """The elements of a derived signal, from those of others that `read` gives."""
    with np.errstate(all="ignore"):
        return _DERIVED[reading.signal](read, reading.by_rank)
