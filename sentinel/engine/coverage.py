"""What is measured on which rank, how often, and what is not and why.

A signal on a rank is *measured* at every step, *sampled* every so many steps, *stale* when it was
announced and no value has come for long, or *missing*. `RankCoverage` keeps what one rank says and
sends; `survey.py` makes a `RunCoverage` of all ranks and rules when somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from sentinel.signals import CATALOG
from sentinel.wire import Coverage, Frame, Hello

if TYPE_CHECKING:
    from sentinel.engine.layout import Layout

SignalState = Literal["measured", "sampled", "stale", "missing"]
RuleState = Literal["ok", "pending", "firing", "blind", "off"]
Moment = tuple[int, float]  # a step, and when its frame came

SAYS_NOTHING = "this rank says nothing of it"
# What ranks say of signals that there cannot be in their run: how such reasons begin.
NOT_APPLICABLE = (
    "no CUDA device",
    "training is not in fp16",
    "ZeRO shares the gradients out",
    "no module of the model has exp_counts",
    "no compressed optimizer is in use",
)
STALE_INTERVALS = 3  # without a value for more than so many intervals,
STALE_STEPS = 10  # so many steps
STALE_SECONDS = 10.0  # and so many seconds, a signal is stale
_MAX_PATTERNS = 64  # of what was missing from frames, that are kept of one rank


@dataclass(frozen=True)
class SignalCoverage:
    """One signal on the ranks for which the same is true, as ranges: "0-3,8".

    `every` is the interval in steps, 0 if missing; `last_step` the newest step with a value on
    any of the ranks, where the signal is stale and ever had one. `applicable` is false where it is
    known that there is nothing to measure in such a run.
    """

    signal: str
    state: SignalState
    ranks: str
    every: int = 1
    reason: str = ""
    last_step: int | None = None
    applicable: bool = True


@dataclass(frozen=True)
class Unseen:
    """Ranks of which nothing is known at present, and why."""

    ranks: str
    reason: str


@dataclass(frozen=True)
class BlindSpot:
    """A signal that a rule asks for and that these ranks do not give."""

    signal: str
    ranks: str
    reason: str


@dataclass(frozen=True)
class RuleCoverage:
    """How a rule stands. "off": it failed, and is not judged any more.

    "blind": it cannot come true on some rank, or on any, since `blind` is not measured there. A
    rule that can still come true by what else it asks for, or that already has, lists in `blind`
    what it lacks all the same. `applicable` is false where it is blind for nothing but what there
    is not to be measured in such a run.
    """

    rule: str
    state: RuleState
    blind: tuple[BlindSpot, ...] = ()
    applicable: bool = True


@dataclass(frozen=True)
class RunCoverage:
    """What can be seen of a run: an element of `status --coverage --json`."""

    run: str
    step: int
    ranks: str
    unseen: tuple[Unseen, ...]
    signals: tuple[SignalCoverage, ...]
    rules: tuple[RuleCoverage, ...]


@dataclass(frozen=True)
class Gap:
    """Why a signal of a rank is not to be had: missing, or stale since a step."""

    state: Literal["stale", "missing"]
    reason: str
    last_step: int | None = None


@dataclass
class RankCoverage:
    """What one rank measures, by its own word and by what its frames hold.

    `missing` tells why a signal is not measured, `every` at which interval if not at every step,
    `reasons` why at that one. Taking in a frame is one entry in a small table.
    """

    missing: dict[str, str] = field(default_factory=dict)
    every: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    _since: Moment | None = None
    _newest: Moment = (0, 0.0)
    _seen: dict[tuple[Layout, bytes], Moment] = field(default_factory=dict)
    _older: dict[str, Moment] = field(default_factory=dict)

    def greet(self, hello: Hello, *, reborn: bool) -> None:
        """Take in what the rank announces."""
        self.missing = dict(hello.missing)
        self.every = {signal: every for signal, every in hello.every.items() if every > 1}
        self.reasons = {}
        if reborn:
            self.begin_anew()

    def change(self, message: Coverage) -> None:
        """Take in that a signal is measured otherwise from now on."""
        signal = message.signal
        if signal not in CATALOG:  # what else a rank may name is without bound
            return
        if not message.every:
            self.missing[signal] = message.reason
            return
        self.missing.pop(signal, None)
        self.every[signal], self.reasons[signal] = message.every, message.reason
        if message.every == 1:
            del self.every[signal], self.reasons[signal]

    def begin_anew(self) -> None:
        """The rank went back to an earlier step: when it measured what is not known any more."""
        self._since = None
        self._seen, self._older = {}, {}

    def saw(self, layout: Layout, frame: Frame, now: float) -> None:
        """Take in a frame of this layout."""
        self._newest = moment = (frame.step, now)
        if self._since is None:
            self._since = moment
        self._seen[layout, frame.missing] = moment
        if len(self._seen) > _MAX_PATTERNS:
            for signal, at in self._lasts():
                self._older[signal] = max(at, self._older.get(signal, at))
            self._seen = {}

    def _lasts(self) -> Iterable[tuple[str, Moment]]:
        return (
            (signal, moment)
            for (layout, missing), moment in self._seen.items()
            for signal in _measured(layout, missing)
        )

    def stale(self, announced: frozenset[str]) -> dict[str, int | None]:
        """The announced signals that are not measured any more: the last step, if there was one."""
        left = {signal for signal in announced if signal not in self.missing}
        found: dict[str, int | None] = {}
        newest_first = sorted(self._seen.items(), key=lambda item: item[1], reverse=True)
        for (layout, missing), moment in newest_first:
            measured = _measured(layout, missing)
            if self._newest[0] - moment[0] > STALE_STEPS:
                found |= {one: moment[0] for one in left & measured if self._is_over(one, moment)}
            left -= measured
            if not left:
                break
        for signal in left:
            last = self._older.get(signal)
            if self._since is not None and self._is_over(signal, last or self._since):
                found[signal] = last[0] if last else None
        return found

    def _is_over(self, signal: str, last: Moment) -> bool:
        steps, seconds = self._newest[0] - last[0], self._newest[1] - last[1]
        limit = max(STALE_INTERVALS * self.every.get(signal, 1), STALE_STEPS)
        return steps > limit and seconds > STALE_SECONDS and not CATALOG[signal].sporadic

    def gaps(self, announced: frozenset[str]) -> Mapping[str, Gap]:
        """The signals of the catalog that this rank could measure and does not, and why."""
        stale = self.stale(announced)
        return {
            **{one: Gap("missing", SAYS_NOTHING) for one in MEASURABLE if one not in announced},
            **{one: Gap("stale", "no value though announced", at) for one, at in stale.items()},
            **{one: Gap("missing", why) for one, why in self.missing.items() if one in MEASURABLE},
        }


def is_applicable(reason: str) -> bool:
    """Whether what is not measured for this reason could be measured in such a run at all."""
    return not reason.startswith(NOT_APPLICABLE)


MEASURABLE = tuple(name for name, signal in CATALOG.items() if signal.made_by == "rank")


@lru_cache(maxsize=4096)
def _measured(layout: Layout, missing: bytes) -> frozenset[str]:
    """The signals of which a frame with these missing has at least one value."""
    bits = int.from_bytes(missing, "little")
    if not bits:
        return layout.signals
    return frozenset(
        layout.series[at].signal for at in map(int, layout.positions) if not bits >> at & 1
    )


def ranges(ranks: Iterable[int]) -> str:
    """Ranks for people and programs.

    >>> ranges([3, 0, 1, 2, 8])
    '0-3,8'
    """
    return _ranges(tuple(sorted(ranks)))


@lru_cache(maxsize=256)  # most signals are measured on the same ranks
def _ranges(ranks: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
