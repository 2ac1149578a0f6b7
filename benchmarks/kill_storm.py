"""Kill the daemon by -9, again and again at random instants, while incidents pour in.

A real daemon process tells a Slack on loopback, through a line that loses some of its answers and
sometimes does not show the channel's history; runs that speak the protocol go bad one after
another, whether a daemon is there or not. Then everything has to be told: every incident on record,
in one thread of its own, and no message twice, unless its answer was lost and the history as well,
and then with the same id. Exit status 1 when something was lost or doubled without that excuse.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from sentinel import wire
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import LoopbackSlack

RULES = """
groups:
  - name: storm
    rules:
      - alert: NonFiniteUpdate
        expr: nonfinite_update > 0
        labels: {severity: critical}
        annotations: {summary: weights are not finite, advice: go back}
"""
AT_ONCE = 3  # runs
STEP = 0.02  # s
GOOD = 15  # steps after the bad ones, so that the incident is over
ALIVE = 1.2  # s that a daemon lives at most, once it answers
ANSWER = 0.1  # s that an answer takes at most
LOSES = 0.12  # share of posts whose answer is lost though they are done
BLIND = 0.3  # share of looks into the history that are refused
PATIENCE = 180.0  # s for all to be told once the kills are over
_HISTORY = ("conversations.history", "conversations.replies")


class BadLine:
    """Stands between a daemon and its Slack, loses answers, and keeps count of what it did."""

    def __init__(self, slack: LoopbackSlack, chance: random.Random) -> None:
        self._slack = slack
        self._chance = chance
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._blind = False  # whether the history was refused to whoever posts next
        self.in_flight = 0  # posts
        self.lost = 0
        self.refused = 0
        self.unexplained: list[str] = []  # ids that came again though they could be looked up
        self.url = ""

    async def __aenter__(self) -> BadLine:
        app = web.Application()
        app.router.add_route("*", "/api/{method}", self._pass_on)
        self._session = aiohttp.ClientSession()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port: int = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/api/"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._session.close()
        await self._runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        if method in _HISTORY and self._chance.random() < BLIND:
            self._blind = True
            self.refused += 1
            return web.json_response({"ok": False, "error": "missing_scope"})
        posts = method == "chat.postMessage"
        self.in_flight += posts
        try:
            body, kind = await self._ask(request, method)
            if posts:
                self._note()
            elif method in _HISTORY:
                self._blind = False
            await asyncio.sleep(self._chance.random() * ANSWER)
        finally:
            self.in_flight -= posts
        if posts and self._chance.random() < LOSES and request.transport:
            self.lost += 1
            request.transport.abort()
        return web.Response(body=body, content_type=kind)

    async def _ask(self, request: web.Request, method: str) -> tuple[bytes, str]:
        assert self._session is not None
        headers = {
            name: request.headers[name]
            for name in ("Authorization", "Content-Type")
            if name in request.headers
        }
        async with self._session.request(
            request.method,
            self._slack.url + method,
            params=request.query,
            data=await request.read(),
            headers=headers,
        ) as answer:
            return await answer.read(), answer.content_type

    def _note(self) -> None:
        """A message has come: if not for the first time, the history must have been refused."""
        if _goes_with_one(self._slack.messages[-1]):
            return
        ids = [event_of(message) for message in self._slack.messages]
        if ids.count(ids[-1]) > 1 and not self._blind:
            self.unexplained.append(ids[-1])
        self._blind = False


def event_of(message: Message) -> str:
    """The id that a message carries."""
    return _payload(message).get("event_id", "")


def _goes_with_one(message: Message) -> bool:
    """Evidence in a thread adds to the id of its message; files there have none."""
    return "/" in event_of(message) or bool(message.thread_ts and not event_of(message))


def _payload(message: Message) -> Mapping[str, str]:
    found = message.metadata.get("event_payload") if isinstance(message.metadata, dict) else None
    return found if isinstance(found, dict) else {}


class Record:
    """What daemons have put on record, read beside them."""

    def __init__(self, state: Path) -> None:
        self._path = state / "sentinel.db"

    def ask(self, sql: str) -> list[tuple[str, ...]]:
        """Rows; none while there is no record."""
        with suppress(sqlite3.OperationalError):
            connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)
            try:
                return connection.execute(sql).fetchall()
            finally:
                connection.close()
        return []


class Run:
    """A run of one rank that goes bad, stays so until that is on record, then ends well."""

    def __init__(self, number: int, state: Path) -> None:
        self.name = f"run-{number}"
        self.recorded = False
        self.over = False
        self._state = state
        self._step = 0

    async def live(self) -> None:
        """Until its end, with whichever daemon there is."""
        good = GOOD
        while not self.over:
            try:
                reader, writer = await asyncio.open_unix_connection(self._state / "sentinel.sock")
            except OSError:
                await asyncio.sleep(STEP)
                continue
            gone = asyncio.ensure_future(reader.read())
            writer.write(wire.encode(self._hello()))
            while not gone.done() and not self.over:
                bad = self._step >= 3 and not self.recorded
                good -= self.recorded
                writer.write(wire.encode(self._frame(bad)))
                if not good:
                    writer.write(wire.encode(wire.Goodbye("finished")))
                    self.over = True
                await asyncio.sleep(STEP)
            writer.close()
            gone.cancel()
            with suppress(OSError, asyncio.CancelledError):
                await gone

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            version=wire.VERSION,
            run=self.name,
            rank=0,
            world_size=1,
            incarnation=self.name,
            host="node-1",
            pid=1,
            device="cpu",
            trainer="none",
            step=self._step,
            series=(wire.Series("loss"), wire.Series("nonfinite_update")),
        )

    def _frame(self, bad: bool) -> wire.Frame:
        self._step += 1
        values = struct.pack("<2d", 2.0, float(bad))
        return wire.Frame(self._step, self._step, time.time(), values)


@dataclass
class Report:
    """What a storm came to; `problems` is what must not be."""

    kills: int = 0
    in_flight: int = 0  # kills while a post was on its way
    runs: int = 0
    incidents: int = 0
    messages: int = 0
    folded: int = 0
    lost: int = 0
    refused: int = 0
    doubled: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"{self.kills} kills in {self.seconds:.0f} s, {self.in_flight} of them while a message "
            "was on its way",
            f"{self.runs} runs, {self.incidents} incidents, {self.messages} messages in Slack, "
            f"{self.folded} folded into others",
            f"{self.lost} answers lost, {self.refused} looks into the history refused, "
            f"{self.doubled} messages twice with the same id",
            *(self.problems or ["nothing lost, nothing doubled that could be looked up"]),
        ]


class Storm:
    """Runs that go bad one after another, and daemons that do not live long."""

    def __init__(self, state: Path, slack: LoopbackSlack, line: BadLine, seed: int) -> None:
        self._state = state
        self._slack = slack
        self._line = line
        self._chance = random.Random(seed)
        self._record = Record(state)
        self._runs: list[Run] = []
        self._lives: list[asyncio.Task[None]] = []
        self._pouring = True

    async def blow(self, kills: int) -> Report:
        """Kill so many daemons, then let one live until all is told."""
        began = time.monotonic()
        report = Report(kills=kills)
        pouring = asyncio.create_task(self._pour())
        for _ in range(kills):
            daemon = self._start()
            if self._chance.random() < 0.9:  # or while it starts
                await self._answers(daemon)
            await asyncio.sleep(self._chance.random() * ALIVE)
            report.in_flight += self._line.in_flight > 0
            daemon.kill()
            await asyncio.to_thread(daemon.wait)
        self._pouring = False
        last = self._start()
        try:
            await asyncio.wait_for(self._until_all_is_told(), PATIENCE)
        except asyncio.TimeoutError:
            report.problems.append(f"not all was told within {PATIENCE:g} s")
        pouring.cancel()
        for life in self._lives:
            life.cancel()
        await asyncio.gather(pouring, *self._lives, return_exceptions=True)
        last.send_signal(signal.SIGTERM)
        await asyncio.to_thread(last.wait)
        report.seconds = time.monotonic() - began
        self._judge(report)
        return report

    def _start(self) -> subprocess.Popen[bytes]:
        rules = self._state.parent / "rules.yaml"
        rules.write_text(RULES)
        environment = {
            **os.environ,
            "SLACK_BOT_TOKEN": self._slack.token,
            "SLACK_CHANNEL": "training",
            "SLACK_BASE_URL": self._line.url,
        }
        options = ["--state", str(self._state), "--rules", str(rules), "--http", "off"]
        with (self._state.parent / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sentinel", "daemon", *options],
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def _answers(self, daemon: subprocess.Popen[bytes]) -> None:
        """Wait until somebody listens."""

        async def listens() -> bool:
            if daemon.poll() is not None:
                raise RuntimeError((self._state.parent / "daemon.log").read_text()[-2000:])
            try:
                _, writer = await asyncio.open_unix_connection(self._state / "sentinel.sock")
            except OSError:
                return False
            writer.close()
            return True

        async def wait() -> None:
            while not await listens():
                await asyncio.sleep(0.02)

        await asyncio.wait_for(wait(), PATIENCE)

    async def _pour(self) -> None:
        """Keep so many runs going, and tell each when it is on record."""
        while True:
            while self._pouring and sum(not run.over for run in self._runs) < AT_ONCE:
                self._runs.append(Run(len(self._runs), self._state))
                self._lives.append(asyncio.create_task(self._runs[-1].live()))
            names = {name for (name,) in self._record.ask("SELECT run FROM incidents")}
            for run in self._runs:
                run.recorded = run.name in names
            await asyncio.sleep(0.1)

    def _all_told(self) -> bool:
        waiting = self._record.ask(
            "SELECT count(*) FROM outbox WHERE state IN ('pending', 'sending')"
        )
        return all(run.over for run in self._runs) and [int(number) for (number,) in waiting] == [0]

    async def _until_all_is_told(self) -> None:
        while not self._all_told():
            await asyncio.sleep(0.1)

    def _judge(self, report: Report) -> None:
        messages = [one for one in self._slack.messages if not _goes_with_one(one)]
        problems = report.problems
        rows = self._record.ask("SELECT event_id, incident, state FROM outbox")
        incidents = {id for (id,) in self._record.ask("SELECT id FROM incidents")}
        told = Counter(map(event_of, messages))
        heads: dict[str, set[str]] = {}
        for message in messages:
            if message.thread_ts is None:
                heads.setdefault(_payload(message)["incident"], set()).add(event_of(message))
        report.runs, report.incidents, report.messages = map(len, (self._runs, incidents, messages))
        report.lost, report.refused = self._line.lost, self._line.refused
        report.folded = sum(state == "folded" for _, _, state in rows)
        report.doubled = sum(count > 1 for count in told.values())
        problems += [f"{id}: on record and not told" for id in incidents - heads.keys()]
        problems += [f"{id}: {len(ids)} threads" for id, ids in heads.items() if len(ids) > 1]
        problems += [
            f"{id}: {state}, and it is {'' if id in told else 'not '}in Slack"
            for id, _, state in rows
            if (state == "sent") != (id in told) or state not in ("sent", "folded")
        ]
        problems += [
            f"{id}: in Slack and not on record" for id in told.keys() - {r[0] for r in rows}
        ]
        problems += [f"{id}: sent again unasked" for id in self._line.unexplained]


async def storm(folder: Path, kills: int, seed: int) -> Report:
    """A whole storm with its files in `folder`."""
    slack, chance = LoopbackSlack(page_size=200), random.Random(seed + 1)
    async with slack, BadLine(slack, chance) as line:
        return await Storm(folder / "state", slack, line, seed).blow(kills)


def main() -> int:
    """Blow, and print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        report = asyncio.run(storm(Path(folder), args.kills, args.seed))
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
