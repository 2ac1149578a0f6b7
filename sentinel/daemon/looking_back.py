"""Reads from the recording what led up to an incident.

`python -m sentinel.daemon.looking_back` does it in a process of its own, since thousands of frames
may have to be decoded: a `Question` comes in as msgpack, a `Measured` goes out.

1. From the newest block back, take the frames of the ranks' present processes, until there are
   enough steps from before the incident. Of steps that were done twice, keep those of the time in
   which it began.
2. Put the values of each step together: the blamed rank's own beside those of all others, or all
   of them as the catalog says.
3. The last steps before the incident say what is normal.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from sentinel import wire
from sentinel.clock import monotonic
from sentinel.errors import StateError, WireError
from sentinel.notify.telemetry import WAITING, Course, Measured, Normal
from sentinel.signals import CATALOG, Reduction
from sentinel.store.chunk import Recorded
from sentinel.store.recording import Recording

NORMAL_STEPS = 200  # before the incident at most, that say what is normal,
SHOWN_BEFORE = 60  # that are drawn,
SHOWN_AFTER = 120
_FEWEST = 8  # from which on anything can be said about what is normal
_LONGEST = 8.0  # s of reading
_MOMENT = 1.0  # s from what begins an incident to when it is noticed, at most
_FLOAT = struct.Struct("<d")

_Values = dict[int, dict[int, float]]  # step -> rank -> value


class Wanted(Struct, frozen=True):
    """A series that is asked for."""

    signal: str
    label: str = ""


class Spoken(Struct, frozen=True):
    """How a rank's present process says it: the position of each series in its frames, or -1."""

    rank: int
    incarnation: str
    positions: tuple[int, ...]


class Question(Struct, frozen=True):
    """What to look for. `began`: when the incident was noticed (s since 1970); `step`: where."""

    state_dir: str
    run: str
    step: int
    began: float
    rank: int | None
    wanted: tuple[Wanted, ...]
    spoken: tuple[Spoken, ...]


def look_back(recording: Recording, question: Question) -> Measured:
    """What was measured around that step. Raises `StateError`."""
    reader = _Reader(question)
    give_up = monotonic() + _LONGEST
    for block in recording.backwards(question.run):
        reader.take(block)
        if reader.has_enough() or monotonic() > give_up:
            break
    ranks = {one.rank for one in question.spoken}
    blamed = question.rank if question.rank in ranks else None
    courses = [
        _course(wanted, values, question, blamed)
        for wanted, values in zip(question.wanted, reader.values, strict=True)
    ]
    found = [course for course in courses if course.steps]
    normal = None
    waits = blamed is not None and question.wanted[0].signal in WAITING
    if found and found[0] is courses[0] and not waits:
        normal = _normal(courses[0], question.step)
    others = len(ranks) - (blamed is not None)
    return Measured(tuple(_shown(one, question.step) for one in found), normal, blamed, others)


class _Reader:
    """Takes what is wanted from messages that come newest first."""

    def __init__(self, question: Question) -> None:
        self.values: list[_Values] = [{} for _ in question.wanted]
        self._question = question
        self._spoken = {one.rank: one for one in question.spoken}
        self._lowest: dict[int, int] = {}  # step reached so far, going back, by rank
        self._finished: set[int] = set()

    def take(self, block: Sequence[Recorded]) -> None:
        """A block of messages, in the order in which they arrived."""
        for now, rank, body in reversed(block):
            spoken = self._spoken.get(rank)
            if body is None or spoken is None or rank in self._finished:
                continue
            if b"\xa5frame" in body[:9]:
                self._frame(spoken, now, body)
            elif b"\xa5hello" in body[:9] and not self._is_of(spoken, body):
                self._finished.add(rank)

    def has_enough(self) -> bool:
        """Whether every rank was followed far enough."""
        enough = self._question.step - 2 * NORMAL_STEPS
        return all(
            rank in self._finished or self._lowest.get(rank, math.inf) < enough
            for rank in self._spoken
        )

    def _is_of(self, spoken: Spoken, body: bytes) -> bool:
        try:
            hello = wire.decode_from_rank(body)
        except WireError:
            return False
        return isinstance(hello, wire.Hello) and hello.incarnation == spoken.incarnation

    def _frame(self, spoken: Spoken, now: float, body: bytes) -> None:
        try:
            frame = wire.decode_from_rank(body)
        except WireError:
            return
        if not isinstance(frame, wire.Frame):
            return
        rank, step = spoken.rank, frame.step
        before = self._lowest.get(rank)
        if before is not None and step >= before and not frame.partial:
            if now < self._question.began - _MOMENT:
                self._finished.add(rank)  # of an earlier attempt at these steps
                return
            self._forget(rank, step)  # what came after the incident, from an earlier step again
        self._lowest[rank] = step
        for values, position in zip(self.values, spoken.positions, strict=True):
            value = _value(frame, position)
            if value is not None:
                values.setdefault(step, {}).setdefault(rank, value)

    def _forget(self, rank: int, step: int) -> None:
        for values in self.values:
            for other in [one for one in values if one <= step]:
                values[other].pop(rank, None)


