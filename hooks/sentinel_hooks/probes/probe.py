"""What a probe is, and the sample that it fills at each step.

An adapter tells every probe what the trainer does, as events; at the step boundary each probe is
asked to put the step's values into a `Sample`. Events come in this order, the first five once
for every micro-batch:

    forward_began, forward_ended, loss_known, backward_began, backward_ended,
    optimizer_began, gradients_ready, gradients_final, update_began, base_step_began,
    base_step_ended, update_ended, optimizer_ended, read, resumed

and between them, at any time, batch_came, interlude and logged
(a trainer that cannot know which pass is the last tells `gradients_ready` after each of them,
and the last one counts). A trainer that does not show all of them leaves some out, and what a
probe cannot know then it does not put: a value nobody put is *missing*, never 0 and never the
last one.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from sentinel.signals import CATALOG, OF_ONE_MICRO_BATCH
from sentinel.wire import Finding, Series
from sentinel_hooks.probes.fence import Stopwatch
from sentinel_hooks.probes.source import Source

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

Fill = Callable[[list[float]], None]

MAX_FINDINGS = 16  # what a frame holds


class Sample:
    """One step's values of one rank, in the order of `Panel.series`.

    On a CUDA device values can be read some time after the step only: a probe hands them over
    with `later`, and the panel gives the sample out once they have arrived. `bad_gradients` says
    whether some gradient of the step was not finite, on this rank or another (None: unknown);
    `bad_parameters` are those of which this rank holds a part of such a reduced gradient, in the
    model's order. A `partial` sample is of a step that is still going on, or will never end.
    `batches` and `samples` are the fingerprint and the ids of each micro-batch of the step, empty
    where they are not known.
    """

    __slots__ = (
        "_deferred",
        "_defers",
        "bad_gradients",
        "bad_parameters",
        "batches",
        "findings",
        "missing",
        "partial",
        "samples",
        "step",
        "time",
        "values",
    )

    def __init__(
        self, step: int, size: int, time: float, *, defers: bool = False, partial: bool = False
    ) -> None:
        self._defers = defers
        self.partial = partial
        self.bad_gradients: bool | None = None
        self.bad_parameters: Sequence[str] = ()
        self.step = step
        self.time = time
        self.values = array("d", bytes(8 * size))
        self.missing = bytearray(b"\xff" * ((size + 7) // 8))  # bit i, least significant first
        self.findings: list[Finding] = []
        self.batches: Sequence[str] = ()
        self.samples: Sequence[tuple[str, ...]] = ()
        self._deferred: list[tuple[Tensor, Fill]] = []

    def put(self, index: int, value: float) -> None:
        """This series' value; NaN and Inf are values like others. The last call counts."""
        self.values[index] = value
        self.missing[index >> 3] &= ~(1 << (index & 7)) & 0xFF

    def put_run(self, first: int, values: Sequence[float]) -> None:
        """The values of the series `first`, `first + 1`, ..."""
        count = len(values)
        self.values[first : first + count] = array("d", values)
        bits = int.from_bytes(self.missing, "little") & ~(((1 << count) - 1) << first)
        self.missing[:] = bits.to_bytes(len(self.missing), "little")

    def put_missing(self, index: int) -> None:
        """Take back what was put: this series was not measured at this step."""
        self.values[index] = 0.0
        self.missing[index >> 3] |= 1 << (index & 7)

    def is_missing(self, index: int) -> bool:
        """Whether nothing has been put for this series."""
        return bool(self.missing[index >> 3] & (1 << (index & 7)))

    def find(self, finding: Finding) -> None:
        """Where something non-finite was first met; what a frame cannot hold is dropped.

        Findings of the forward pass come before those of the backward.
        """
        if not isinstance(finding, Finding):
            raise TypeError(f"a finding was expected, not {finding!r}")
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)
            self.findings.sort(key=lambda one: CATALOG[one.signal].stage)

    def found(self, *, alone: bool) -> tuple[Finding, ...]:
        """The findings, each with the batch that it was met in, where it is of one batch.

        What is found in reduced gradients may come from any rank and micro-batch: it is of one
        batch only when this rank is `alone` and has had no other.
        """
        single = alone and len(set(self.batches)) == 1
        return tuple(
            self._located(one) if single or one.signal in OF_ONE_MICRO_BATCH else one
            for one in self.findings
        )

    def _located(self, finding: Finding) -> Finding:
        place = finding.micro_batch
        if place >= len(self.batches):
            return finding
        return replace(
            finding,
            batch=finding.batch or self.batches[place],
            samples=finding.samples or self.samples[place],
        )

    def later(self, tensor: Tensor, fill: Fill) -> None:
        """Call `fill` with the elements of this 1-d float tensor once they can be read.

        On the CPU that is at once. `fill` puts values and findings into this sample.
        """
        if self._defers and tensor.dim() == 1:
            self._deferred.append((tensor, fill))
        else:
            fill(tensor.tolist())

    def take_deferred(self) -> list[tuple[Tensor, Fill]]:
        """What was handed to `later` and waits to be read back; asked for once, by the panel."""
        deferred, self._deferred = self._deferred, []
        return deferred

    def value_bytes(self) -> bytes:
        """`Frame.values`: float64, little endian."""
        if _BIG_ENDIAN:
            swapped = array("d", self.values)
            swapped.byteswap()
            return swapped.tobytes()
        return self.values.tobytes()

    def missing_bytes(self) -> bytes:
        """`Frame.missing`: the bitmap, empty when every value is there."""
        if not self.missing:
            return b""
        size = len(self.values)
        full = bytearray(self.missing)
        if size % 8:
            full[-1] &= (1 << (size % 8)) - 1  # bits past the last series mean nothing
        return bytes(full) if any(full) else b""


