"""Tokens per second of this rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from torch import Tensor

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Probe, Sample

_NAMES = ("input_ids", "inputs_embeds", "tokens", "input")  # looked for first among the inputs


class ThroughputProbe(Probe):
    """Tokens of the rank's micro-batches over the seconds of the step.

    The model's first tensor argument decides (one called `input_ids` comes before the others):
    integers are tokens, each element one; of three-dimensional floats (batch, sequence,
    features) the first two dimensions count. Other inputs have no tokens, and the signal is
    missing.
    """

    name = "throughput"
    signals = ("tokens_per_second",)

    def __init__(self) -> None:
        self._first = 0
        self._tokens = 0
        self._resumed: float | None = None

    def series(self) -> Sequence[Series]:
        return (Series("tokens_per_second"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        if training:
            self._tokens += count_tokens(args, kwargs)

    def resumed(self) -> None:
        self._resumed = perf_counter()

    def read(self, sample: Sample) -> None:
        tokens, resumed = self._tokens, self._resumed
        self._tokens, self._resumed = 0, None
        if tokens and resumed is not None:
            sample.put(self._first, tokens / max(perf_counter() - resumed, 1e-9))


def count_tokens(args: tuple[object, ...], kwargs: Mapping[str, object]) -> int:
    """How many tokens a call of the model is given; 0 if it is not given tokens."""
    for tensor in _inputs(args, kwargs):
        if tensor.is_floating_point():
            return tensor.shape[0] * tensor.shape[1] if tensor.dim() == 3 else 0
        return tensor.numel() if tensor.dim() else 0
    return 0


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
