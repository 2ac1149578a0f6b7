"""The sender, against a daemon that is dead, slow, rude, or comes back."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sentinel import address, wire
from sentinel_hooks.emitter import Emitter, Order


class Rank:
    """The rank that an emitter speaks for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.orders: list[Order] = []
        self.refreshed = 0
        self.known: tuple[wire.Series, ...] = ()

    def locate(self) -> address.UnixAddress | None:
        return address.UnixAddress(self.path)

    def greeting(self) -> list[wire.FromRank]:
        hello = wire.Hello(
            wire.VERSION, "run", 0, 1, "a", "host", os.getpid(), "cpu", "plain", 0, ()
        )
        return [hello]

    def series(self) -> tuple[wire.Series, ...]:
        return self.known

    def heartbeat(self, dropped: dict[str, int]) -> wire.Heartbeat:
        return wire.Heartbeat(0, "data", 0.0, dropped)

    def refresh(self) -> None:
        self.refreshed += 1

    def hear(self, order: Order) -> None:
        self.orders.append(order)

    def capture(self, incident: str) -> None:
        """There is no black box here."""

    def stand(self, incident: str) -> wire.Stack:
        return wire.Stack(incident, "loop.py:1 main", "MainThread")


class Daemon:
    """The daemon's end of one connection, driven by the test."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.listener = address.listen(path)
        self.listener.settimeout(10)
        self.splitter = wire.Splitter()
        self.received: list[wire.FromRank | wire.Unknown] = []
        self.connection: socket.socket | None = None

    def accept(self) -> None:
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(10)

    def send(self, message: wire.FromDaemon) -> None:
        assert self.connection is not None
        self.connection.sendall(wire.encode(message))

    def read_until(self, enough: Callable[[list[wire.FromRank | wire.Unknown]], bool]) -> None:
        assert self.connection is not None
        while not enough(self.received):
            data = self.connection.recv(65536)
            assert data, f"hung up after {self.received[-3:]}"
            self.received += map(wire.decode_from_rank, self.splitter.feed(data))

    def kill(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.listener.close()

    def frames(self) -> list[int]:
        return [one.sequence for one in self.received if isinstance(one, wire.Frame)]


def frame(number: int, size: int = 10) -> wire.Frame:
    return wire.Frame(number, number, 0.0, bytes(8 * size))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s"
        threading.Event().wait(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sentinel.sock"


@pytest.fixture
def emitter(path: Path) -> Iterator[Emitter]:
    made = Emitter(Rank(path), capacity=64)
    yield made
    made.close(wire.Goodbye("finished"))


def test_what_is_put_arrives_in_order_after_hello_and_before_goodbye(
    path: Path, emitter: Emitter
) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    for number in range(1, 11):
        emitter.put(frame(number))
    emitter.close(wire.Goodbye("finished"))
    daemon.read_until(lambda got: isinstance(got[-1], wire.Goodbye) if got else False)
    assert isinstance(daemon.received[0], wire.Hello)
    assert daemon.frames() == list(range(1, 11))


def test_an_answer_that_comes_late_costs_nothing_of_what_was_sent_last(
    path: Path, emitter: Emitter
) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    emitter.put(frame(1))
    closing = threading.Thread(target=emitter.close, args=(wire.Goodbye("exception"),))
    closing.start()
    daemon.read_until(lambda got: isinstance(got[-1], wire.Goodbye) if got else False)
    assert daemon.connection is not None
    assert daemon.connection.recv(1) == b""  # all has been said, and the rank listens still
    daemon.send(wire.Welcome(wire.VERSION))
    assert closing.is_alive()
    daemon.connection.close()
    closing.join(10)
    assert not closing.is_alive()


def test_without_a_daemon_the_newest_frames_wait_and_the_others_are_counted(
    path: Path, emitter: Emitter
) -> None:
    emitter.start()
    for number in range(1, 201):
        emitter.put(frame(number))
    daemon = Daemon(path)
    daemon.accept()
    daemon.read_until(lambda got: any(isinstance(one, wire.Frame) for one in got))
    daemon.read_until(lambda got: daemon.frames()[-1] == 200)
    assert daemon.frames() == list(range(137, 201))
    daemon.read_until(lambda got: any(isinstance(one, wire.Heartbeat) for one in got))
    beats = [one for one in daemon.received if isinstance(one, wire.Heartbeat)]
    assert beats[-1].dropped == {"no daemon": 136}


def test_a_daemon_that_dies_and_comes_back_is_greeted_again(path: Path, emitter: Emitter) -> None:
    first = Daemon(path)
    emitter.start()
    first.accept()
    emitter.put(frame(1))
    first.read_until(lambda got: 1 in first.frames())
    first.kill()
    wait_for(lambda: emitter.absent() > 0)
    emitter.put(frame(2))
    second = Daemon(path)
    second.accept()
    second.read_until(lambda got: 2 in second.frames())
    assert isinstance(second.received[0], wire.Hello)


def test_a_daemon_that_reads_nothing_costs_frames_and_never_time(
    path: Path, emitter: Emitter
) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    daemon.read_until(lambda got: len(got) > 0)
    for number in range(1, 2001):  # 16 MB, far beyond what a socket takes
        emitter.put(frame(number, size=1000))
    assert len(emitter._frames) <= 64
    assert emitter._dropped["queue full"] > 0
    before = emitter._dropped["queue full"]
    emitter.put(frame(2001))
    assert emitter._dropped["queue full"] >= before
    emitter.close(wire.Goodbye("finished"))
    assert not emitter._thread.is_alive()


def test_orders_are_carried_out_and_strange_messages_passed_over(
    path: Path, emitter: Emitter
) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    daemon.send(wire.Welcome(wire.VERSION, heartbeat_seconds=0.1))
    assert daemon.connection is not None
    strange = b"\x92\xa6future\x01"
    daemon.connection.sendall(len(strange).to_bytes(4, "big") + strange)
    order = wire.ResumeOrder(1, "user")
    daemon.send(order)
    rank = emitter._correspondent
    assert isinstance(rank, Rank)
    wait_for(lambda: rank.orders == [order])
    beats = rank.refreshed
    wait_for(lambda: rank.refreshed > beats + 3)


def test_it_says_where_its_process_stands_while_that_stands_still(
    path: Path, emitter: Emitter
) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    daemon.send(wire.StackRequest("7"))
    daemon.read_until(lambda got: any(isinstance(one, wire.Stack) for one in got))
    assert wire.Stack("7", "loop.py:1 main", "MainThread") in daemon.received


@pytest.mark.parametrize(
    "rubbish", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\xc1", b"HTTP/1.1 400 Bad Request"]
)
def test_rubbish_from_the_daemon_is_a_broken_connection_and_nothing_else(
    path: Path, emitter: Emitter, rubbish: bytes
) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    assert daemon.connection is not None
    daemon.connection.sendall(rubbish)
    daemon.accept()  # it comes back
    daemon.splitter = wire.Splitter()
    daemon.read_until(lambda got: any(isinstance(one, wire.Hello) for one in got))


def test_a_final_refusal_ends_the_attempts_but_not_the_sight_of_the_control_state(
    path: Path, emitter: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    daemon.send(wire.Refusal("speaks another version", final=True))
    wait_for(lambda: emitter._refused and emitter.absent() > 0)
    assert "speaks another version" in caplog.text
    rank = emitter._correspondent
    assert isinstance(rank, Rank)
    emitter._interval = 0.05
    beats = rank.refreshed
    wait_for(lambda: rank.refreshed > beats)
    daemon.listener.settimeout(1.0)
    with pytest.raises(TimeoutError):
        daemon.accept()


def test_a_missing_daemon_is_mentioned_once(
    emitter: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    emitter.start()
    wait_for(lambda: "no daemon answers" in caplog.text)
    wait_for(lambda: emitter.absent() > 1.5)
    assert caplog.text.count("no daemon answers") == 1


def test_a_forked_child_says_nothing_and_ends_at_once(path: Path, emitter: Emitter) -> None:
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    daemon.read_until(lambda got: len(got) > 0)
    child = os.fork()
    if child == 0:
        emitter.put(frame(99))
        emitter.close(wire.Goodbye("finished"))
        os._exit(len(emitter._frames))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    emitter.put(frame(1))
    daemon.read_until(lambda got: 1 in daemon.frames())
    assert daemon.frames() == [1]


def test_series_found_later_are_announced_before_the_first_frame_that_has_them(
    path: Path,
) -> None:
    rank = Rank(path)
    emitter = Emitter(rank)
    daemon = Daemon(path)
    emitter.start()
    daemon.accept()
    rank.known = (wire.Series("loss"), wire.Series("lr"), wire.Series("logged", "bleu"))
    for number, size in ((1, 1), (2, 1), (3, 3), (4, 3)):
        emitter.put(frame(number, size))
    emitter.close(wire.Goodbye("finished"))
    daemon.read_until(lambda got: isinstance(got[-1], wire.Goodbye) if got else False)
    told = [one for one in daemon.received if isinstance(one, wire.Frame | wire.Extension)]
    order = [one.sequence if isinstance(one, wire.Frame) else one.series for one in told]
    assert order == [rank.known[:1], 1, 2, rank.known[1:], 3, 4]


def test_a_daemon_that_comes_back_learns_all_series_anew(path: Path) -> None:
    rank = Rank(path)
    rank.known = (wire.Series("loss"),)
    emitter = Emitter(rank)
    first = Daemon(path)
    emitter.start()
    for time_round, daemon in enumerate((first, None), 1):
        daemon = daemon or Daemon(path)
        daemon.accept()
        emitter.put(frame(time_round, 1))
        daemon.read_until(lambda got: any(isinstance(one, wire.Frame) for one in got))
        assert [one for one in daemon.received if isinstance(one, wire.Extension)] == [
            wire.Extension(rank.known)
        ]
        daemon.kill()
    emitter.close(wire.Goodbye("finished"))
