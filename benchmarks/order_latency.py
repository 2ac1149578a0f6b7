"""From the frame of a bad step to the order to hold at every rank: 64 ranks, 10 steps a second.

A real daemon process with the default rules judges, records and flushes; the ranks are one other
process that speaks the protocol. Beside it, in the same run and at the same pace, two floors: a
bare server that answers one message on every connection, and one SQLite transaction as the daemon
must commit it before it may act.

    python benchmarks/order_latency.py [--ranks 64] [--trials 100]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import os
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from sentinel import wire
from sentinel.assets import asset_dir
from sentinel.cli.client import Client
from sentinel.control import outcome as control
from sentinel.daemon.lifecycle import run_loop
from sentinel.errors import SentinelError

STEP = 0.1  # s
LAYERS = 96
SERIES = (
    *(wire.Series(name) for name in ("loss", "grad_norm", "nonfinite_update", "skipped")),
    *(wire.Series("layer_grad_norm", f"layers.{n}") for n in range(LAYERS)),
)
BETWEEN = 6  # steps from the end of one trial to the next fault


class Rank(asyncio.Protocol):
    """One connection; `on_message` is called with each message and when it came."""

    def __init__(self, on_message: Callable[[Rank, object, float], None]) -> None:
        self._on_message = on_message
        self._splitter = wire.Splitter()
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        now = time.perf_counter()
        for body in self._splitter.feed(data):
            self._on_message(self, wire.decode_from_daemon(body), now)

    def send(self, message: wire.FromRank) -> None:
        """Say this."""
        assert self.transport is not None
        self.transport.write(wire.encode(message))


def _itself(rank: Rank) -> Rank:
    return rank


class Job:
    """All ranks, in step; their register is the word of rank 0."""

    def __init__(self, ranks: int, place: Path) -> None:
        self._place = place
        self.ranks = [Rank(self._hear) for _ in range(ranks)]
        self.step = 0
        self.heard: list[float] = []
        self.orders: list[wire.HoldOrder | wire.ResumeOrder] = []
        self.all_heard = asyncio.Event()
        self._serial = 0

    async def connect(self, hello: bool = True) -> None:
        """Connect all ranks."""
        loop = asyncio.get_running_loop()
        for number, rank in enumerate(self.ranks):
            await loop.create_unix_connection(partial(_itself, rank), str(self._place))
            if hello:
                rank.send(_hello(number, len(self.ranks)))

    def _hear(self, rank: Rank, message: object, now: float) -> None:
        if isinstance(message, (wire.HoldOrder, wire.ResumeOrder)):
            self.heard.append(now)
            self.orders.append(message)
            if len(self.heard) == len(self.ranks):
                self.all_heard.set()

    def train(self, *, bad: bool = False) -> float:
        """One step of all ranks; returns when the last frame, which is the bad one, was sent."""
        self.step += 1
        row = [2.0 + random.gauss(0, 0.05), 1.0, 0.0, 0.0, *([0.5] * LAYERS)]
        good = struct.pack(f"<{len(row)}d", *row)
        row[2] = 1.0
        last = struct.pack(f"<{len(row)}d", *row) if bad else good
        for rank in self.ranks[:-1]:
            rank.send(wire.Frame(self.step, self.step, time.time(), good))
        sent = time.perf_counter()
        self.ranks[-1].send(wire.Frame(self.step, self.step, time.time(), last))
        return sent

    async def pace(self, steps: int) -> None:
        """Train for so many steps at their pace."""
        for _ in range(steps):
            self.train()
            await asyncio.sleep(STEP)

    async def answered(self) -> tuple[list[float], wire.HoldOrder | wire.ResumeOrder]:
        """When each rank heard the order that was given."""
        await asyncio.wait_for(self.all_heard.wait(), 30)
        heard, order = self.heard, self.orders[0]
        self.heard, self.orders = [], []
        self.all_heard.clear()
        return heard, order

    def report(self, epoch: int, *phases: control.Phase) -> None:
        """The register goes through these phases, and all ranks stand in them."""
        for phase in phases:
            self._serial += 1
            outcome = control.Outcome(self._serial, epoch, phase, self.step, epoch, "benchmark")
            self.ranks[0].send(wire.Report(control.encode(outcome)))
            if phase == "held":
                for rank in self.ranks:
                    rank.send(wire.Standing(epoch, self.step))


def _hello(rank: int, ranks: int) -> wire.Hello:
    return wire.Hello(
        version=wire.VERSION,
        run="benchmark",
        rank=rank,
        world_size=ranks,
        incarnation=f"{rank}",
        host="bench",
        pid=rank,
        device="cpu",
        trainer="none",
        step=0,
        series=SERIES,
    )


async def measure_daemon(state: Path, ranks: int, trials: int) -> list[float]:
    """Seconds from the bad frame to the order at each rank, over all trials."""
    job = Job(ranks, state / "sentinel.sock")
    await job.connect()
    await job.pace(30)
    client = Client(state)
    times: list[float] = []
    for _ in range(trials):
        await job.pace(BETWEEN + random.randrange(3))
        await asyncio.sleep(random.random() * STEP)  # at any moment of the daemon's second
        sent = job.train(bad=True)
        heard, order = await job.answered()
        times += [at - sent for at in heard]
        job.report(order.epoch, "hold", "held")
        await _until(lambda: asyncio.to_thread(_try, client))
        await job.answered()
        job.report(order.epoch, "accepting", "resumed")
    return times


async def _until(attempt: Callable[[], Awaitable[bool]]) -> None:
    while not await attempt():
        await asyncio.sleep(0.01)


def _try(client: Client) -> bool:
    try:
        client.order("benchmark", "resume", {})
    except SentinelError:  # it has not heard yet that all stand
        return False
    return True


def serve_echo(place: str) -> None:
    """The floor's server: a frame with the bad mark is answered on every connection."""

    async def serve() -> None:
        peers: set[asyncio.WriteTransport] = set()
        order = wire.encode(wire.HoldOrder(1, 1, 1, 2, 60.0, "rule:Floor", "a bad frame"))

        class Echo(asyncio.Protocol):
            def __init__(self) -> None:
                self.splitter = wire.Splitter()

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.WriteTransport)
                peers.add(transport)

            def data_received(self, data: bytes) -> None:
                for body in self.splitter.feed(data):
                    message = wire.decode_from_rank(body)
                    if isinstance(message, wire.Frame) and message.values[16:24] != bytes(8):
                        for peer in peers:
                            peer.write(order)

        await asyncio.get_running_loop().create_unix_server(Echo, place)
        await asyncio.Event().wait()

    run_loop(serve())


