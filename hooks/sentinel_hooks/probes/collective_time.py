"""How long collectives take, how much they carry, and how long training stands in them."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import ref

import torch

from sentinel.wire import Series
from sentinel_hooks.collectives.completion import CompletionHook
from sentinel_hooks.collectives.group import Groups, Known
from sentinel_hooks.collectives.sequence import number_in, number_of
from sentinel_hooks.collectives.tap import TAP, Tap
from sentinel_hooks.probes.collective_sequence import NO_GROUPS
from sentinel_hooks.probes.probe import Barrier, Outcome, Probe, Sample

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

MAX_KINDS = 64  # of operation and group together
MAX_CALLS = 16_384  # in one step
HOST_TIMED = frozenset({"gloo", "mpi"})  # backends whose collectives the host itself waits for

_SECONDS, _BYTES, _EXPOSED = (
    "collective_seconds",
    "collective_bytes",
    "exposed_communication_seconds",
)
_DEVICE = (
    "the host runs ahead of the device, so that a thread that waits says nothing of communication "
    "that compute does not hide"
)


_LISTS = (list, tuple)
_SENDING = ("send", "recv")


@dataclass(eq=False, slots=True)
class Call:
    """One collective that was started."""

    kind: str
    group: str  # its label
    size: int  # bytes
    of: ProcessGroup | None  # None once it has begun: nothing here keeps a group alive
    entered: int | None  # the group's sequence number before it
    began: float = 0.0
    own: float = 0.0  # seconds that we took


class CollectiveTimeProbe(Probe):
    """Seconds and bytes by operation and group, summed over a step.

    Where the host waits for collectives itself (gloo, MPI) the methods by which Python starts
    them are stood around (see `collectives.tap`): a collective counts from its call until the wait
    for it is over. (Its future would tell of its end from a thread of the backend's own, for which
    the training thread would have to hand over the interpreter's lock each time.) A step in which
    a group's sequence number grew by more than was seen here has had collectives that C++ started,
    and nothing is said of that group then.

    On NCCL nothing is touched unless `nccl_timing` asks for it; durations then come from NCCL's
    own events (see `collectives.completion`), and bytes from what Python starts.
    """

    name = "collective times"
    signals = (_SECONDS, _BYTES, _EXPOSED)

    def __init__(
        self, groups: Groups, device: torch.device, *, nccl_timing: bool = False, tap: Tap = TAP
    ) -> None:
        self._groups = groups
        self._tap = tap
        backends = {one.backend for one in groups.known}
        self._on_host = bool(backends & HOST_TIMED) and device.type == "cpu"
        self._by_nccl = nccl_timing and "nccl" in backends
        self._absent = _why_absent(backends, self._on_host, self._by_nccl)
        self._first = 0
        self._barrier: Barrier | None = None
        self._pid = os.getpid()
        self._thread = 0  # the one that trains
        self._calls: deque[Call] = deque(maxlen=MAX_CALLS)
        self._ends: deque[tuple[Call, float]] = deque(maxlen=MAX_CALLS)
        self._told: deque[tuple[str, float]] = deque(maxlen=MAX_CALLS)  # by NCCL
        self._pending: dict[int, tuple[ref[object], Call]] = {}  # by the work's id
        self._numbers: dict[str, int] = {}  # by group, at the last boundary
        self._seen: Counter[str] = Counter()  # by group, what its number grew by in our calls
        self._started = self._finished = self._lost = 0
        self._blocked = 0.0
        self._places: dict[str, tuple[int, int]] = {}  # kind -> index of its seconds, its bytes
        self._seconds: dict[str, float] = {}
        self._bytes: dict[str, int] = {}
        self._groups_of: dict[str, str] = {}
        self._kinds: dict[tuple[str, str], str] = {}
        self._covered: dict[str, bool] = {}  # whether a signal was there when it was last told of
        self._hooks: dict[str, CompletionHook] = {}

    def series(self) -> Sequence[Series]:
        return [Series(_EXPOSED)] if self._on_host else []

    def missing(self) -> Mapping[str, str]:
        if self._absent:
            return dict.fromkeys(self.signals, self._absent)
        return {} if self._on_host else {_EXPOSED: _DEVICE}

    def start(self, first: int, barrier: Barrier) -> None:
        self._first, self._barrier = first, barrier
        if self._absent:
            return
        self._thread = threading.get_ident()
        self._numbers = self._now()
        self._listen_to_nccl()
        self._tap.listen(self)

    def _now(self) -> dict[str, int]:
        numbers = ((one.label, number_of(one)) for one in self._groups.known)
        return {label: number for label, number in numbers if number is not None}

    def _listen_to_nccl(self) -> None:
        for one in self._groups.known if self._by_nccl else ():
            group = one.group()
            if one.backend == "nccl" and one.label not in self._hooks and group is not None:
                tell = partial(self._completed, one.label)
                self._hooks[one.label] = CompletionHook(group, tell)

    def _completed(self, label: str, operation: str, seconds: float) -> None:
        self._told.append((f"{operation}@{label}", seconds))
        self._groups_of.setdefault(f"{operation}@{label}", label)

    # The tap's listener: any thread that starts or waits for collectives.

    def entered(
        self,
        group: ProcessGroup,
        operation: str,
        args: tuple[object, ...],
    ) -> Call | None:
        """See `Listener.entered`."""
        began = perf_counter()
        try:
            known = self._groups.find(group) if os.getpid() == self._pid else None
            if known is None or not self._measures(known):
                return None
            if operation in _SENDING:
                self._groups.mix(known)
            size = max(map(_bytes, args[:2]), default=0)
            kind = self._kinds.get((operation, known.label))
            if kind is None:
                kind = self._kinds[operation, known.label] = f"{operation}@{known.label}"
            call = Call(kind, known.label, size, group, number_in(group))
        except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
            self._fault(error)
            return None
        call.began = perf_counter()
        call.own = call.began - began
        return call

    def _measures(self, known: Known) -> bool:
        return known.backend in HOST_TIMED if self._on_host else known.backend == "nccl"

    def left(self, call: object, work: object) -> None:
        """See `Listener.left`."""
        returned = perf_counter()
        if not isinstance(call, Call):
            return
        try:
            self._note(call, work, returned)
        except Exception as error:  # noqa: BLE001 - a probe's fault stays with the probe
            self._fault(error)
        self._account(call.own + perf_counter() - returned)

    def _note(self, call: Call, work: object, returned: float) -> None:
        after = None if call.of is None else number_in(call.of)
        call.of = None
        if after is not None and call.entered is not None:
            self._seen[call.group] += after - call.entered
        self._calls.append(call)
        if not self._on_host:
            return
        self._started += 1
        if threading.get_ident() == self._thread:
            self._blocked += returned - call.began
        if work is None:  # it was waited for inside
            self._ends.append((call, returned))
            return
        self._pending[id(work)] = (ref(work), call)

    def waiting(self, work: object) -> tuple[Call | None, float] | None:
        """See `Listener.waiting`."""
        if not self._on_host or os.getpid() != self._pid:
            return None
        work_of, call = self._pending.pop(id(work), _UNKNOWN)
        return call if work_of() is work else None, perf_counter()

    def waited(self, wait: object) -> None:
        """See `Listener.waited`."""
        now = perf_counter()
        if isinstance(wait, tuple):
            call, began = wait
            if call is not None:
                self._ends.append((call, now))
            if threading.get_ident() == self._thread:
                self._blocked += now - began
            self._account(perf_counter() - now)

    def _account(self, seconds: float) -> None:
        if self._barrier is not None and threading.get_ident() == self._thread:
            self._barrier.spent(self, seconds)

    def _fault(self, error: Exception) -> None:
        if self._barrier is not None:
            self._barrier.fault(self, error)

    # The step's end.

    def optimizer_ended(self, outcome: Outcome) -> None:
        """Sum the step up, so that kinds that it was the first to have are in its sample."""
        self._listen_to_nccl()
        self._thread = threading.get_ident()
        self._sum_up()
        for kind in self._bytes.keys() | self._seconds.keys():
            if kind in self._places or len(self._places) == MAX_KINDS or self._barrier is None:
                continue
            places = self._barrier.extend(self, [Series(_SECONDS, kind), Series(_BYTES, kind)])
            self._places[kind] = (places[0], places[1])

    def _sum_up(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            self._bytes[call.kind] = self._bytes.get(call.kind, 0) + call.size
            self._groups_of[call.kind] = call.group
        while self._ends:
            call, ended = self._ends.popleft()
            self._finished += 1
            self._seconds[call.kind] = self._seconds.get(call.kind, 0.0) + ended - call.began
        while self._told:
            kind, seconds = self._told.popleft()
            self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def read(self, sample: Sample) -> None:
        if self._absent:
            return
        unseen, lost = self._unseen(), self._count_lost()
        if lost:
            why = f"{lost} collectives of a step were dropped by their callers without a wait"
        else:
            why = next(iter(unseen.values()), "")
        told: set[str] = set()
        for kind, (seconds, size) in self._places.items():
            seen = self._groups_of.get(kind, "") not in unseen
            if not lost and kind in self._seconds and (seen or not self._on_host):
                sample.put(seconds, self._seconds[kind])
                told.add(_SECONDS)
            if not lost and kind in self._bytes and seen:
                sample.put(size, float(self._bytes[kind]))
                told.add(_BYTES)
        if self._on_host and not why:
            sample.put(self._first, self._blocked)
            told.add(_EXPOSED)
        self._cover(told, why)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._seconds, self._bytes, self._blocked = {}, {}, 0.0
        if len(self._kinds) > MAX_KINDS:  # groups come and go
            self._kinds.clear()
            self._groups_of = {kind: self._groups_of.get(kind, "") for kind in self._places}

    def _cover(self, told: Set[str], why: str) -> None:
        """Say which signals this step has nothing of, and why, and when they come back."""
        own = self.signals if self._on_host else (_BYTES,)
        there = {signal: signal in told for signal in own if why or signal in told}
        changed = {
            signal: "" if here else why
            for signal, here in there.items()
            if self._covered.get(signal, True) != here
        }
        self._covered |= there
        if changed and self._barrier is not None:
            self._barrier.cover(self, changed)

    def _unseen(self) -> dict[str, str]:
        """The groups that have had collectives in this step which did not come this way, and so."""
        now = self._now()
        found: dict[str, str] = {}
        for label, number in now.items():
            before = self._numbers.get(label, 0)
            grown = number - before if number >= before else number  # else made anew
            if grown != self._seen[label]:
                found[label] = (
                    f"{grown - self._seen[label]} of {grown} collectives of {label} in a step were "
                    "started inside torch (buckets of DistributedDataParallel, functional "
                    "collectives), where they are not seen"
                )
        self._numbers, self._seen = now, Counter()
        return found

    def _count_lost(self) -> int:
        """Of how many collectives, dropped in this step, the end will never be known."""
        for key in [key for key, (work, _) in self._pending.items() if work() is None]:
            del self._pending[key]
        lost = max(0, self._started - self._finished - len(self._pending))
        new, self._lost = max(0, lost - self._lost), lost
        return new

    def detach(self) -> None:
        self._tap.leave(self)
        for hook in self._hooks.values():
            hook.close()
        self._hooks = {}


_UNKNOWN: tuple[Callable[[], object], Call | None] = (lambda: None, None)


def _why_absent(backends: set[str], on_host: bool, by_nccl: bool) -> str:
    if on_host or by_nccl:
        return ""
    if not backends:
        return NO_GROUPS
    if "nccl" in backends:
        return "NCCL times collectives on request only: attach(..., nccl_timing=True)"
    return f"no way is known to time collectives of {', '.join(sorted(backends))} here"


def _bytes(argument: object) -> int:
    """The size of a tensor, or of all in lists of them; 0 for anything else."""
    if type(argument) in _LISTS:
        items: Iterable[object] = argument  # type: ignore[assignment]
        return sum(map(_bytes, items))
    size: object = getattr(argument, "nbytes", 0)
    return size if type(size) is int else 0
