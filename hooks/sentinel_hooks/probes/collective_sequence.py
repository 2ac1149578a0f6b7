"""How many collectives a rank has entered in each of its groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sentinel.wire import Series
from sentinel_hooks.collectives.group import MAX_GROUPS, Groups
from sentinel_hooks.collectives.sequence import number_of
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

NO_GROUPS = "torch.distributed is not initialized: this process trains alone"


class CollectiveSequenceProbe(Probe):
    """The number of the last collective entered, by group, as the group's backend counts.

    All ranks of a group do the same collectives, so at a step boundary their numbers are equal.
    Groups made while it measures are taken in, up to `MAX_GROUPS` in all.
    """

    name = "collective sequence numbers"
    signals = ("collective_sequence",)

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._labels = [one.label for one in groups.known if number_of(one) is not None]
        self._indices: dict[str, int] = {}
        self._barrier: Barrier | None = None
        self._told = False  # that nothing is left to be told

    def series(self) -> Sequence[Series]:
        return [Series("collective_sequence", label) for label in self._labels]

    def missing(self) -> Mapping[str, str]:
        if self._labels:
            return {}
        uncounted = "no backend of this job's process groups numbers its collectives"
        return {"collective_sequence": uncounted if self._groups.known else NO_GROUPS}

    def start(self, first: int, barrier: Barrier) -> None:
        self._barrier = barrier
        self._indices = {label: first + at for at, label in enumerate(self._labels)}

    def optimizer_ended(self, outcome: Outcome) -> None:
        self._groups.refresh()
        if self._barrier is None:
            return
        for one in self._groups.known:
            new = one.label not in self._indices and len(self._indices) < MAX_GROUPS
            if new and number_of(one) is not None:
                series = [Series("collective_sequence", one.label)]
                (self._indices[one.label],) = self._barrier.extend(self, series)

    def read(self, sample: Sample) -> None:
        mixed = self._groups.mixed
        for one in self._groups.known:
            index, number = self._indices.get(one.label), number_of(one)
            if index is not None and number is not None and one.label not in mixed:
                sample.put(index, float(number))
        if not self._told and self._barrier is not None and mixed.issuperset(self._indices):
            self._told = bool(self._indices)
            why = "ranks of all groups also send to one another, which gloo numbers alike"
            self._barrier.cover(self, {"collective_sequence": why} if self._told else {})