def _value(frame: wire.Frame, position: int) -> float | None:
    """One value of a frame, None if it was not measured."""
    if position < 0 or _FLOAT.size * (position + 1) > len(frame.values):
        return None
    byte, bit = position >> 3, 1 << (position & 7)
    if byte < len(frame.missing) and frame.missing[byte] & bit:
        return None
    (value,) = _FLOAT.unpack_from(frame.values, _FLOAT.size * position)
    return float(value)


def _course(wanted: Wanted, values: _Values, question: Question, blamed: int | None) -> Course:
    signal = CATALOG[wanted.signal]
    steps: list[int] = []
    own: list[float] = []
    low: list[float] = []
    high: list[float] = []
    odd: list[int] = []
    whole = sum(one.positions[question.wanted.index(wanted)] >= 0 for one in question.spoken)
    for step, by_rank in sorted(values.items()):
        value = _own(signal.reduction, by_rank, blamed, whole)
        if value is None:
            continue
        others = [v for rank, v in by_rank.items() if rank != blamed]
        finite = [v for v in others if math.isfinite(v)]
        steps.append(step)
        own.append(value)
        low.append(min(finite, default=math.nan))
        high.append(max(finite, default=math.nan))
        if len(finite) < len(others):
            odd.append(step)
    apart = signal.reduction in (Reduction.MEAN, Reduction.MAX) or blamed is not None
    if whole < 2 or not apart:
        low, high, odd = [], [], []
    return Course(
        wanted.signal,
        wanted.label,
        signal.unit,
        tuple(steps),
        tuple(own),
        tuple(low),
        tuple(high),
        tuple(odd),
    )


def _own(
    reduction: Reduction, by_rank: Mapping[int, float], blamed: int | None, whole: int
) -> float | None:
    """The value of the blamed rank, or of all ranks together; None if that is not known."""
    if blamed is not None:
        value = by_rank.get(blamed)
        root = reduction is Reduction.ROOT_SUM and value is not None and value >= 0
        return math.sqrt(value) if root and value is not None else value
    if not by_rank or (reduction is not Reduction.MEAN and len(by_rank) < whole):
        return None
    each = np.array([*by_rank.values()])
    with np.errstate(all="ignore"):
        if reduction is Reduction.MEAN:
            return float(each.mean())
        if reduction is Reduction.MAX:
            return float(each.max())
        total = float(each.sum())
    return math.sqrt(total) if reduction is Reduction.ROOT_SUM and total >= 0 else total


def _normal(course: Course, onset: int) -> Normal | None:
    """Where it was before: in the last steps in which it was a number.

    Of a run that is young, only the later half counts: what is normal changes fast then.
    """
    pairs: Iterable[tuple[int, float]] = zip(course.steps, course.values, strict=True)
    before = [value for step, value in pairs if step < onset and math.isfinite(value)]
    if len(before) < 2 * _FEWEST:
        return None
    before = before[-min(NORMAL_STEPS, len(before) // 2) :]
    low, median, high = np.quantile(before, (0.01, 0.5, 0.99))
    return Normal(float(median), float(low), float(high), len(before))


def _shown(course: Course, onset: int) -> Course:
    """The part of it that is drawn."""
    first, last = onset - SHOWN_BEFORE, onset + SHOWN_AFTER
    kept = [at for at, step in enumerate(course.steps) if first <= step <= last]
    if not kept:
        return course
    part = slice(kept[0], kept[-1] + 1)
    return Course(
        course.signal,
        course.label,
        course.unit,
        course.steps[part],
        course.values[part],
        course.low[part],
        course.high[part],
        tuple(step for step in course.odd if first <= step <= last),
    )


def main() -> None:
    """Answer the question that comes in; exit status 1 when there is no answer."""
    try:
        question = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Question)
        recording = Recording.open(Path(question.state_dir), readonly=True)
        try:
            measured = look_back(recording, question)
        finally:
            recording.close()
    except (msgspec.MsgspecError, StateError) as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.msgpack.encode(measured))


if __name__ == "__main__":
    main()