_BIG_ENDIAN = array("H", [1]).tobytes() != b"\x01\x00"


@dataclass(frozen=True)
class Gradients:
    """What this rank holds of the gradients, reduced over ranks and not yet clipped.

    `shards[i]` belongs to parameter tensor `owners[i]` (an index into the `Tensors` that the
    gradient probe was made with) and is still multiplied by `scale`: a number, or a 0-d tensor on
    the device.
    """

    shards: Sequence[Tensor]
    owners: Sequence[int]
    scale: float | Tensor = 1.0


@dataclass(frozen=True)
class Outcome:
    """How an optimizer step ended.

    `skipped`: the optimizer left the weights alone and said so to nobody. `overflow`: an fp16
    loss scaler did, and scales down. None: this trainer does not tell.
    `grad_norm` is the trainer's own global norm before clipping, unscaled, if it has one: -1 and
    infinity are what DeepSpeed says for any norm that is not finite.
    """

    step: int
    skipped: bool | None = None
    overflow: bool | None = None
    grad_norm: float | Tensor | None = None


class Sender(Protocol):
    """What carries the frames away, as far as a probe may know."""

    @property
    def waiting(self) -> int:
        """Frames that wait to be sent."""
        ...

    @property
    def dropped(self) -> Mapping[str, int]:
        """Frames that were never sent so far, by reason (`signals.DROPS`)."""
        ...


class Barrier(Protocol):
    """Where a probe whose own hooks run in the trainer's stack takes its faults and its time."""

    @property
    def series(self) -> tuple[Series, ...]:
        """All series announced so far; the place of each is its index in samples."""
        ...

    @property
    def cost(self) -> Stopwatch:
        """Counts the seconds spent in our code."""
        ...

    @property
    def sender(self) -> Sender | None:
        """Who sends the frames, if anybody does."""
        ...

    def fault(self, probe: Probe, error: Exception) -> None:
        """The probe raised: it is switched off."""
        ...

    def spent(self, probe: Probe, seconds: float) -> None:
        """A hook of the probe took so long; too long, and it is switched off."""
        ...

    def due(self, probe: Probe) -> bool:
        """Whether the probe measures the step that is being done."""
        ...

    def extend(self, probe: Probe, series: Sequence[Series]) -> list[int]:
        """More series of the probe, found while it measures: their indices in later samples."""
        ...

    def cover(self, probe: Probe, reasons: Mapping[str, str]) -> None:
        """Signals of the probe that are not measured for now: why, or "" if they are again."""
        ...

    def retire(self, probe: Probe, reason: str) -> None:
        """The probe cannot measure any more, through no fault of its own: it is switched off."""
        ...


