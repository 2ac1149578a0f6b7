"""Five hundred ranks, one of which has a NaN: one message that names it, and one thread."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from sentinel import clock, wire
from sentinel.assets import asset_dir
from sentinel.notify.loopback_slack import LoopbackSlack
from tests.daemon.process import Daemon, eventually
from tests.daemon.scenes import incidents, status

RANKS = 512
CULPRIT = 137
SIGNALS = ("loss", "nonfinite_activation", "nonfinite_update")
# What becomes of the others once the culprit has torn them along.
TIME_OUT = range(200)
VANISH = range(200, 230)  # few, so that the bound on alerts shows others as well
FALL_SILENT = range(230, 500)
TAKEN_DOWN = range(500, RANKS)
REPLIES = 12  # in the thread at most, whatever 511 ranks do


class Reached(Protocol):
    """Waits until all ranks are known to have done a step, but one perhaps."""

    async def __call__(self, step: int, but: int | None = None) -> None: ...


class Rank(asyncio.Protocol):
    """One connection. It takes no orders: its process stands in a collective."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.transport: asyncio.WriteTransport | None = None
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport
        self.say(
            wire.Hello(
                version=wire.VERSION,
                run="crowd",
                rank=self.number,
                world_size=RANKS,
                incarnation=str(self.number),
                host=f"node-{self.number // 8}",
                pid=1000 + self.number,
                device=f"cuda:{self.number % 8}",
                trainer="none",
                step=0,
                series=tuple(map(wire.Series, SIGNALS)),
            )
        )

    def say(self, message: wire.FromRank) -> None:
        assert self.transport is not None
        self.transport.write(wire.encode(message))

    def frame(self, step: int, *, loss: float = 2.0, bad: bool = False) -> None:
        """One step."""
        values = struct.pack("<3d", loss, 4.0 * bad, float(bad))
        found = (wire.Finding("nonfinite_activation", "layers.7.mlp"),) if bad else ()
        self.say(wire.Frame(step, step, clock.steady(), values, findings=found))


async def connected(daemon: Daemon) -> list[Rank]:
    """All ranks, each by a connection of its own."""
    loop = asyncio.get_running_loop()
    ranks = [Rank(number) for number in range(RANKS)]
    for rank in ranks:
        line = await asyncio.to_thread(eventually, partial(_line, daemon), "a place in the queue")
        line.setblocking(False)
        await loop.create_unix_connection(partial(_same, rank), sock=line)
    return ranks


def _line(daemon: Daemon) -> socket.socket | None:
    try:
        return daemon.connect()
    except BlockingIOError:  # too many at once
        return None


def _same(rank: Rank) -> Rank:
    return rank


async def break_down(ranks: Sequence[Rank], reached: Reached) -> None:
    """A NaN on one rank reaches all, and is told last by the rank that had it first.

    `reached`: until all are known to have done a step, but one perhaps.
    """
    for step in range(1, 6):
        for rank in ranks:
            rank.frame(step)
    await reached(5)
    for rank in ranks:
        if rank.number != CULPRIT:
            rank.frame(6)
            rank.frame(7, loss=math.nan, bad=True)
    await reached(7, CULPRIT)
    ranks[CULPRIT].frame(6, loss=math.nan, bad=True)
    ranks[CULPRIT].frame(7, loss=math.nan, bad=True)
    await reached(7)


async def end(ranks: Sequence[Rank]) -> None:
    """What becomes of the others."""
    others = [rank for rank in ranks if rank.number != CULPRIT]
    for rank in others:
        if rank.number in TIME_OUT:
            rank.say(wire.Goodbye("exception", "Watchdog caught collective operation timeout"))
            await asyncio.sleep(0)  # not all at one moment
        elif rank.number in TAKEN_DOWN:
            rank.say(wire.Goodbye("taken down", f"ended after rank {CULPRIT} was gone"))
        elif rank.number in VANISH and rank.transport:
            rank.transport.abort()


async def until(look: Callable[[], bool]) -> None:
    """Wait, off the loop."""

    async def wait() -> None:
        while not await asyncio.to_thread(look):
            await asyncio.sleep(0.2)

    await asyncio.wait_for(wait(), 40)


async def test_of_512_ranks_that_break_one_after_another_a_person_reads_one_message(
    tmp_path: Path,
) -> None:
    shipped = (asset_dir("rules") / "default.yaml").read_text()
    rules = tmp_path / "rules.yaml"
    rules.write_text(shipped.replace("by_rank(silence) > 30", "by_rank(silence) > 4"))
    assert rules.read_text() != shipped
    async with LoopbackSlack() as slack:
        env = {
            "SLACK_BOT_TOKEN": slack.token,
            "SLACK_CHANNEL": "training",
            "SLACK_BASE_URL": slack.url,
        }
        daemon = Daemon(tmp_path / "state", ("--rules", str(rules)), env)
        await asyncio.to_thread(daemon.start)
        try:
            ranks = await connected(daemon)

            async def reached(step: int, but: int | None = None) -> None:
                def all_have() -> bool:
                    found = status(daemon, "crowd")["ranks"]
                    return all(one["step"] == step for one in found if one["rank"] != but)

                await until(all_have)

            await break_down(ranks, reached)
            await end(ranks)

            def all_is_known() -> bool:
                """Of ranks of each kind, and everybody has been told."""
                fired = {
                    (alert["rule"], int(alert["labels"].get("rank", -1)))
                    for one in incidents(daemon, "crowd")
                    for alert in one["alerts"]
                }
                kinds = [("RankFailed", TIME_OUT), ("RankSilent", VANISH)]
                kinds.append(("RankSilent", FALL_SILENT))
                known = [any((rule, n) in fired for n in numbers) for rule, numbers in kinds]
                waiting = daemon.metrics()["sentinel_daemon_outbox_pending"]
                return all(known) and not waiting

            await until(all_is_known)
            (incident,) = incidents(daemon, "crowd")
        finally:
            daemon.kill()

    assert (incident["cause"]["rank"], incident["cause"]["step"]) == (CULPRIT, 6)
    heads = [message for message in slack.messages if message.thread_ts is None]
    replies = [message for message in slack.messages if message.thread_ts is not None]
    assert len(heads) == 1, [message.as_text() for message in heads]
    headline = heads[0].as_text().splitlines()[0]
    assert f"rank {CULPRIT}" in headline
    assert "layers.7.mlp" in heads[0].as_text()
    assert {message.thread_ts for message in replies} <= {heads[0].ts}
    assert len(replies) <= REPLIES, [message.as_text().splitlines()[0] for message in replies]
    assert all(message.channel == heads[0].channel for message in slack.messages)
