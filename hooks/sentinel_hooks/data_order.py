"""What decides in which order a loader gives its batches, kept so that a pass can be begun again.

Shuffling samplers draw from torch's, Python's or NumPy's global generator when a pass begins, or
from a generator of their own, or they derive their order from an epoch number that the loop sets.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch

# Where loaders keep what they draw from: those of torch, and what others put around them.
_PLACES = ("loader", "dataloader", "batch_sampler", "sampler", "data_sampler", "dataset")
_MAX_PARTS = 16


@dataclass(frozen=True)
class _Dial:
    """A state that can be read and set."""

    read: Callable[[], object]
    write: Callable[[object], None]


class Order:
    """The state of everything that decides the order, as a pass over this loader begins."""

    def __init__(self, loader: object) -> None:
        parts = _parts(loader)
        shared = [*_global_dials(), *_epochs(parts)]
        own = [*_workers(parts), *_generators(parts)]
        self._shared = [(dial, dial.read()) for dial in shared]
        self._own = [(dial, dial.read()) for dial in own]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Begin the pass again in here, and take its first batch: samplers draw when asked.

        What the loader shares with others is put back after; its own generators go on from there,
        unless it fails.
        """
        shared = [(dial, dial.read()) for dial, _ in self._shared]
        own = [(dial, dial.read()) for dial, _ in self._own]
        try:
            _set([*self._shared, *self._own])
            yield
        except BaseException:
            _set(own)
            raise
        finally:
            _set(shared)


def _set(states: list[tuple[_Dial, object]]) -> None:
    for dial, state in states:
        dial.write(state)


def _parts(loader: object) -> list[object]:
    """The loader and what it is made of. Looks at attributes only: asking may run code."""
    found = [loader]
    for part in found:  # grows as it is gone through
        held = _attributes(part)
        for name in _PLACES:
            other = held.get(name)
            if other is not None and not any(other is one for one in found):
                found.append(other)
        if len(found) >= _MAX_PARTS:
            break
    return found


def _attributes(part: object) -> Mapping[str, object]:
    held: object = getattr(part, "__dict__", None)
    return held if isinstance(held, dict) else {}


def _global_dials() -> list[_Dial]:
    dials = [
        _Dial(torch.get_rng_state, cast(Callable[[object], None], torch.set_rng_state)),
        _Dial(random.getstate, cast(Callable[[object], None], random.setstate)),
    ]
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    if numpy is not None:
        dials.append(_Dial(numpy.get_state, numpy.set_state))
    return dials


def _epochs(parts: list[object]) -> list[_Dial]:
    """The epoch numbers that samplers and datasets were told."""

    def dial(part: object) -> _Dial:
        return _Dial(
            lambda: getattr(part, "epoch"),  # noqa: B009 - theirs
            lambda value: setattr(part, "epoch", value),
        )

    return [dial(part) for part in parts if isinstance(_attributes(part).get("epoch"), int)]


def _workers(parts: list[object]) -> list[_Dial]:
    """Whether torch's loaders begin with new worker processes, which takes another draw."""

    def dial(part: object) -> _Dial:
        def write(begins: object) -> None:
            if begins:
                setattr(part, "_iterator", None)  # noqa: B010 - torch's

        return _Dial(lambda: _attributes(part).get("_iterator") is None, write)

    return [dial(part) for part in parts if _attributes(part).get("persistent_workers") is True]


def _generators(parts: list[object]) -> list[_Dial]:
    """The generators that belong to the loader or to what it is made of."""
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    dials: dict[int, _Dial] = {}
    for one in (value for part in parts for value in _attributes(part).values()):
        if isinstance(one, torch.Generator) and one.device.type == "cpu":
            dials[id(one)] = _Dial(one.get_state, cast(Callable[[object], None], one.set_state))
        elif isinstance(one, random.Random):
            dials[id(one)] = _Dial(one.getstate, cast(Callable[[object], None], one.setstate))
        elif numpy is not None and isinstance(one, numpy.Generator):
            dials[id(one)] = _of_numpy(one.bit_generator)
    return list(dials.values())


def _of_numpy(bits: object) -> _Dial:
    return _Dial(
        lambda: getattr(bits, "state"),  # noqa: B009 - NumPy's
        lambda value: setattr(bits, "state", value),
    )
