"""What the script itself gives to `watch.log`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

MAX_NAMES = 256
_NAME_LENGTH = 200  # characters

logger = logging.getLogger("sentinel_hooks")


class LogProbe(Probe):
    """The number last logged under each name since the last step.

    Numbers, and tensors of one element. On a device such a tensor is copied there and read later;
    nothing waits for it. What cannot be taken is dropped with one warning.
    """

    name = "logged values"
    signals = ("logged",)

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._barrier: Barrier | None = None
        self._places: dict[str, int] = {}
        self._values: dict[str, float | Tensor] = {}
        self._said: set[str] = set()

    def start(self, first: int, barrier: Barrier) -> None:
        self._barrier = barrier

    def logged(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            if reason := self._refusal(name):
                self._warn(reason)
                continue
            number = self._number(value)
            if number is None:
                self._warn(
                    f"{name}: expected a number or a tensor of one element, got {_what(value)}"
                )
            elif self._has_place(name):
                self._values[name] = number

    def _refusal(self, name: str) -> str:
        if not name or len(name) > _NAME_LENGTH or not name.isprintable():
            return f"{name[:40]!r} is no name: expected up to {_NAME_LENGTH} printable characters"
        if name not in self._places and len(self._places) >= MAX_NAMES:
            return f"there are {MAX_NAMES} names already, others are dropped"
        return ""

    def _number(self, value: object) -> float | Tensor | None:
        """The value as it stands now: its number, or on a device a copy; None if it is none."""
        if isinstance(value, Tensor):
            if value.device.type not in ("cpu", self._device.type) or not _is_scalar(value):
                return None
            if value.device.type == "cpu":
                return float(value.detach())
            return value.detach().to(self._device, torch.float32, copy=True).reshape(1)
        try:
            return float(value) if isinstance(value, Real) else None
        except OverflowError:
            return None

    def _has_place(self, name: str) -> bool:
        """Whether there is a series of this name, perhaps from now on."""
        if name not in self._places and self._barrier is not None:
            try:
                (self._places[name],) = self._barrier.extend(self, [Series("logged", name)])
            except ValueError as error:
                self._warn(str(error))
        return name in self._places

    def _warn(self, reason: str) -> None:
        if reason not in self._said and len(self._said) < MAX_NAMES:
            self._said.add(reason)
            logger.warning("sentinel: watch.log: %s", reason)

    def read(self, sample: Sample) -> None:
        values, self._values = self._values, {}
        on_device: list[tuple[int, Tensor]] = []
        for name, value in values.items():
            place = self._places[name]
            if place >= len(sample.values):  # another thread has just brought it: next time
                self._values.setdefault(name, value)
            elif isinstance(value, Tensor):
                on_device.append((place, value))
            else:
                sample.put(place, value)
        if not on_device:
            return

        def fill(numbers: list[float]) -> None:
            for (place, _), number in zip(on_device, numbers, strict=True):
                sample.put(place, number)

        sample.later(torch.cat([value for _, value in on_device]), fill)


def _is_scalar(tensor: Tensor) -> bool:
    """Whether it is one real number, and no wrapper around tensors of several ranks."""
    plain = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    return plain and tensor.numel() == 1 and not tensor.is_complex()


def _what(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
