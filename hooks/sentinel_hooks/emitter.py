"""Carries what a rank has to say to the daemon, and the daemon's orders back.

The training thread appends to a bounded queue and goes on. A thread of its own does all that
can wait or fail: finding the daemon, connecting, encoding, sending, and being told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import Protocol

from sentinel import address, clock, wire
from sentinel.errors import SentinelError, VersionError, WireError
from sentinel.signals import DROPS
from sentinel_hooks.line import UNIX_TIMEOUT, Dial, Line, connect

log = logging.getLogger("sentinel")

CAPACITY = 512  # frames
NOTICES = 256  # messages other than frames
HEARTBEAT = 2.0  # s
RETRY = (0.2, 5.0)  # s between attempts to connect: the first, and the longest
WELCOME_WITHIN = 30.0  # s, over TLS
FAREWELL = 1.0  # s to send what is left when the process ends
LAST_WORDS = 5.0  # s for the same when it ends with an error: these are the steps that matter
_CHUNK = 256 * 1024
QUEUE_FULL, NO_DAEMON = DROPS

Order = wire.HoldOrder | wire.ResumeOrder | wire.StopOrder


class Correspondent(Protocol):
    """What the emitter asks of the rank it speaks for; called from its own thread."""

    def locate(self) -> address.Address | None:
        """Where the daemon is, or None when rank 0 has not said yet."""
        ...

    def greeting(self) -> list[wire.FromRank]:
        """What opens a connection: `Hello`, and what the daemon may have missed."""
        ...

    def series(self) -> tuple[wire.Series, ...]:
        """The series of the frames; the list only grows."""
        ...

    def heartbeat(self, dropped: dict[str, int]) -> wire.Heartbeat:
        """How this rank is."""
        ...

    def refresh(self) -> None:
        """Look at the job's control state. Called at least at every heartbeat."""
        ...

    def hear(self, order: Order) -> None:
        """Carry out an order."""
        ...

    def capture(self, incident: str) -> None:
        """Hand over the black box."""
        ...

    def stand(self, incident: str) -> wire.Stack:
        """Where this process stands."""
        ...


