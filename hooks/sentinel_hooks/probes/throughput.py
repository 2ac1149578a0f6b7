"""Tokens per second of this rank, and how much of its device they use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.model_operations import Operations
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

_NAMES = ("input_ids", "inputs_embeds", "tokens", "input")  # looked for first among the inputs


class ThroughputProbe(Probe):
    """Tokens of the rank's micro-batches over the seconds of the step.

    The model's first tensor argument decides (one called `input_ids` comes before the others):
    integers are tokens, each element one; of three-dimensional floats (batch, sequence,
    features) the first two dimensions count. Other inputs have no tokens, and the signals are
    missing.

    `model_flops_utilization` is the `operations` that the model needs for these tokens, over what
    the device could do in the seconds of the step at `peak` FLOP/s; `no_peak` says why that is not
    known.
    """

    name = "throughput"
    signals = ("tokens_per_second", "model_flops_utilization")

    def __init__(self, operations: Operations, peak: float, no_peak: str = "") -> None:
        self._operations = operations
        self._peak = peak
        self._absent = operations.absent or no_peak
        self._first = 0
        self._tokens = 0
        self._needed = 0.0  # floating-point operations
        self._resumed: float | None = None

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self.signals if name not in self.missing()]

    def missing(self) -> Mapping[str, str]:
        return {"model_flops_utilization": self._absent} if self._absent else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        if training:
            tokens, length = count_tokens(args, kwargs)
            self._tokens += tokens
            self._needed += self._operations.of(tokens, length)

    def resumed(self) -> None:
        self._resumed = perf_counter()

    def read(self, sample: Sample) -> None:
        tokens, needed, resumed = self._tokens, self._needed, self._resumed
        self._tokens, self._needed, self._resumed = 0, 0.0, None
        if not tokens or resumed is None:
            return
        seconds = max(perf_counter() - resumed, 1e-9)
        sample.put(self._first, tokens / seconds)
        if not self._absent:
            sample.put(self._first + 1, needed / seconds / self._peak)


def count_tokens(args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[int, int]:
    """How many tokens a call of the model is given, and of how many tokens a sequence is.

    0 of both if it is not given tokens.
    """
    for tensor in _inputs(args, kwargs):
        shape = tensor.shape
        if tensor.is_floating_point():
            return (shape[0] * shape[1], shape[1]) if tensor.dim() == 3 else (0, 0)
        return (tensor.numel(), shape[-1]) if tensor.dim() else (0, 0)
    return 0, 0


def _inputs(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Iterator[Tensor]:
    """The tensors given to the model, likeliest first, one level deep."""
    batches = [kwargs, *(one for one in args if isinstance(one, Mapping))]
    named = (batch[name] for name in _NAMES for batch in batches if name in batch)
    rest = (one for batch in reversed(batches) for one in batch.values())
    for one in (*named, *args, *rest):
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, tuple | list):
            yield from (part for part in one if isinstance(part, Tensor))
