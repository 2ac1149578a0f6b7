"""The daemon of a drill in a process of its own, watched from outside, as a person would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sentinel import clock
from sentinel.cli.client import Client
from sentinel.cli.drills.chronicle import Chronicle
from sentinel.cli.drills.stage import RUN, DrillError
from sentinel.cli.terminal import FAINT, OF_SEVERITY, Terminal
from sentinel.errors import SentinelError
from sentinel.store.shapes import IncidentJSON, StatusJSON

LOOK = 0.1  # s between two looks
PROGRESS = 2.0  # s between lines of progress
STARTS_WITHIN = 60.0  # s
ENDS_WITHIN = 30.0  # s


@dataclass
class SeparateDaemon:
    """See `stage.Daemon`. `environment` is what it is told of Slack; `output` takes its log."""

    state_dir: Path
    environment: Mapping[str, str]
    chronicle: Chronicle
    terminal: Terminal
    output: int
    _process: asyncio.subprocess.Process | None = None
    _run: StatusJSON | None = None
    _unsent: int | None = None
    _told: set[str] = field(default_factory=set)
    _fired: set[str] = field(default_factory=set)
    _shown: float = 0.0
    _serves_since: float = 0.0

    async def start(self) -> None:
        """See `Daemon.start`."""
        self._run = self._unsent = None
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sentinel", "daemon"),
            *("--state", str(self.state_dir), "--http", "off"),
            stdout=self.output,
            stderr=self.output,
            env={**os.environ, **self.environment},
        )
        deadline = clock.monotonic() + STARTS_WITHIN
        while not await asyncio.to_thread(self._answers):
            if process.returncode is not None or clock.monotonic() > deadline:
                raise DrillError("the daemon started")
            await asyncio.sleep(LOOK)
        self._serves_since = clock.monotonic()

    def _answers(self) -> bool:
        try:
            Client(self.state_dir).status()
        except SentinelError:
            return False
        return True

    def kill(self) -> None:
        """See `Daemon.kill`."""
        assert self._process is not None
        self._process.kill()
        self._run = self._unsent = None

    async def stop(self) -> None:
        """End it as systemd does; it sends what is due first."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), ENDS_WITHIN)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()

    def front(self) -> int:
        """See `Daemon.front`."""
        return max((rank["step"] for rank in self._run["ranks"]), default=0) if self._run else 0

    def stands(self) -> bool:
        """See `Daemon.stands`."""
        run = self._run
        if run is None or run["state"] != "held" or len(run["ranks"]) < run["world_size"]:
            return False
        since = clock.monotonic() - self._serves_since  # what was heard earlier, another one heard
        return all(rank["phase"] == "held" and rank["last_seen_s"] < since for rank in run["ranks"])

    def firing(self) -> frozenset[str]:
        """See `Daemon.firing`."""
        return frozenset(self._fired)

    def drained(self) -> bool:
        """See `Daemon.drained`."""
        return self._unsent == 0 and "message" in self.chronicle.moments

    def launched(self, command: str) -> None:
        """See `Daemon.launched`; this one learns of the run from its ranks."""

    async def launcher_ended(self, *, well: bool) -> None:
        """See `Daemon.launcher_ended`; this one hears it from the ranks."""

    async def watch(self) -> None:
        """Look at what it says, again and again; while it is gone there is nothing to see."""
        while True:
            with contextlib.suppress(SentinelError):
                runs, incidents, unsent = await asyncio.to_thread(self._look)
                self._status(runs)
                self._unsent = unsent
                for incident in incidents:
                    self._incident(incident)
            await asyncio.sleep(LOOK)

    def _look(self) -> tuple[list[StatusJSON], list[IncidentJSON], int]:
        client = Client(self.state_dir)
        return client.status(), client.incidents(), client.unsent()

    def _status(self, runs: list[StatusJSON]) -> None:
        self._run = next((run for run in runs if run["run"] == RUN), None)
        if self._run is not None and clock.monotonic() - self._shown > PROGRESS:
            self._shown = clock.monotonic()
            self.terminal.line(f"{RUN}: step {self._run['step']}, {self._run['state']}", FAINT)

    def _incident(self, incident: IncidentJSON) -> None:
        for alert in incident["alerts"]:
            line = f"{alert['severity']}: {alert['rule']}: {alert['summary']}"
            if self._is_new(line) and alert["state"] == "firing":
                self._fired.add(alert["rule"])
                self.terminal.line(line, OF_SEVERITY["warning"])
                cause = incident["cause"]  # of those seen at one look, the one that came first
                self.chronicle.note("noticed", f"by {cause['rule']}", cause["step"])
        for action in incident["actions"]:
            line = f"{action['action']} {action['state']} at step {action['step']}, {action['by']}"
            if self._is_new(line):
                self.terminal.line(line)
            if action["action"] == "pause":
                self.chronicle.note("hold asked for", f"by {action['by']}")
                if action["state"] == "done":
                    self.chronicle.note("held", f"by {action['by']}", action["step"])

    def _is_new(self, line: str) -> bool:
        new = line not in self._told
        self._told.add(line)
        return new


@asynccontextmanager
async def separate(
    state_dir: Path,
    environment: Mapping[str, str],
    chronicle: Chronicle,
    terminal: Terminal,
    output: int,
) -> AsyncIterator[SeparateDaemon]:
    """A daemon that is watched while in the block. Raises `DrillError` when it does not start."""
    daemon = SeparateDaemon(state_dir, environment, chronicle, terminal, output)
    await daemon.start()
    watching = asyncio.create_task(daemon.watch())
    try:
        yield daemon
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await daemon.stop()
