"""All probes of one rank, behind one fault barrier.

The panel is told what the trainer does and passes it on to the probes that listen. Nothing that
a probe does wrong reaches the trainer: one that raises, or takes longer than `LIMIT` in a single
call, is switched off, its hooks are removed and its signals are reported as covered no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter

import torch
from torch import Tensor
from torch.optim import Optimizer

from sentinel import clock
from sentinel.wire import MAX_SERIES, Coverage, Finding, Series
from sentinel_hooks.probes.fence import LIMIT, Fence, Stopwatch
from sentinel_hooks.probes.out_of_memory import describe, is_out_of_memory
from sentinel_hooks.probes.probe import Gradients, Outcome, Probe, Sample, Sender
from sentinel_hooks.probes.readback import Copier
from sentinel_hooks.probes.settlement import Deferred, Settlement
from sentinel_hooks.probes.source import Source

Listeners = dict[str, tuple[tuple[Probe, Callable[..., None]], ...]]

_EVENTS = (
    "batch_came",
    "forward_began",
    "forward_ended",
    "loss_known",
    "backward_began",
    "backward_ended",
    "gradients_ready",
    "gradients_final",
    "optimizer_began",
    "update_began",
    "base_step_began",
    "base_step_ended",
    "update_ended",
    "optimizer_ended",
    "interlude",
    "logged",
    "resumed",
    "read",
)


def _check(series: Sequence[Series]) -> None:
    """Raises `TypeError` where a probe announces what is no series."""
    for one in series:
        if not isinstance(one, Series) or not isinstance(one.label, str):
            raise TypeError(f"a series was expected, not {one!r}")


class Panel:
    """The probes of one rank.

    `series`, `missing` and `every` (signal -> steps, where not each) are what `Hello` announces; a
    signal that has been lost since is in the first two, since the places of the series in a sample
    never change. `series` may grow. `cost` is the stopwatch of our own code: whoever runs in the
    trainer's stack outside the panel adds its seconds there; `shares` has those of each probe.

    A probe whose `every` is n is told of the steps that n divides, which are the same on every
    rank, and of no others.
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
        self._settlement = Settlement(device, readback, self._call, self._blank)
        self._step = 0
        self._ran_out = -1  # the step in which memory last ran out
        self._changes: list[Coverage] = []
        self._live: list[Probe] = list(probes)
        self._span: dict[Probe, list[int]] = {}
        self._due: frozenset[Probe] = frozenset()
        self._listeners: Listeners = {}
        self._listening: dict[frozenset[Probe], Listeners] = {}
        self.shares: dict[Probe, float] = {}  # seconds, since each began to measure
        self.sender: Sender | None = None
        self.rescheduled: Mapping[str, Coverage] = {}  # signal -> what was last said of it
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
                _check(own)
            except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
                reason = self.fence.fault(probe.name, error)
                own, absent = [], dict.fromkeys(probe.signals, reason)
            missing.update(absent)
            self._span[probe] = list(range(len(series), len(series) + len(own)))
            series += own
        self.series = tuple(series)
        measured = {one.signal for one in series}
        self.missing = {name: why for name, why in missing.items() if name not in measured}

    @property
    def every(self) -> dict[str, int]:
        """The signals that are not measured at each step: name -> number of steps."""
        return {
            self.series[index].signal: probe.every
            for probe in self._live
            if probe.every > 1
            for index in self._span[probe]
        }

    def start(self, step: int) -> None:
        """Begin to measure; `step` is the last one done."""
        self._step = step
        for probe in tuple(self._live):
            self._call(probe, probe.start, next(iter(self._span[probe]), 0), self)
        self._listening = {}
        self._listen()

    def moved(self, step: int) -> None:
        """A checkpoint was loaded between two steps: this is the last step done now."""
        self._step = step
        self._listen()

    def _listen(self) -> None:
        """Tell each event of the step to come to the probes that measure it, and listen to it."""
        step = self._step + 1
        self._due = frozenset(probe for probe in self._live if not step % probe.every)
        found = self._listening.get(self._due)
        if found is None:
            found = self._listening[self._due] = {
                event: tuple(
                    (probe, getattr(probe, event))
                    for probe in self._live
                    if probe in self._due
                    and getattr(type(probe), event) is not getattr(Probe, event)
                )
                for event in _EVENTS
            }
        self._listeners = found

    def due(self, probe: Probe) -> bool:
        """Whether this probe measures the step that is being done."""
        return probe in self._due

    def extend(self, probe: Probe, series: Sequence[Series]) -> list[int]:
        """More series of this probe, found while it measures; their indices in samples.

        Samples that are open already do not have them.
        """
        if len(self.series) + len(series) > MAX_SERIES:
            raise ValueError(f"more than {MAX_SERIES} series")
        first = len(self.series)
        places = list(range(first, first + len(series)))
        self._span[probe] += places
        if probe.every > 1:
            names = {one.signal for one in series} - {one.signal for one in self.series}
            self._say_of(names, "", probe.every)
        self.series = (*self.series, *series)
        return places

    def reschedule(self, probe: Probe, every: int, reason: str) -> None:
        """From the next step on, measure only the steps that `every` divides."""
        probe.every = every
        self._say_of({self.series[index].signal for index in self._span[probe]}, reason, every)
        self._listening = {}
        self._listen()

    def cover(self, probe: Probe, reasons: Mapping[str, str]) -> None:
        """Signals of this probe that are not measured for now: why, or "" if they are again.

        For those that come and go. Told while a step is read, it is meant from this step on.
        """
        self._changes += [
            Coverage(self._step + 1, name, reason, 0 if reason else probe.every)
            for name, reason in sorted(reasons.items())
        ]
        merged = {**self.missing, **reasons}
        self.missing = {name: reason for name, reason in merged.items() if reason}

    def _say_of(self, names: Iterable[str], reason: str, every: int) -> None:
        said = {name: Coverage(self._step + 1, name, reason, every) for name in sorted(names)}
        self._changes += said.values()
        self.rescheduled = {**self.rescheduled, **said}

    # What the adapter and the script tell; see Probe for what each means.

    def batch_came(self, source: Source, batch: object) -> None:
        self._tell("batch_came", source, batch)

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

    def update_began(self) -> None:
        self._tell("update_began")

    def base_step_began(self, optimizer: Optimizer) -> None:
        self._tell("base_step_began", optimizer)

    def base_step_ended(self, optimizer: Optimizer) -> None:
        self._tell("base_step_ended", optimizer)

    def update_ended(self) -> None:
        self._tell("update_ended")

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._tell("optimizer_ended", outcome)

    def interlude(self, seconds: float) -> None:
        self._tell("interlude", seconds)

    def logged(self, values: Mapping[str, object]) -> None:
        self._tell("logged", values)

    def resumed(self) -> None:
        self._tell("resumed")

    def _tell(self, event: str, *details: object) -> None:
        first = began = perf_counter()
        for probe, listener in self._listeners.get(event, ()):
            try:
                listener(*details)
            except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
                self.fault(probe, error)
            now = perf_counter()
            self._took(probe, now - began)
            began = now
        self.cost.add(perf_counter() - first)

    def _call(self, probe: Probe, function: Callable[..., None], *details: object) -> bool:
        """Whether it went well, so that the probe still measures."""
        began = perf_counter()
        try:
            function(*details)
        except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
            self.fault(probe, error)
            return False
        return self._took(probe, perf_counter() - began) and probe in self._live

    def _took(self, probe: Probe, seconds: float) -> bool:
        """Whether that was not too long."""
        self.shares[probe] = self.shares.get(probe, 0.0) + seconds
        if seconds <= self.limit:
            return True
        self.overran(probe, seconds)
        return False

    # The barrier that probes with hooks of their own use, too.

    def fault(self, probe: Probe, error: Exception) -> None:
        """This probe raised: switch it off."""
        self.retire(probe, self.fence.fault(probe.name, error))

    def spent(self, probe: Probe, seconds: float) -> None:
        """A hook of this probe took so long in the trainer's stack."""
        self.cost.add(seconds)
        self._took(probe, seconds)

    def overran(self, probe: Probe, seconds: float) -> None:
        """This probe took too long in one call: switch it off."""
        reason = f"took {seconds:.1f} s in one call, {self.limit:g} s is the limit"
        if probe in self._live:
            self.fence.say(probe.name, reason)
            self.retire(probe, reason)

    def retire(self, probe: Probe, reason: str) -> None:
        """Switch this probe off: from the present step on its signals are not measured."""
        if probe not in self._live:
            return
        self._live.remove(probe)
        self._listening = {}
        self._listen()
        names = {self.series[index].signal for index in self._span[probe]}
        self._changes += [Coverage(self._step + 1, name, reason) for name in sorted(names)]
        self.missing = {**self.missing, **dict.fromkeys(names, reason)}
        kept = {name: said for name, said in self.rescheduled.items() if name not in names}
        self.rescheduled = kept
        self.fence.run(probe.name, probe.detach)

    def _blank(self, sample: Sample, probe: Probe) -> None:
        """What a probe put before it failed is not to be trusted."""
        for index in self._span[probe]:
            sample.put_missing(index)

    # What the other side asks for.

    def read(self, step: int) -> None:
        """The step is over: let every probe put its values into a sample of it."""
        began = perf_counter()
        defers = self._settlement.defers
        sample = Sample(step, len(self.series), clock.steady(), defers=defers)
        deferred: list[Deferred] = []
        self._step = step - 1  # what is lost while reading is lost from this step on
        for probe, listener in self._listeners.get("read", ()):
            went_well = self._call(probe, listener, sample)
            own = sample.take_deferred() if defers else ()
            if went_well:
                deferred += [(probe, *one) for one in own]
            else:
                self._blank(sample, probe)
        self._step = step
        self._listen()
        self._settlement.wait_for(sample, deferred)
        self.cost.add(perf_counter() - began)

    def failed(self, error: BaseException, phase: str) -> None:
        """The trainer raised this in `phase` of the step in progress.

        If memory has run out, a partial sample with what is known of memory at this moment is
        settled at once, one a step. The error is looked at and not kept: it holds on to tensors.
        """
        step = self._step + 1
        if step == self._ran_out or not is_out_of_memory(error):
            return
        self._ran_out = step
        sample = Sample(step, len(self.series), clock.steady(), partial=True)
        for probe in tuple(self._live):
            self._call(probe, probe.ran_out, sample)
        measured = {
            one.signal: sample.values[index]
            for index, one in enumerate(self.series)
            if not sample.is_missing(index)
        }
        detail = describe(error, measured)
        sample.find(Finding("out_of_memory", phase, detail=detail))
        self._settlement.add(sample)

    def settled(self, *, wait: bool = False) -> list[Sample]:
        """The samples that are complete, in order, each handed out once.

        On the CPU: all that were read. On CUDA a step's sample is complete shortly after its
        kernels are. `wait`: wait for the device; only when nobody trains any more.
        """
        return self._settlement.take(wait=wait)

    def alarms(self) -> dict[str, float]:
        """What cannot wait for the end of the step. For any thread."""
        found: dict[str, float] = {}

        def gather(probe: Probe) -> None:
            found.update(probe.alarms())

        for probe in tuple(self._live):
            self.fence.run(probe.name, partial(gather, probe))
        return found

    def changes(self) -> list[Coverage]:
        """Signals that are measured no more, or more rarely, since this was last asked, and why."""
        changes, self._changes = self._changes, []
        return changes

    def detach(self) -> None:
        """Remove every hook of the probes."""
        for probe in tuple(self._live):
            self.fence.run(probe.name, probe.detach)
        self._listeners = {}
