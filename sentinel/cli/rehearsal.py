"""One drill, from the first step to the last check.

1. A daemon in this process, as `sentinel run` has it; a Slack that shows what it receives.
2. The reference trainer on two ranks, with its fault to come.
3. Where the fault demands a pause: wait until the run is held, look at it from outside as a person
   would, wait for the message, and run the very command that lets the run go on.
4. Wait for the end, and check that everything has truly happened.
"""

from __future__ import annotations

import asyncio
import math
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sentinel import clock, wire
from sentinel.cli.launch import Launch, supervise
from sentinel.cli.narrator import Narrator, located, measured
from sentinel.cli.scenario import SCENARIOS, Scenario
from sentinel.cli.terminal import BAD, FAINT, GOOD, Terminal
from sentinel.daemon.news import ActionNews, News, StateNews
from sentinel.daemon.service import Service, Settings
from sentinel.daemon.serving import serving
from sentinel.engine import rulefile
from sentinel.engine.transition import AlertChanged, IncidentChanged
from sentinel.notify.loopback_message import Message
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.notify.slack import SlackReceiver
from sentinel.store.shapes import StatusJSON

RUN = "drill"
LR_SCALE = 0.5
GIVE_UP = 600.0  # s
TOLD = "Slack received all messages"


class DrillError(Exception):
    """Something that had to happen has not."""


@dataclass
class _Log:
    """What has happened, when (s since the start), and what was checked."""

    begun: float = field(default_factory=clock.monotonic)
    moments: list[tuple[float, str]] = field(default_factory=list)
    checks: list[tuple[str, bool]] = field(default_factory=list)

    def note(self, what: str) -> None:
        """This has happened now."""
        self.moments.append((clock.monotonic() - self.begun, what))

    def check(self, what: str, held: bool) -> bool:
        """This must be so."""
        self.checks.append((what, held))
        return held


