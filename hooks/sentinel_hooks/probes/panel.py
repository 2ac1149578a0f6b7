"""All probes of one rank, behind one fault barrier.

The panel is told what the trainer does and passes it on to the probes that listen. Nothing that
a probe does wrong reaches the trainer: one that raises, or takes longer than `LIMIT` in a single
call, is switched off, its hooks are removed and its signals are reported as covered no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from sentinel import clock
from sentinel.wire import Coverage, Series
from sentinel_hooks.probes.fence import LIMIT, Fence, Stopwatch
from sentinel_hooks.probes.probe import Fill, Gradients, Outcome, Probe, Sample
from sentinel_hooks.probes.readback import Arrival, Copier, Readback

MAX_UNSETTLED = 64  # samples; beyond these the oldest is given up rather than kept for a device

_EVENTS = (
    "forward_began",
    "forward_ended",
    "loss_known",
    "backward_began",
    "backward_ended",
    "gradients_ready",
    "gradients_final",
    "optimizer_began",
    "optimizer_ended",
    "interlude",
    "resumed",
    "read",
)


@dataclass
class _Waiting:
    """A sample whose values are still on the device."""

    sample: Sample
    pending: Arrival | None
    fills: Sequence[tuple[Probe, Fill]]


class Panel:
    """The probes of one rank.

    `series` and `missing` are what `Hello` announces; a signal that has been lost since is in
    both, since the places of the series in a sample never change. `cost` is the stopwatch of our
    own code: whoever runs in the trainer's stack outside the panel adds its seconds there.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        device: torch.device,
        *,
        readback: Copier | None = None,
    ) -> None:
        self.fence = Fence()
        self.cost = Stopwatch()
        self.limit = LIMIT
        self._readback = readback or (Readback(device) if device.type == "cuda" else None)
        self._step = 0
        self._lost: list[Coverage] = []
        self._settled: deque[Sample] = deque(maxlen=MAX_UNSETTLED)
        self._waiting: deque[_Waiting] = deque()
        self._live: list[Probe] = list(probes)
        self._span: dict[Probe, range] = {}
        self._listeners: dict[str, tuple[tuple[Probe, Callable[..., None]], ...]] = {}
        self.missing: Mapping[str, str] = {}
        self.series: tuple[Series, ...] = ()
        self._announce(probes)

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Those that measure, in order."""
        return tuple(self._live)

    def _announce(self, probes: Sequence[Probe]) -> None:
        series: list[Series] = []
        missing: dict[str, str] = {}
        for probe in probes:
            try:
                own, absent = list(probe.series()), dict(probe.missing())
            except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
                reason = self.fence.fault(probe.name, error)
                own, absent = [], dict.fromkeys(probe.signals, reason)
            missing.update(absent)
            self._span[probe] = range(len(series), len(series) + len(own))
            series += own
        self.series = tuple(series)
        measured = {one.signal for one in series}
        self.missing = {name: why for name, why in missing.items() if name not in measured}

    def start(self, step: int) -> None:
        """Begin to measure; `step` is the last one done."""
        self._step = step
        for probe in tuple(self._live):
            self._call(probe, probe.start, self._span[probe].start, self)
        self._listen()

    def _listen(self) -> None:
        """Tell each event only to the probes that have something to do at it."""
        for event in _EVENTS:
            self._listeners[event] = tuple(
                (probe, getattr(probe, event))
                for probe in self._live
                if getattr(type(probe), event) is not getattr(Probe, event)
            )

    # What the adapter tells; see Probe for what each means.

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        self._tell("forward_began", args, kwargs, training)

    def forward_ended(self, output: object) -> None:
        self._tell("forward_ended", output)

    def loss_known(self, loss: Tensor, averaged: bool) -> None:
        self._tell("loss_known", loss, averaged)

    def backward_began(self) -> None:
        self._tell("backward_began")

    def backward_ended(self) -> None:
        self._tell("backward_ended")

    def gradients_ready(self, gradients: Gradients) -> None:
        self._tell("gradients_ready", gradients)

    def gradients_final(self, gradients: Gradients) -> None:
        self._tell("gradients_final", gradients)

    def optimizer_began(self) -> None:
        self._tell("optimizer_began")

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._tell("optimizer_ended", outcome)

    def interlude(self, seconds: float) -> None:
        self._tell("interlude", seconds)

    def resumed(self) -> None:
        self._tell("resumed")

    def _tell(self, event: str, *details: object) -> None:
        began = perf_counter()
        for probe, listener in self._listeners.get(event, ()):
            self._call(probe, listener, *details)
        self.cost.add(perf_counter() - began)

    def _call(self, probe: Probe, function: Callable[..., None], *details: object) -> None:
        began = perf_counter()
        try:
            function(*details)
        except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
            self.fault(probe, error)
            return
        took = perf_counter() - began
        if took > self.limit:
            self.overran(probe, took)

    # The barrier that probes with hooks of their own use, too.

    def fault(self, probe: Probe, error: Exception) -> None:
        """This probe raised: switch it off."""
        self.retire(probe, self.fence.fault(probe.name, error))

    def overran(self, probe: Probe, seconds: float) -> None:
        """This probe took too long in one call: switch it off."""
        reason = f"took {seconds:.1f} s in one call, {self.limit:g} s is the limit"
        self.fence.say(probe.name, reason)
        self.retire(probe, reason)

    def retire(self, probe: Probe, reason: str) -> None:
        """Switch this probe off: from the present step on its signals are not measured."""
        if probe not in self._live:
            return
        self._live.remove(probe)
        self._listen()
        names = {self.series[index].signal for index in self._span[probe]}
        self._lost += [Coverage(self._step + 1, name, reason) for name in sorted(names)]
        self.missing = {**self.missing, **dict.fromkeys(names, reason)}
        self.fence.run(probe.name, probe.detach)

    def _blank(self, sample: Sample, probe: Probe) -> None:
        """What a probe put before it failed is not to be trusted."""
        for index in self._span[probe]:
            sample.put_missing(index)

    # What the other side asks for.

    def read(self, step: int) -> None:
        """The step is over: let every probe put its values into a sample of it."""
        began = perf_counter()
        defers = self._readback is not None
        sample = Sample(step, len(self.series), clock.steady(), defers=defers)
        deferred: list[tuple[Probe, Tensor, Fill]] = []
        self._step = step - 1  # what is lost while reading is lost from this step on
        for probe, listener in self._listeners.get("read", ()):
            self._call(probe, listener, sample)
            own = sample.take_deferred()
            if probe in self._live:
                deferred += [(probe, *one) for one in own]
            else:
                self._blank(sample, probe)
        self._step = step
        self._wait_for(sample, deferred)
        self.cost.add(perf_counter() - began)

    def _wait_for(self, sample: Sample, deferred: list[tuple[Probe, Tensor, Fill]]) -> None:
        if not deferred and not self._waiting:
            self._settled.append(sample)
            return
        pending = None
        if deferred and self._readback is not None:
            pending = self._readback.submit([tensor for _, tensor, _ in deferred])
        self._waiting.append(
            _Waiting(sample, pending, [(probe, fill) for probe, _, fill in deferred])
        )
        if len(self._waiting) > MAX_UNSETTLED:
            self._waiting.popleft()

    def settled(self, *, wait: bool = False) -> list[Sample]:
        """The samples that are complete, in order, each handed out once.

        On the CPU: all that were read. On CUDA a step's sample is complete shortly after its
        kernels are. `wait`: wait for the device; only when nobody trains any more.
        """
        while self._waiting:
            head = self._waiting[0]
            if head.pending is not None:
                if wait:
                    head.pending.wait()
                elif not head.pending.ready():
                    break
            self._settle(self._waiting.popleft())
        samples = list(self._settled)
        self._settled.clear()
        return samples

    def _settle(self, waiting: _Waiting) -> None:
        if waiting.pending is not None:
            for (probe, fill), values in zip(waiting.fills, waiting.pending.values(), strict=True):
                self._call(probe, fill, values)
                if probe not in self._live:
                    self._blank(waiting.sample, probe)
        self._settled.append(waiting.sample)

    def lost(self) -> list[Coverage]:
        """Signals that are not measured any more since this was last asked, and why."""
        lost, self._lost = self._lost, []
        return lost

    def detach(self) -> None:
        """Remove every hook of the probes."""
        for probe in tuple(self._live):
            self.fence.run(probe.name, probe.detach)
        self._listeners = {}
