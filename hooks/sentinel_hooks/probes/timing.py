"""How long a step and its phases take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sentinel.wire import Series
from sentinel_hooks.probes.mark import Mark, Marker, Span, seconds
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

_PHASES = ("forward", "backward", "optimizer")


class TimingProbe(Probe):
    """Seconds from one step boundary to the next, and of what is between.

    Time at the boundary itself, such as a hold, belongs to no step; a checkpoint that is saved
    there counts as one, though. On CUDA the host runs ahead of its device, so moments are marked
    with events on the current stream and read when the device has passed them. Nothing can be said
    of the step in which it begins to measure. `no_checkpoints` says why it is not told of
    checkpoints, where it is not.
    """

    name = "step and phase times"
    signals = (
        "step_seconds",
        "forward_seconds",
        "backward_seconds",
        "optimizer_seconds",
        "checkpoint_seconds",
    )

    def __init__(self, device: torch.device, no_checkpoints: str = "") -> None:
        self._marker = Marker(device)
        self._no_checkpoints = no_checkpoints
        self._first = 0
        self._boundary: Mark | None = None
        self._spans: dict[str, list[Span]] = {phase: [] for phase in _PHASES}
        self._open: dict[str, Mark] = {}
        self._saving = 0.0
        self._ended: Mark | None = None  # on a device, with the optimizer's step

    def series(self) -> Sequence[Series]:
        return [Series(name) for name in self.signals if name not in self.missing()]

    def missing(self) -> Mapping[str, str]:
        return {"checkpoint_seconds": self._no_checkpoints} if self._no_checkpoints else {}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def _begin(self, phase: str) -> None:
        self._open[phase] = self._marker.now()

    def _end(self, phase: str) -> None:
        began = self._open.pop(phase, None)
        if began is not None:
            self._spans[phase].append((began, self._marker.now()))

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        if training:
            self._begin("forward")

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
        if self._marker.on_device and self._spans["optimizer"]:
            self._ended = self._spans["optimizer"][-1][1]

    def interlude(self, seconds: float) -> None:
        self._saving += seconds

    def resumed(self) -> None:
        self._boundary = self._marker.now()

    def read(self, sample: Sample) -> None:
        spans, saving = self._spans, self._saving
        began, ended = self._boundary, self._ended
        whole = [] if began is None else [(began, ended or self._marker.now())]
        self._spans = {phase: [] for phase in _PHASES}
        self._saving, self._open, self._boundary, self._ended = 0.0, {}, None, None

        def put(name: str, value: float) -> None:
            sample.put(self._first + self.signals.index(name), value)

        if not self._no_checkpoints:
            put("checkpoint_seconds", saving)

        def fill(_: list[float]) -> None:
            for phase, pairs in spans.items():
                if pairs:
                    put(f"{phase}_seconds", sum(map(seconds, pairs)))
            for pair in whole:
                put("step_seconds", seconds(pair))

        if self._marker.on_device:
            sample.later(torch.empty(0, device="cuda"), fill)  # read once the device is here
        else:
            fill([])