class Probe:
    """Reads one kind of quantity. Everything here runs in the trainer's call stack.

    A probe adds no collective, waits for no device, and may raise: the panel then switches it
    off, and its signals are missing from there on.
    """

    name: str = "probe"  # for the log
    signals: tuple[str, ...] = ()  # of the catalog: all it answers for, measured here or not
    every: int = 1  # measures the steps that this divides, and is told of no others
    core: bool = True  # measured as often as this whatever it costs

    def series(self) -> Sequence[Series]:
        """What it measures here, fixed for its life; `start` gives each its index."""
        return ()

    def missing(self) -> Mapping[str, str]:
        """Signals that it would measure elsewhere: name -> why it cannot here."""
        return {}

    def start(self, first: int, barrier: Barrier) -> None:
        """Begin to measure. Its series have the indices `first`, `first + 1`, ... in samples.

        Called once, whatever `every` is; hooks of its own ask `barrier.due`.
        """

    def batch_came(self, source: Source, batch: object) -> None:
        """The loop has taken this batch through `watch.batches`, perhaps to evaluate on it."""

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        """The root module is called; `training`: in training mode and with gradients."""

    def forward_ended(self, output: object) -> None:
        """The root module returned this, in a forward pass that is trained on."""

    def loss_known(self, loss: Tensor, averaged: bool) -> None:
        """The trainer was handed this loss of a micro-batch, before any scaling.

        `averaged`: the caller has divided it by the number of micro-batches already.
        """

    def backward_began(self) -> None:
        """A backward pass begins."""

    def backward_ended(self) -> None:
        """A backward pass is over."""

    def gradients_ready(self, gradients: Gradients) -> None:
        """All gradients of the step are there; clipping and the optimizer step come next."""

    def gradients_final(self, gradients: Gradients) -> None:
        """What the optimizer is about to apply, after whatever the loop did to the gradients.

        Told only by trainers in which that may differ from what `gradients_ready` showed.
        """

    def optimizer_began(self) -> None:
        """The trainer was asked for a step; at the end of accumulation it will take one."""

    def update_began(self) -> None:
        """The weights are as they were before the optimizer step, and about to change."""

    def base_step_began(self, optimizer: Optimizer) -> None:
        """The base optimizer is about to apply the `grad` of the tensors in its groups.

        They are final: reduced, unscaled (but for `optimizer.grad_scale`) and clipped. Told once
        for every part of the weights that is stepped by itself, and not when a step is skipped.
        """

    def base_step_ended(self, optimizer: Optimizer) -> None:
        """The base optimizer has applied them; they are still there."""

    def update_ended(self) -> None:
        """The weights are as the optimizer step has left them."""

    def optimizer_ended(self, outcome: Outcome) -> None:
        """The optimizer step is over; the boundary follows."""

    def interlude(self, seconds: float) -> None:
        """The trainer did something else between two steps for so long, such as a checkpoint."""

    def logged(self, values: Mapping[str, object]) -> None:
        """The script has given these numbers of its own to `watch.log`, by name."""

    def resumed(self) -> None:
        """The boundary is over, with whatever was waited for there: the next step begins."""

    def read(self, sample: Sample) -> None:
        """Put the values of the step that has just ended, and begin anew."""

    def alarms(self) -> Mapping[str, float]:
        """By signal, what cannot wait for the end of a step that may never end.

        Asked for at each heartbeat, by another thread than all else; the same again and again.
        """
        return {}

    def ran_out(self, sample: Sample) -> None:
        """The trainer has run out of memory: put what can be read in the middle of a step.

        Told whether or not the step is one that `every` divides.
        """

    def detach(self) -> None:
        """Stop measuring and leave no trace. May be called more than once."""