class Rehearsal:
    """A drill; `perform` it once."""

    def __init__(self, fault: str, state_dir: Path, terminal: Terminal) -> None:
        self._scenario: Scenario = SCENARIOS[fault]
        self._state_dir = state_dir
        self._terminal = terminal
        self._log = _Log()
        self._changed = asyncio.Event()
        self._messages: list[str] = []
        self._alerts: list[AlertChanged] = []
        self._incident: IncidentChanged | None = None
        self._held: int | None = None
        self._resumed = ""

    async def perform(self) -> bool:
        """Whether everything that the fault demands has happened."""
        self._introduce()
        async with AsyncExitStack() as stack:
            receiver = await self._receiver(stack)
            rules = rulefile.load(rulefile.resolve_pack("default"))
            settings = Settings(self._state_dir, rules, receiver=receiver)
            service = await stack.enter_async_context(serving(settings, None))
            narrator = Narrator(service, self._terminal, every=2.0)
            service.listeners += [narrator.hear, self._hear]
            progress = asyncio.create_task(narrator.progress())
            try:
                await self._conduct(service)
            except DrillError as error:
                self._log.check(str(error), held=False)
            finally:
                progress.cancel()
        return self._conclude()

    def _introduce(self) -> None:
        self._terminal.heading(f"drill: {self._scenario.name}")
        self._terminal.line(
            "The reference trainer: 2 ranks, ZeRO-2, bf16, on Python's own sources and manuals."
        )
        self._terminal.line(self._scenario.story)

    async def _receiver(self, stack: AsyncExitStack) -> SlackReceiver:
        """Slack itself where it is configured, otherwise a server that shows what it receives."""
        real = SlackReceiver.from_environment(self._state_dir)
        if real is not None:
            self._terminal.line("Alerts go to Slack.")
            return real
        slack = await stack.enter_async_context(LoopbackSlack(on_message=self._show_message))
        self._terminal.line(
            f"Alerts go to a Slack server on this machine ({slack.url}), which shows them here."
        )
        return SlackReceiver(slack.token, "training", state_dir=self._state_dir, base_url=slack.url)

    # What happens.

    def _hear(self, news: News) -> None:
        if isinstance(news, AlertChanged) and news.state == "firing":
            if not self._alerts:
                self._log.note(f"noticed: {news.rule} at step {news.step}")
            self._alerts.append(news)
        elif isinstance(news, IncidentChanged):
            self._incident = news
        elif isinstance(news, StateNews) and news.before is None:
            self._log.note("the ranks were there")
        elif isinstance(news, ActionNews) and news.record.state == "done":
            record = news.record
            if record.action == "pause":
                self._held = record.step
                self._log.note(f"held after step {record.step}, by {record.by}")
            elif record.action == "resume":
                self._resumed = record.reason
                self._log.note(f"resumed by {record.by}: {record.reason}")
        self._changed.set()

    def _show_message(self, message: Message, change: str) -> None:
        if change == "changed":
            self._terminal.line("Slack: the incident's first message is brought up to date", FAINT)
            return
        if not self._messages:
            self._log.note("Slack had the message")
        self._messages.append(message.as_text())
        self._terminal.heading("Slack received")
        self._terminal.block(self._messages[-1])
        self._changed.set()

    async def _conduct(self, service: Service) -> None:
        command = trainer_command(self._scenario, self._state_dir)
        self._terminal.line(f"$ {shlex.join(command)}", FAINT)
        self._terminal.heading("training")
        launch = Launch(command, RUN)
        child = asyncio.create_task(supervise(service, launch, OMP_NUM_THREADS="1"))
        try:
            if self._scenario.paused:
                await self._pause_and_resume(service, child)
            status = await asyncio.wait_for(asyncio.shield(child), GIVE_UP)
        except asyncio.TimeoutError:
            raise DrillError(f"the trainer ended within {GIVE_UP:g} s") from None
        finally:
            child.cancel()
            await asyncio.gather(child, return_exceptions=True)
        self._log.note(f"the trainer ended with status {status}")
        if self._alerts:
            await self._until(lambda: self._told(service), None, TOLD, within=60.0)
        self._check_end(service, status)

    async def _pause_and_resume(self, service: Service, child: asyncio.Task[int]) -> None:
        await self._until(lambda: self._held is not None, child, "the run was held")
        held = self._held or 0
        await self._until(lambda: self._told(service), child, TOLD)
        self._terminal.heading("as a person sees it from outside")
        (run,) = msgspec.json.decode(
            await self._sentinel("status", "--json"), type=list[StatusJSON]
        )
        self._terminal.line(
            f"{run['state']}: "
            + ", ".join(f"rank {rank['rank']} after step {rank['step']}" for rank in run["ranks"])
        )
        same = {(rank["step"], rank["phase"]) for rank in run["ranks"]} == {(held, "held")}
        self._log.check(
            f"both ranks were held after the same step, {held}",
            run["state"] == "held" and same and len(run["ranks"]) == 2,
        )
        self._terminal.heading("a person decides")
        skip = str(self._scenario.skip(held))
        said = await self._sentinel("resume", "--skip", skip, "--lr-scale", str(LR_SCALE))
        self._terminal.line(said.decode().strip(), GOOD)
        await self._until(lambda: bool(self._resumed), child, "the run was resumed")
        self._terminal.heading("training goes on")

    def _told(self, service: Service) -> bool:
        """Whether all that was to be told has been told."""
        return service.store.outbox.waiting()[0] == 0 and bool(service.store.outbox.counts())

    async def _until(
        self,
        happened: Callable[[], bool],
        child: asyncio.Task[int] | None,
        what: str,
        within: float = GIVE_UP,
    ) -> None:
        """Wait until it has happened. Raises `DrillError` when it cannot any more."""
        deadline = clock.monotonic() + within
        while not happened():
            self._changed.clear()
            if (child is not None and child.done()) or clock.monotonic() > deadline:
                raise DrillError(what)
            try:
                await asyncio.wait_for(self._changed.wait(), 0.2)
            except asyncio.TimeoutError:
                continue

    async def _sentinel(self, command: str, *options: str) -> bytes:
        """Run `sentinel COMMAND drill ...` as a person would; returns what it prints."""
        arguments = [command, RUN, "--state", str(self._state_dir), *options]
        self._terminal.line(f"$ sentinel {shlex.join(arguments)}", FAINT)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sentinel", *arguments), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise DrillError(f"`sentinel {command}` did what it was asked for")
        return output

    # What must have happened.

    def _check_end(self, service: Service, status: int) -> None:
        scenario, run = self._scenario, service.runs.get(RUN)
        rules = {alert.rule for alert in self._alerts}
        self._log.check(
            f"it was noticed by {' or '.join(sorted(scenario.rules))}", bool(rules & scenario.rules)
        )
        cause = self._incident.cause if self._incident else None
        where = [
            (scenario.module is None or (cause is not None and cause.module == scenario.module)),
            (scenario.rank is None or (cause is not None and cause.rank == scenario.rank)),
        ]
        named = f"the cause is named: {located(cause)}" if cause else "the cause is named"
        self._log.check(named, cause is not None and all(where))
        self._check_messages(service)
        if scenario.paused:
            self._log.check(f"it was resumed with remedies: {self._resumed}", bool(self._resumed))
        if not scenario.survives:
            self._log.check(f"the launcher has failed (status {status})", status != 0)
            return
        loss = run.engine.latest.get(wire.Series("loss"), math.nan) if run else math.nan
        self._log.check(
            f"training came to its end: {measured(run)}" if run else "training came to its end",
            run is not None and run.engine.step == scenario.steps and run.state == "finished",
        )
        self._log.check(f"its last loss is finite: {loss:.4f}", math.isfinite(loss))
        self._log.check(f"the trainer ended with status {status}", status == 0)

    def _check_messages(self, service: Service) -> None:
        counts = service.store.outbox.counts()
        sent, others = counts.get("sent", 0), sum(counts.values()) - counts.get("sent", 0)
        text = "\n".join(self._messages)
        rank = self._scenario.rank
        wanted = [self._scenario.module or "", "" if rank is None else f"rank {rank}"]
        shown = not self._messages or all(word in text for word in wanted)
        self._log.check(
            f"Slack received {sent} message{'s' * (sent != 1)} that say{'s' * (sent == 1)} so",
            sent > 0 and not others and shown,
        )

    def _conclude(self) -> bool:
        self._terminal.heading("what happened, and when")
        for at, what in self._log.moments:
            self._terminal.line(f"{at:7.1f} s  {what}")
        self._terminal.heading("what had to happen")
        for what, held in self._log.checks:
            self._terminal.line(f"{'yes' if held else 'NO':>5}  {what}", GOOD if held else BAD)
        return all(held for _, held in self._log.checks)


def trainer_command(scenario: Scenario, state_dir: Path) -> tuple[str, ...]:
    """The command that starts the reference trainer with its fault."""
    return (
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("-m", "sentinel_hooks.reference", "--stage", "2", "--precision", "bf16"),
        *("--steps", str(scenario.steps), "--fault", scenario.fault, "--log-every", "1000"),
        *("--save-dir", os.path.join(state_dir, "checkpoints")),
    )
