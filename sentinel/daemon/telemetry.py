"""What was measured around an incident, for those who tell of it: read from the recording."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from sentinel.daemon.looking_back import Question, Spoken, Wanted
from sentinel.engine.derived import sources
from sentinel.engine.run import RunEngine
from sentinel.notify.drawing import ask
from sentinel.notify.notice import Notice
from sentinel.notify.telemetry import Measured
from sentinel.signals import CATALOG
from sentinel.wire import Series

log = logging.getLogger("sentinel.daemon")

_LONGEST = 30.0  # s
_COURSES = 3
_EVERYBODY = ("loss", "grad_norm", "summed_grad_norm")  # looks at these


class RecordedTelemetry:
    """See `notify.telemetry.Telemetry`."""

    def __init__(
        self,
        state_dir: Path,
        engine: Callable[[str], RunEngine | None],
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        """`engine` is that of a run in memory; `flush` writes what was recorded so far."""
        self._state_dir = state_dir
        self._engine = engine
        self._flush = flush

    async def around(self, notice: Notice) -> Measured | None:
        """See the Protocol."""
        engine = self._engine(notice.incident.run)
        if engine is None:
            return None
        question = question_about(notice, engine, self._state_dir)
        if not question.wanted:
            return None
        await self._flush()
        command = (sys.executable, "-m", "sentinel.daemon.looking_back")
        answer = await ask(command, msgspec.msgpack.encode(question), {}, timeout=_LONGEST)
        if answer is None:
            return None
        try:
            return msgspec.msgpack.decode(answer, type=Measured)
        except msgspec.MsgspecError as error:
            log.warning("what was measured around an incident cannot be read: %s", error)
            return None


def question_about(notice: Notice, engine: RunEngine, state_dir: Path) -> Question:
    """What is to be looked for: the signal that led, and what everybody looks at."""
    cause, incident = notice.incident.cause, notice.incident
    layouts = {state.layout for state in engine.ranks.values()}
    wanted = [
        one
        for one in dict.fromkeys(_candidates(notice))
        if any(one in layout.at for layout in layouts)
    ]
    norms = [one for one in wanted if one.signal.endswith("grad_norm") and not one.label]
    wanted = [one for one in wanted if one not in norms[1:]][:_COURSES]
    return Question(
        state_dir=str(state_dir),
        run=incident.run,
        step=cause.step,
        began=notice.opened_at or notice.at,
        rank=cause.rank,
        wanted=tuple(Wanted(one.signal, one.label) for one in wanted),
        spoken=tuple(
            Spoken(rank, state.incarnation, tuple(state.layout.at.get(one, -1) for one in wanted))
            for rank, state in engine.ranks.items()
        ),
    )


def _candidates(notice: Notice) -> Iterable[Series]:
    """Series in the order in which they are wanted.

    What follows from other signals is shown by these; what the daemon knows by itself, such as
    that a rank is silent, by how long steps took until then.
    """
    signal = notice.incident.cause.signal
    labels = dict(notice.leading.labels) if notice.leading else {}
    known = CATALOG.get(signal)
    if known is not None and known.made_by == "engine":
        yield Series("step_seconds")
    elif known is not None:
        for name in sorted(sources(signal)):
            label = CATALOG[name].label
            yield Series(name, labels.get(label, "") if label else "")
        if known.unit == "s":
            yield Series("step_seconds")
    for name in _EVERYBODY:
        yield Series(name)
