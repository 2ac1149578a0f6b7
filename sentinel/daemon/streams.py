"""What happens, for those who look on from afar: events for pages, as they come.

A listener that does not keep up loses nothing of how far runs have come, since of each run only the
newest step waits to be told. Of what else happens it loses the oldest, and is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping

import msgspec

from sentinel.daemon.news import AcknowledgedNews, ActionNews, News, StateNews
from sentinel.daemon.run import Run
from sentinel.engine.transition import AlertChanged, IncidentChanged
from sentinel.errors import SentinelError

MAX_LISTENERS = 64
MAX_OF_ONE = 16  # so that nobody takes all places
QUEUE = 256  # events that wait for a listener, besides steps
STEP_EVERY = 0.2  # s between two events of the steps of a run


class TooManyError(SentinelError):
    """As many listen as may."""


class TooManyOfOneError(SentinelError):
    """As many listen as one may have."""


class Stream:
    """One listener's events, of one run or of all. `whose` it is, the record would say."""

    def __init__(self, run: str | None, whose: str) -> None:
        self.run = run
        self.whose = whose
        self.ended = False
        self._steps: dict[str, int] = {}
        self._events: deque[bytes] = deque()
        self._lost = False
        self._something = asyncio.Event()

    def tell(self, run: str, name: str, data: object) -> None:
        """Something has happened in a run."""
        if self.run in (None, run):
            if len(self._events) >= QUEUE:
                self._events.popleft()
                self._lost = True
            self._events.append(_event(name, data))
            self._something.set()

    def step(self, run: str, step: int) -> None:
        """A run has come to this step."""
        if self.run in (None, run):
            self._steps[run] = step
            self._something.set()

    def end(self) -> None:
        """There will be no more."""
        self.ended = True
        self._something.set()

    async def wait(self, seconds: float) -> None:
        """Until there is something to take, but no longer than this."""
        try:
            await asyncio.wait_for(self._something.wait(), seconds)
        except asyncio.TimeoutError:
            return

    def take(self) -> bytes:
        """All that has come, in the form of server-sent events; nothing if nothing has."""
        lost = [_event("lost", {})] if self._lost else []
        steps = [_event("step", {"run": run, "step": step}) for run, step in self._steps.items()]
        found = b"".join((*lost, *self._events, *steps))
        self._events.clear()
        self._steps.clear()
        self._lost = False
        self._something.clear()
        return found


class Streams:
    """All who listen. `hear` is a `news.Listener`."""

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self._runs = runs
        self._streams: set[Stream] = set()
        self._steps: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def listening(self) -> int:
        """How many listen."""
        return len(self._streams)

    def open(self, run: str | None, whose: str) -> Stream:
        """Begin to listen. Raises `TooManyError`, `TooManyOfOneError`."""
        if len(self._streams) >= MAX_LISTENERS:
            raise TooManyError(f"{MAX_LISTENERS} listen already: close a page")
        if sum(stream.whose == whose for stream in self._streams) >= MAX_OF_ONE:
            raise TooManyOfOneError(
                f"{whose} listens {MAX_OF_ONE} times already: close a page, or use another token"
            )
        stream = Stream(run, whose)
        self._streams.add(stream)
        if self._closed:
            stream.end()
        elif self._looking is None:
            self._steps = dict(self._now())
            self._looking = asyncio.create_task(self._look())
        return stream

    def leave(self, stream: Stream) -> None:
        """Listen no more."""
        self._streams.discard(stream)
        if not self._streams and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def close(self) -> None:
        """Send everybody home."""
        self._closed = True
        for stream in self._streams:
            stream.end()

    def hear(self, news: News) -> None:
        """See `news.Listener`."""
        if self._streams and (told := _told(news)) is not None:
            for stream in self._streams:
                stream.tell(news.run, *told)

    def _now(self) -> Iterator[tuple[str, int]]:
        return ((name, run.engine.step) for name, run in self._runs.items())

    async def _look(self) -> None:
        """Tell how far runs have come, as long as anybody listens."""
        while True:
            await asyncio.sleep(STEP_EVERY)
            now = dict(self._now())
            for name, step in now.items():
                if self._steps.get(name) != step:
                    for stream in self._streams:
                        stream.step(name, step)
            self._steps = now


def _event(name: str, data: object) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def _told(news: News) -> tuple[str, dict[str, object]] | None:
    """An event's name and what it says; None for what is told when something comes of it."""
    match news:
        case StateNews(run, before, after, step):
            return "state", {"run": run, "before": before, "state": after, "step": step}
        case IncidentChanged():
            return "incident", _incident(news.run, news.id, news.change, news.severity)
        case AcknowledgedNews(run, incident, severity):
            return "incident", _incident(run, incident, "acknowledged", severity)
        case AlertChanged():
            return "alert", {
                "run": news.run,
                "incident": news.incident,
                "rule": news.rule,
                "state": news.state,
                "severity": news.severity,
                "step": news.step,
                "labels": news.labels,
                "summary": news.summary,
            }
        case ActionNews(run, record):
            done = {"action": record.action, "state": record.state}
            return "action", {"run": run, **done, "step": record.step, "by": record.by}
    return None


def _incident(run: str, incident: str, change: str, severity: str) -> dict[str, object]:
    return {"run": run, "incident": incident, "change": change, "severity": severity}
