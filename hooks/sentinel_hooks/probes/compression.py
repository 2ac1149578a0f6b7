"""How much less a compressed optimizer sends than it would without compression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

NONE = "no compressed optimizer is in use"
_FROZEN = {"OnebitAdam": "adam_freeze_key", "OnebitLamb": "lamb_freeze_key"}
_ZERO_ONE = (
    "0/1 Adam leaves out communication in rounds of its own choosing, and does not say in which"
)
_SCALE = 4  # bytes of the scale beside the signs

Reading = Callable[[], "float | None"]  # None: nothing was sent since the last call


class _OneBit(Protocol):
    """What DeepSpeed's 1-bit optimizers have; they are not part of all its versions."""

    @property
    def param_groups(self) -> Sequence[Mapping[str, object]]: ...

    @property
    def size(self) -> int: ...


class _PowerSGD(Protocol):
    """torch's `PowerSGDState`."""

    @property
    def iter(self) -> int: ...

    def compression_stats(self) -> tuple[float, int, int]: ...


class CompressionProbe(Probe):
    """Bytes sent over the bytes that would be sent raw, as `reading` tells after each step.

    Without a reading, `absent` says why there is none.
    """

    name = "gradient compression"
    signals = ("gradient_compression",)

    def __init__(self, reading: Reading | None, absent: str = "") -> None:
        self._reading = reading
        self._absent = absent
        self._first = 0
        self._ratio: float | None = None

    def series(self) -> Sequence[Series]:
        return () if self._reading is None else (Series("gradient_compression"),)

    def missing(self) -> Mapping[str, str]:
        return {"gradient_compression": self._absent} if self._reading is None else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def optimizer_ended(self, outcome: Outcome) -> None:
        if self._reading is not None:
            self._ratio = self._reading()

    def read(self, sample: Sample) -> None:
        if self._ratio is not None:
            sample.put(self._first, self._ratio)
        self._ratio = None


def compression_of(optimizer: object, model: object) -> CompressionProbe:
    """What is known of compression by this optimizer, or by the communication hooks of DDP."""
    kind = type(optimizer).__name__
    if kind in _FROZEN:
        return CompressionProbe(OneBit(optimizer, _FROZEN[kind]))  # type: ignore[arg-type]
    if kind == "ZeroOneAdam":
        return CompressionProbe(None, _ZERO_ONE)
    hooks: Iterable[tuple[object, object]] = getattr(model, "_comm_hooks", ())
    for _, state in hooks:
        if type(state).__name__ == "PowerSGDState":
            return CompressionProbe(PowerSGD(state))  # type: ignore[arg-type]
    return CompressionProbe(None, NONE)


class OneBit:
    """1-bit Adam and LAMB: nothing is compressed before the variance is frozen, then signs.

    A rank then hands one bit of each element to an all-to-all and its part of them, a `size`-th,
    to an all-gather, with a scale of 4 bytes each time; raw it would hand 4 bytes of each element
    to an all-reduce. Adam does so for each tensor; for LAMB, which joins them first, the second
    scale of a tensor is counted too often by next to nothing.
    Source: Tang et al. 2021, 1-bit Adam, section 4 (arXiv 2102.02888).
    """

    def __init__(self, optimizer: _OneBit, flag: str) -> None:
        self._optimizer = optimizer
        self._flag = flag
        self._compressed: float | None = None

    def __call__(self) -> float | None:
        if getattr(self._optimizer, self._flag, None) is not True:
            return 1.0
        if self._compressed is None:
            self._compressed = self._frozen()
        return self._compressed

    def _frozen(self) -> float | None:
        ranks = self._optimizer.size
        raw = sent = 0.0
        for group in self._optimizer.param_groups:
            parameters = group["params"]
            assert isinstance(parameters, list)
            for parameter in parameters:
                full = 4.0 * parameter.numel()
                raw += full
                compressed = parameter.numel() / 8 * (1 + 1 / ranks) + 2 * _SCALE
                sent += full if group.get("non_freeze") is True else compressed
        return sent / raw if raw else None


class PowerSGD:
    """torch's PowerSGD hook, from the elements that it counts before and after compression.

    It counts only once it compresses: before `start_powerSGD_iter` gradients are sent as they are.
    """

    def __init__(self, state: _PowerSGD) -> None:
        self._state = state
        self._before, self._after = state.compression_stats()[1:]
        self._iteration = state.iter

    def __call__(self) -> float | None:
        _, before, after = self._state.compression_stats()
        raw, sent = before - self._before, after - self._after
        moved = self._state.iter != self._iteration
        self._before, self._after, self._iteration = before, after, self._state.iter
        if raw:
            return sent / raw
        return 1.0 if moved else None
