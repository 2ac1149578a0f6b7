"""What follows a message in its thread: evidence with all that it says, and a chart.

All of it is best effort. Nothing waits for it, nothing fails because of it, and what cannot be had
is said in the log: the message has gone out before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sentinel.errors import DeliveryError
from sentinel.notify.chart import Scene
from sentinel.notify.drawing import draw
from sentinel.notify.message import plain
from sentinel.notify.notice import Evidence, Notice
from sentinel.notify.receiver import Letter, Place
from sentinel.notify.telemetry import Measured, Telemetry

_log = logging.getLogger(__name__)
_AFTER = 3.0  # s from a message to its chart, in which the run may come to stand
_IN_TIME = 1.5  # s that a first message waits for what was measured
_AT_THE_END = 8.0  # s at most for what is not there yet when the daemon ends
_REMEMBERED = 256  # incidents
_WAITING = 16  # charts
_CHARTED = frozenset({"opened", "held", "resolved"})


@dataclass(frozen=True)
class Attachment:
    """A file. `text`: it is to be shown as text; otherwise it is a picture that `alt` describes."""

    name: str
    title: str
    data: bytes
    alt: str = ""
    text: bool = False


class Thread(Protocol):
    """Where it goes. Both raise `DeliveryError`."""

    async def tell(self, evidence: Evidence, letter: Letter, head: Place) -> None:
        """Post a piece of evidence, whole."""

    async def attach(self, file: Attachment, head: Place) -> bool:
        """Share a file; False where that is not possible at all."""


class Appendix:
    """Made by a receiver for itself; `after` a message was delivered, it does the rest."""

    def __init__(self, thread: Thread, scratch: Path, *, delay: float = _AFTER) -> None:
        """`scratch`: a directory for matplotlib; `delay` seconds lie before a chart."""
        self.telemetry: Telemetry | None = None
        self._thread = thread
        self._scratch = scratch
        self._delay = delay
        self._told: OrderedDict[str, frozenset[Evidence]] = OrderedDict()
        self._asked: OrderedDict[str, asyncio.Task[Measured | None]] = OrderedDict()
        self._latest: dict[str, Letter] = {}  # of incidents whose chart is still to be drawn
        self._drawing = asyncio.Lock()
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def measured(self, notice: Notice) -> Measured | None:
        """What led up to an incident, if that is known in time: a message does not wait long."""
        key = notice.incident.id
        if key not in self._asked:
            if self.telemetry is None:
                return None
            self._asked[key] = asyncio.create_task(self._ask(self.telemetry, notice))
            if len(self._asked) > _REMEMBERED:
                self._asked.popitem(last=False)[1].cancel()
        done, _ = await asyncio.wait({self._asked[key]}, timeout=_IN_TIME)
        return self._asked[key].result() if done else None

    def when_measured(self, notice: Notice, then: Callable[[], Awaitable[None]]) -> None:
        """Call `then` when that has become known, if it was not known in time."""
        asked = self._asked.get(notice.incident.id)
        if asked is not None and not asked.done():
            self._start(self._when(asked, then))

    async def _when(
        self, asked: asyncio.Task[Measured | None], then: Callable[[], Awaitable[None]]
    ) -> None:
        if await asked is not None:
            await then()

    async def _ask(self, telemetry: Telemetry, notice: Notice) -> Measured | None:
        try:
            return await telemetry.around(notice)
        except Exception:  # noqa: BLE001 (a fault here must not keep a message from being sent)
            _log.exception("what led up to incident %s could not be read", notice.incident.id)
            return None

    def unseen(self, notice: Notice) -> Sequence[Evidence]:
        """The evidence that was not told of yet."""
        told = self._told.get(notice.incident.id, frozenset())
        return [one for one in notice.incident.evidence if one not in told]

    def after(self, letter: Letter, head: Place) -> None:
        """A letter was delivered to the thread of `head`. Returns at once."""
        incident = letter.notice.incident
        new = [one for one in self.unseen(letter.notice) if one.text.strip()]
        self._told[incident.id] = frozenset(incident.evidence)
        self._told.move_to_end(incident.id)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        if new:
            self._start(self._tell(new, letter, head))
        if self.telemetry is None or letter.kind not in _CHARTED:
            return
        if incident.id in self._latest:
            self._latest[incident.id] = letter  # one chart of both
        elif len(self._latest) < _WAITING:
            self._latest[incident.id] = letter
            self._start(self._chart(self.telemetry, incident.id, head))

    async def close(self) -> None:
        """Do at once what is still to be done, and give up what takes too long."""
        self._ending.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_AT_THE_END)
            if late:
                _log.warning("the daemon ends: %d charts or stacks stay unsent", len(late))
        unfinished = [*self._tasks, *self._asked.values()]
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except DeliveryError as error:
            _log.warning("a thread goes without what was to follow: %s", error)
        except Exception:  # noqa: BLE001 (nobody waits for it who could be told)
            _log.exception("what was to follow in a thread failed")

    async def _tell(self, new: Sequence[Evidence], letter: Letter, head: Place) -> None:
        for evidence in new:
            await self._thread.tell(evidence, letter, head)

    async def _chart(self, telemetry: Telemetry, incident: str, head: Place) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ending.wait(), self._delay)
        async with self._drawing:
            notice = self._latest.pop(incident).notice
            measured = await self._ask(telemetry, notice)
            if measured is None or not measured.courses:
                return
            scene = scene_of(notice, measured)
            picture = await draw(scene, self._scratch)
        if picture is not None:
            await self._thread.attach(
                Attachment("signals.png", scene.headline, picture, _alt(scene)), head
            )


def scene_of(notice: Notice, measured: Measured) -> Scene:
    """What a chart shows of an incident."""
    incident = notice.incident
    rank = f", rank {incident.cause.rank}" if incident.cause.rank is not None else ""
    stood = [one.step for one in notice.actions if (one.action, one.state) == ("pause", "done")]
    held = notice.hold.step if notice.hold else next(iter(stood), None)
    return Scene(
        headline=f"{plain(incident.cause.rule, 60)} in run {plain(incident.run, 60)}{rank}",
        measured=measured,
        summary=plain(notice.summary, 200),
        severity=incident.severity,
        onset=incident.cause.step,
        held=held,
    )


def _alt(scene: Scene) -> str:
    """The picture, for those who cannot see it."""
    shown = ", ".join(plain(course.signal, 60) for course in scene.measured.courses)
    held = f" and were held at step {scene.held}" if scene.held is not None else ""
    return f"{shown} by step: they left what is normal at step {scene.onset}{held}"
