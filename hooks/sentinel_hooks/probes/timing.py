"""How long a step and its phases take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter

import torch

from sentinel.wire import Series
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

_PHASES = ("forward", "backward", "optimizer")


class TimingProbe(Probe):
    """Seconds from one step boundary to the next, and of what is between.

    Time at the boundary itself, such as a hold, belongs to no step. On CUDA the host runs ahead
    of its device, so moments are marked with events on the current stream and read when the
    device has passed them. Nothing can be said of the step in which it begins to measure.
    """

    name = "step and phase times"
    signals = (
        "step_seconds",
        "data_seconds",
        "forward_seconds",
        "backward_seconds",
        "optimizer_seconds",
    )

    def __init__(self, device: torch.device) -> None:
        self._on_device = device.type == "cuda"
        self._first = 0
        self._boundary: Mark | None = None
        self._data: list[Span] = []
        self._spans: dict[str, list[Span]] = {phase: [] for phase in _PHASES}
        self._open: dict[str, Mark] = {}
        self._elsewhere = 0.0

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self.signals]

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def _mark(self) -> Mark:
        if not self._on_device:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _begin(self, phase: str) -> None:
        self._open[phase] = self._mark()

    def _end(self, phase: str) -> None:
        began = self._open.pop(phase, None)
        if began is not None:
            self._spans[phase].append((began, self._mark()))

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        if not training:
            return
        self._begin("forward")
        if self._boundary is not None and not self._data:
            self._data.append((self._boundary, self._open["forward"]))

    def forward_ended(self, output: object) -> None:
        self._end("forward")

    def backward_began(self) -> None:
        self._begin("backward")

    def backward_ended(self) -> None:
        self._end("backward")

    def optimizer_began(self) -> None:
        self._begin("optimizer")

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._end("optimizer")

    def interlude(self, seconds: float) -> None:
        if not self._data:
            self._elsewhere += seconds

    def resumed(self) -> None:
        self._boundary = self._mark()

    def read(self, sample: Sample) -> None:
        data, spans, elsewhere = self._data, self._spans, self._elsewhere
        whole = [] if self._boundary is None else [(self._boundary, self._mark())]
        self._data, self._spans = [], {phase: [] for phase in _PHASES}
        self._elsewhere, self._open, self._boundary = 0.0, {}, None

        def put(name: str, seconds: float) -> None:
            sample.put(self._first + self.signals.index(name), seconds)

        def fill(_: list[float]) -> None:
            for phase, pairs in spans.items():
                if pairs:
                    put(f"{phase}_seconds", sum(map(_seconds, pairs)))
            for pair in whole:
                put("step_seconds", _seconds(pair))
            for pair in data:
                put("data_seconds", max(0.0, _seconds(pair) - elsewhere))

        if self._on_device:
            sample.later(torch.empty(0, device="cuda"), fill)  # read once the device is here
        else:
            fill([])


Mark = float | torch.cuda.Event
Span = tuple[Mark, Mark]


def _seconds(span: Span) -> float:
    began, ended = span
    if isinstance(began, float) and isinstance(ended, float):
        return ended - began
    if isinstance(began, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
        return float(began.elapsed_time(ended)) / 1000
    return 0.0