class Emitter:
    """One rank's connection to the daemon, kept up for as long as the process lives."""

    def __init__(self, correspondent: Correspondent, *, capacity: int = CAPACITY) -> None:
        self._correspondent = correspondent
        self._frames: deque[wire.Frame] = deque(maxlen=capacity)
        self._notices: deque[wire.FromRank] = deque(maxlen=NOTICES)
        self._dropped: Counter[str] = Counter()
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing = threading.Event()
        self._farewell = FAREWELL
        self._goodbye: wire.Goodbye | None = None
        self._pid = os.getpid()
        self._interval = HEARTBEAT
        self._warned = False
        self._refused = False
        self._next_beat = 0.0
        self._last_contact = clock.monotonic()
        self._connection: Line | None = None
        self._welcome_by: float | None = None  # until then, at the latest, on this connection
        self._announced = 0  # series that the daemon knows on this connection
        self._thread = threading.Thread(target=self._run, name="sentinel", daemon=True)

    def start(self) -> None:
        """Begin to look for the daemon."""
        self._thread.start()

    # The training thread.

    def put(self, frame: wire.Frame) -> None:
        """Queue a frame; the oldest is dropped when the queue is full. Never waits."""
        if os.getpid() != self._pid:
            return  # a forked child has no sender and nothing to say
        if len(self._frames) == self._frames.maxlen:
            self._dropped[QUEUE_FULL if self._connection else NO_DAEMON] += 1
        self._frames.append(frame)
        self._wake()

    def say(self, message: wire.FromRank) -> None:
        """Queue any other message; the oldest is dropped when there are too many. Never waits."""
        if os.getpid() == self._pid:
            self._notices.append(message)
            self._wake()

    @property
    def waiting(self) -> int:
        """Frames that wait to be sent."""
        return len(self._frames)

    @property
    def dropped(self) -> Mapping[str, int]:
        """Frames that were never sent so far, by reason."""
        return self._dropped

    def absent(self) -> float:
        """For how many seconds there has been no daemon; 0 while connected."""
        return 0.0 if self._connection else clock.monotonic() - self._last_contact

    def close(self, goodbye: wire.Goodbye) -> None:
        """Send what is queued and say goodbye, within a second or, after an error, five; then stop.

        May be called twice.
        """
        if os.getpid() != self._pid or self._closing.is_set():
            return
        self._goodbye = goodbye
        self._farewell = LAST_WORDS if goodbye.reason == "exception" else FAREWELL
        self._closing.set()
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._farewell + UNIX_TIMEOUT)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it is gone
            os.write(self._wake_in, b"\0")

    # The sender's thread.

    def _run(self) -> None:
        delay = RETRY[0]
        while not self._closing.is_set() and not self._refused:
            try:
                self._serve()
                delay = RETRY[0]
            except (OSError, SentinelError) as error:
                self._say_once(error)
            except Exception:
                log.exception("sentinel: the sender failed; it starts again")
            self._hang_up()
            self._rest(delay)
            delay = min(RETRY[1], delay * 2)
        while not self._closing.is_set():  # refused for good: still obey the job's own state
            self._rest(self._interval)
        self._hang_up()
        for end in (self._wake_in, self._wake_out):
            os.close(end)

    def _say_once(self, error: Exception) -> None:
        if isinstance(error, VersionError):
            self._refused = True
        if not self._warned:
            self._warned = True
            then = "" if self._refused else ", trying again quietly"
            log.warning("sentinel: %s; training goes on unwatched%s", error, then)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._welcome_by is None:  # one that never greeted was no contact
                self._last_contact = clock.monotonic()
            connection.close()

    def _rest(self, seconds: float) -> None:
        """Wait for the next attempt to connect, without losing sight of the control state."""
        until = clock.monotonic() + seconds
        while not self._closing.is_set() and (left := until - clock.monotonic()) > 0:
            self._beat()
            self._closing.wait(min(left, self._interval))

    def _beat(self) -> bytes:
        """Look at the control state when it is time; the heartbeat to be sent, or nothing."""
        now = clock.monotonic()
        if now < self._next_beat:
            return b""
        self._next_beat = now + self._interval
        self._correspondent.refresh()
        return wire.encode(self._correspondent.heartbeat(dict(self._dropped)))

    def _connect(self, place: address.Address) -> tuple[Line, bytes]:
        """A connection and what opens it. Raises `OSError` or `SentinelError`."""
        if isinstance(place, address.UnixAddress):
            return connect(place)
        dial = Dial(place)
        until = None
        while not dial.over.wait(0.1):
            self._beat()
            if self._closing.is_set():
                until = until or clock.monotonic() + UNIX_TIMEOUT
                if clock.monotonic() > until:
                    dial.give_up()
                    raise OSError(f"no daemon has answered yet at {place}")
        return dial.result()

    def _serve(self) -> None:
        """Connect and talk until one side hangs up. Raises `OSError` or `SentinelError`."""
        place = self._correspondent.locate()
        if place is None:
            return
        connection, unsent = self._connect(place)
        self._connection = connection
        self._next_beat = 0.0
        remote = isinstance(place, address.TlsAddress)
        self._welcome_by = clock.monotonic() + WELCOME_WITHIN
        splitter = wire.Splitter()
        greeting = self._correspondent.greeting()
        self._announced = sum(len(m.series) for m in greeting if isinstance(m, wire.Hello))
        unsent += b"".join(map(wire.encode, greeting))
        deadline = None
        while True:
            if not unsent:
                unsent = self._collect()
            if self._closing.is_set():
                deadline = deadline or clock.monotonic() + self._farewell
                if clock.monotonic() > deadline or (not unsent and self._goodbye is None):
                    connection.finish(deadline - clock.monotonic())
                    return
            if remote and self._welcome_by and clock.monotonic() > self._welcome_by:
                raise OSError(f"{place} takes the connection and says nothing")
            inward: list[Line | int] = [connection, self._wake_out]
            outward = [connection] if unsent else []
            readable, writable, _ = select.select(inward, outward, [], self._until_beat())
            if self._wake_out in readable:
                os.read(self._wake_out, 4096)
            if connection in readable:
                self._receive(connection, splitter)
            if writable:
                unsent = unsent[connection.send(unsent[:_CHUNK]) :]

    def _until_beat(self) -> float:
        left = self._next_beat - clock.monotonic()
        return max(0.0, min(left, 0.05) if self._closing.is_set() else left)

    def _collect(self) -> bytes:
        """The bytes to be sent next: frames in order, notices, a heartbeat, the goodbye."""
        parts: list[bytes] = []
        size = 0
        while self._frames and size < _CHUNK:
            frame = self._frames.popleft()
            parts += [*self._announce(len(frame.values) // 8), wire.encode(frame)]
            size += len(parts[-1])
        while self._notices:
            parts.append(wire.encode(self._notices.popleft()))
        parts.append(self._beat())
        if self._closing.is_set() and not self._frames and self._goodbye is not None:
            parts.append(wire.encode(self._goodbye))
            self._goodbye = None
        return b"".join(parts)

    def _announce(self, count: int) -> list[bytes]:
        """What makes the first `count` series known to the daemon, if it does not know them."""
        if count <= self._announced:
            return []
        news = self._correspondent.series()[self._announced : count]
        self._announced = count
        return [wire.encode(wire.Extension(news))] if news else []

    def _receive(self, connection: Line, splitter: wire.Splitter) -> None:
        for body in splitter.feed(connection.receive() or b""):
            message = wire.decode_from_daemon(body)
            if isinstance(message, wire.Welcome):
                wire.check_version(message.version)
                self._interval = min(60.0, max(0.1, message.heartbeat_seconds))
                self._warned = False
                self._welcome_by = None
            elif isinstance(message, wire.Refusal):
                self._refused = message.final
                raise WireError(f"the daemon refused this rank: {message.reason}")
            elif isinstance(message, wire.Capture):
                self._correspondent.capture(message.incident)
            elif isinstance(message, wire.StackRequest):
                self.say(self._correspondent.stand(message.incident))
            elif not isinstance(message, wire.Unknown):
                self._correspondent.hear(message)
