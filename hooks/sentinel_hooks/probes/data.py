"""What the training loop is fed: how long it waits for it, and which batches they are."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence

import torch

from sentinel.wire import Series
from sentinel_hooks.probes.fingerprint import fingerprint, id_texts, sample_ids
from sentinel_hooks.probes.mark import Mark, Marker, Span, seconds
from sentinel_hooks.probes.probe import Barrier, Probe, Sample
from sentinel_hooks.probes.source import Source

MAX_MICRO_BATCHES = 1024  # of a step, whose batches are remembered
_MAX_SOURCES = 64


class DataProbe(Probe):
    """Seconds waited for the step's batches, and the fingerprint of each of its micro-batches.

    Where the loop takes its batches through `watch.batches`, the wait is that for the batches
    which were then trained on (a device's wait: what is hidden by its work is none), and the
    fingerprint that of the batch as the loader gave it. Elsewhere the wait is what passes between
    a boundary and the first forward pass, and the fingerprint that of the model's inputs.

    Several loaders may be read at once. The batch of a forward pass that is trained on is the last
    one taken by the same thread, from a source that still goes on and whose batch was not seen in
    an evaluation.
    """

    name = "data"
    signals = ("data_seconds",)

    def __init__(self, marker: Marker) -> None:
        self._marker = marker
        self._first = 0
        self._boundary: Mark | None = None
        self._forward: Span | None = None  # from the boundary to the first forward pass
        self._elsewhere = 0.0  # s of it that were no wait
        self._sources: list[weakref.ref[Source]] = []  # that which gave a batch last comes last
        self._waits: list[Span] = []
        self._is_fed = False  # through `watch.batches`
        self._batches: list[str] = []
        self._samples: list[tuple[str, ...]] = []

    def series(self) -> Sequence[Series]:
        return (Series("data_seconds"),)

    def start(self, first: int, barrier: Barrier) -> None:
        self._first = first

    def batch_came(self, source: Source, batch: object) -> None:
        source.batch = fingerprint(batch)
        source.samples = sample_ids(batch) if source.ids is None else id_texts(source.ids(batch))
        source.evaluated, source.thread = False, threading.get_ident()
        source.fresh = True
        others = [one for one in self._sources if one() not in (None, source)]
        self._sources = [*others[1 - _MAX_SOURCES :], weakref.ref(source)]

    def forward_began(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], training: bool
    ) -> None:
        sources = self._present()
        if not training:
            if sources:
                sources[-1].evaluated = True
            return
        if self._boundary is not None and self._forward is None:
            self._forward = (self._boundary, self._marker.now())
        fresh = [source for source in sources if not source.evaluated] or sources
        if len(self._batches) < MAX_MICRO_BATCHES:
            self._remember(fresh[-1] if fresh else Source(), args, kwargs)
        if fresh:
            self._is_fed = True
            self._waits += fresh[-1].waits
            fresh[-1].waits = []
        for source in fresh:  # loops may take one of each for a step
            source.trained = source.trained or source.fresh
            source.fresh = False

    def _present(self) -> list[Source]:
        """The sources that go on in this thread, the one that gave a batch last at the end."""
        here = threading.get_ident()
        found = [source for one in self._sources if (source := one()) is not None]
        return [source for source in found if source.thread == here and not source.over]

    def _remember(
        self, source: Source, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        given = (kwargs, *args)
        ids = source.samples or next(filter(None, map(sample_ids, given)), ())
        self._batches.append(source.batch or fingerprint((args, kwargs)))
        self._samples.append(ids)

    def interlude(self, seconds: float) -> None:
        if self._forward is None:
            self._elsewhere += seconds

    def resumed(self) -> None:
        self._boundary = self._marker.now()
        self._elsewhere = 0.0

    def read(self, sample: Sample) -> None:
        sample.batches, sample.samples = self._batches, self._samples
        waits = self._waits if self._is_fed else [one for one in (self._forward,) if one]
        elsewhere = 0.0 if self._is_fed else self._elsewhere
        known = self._is_fed or bool(waits)
        self._waits, self._batches, self._samples, self._is_fed = [], [], [], False
        self._boundary, self._forward, self._elsewhere = None, None, 0.0
        if not known:
            return

        def fill(_: list[float]) -> None:
            sample.put(self._first, max(0.0, sum(map(seconds, waits)) - elsewhere))

        if self._marker.on_device:
            sample.later(torch.empty(0, device="cuda"), fill)  # read once the device is here
        else:
            fill([])
