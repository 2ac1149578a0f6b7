"""What the steps of a drill have at hand."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sentinel import clock
from sentinel.cli.drills.chronicle import Chronicle
from sentinel.cli.terminal import FAINT, Terminal

RUN = "drill"
GIVE_UP = 300.0  # s for anything that must happen
POLL = 0.05  # s


class DrillError(Exception):
    """Something that had to happen has not."""


class Daemon(Protocol):
    """The daemon of a drill, in this process or in one of its own."""

    def front(self) -> int:
        """The last step that any rank has done."""

    def stands(self) -> bool:
        """Whether the run is held, with all its ranks there."""

    def firing(self) -> frozenset[str]:
        """The rules that have fired."""

    def drained(self) -> bool:
        """Whether all messages to people have been sent, of which there is at least one."""

    def kill(self) -> None:
        """End it as `kill -9` does. Raises `DrillError` where it has no process of its own."""

    async def start(self) -> None:
        """Start it again after `kill`. Raises `DrillError`."""

    def launched(self, command: str) -> None:
        """The trainer is about to be started by this command."""

    async def launcher_ended(self, *, well: bool) -> None:
        """The trainer has ended, all its ranks with it; `well`: with status 0."""


@dataclass
class Stage:
    """One drill while it goes on.

    `spoiled` is the last batch that the fault spoils, 0 if none. `on_message` is called at each
    message that Slack takes, before it answers, where it is one that we can look into. `children`
    are the processes of the trainer, which is its launcher alone, and `trainer` waits for their
    end.
    """

    state_dir: Path
    terminal: Terminal
    chronicle: Chronicle
    daemon: Daemon
    rules: frozenset[str]
    spoiled: int = 0
    on_message: Callable[[], None] = lambda: None
    children: list[asyncio.subprocess.Process] = field(default_factory=list)
    trainer: asyncio.Task[int] | None = None

    async def until(
        self, happened: Callable[[], bool], what: str, *, within: float = GIVE_UP
    ) -> None:
        """Wait until it has happened. Raises `DrillError` when it cannot any more."""
        deadline = clock.monotonic() + within
        while not happened():
            over = self.trainer is not None and self.trainer.done()
            if over or clock.monotonic() > deadline:
                raise DrillError(what)
            await asyncio.sleep(POLL)

    async def sentinel(self, command: str, *options: str) -> bytes:
        """Run `sentinel COMMAND drill ...` as a person would; returns what it prints."""
        arguments = [command, RUN, "--state", str(self.state_dir), *options]
        self.terminal.line(f"$ sentinel {shlex.join(arguments)}", FAINT)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sentinel", *arguments), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise DrillError(f"`sentinel {command}` did what it was asked for")
        return output