async def measure_floor(place: Path, ranks: int, trials: int) -> list[float]:
    """The same against the bare server."""
    job = Job(ranks, place)
    await job.connect(hello=False)
    times: list[float] = []
    for _ in range(trials):
        await job.pace(1)
        sent = job.train(bad=True)
        heard, _ = await job.answered()
        times += [at - sent for at in heard]
    return times


def measure_commit(folder: Path, trials: int) -> list[float]:
    """Seconds that one small transaction takes, in the mode that the record is written in."""
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE t (a TEXT)")
    times = []
    for _ in range(trials):
        begun = time.perf_counter()
        connection.execute("INSERT INTO t VALUES (?)", ("x" * 500,))
        times.append(time.perf_counter() - begun)
        time.sleep(0.005)
    connection.close()
    return times


def start_daemon(state: Path) -> subprocess.Popen[bytes]:
    """A daemon with the default rules, whose alerts are over sooner so that trials can be many."""
    rules = state.parent / "rules.yaml"
    text = (asset_dir("rules") / "default.yaml").read_text()
    rules.write_text(text.replace("keep_firing_for: 20", "keep_firing_for: 2"))
    command = ["daemon", "--state", str(state), "--rules", str(rules), "--http", "off"]
    daemon = subprocess.Popen([sys.executable, "-m", "sentinel", *command])
    _await(state / "api.sock")
    return daemon


def _await(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        if time.monotonic() > deadline:
            raise SystemExit(f"{path} has not appeared")
        time.sleep(0.05)


def quantiles(times: list[float]) -> str:
    """p50, p99 and the worst, in milliseconds."""
    ordered = sorted(times)
    shown = [ordered[math.ceil(q * len(ordered)) - 1] * 1000 for q in (0.5, 0.99, 1.0)]
    return "  ".join(f"{value:8.2f}" for value in shown)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--trials", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        daemon = start_daemon(folder / "state")
        place = folder / "echo.sock"
        echo = multiprocessing.get_context("spawn").Process(
            target=serve_echo, args=(str(place),), daemon=True
        )
        echo.start()
        _await(place)
        try:
            floor = run_loop(measure_floor(place, args.ranks, args.trials))
            commits = measure_commit(folder, args.trials)
            times = run_loop(measure_daemon(folder / "state", args.ranks, args.trials))
        finally:
            echo.terminate()
            daemon.terminate()
            daemon.wait(30)
    load = os.getloadavg()[0]
    print(f"{args.ranks} ranks, {1 / STEP:g} steps/s, {len(SERIES)} series, load {load:.1f}")
    print(f"{'ms':<42}  {'p50':>8}  {'p99':>8}  {'max':>8}")
    print(f"{'bad frame to order at every rank':<42}  {quantiles(times)}")
    print(f"{'floor: bare server':<42}  {quantiles(floor)}")
    print(f"{'floor: one committed transaction':<42}  {quantiles(commits)}")


if __name__ == "__main__":
    main()
