"""A job whose ranks speak the real protocol and obey the real barrier, without any training."""

from __future__ import annotations

import math
import select
import socket
import struct
import uuid
from collections import deque
from collections.abc import Mapping

from sentinel import address, clock, tls, wire
from sentinel.control import outcome as control
from sentinel.control.barrier import Barrier, Verdict
from tests.daemon.process import eventually

SIGNALS = ("loss", "grad_norm", "nonfinite_activation", "nonfinite_update", "skipped")


class Register:
    """What the ranks of a job share."""

    def __init__(self) -> None:
        self.value = b""
        self._counts: dict[str, int] = {}

    def read(self) -> bytes:
        """See `control.outcome.Register`."""
        return self.value

    def swap(self, expected: bytes, desired: bytes) -> bool:
        """See `control.outcome.Register`."""
        if self.value != expected:
            return False
        self.value = desired
        return True

    def count(self, name: str, add: int) -> int:
        """See `control.outcome.Register`."""
        self._counts[name] = self._counts.get(name, 0) + add
        return self._counts[name]


class FakeRank:
    """One rank. Everything happens when the test says so."""

    def __init__(
        self,
        place: address.Address,
        register: Register,
        *,
        run: str = "run",
        rank: int = 0,
        world_size: int = 1,
        pid: int = 4242,
        offers: tuple[str, ...] = ("scale_lr", "skip_batches"),
        bad_weights: str = "",
        token: str = "",
    ) -> None:
        self.place, self.token = place, token
        self.run, self.rank, self.world_size = run, rank, world_size
        self.pid = pid + rank
        self.offers = offers
        self.bad_weights = bad_weights
        self.host, self.blackbox = "node-1", ""
        self.fails = ""
        self.incarnation = uuid.uuid4().hex
        self.step = 0
        self.orders: list[wire.FromDaemon | wire.Unknown] = []
        self.applied: list[wire.Remedies] = []
        self.standing: wire.Standing | None = None
        self._sequence = 0
        self._socket: socket.socket | None = None
        self._splitter = wire.Splitter()
        self._inbox: deque[wire.FromDaemon | wire.Unknown] = deque()
        self.barrier = Barrier(
            register,
            rank,
            world_size,
            accept=lambda remedies: "",
            apply=self._apply,
            undo=self.applied.remove,
            on_outcome=lambda outcome: self.send(wire.Report(control.encode(outcome))),
        )

    def _apply(self, remedies: wire.Remedies) -> str:
        if not self.fails:
            self.applied.append(remedies)
        return self.fails

    def connect(self) -> FakeRank:
        """Say hello and be welcomed; after a daemon's absence, say what it has missed."""
        self._socket = self._dial()
        self._splitter = wire.Splitter()
        self.send(self.hello())
        welcome = self.receive()
        assert isinstance(welcome, wire.Welcome), welcome
        if self.barrier.seen is not None:
            self.send(wire.Report(control.encode(self.barrier.seen)))
        if self.standing is not None:
            self.send(self.standing)
        return self

    def _dial(self) -> socket.socket:
        if isinstance(self.place, address.UnixAddress):
            return address.connect(self.place, 10.0)
        connection = tls.connect(self.place)
        connection.sendall(wire.encode(wire.Credentials(self.token)))
        return connection

    def stand(self) -> None:
        """Arrive where the job is to stand."""
        self.barrier.arrive(self.step, clock.monotonic())
        epoch = self.barrier.seen.epoch if self.barrier.seen else 0
        self.standing = wire.Standing(epoch, self.step, self.bad_weights)
        self.send(self.standing)

    def hello(self) -> wire.Hello:
        """How this rank opens a connection."""
        return wire.Hello(
            version=wire.VERSION,
            run=self.run,
            rank=self.rank,
            world_size=self.world_size,
            incarnation=self.incarnation,
            host=self.host,
            pid=self.pid,
            device="cpu",
            trainer="fake",
            step=self.step,
            series=tuple(map(wire.Series, SIGNALS)),
            offers=self.offers,
            blackbox=self.blackbox,
        )

    def send(self, message: wire.FromRank) -> None:
        """Say this, if connected; a daemon that has gone is no matter."""
        if self._socket is not None:
            try:
                self._socket.sendall(wire.encode(message))
            except OSError:
                self.close()

    def frame(self, **values: float) -> None:
        """One step more, with these values; what is not given is as on a good day."""
        self.step += 1
        self._sequence += 1
        good = {"loss": 2.0, "grad_norm": 1.0}
        row = [values.get(name, good.get(name, 0.0)) for name in SIGNALS]
        bad = not math.isfinite(row[0]) or values.get("nonfinite_activation", 0) > 0
        findings = (
            (wire.Finding("nonfinite_activation", "layers.1.mlp"),)
            if bad and values.get("nonfinite_activation", 0) > 0
            else ()
        )
        packed = struct.pack(f"<{len(row)}d", *row)
        self.send(wire.Frame(self.step, self._sequence, clock.steady(), packed, findings=findings))

    def heartbeat(self, phase: str = "forward") -> None:
        """As the real sender does every few seconds."""
        seen = self.barrier.seen
        outcome = control.encode(seen) if seen is not None else b""
        self.send(wire.Heartbeat(self.step, phase, clock.steady(), outcome=outcome))

    def receive(self, timeout: float = 10.0) -> wire.FromDaemon | wire.Unknown | None:
        """The next message; None when the daemon has hung up."""
        assert self._socket is not None
        self._socket.settimeout(timeout)
        while not self._inbox:
            try:
                data = self._socket.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self._inbox.extend(map(wire.decode_from_daemon, self._splitter.feed(data)))
        return self._inbox.popleft()

    def obey(self) -> None:
        """Carry out what has come in."""
        while self._socket is not None and (
            self._inbox or select.select([self._socket], [], [], 0)[0]
        ):
            order = self.receive()
            if order is None:
                self.close()
                return
            self.orders.append(order)
            if isinstance(order, (wire.HoldOrder, wire.ResumeOrder, wire.StopOrder)):
                self.barrier.hear(order)

    def close(self) -> None:
        """Be gone without a word."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class FakeJob:
    """All ranks of a job, in step with each other as collectives keep them."""

    def __init__(
        self,
        place: address.Address,
        *,
        run: str = "run",
        ranks: int = 2,
        bad_weights: str = "",
        pid: int = 4242,
        offers: tuple[str, ...] = ("scale_lr", "skip_batches"),
        token: str = "",
    ) -> None:
        self.register = Register()
        self.ranks = [
            FakeRank(
                place,
                self.register,
                run=run,
                rank=rank,
                world_size=ranks,
                pid=pid,
                offers=offers,
                bad_weights=bad_weights,
                token=token,
            )
            for rank in range(ranks)
        ]
        self.stands = False

    def connect(self) -> FakeJob:
        """All say hello."""
        for rank in self.ranks:
            rank.connect()
        return self

    @property
    def step(self) -> int:
        """The last step done."""
        return self.ranks[0].step

    def train(self, faults: Mapping[int, Mapping[str, float]] | None = None) -> Verdict:
        """One step; `faults` are values by rank. STAND when the job stands after it."""
        assert not self.stands
        for rank in self.ranks:
            rank.frame(**(faults or {}).get(rank.rank, {}))
        for rank in self.ranks:
            rank.obey()
            rank.barrier.refresh()
        left = [rank.barrier.leave(rank.step) for rank in self.ranks]
        if all(left):
            return Verdict.GO
        assert not any(left), "some ranks stand and others do not"
        self.stands = True
        for rank in self.ranks:
            rank.stand()
        return self.poll()

    def poll(self) -> Verdict:
        """Look once at what was decided, while standing."""
        verdicts = set()
        for rank in self.ranks:
            rank.obey()
            verdicts.add(rank.barrier.poll(clock.monotonic()))
        if Verdict.STAND in verdicts:
            return Verdict.STAND
        assert len(verdicts) == 1
        self.stands = False
        for rank in self.ranks:
            rank.standing = None
        return verdicts.pop()

    def await_hold_order(self) -> wire.HoldOrder:
        """Do nothing until a rank has been told to stand."""

        def told() -> wire.HoldOrder | None:
            for rank in self.ranks:
                rank.obey()
            orders = (order for rank in self.ranks for order in rank.orders)
            return next((one for one in orders if isinstance(one, wire.HoldOrder)), None)

        return eventually(told, "an order to hold")

    def train_until_stand(self, faults: Mapping[int, Mapping[str, float]] | None = None) -> int:
        """Train on with these faults until the job stands; returns the step."""
        eventually(lambda: self.train(faults) is Verdict.STAND, "standing")
        return self.step

    def await_verdict(self) -> Verdict:
        """Stand until told otherwise."""

        def told() -> Verdict | None:
            verdict = self.poll()
            return None if verdict is Verdict.STAND else verdict

        return eventually(told, "the end of the hold")

    def goodbye(self, reason: str = "finished") -> None:
        """All leave on purpose."""
        for rank in self.ranks:
            rank.send(wire.Goodbye(reason))
            rank.close()

    def vanish(self) -> None:
        """All are gone without a word."""
        for rank in self.ranks:
            rank.close()
