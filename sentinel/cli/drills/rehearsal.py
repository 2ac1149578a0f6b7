"""One drill, from the first step to the last check.

1. A daemon: in this process, as `sentinel run` has it, or in one of its own. A Slack that shows
   what it receives.
2. The reference trainer on two ranks or three, with its fault to come.
3. The course of the scenario: what must happen, and what a person does about it.
4. The end of the trainer, then of the daemon, and a look at what both have left.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from sentinel.cli.drills import evidence
from sentinel.cli.drills.chronicle import Chronicle, ReportJSON
from sentinel.cli.drills.embedded import embedded
from sentinel.cli.drills.scenario import Scenario
from sentinel.cli.drills.separate import separate
from sentinel.cli.drills.stage import GIVE_UP, POLL, RUN, Daemon, DrillError, Stage
from sentinel.cli.launch import Launch, attend
from sentinel.cli.terminal import BAD, FAINT, GOOD, Terminal
from sentinel.daemon.service import Settings
from sentinel.engine import rulefile
from sentinel.engine.language.parse import parse
from sentinel.engine.rule import Rule
from sentinel.errors import SentinelError
from sentinel.notify.loopback_message import File, Message
from sentinel.notify.loopback_slack import LoopbackSlack
from sentinel.notify.slack import SlackReceiver

CHANNEL = "training"


class Rehearsal:
    """A drill; `perform` it once. What happens is told on `stream`, which must be a real file."""

    def __init__(self, scenario: Scenario, state_dir: Path, stream: TextIO) -> None:
        self._scenario = scenario
        self._state_dir = state_dir
        self._output = stream.fileno()
        self._terminal = Terminal(stream, prefix="")
        self._chronicle = Chronicle()
        self._stage: Stage | None = None
        self._messages: list[Message] = []
        self._files: list[Path] = []  # that were shared
        self._status = 1

    async def perform(self) -> ReportJSON:
        """Do it all, show the report, and return it. Raises `SentinelError` if it cannot begin."""
        before = evidence.known(self._state_dir)
        self._introduce()
        try:
            async with self._slack() as slack, self._daemon(slack) as daemon:
                await self._conduct(self._set(daemon))
        except DrillError as error:
            self._chronicle.check(str(error), ok=False)
        await asyncio.to_thread(self._examine, before)
        return self._conclude()

    def _introduce(self) -> None:
        self._terminal.heading(f"drill: {self._scenario.name}")
        self._terminal.line(
            f"The reference trainer: {self._scenario.ranks} ranks, ZeRO-{self._scenario.stage}, "
            f"{self._scenario.precision}, on Python's own sources and manuals."
        )
        self._terminal.line(self._scenario.story)

    # Who takes part.

    @asynccontextmanager
    async def _slack(self) -> AsyncIterator[LoopbackSlack | None]:
        """A server that shows what it receives; None where Slack itself is to be told.

        What a daemon that is killed has sent can be counted in our own only.
        """
        if not self._scenario.own_process and SlackReceiver.from_environment(self._state_dir):
            self._terminal.line("Alerts go to Slack.")
            yield None
            return
        async with LoopbackSlack(channels=(CHANNEL,), on_message=self._show) as slack:
            self._terminal.line(
                f"Alerts go to a Slack server on this machine ({slack.url}), which shows them here."
            )
            yield slack

    @asynccontextmanager
    async def _daemon(self, slack: LoopbackSlack | None) -> AsyncIterator[Daemon]:
        where = (self._chronicle, self._terminal)
        if self._scenario.own_process and slack is not None:
            told = {
                "SLACK_BOT_TOKEN": slack.token,
                "SLACK_CHANNEL": CHANNEL,
                "SLACK_BASE_URL": slack.url,
            }
            async with separate(self._state_dir, told, *where, self._output) as process:
                yield process
            return
        receiver = SlackReceiver.from_environment(self._state_dir)
        if slack is not None:
            receiver = SlackReceiver(
                slack.token, CHANNEL, state_dir=self._state_dir, base_url=slack.url
            )
        settings = Settings(
            self._state_dir, rules_for(self._scenario), receivers=[receiver] if receiver else []
        )
        async with embedded(settings, *where) as daemon:
            yield daemon

    def _set(self, daemon: Daemon) -> Stage:
        scenario = self._scenario
        spoiled = scenario.at + scenario.batches - 1 if scenario.batches else 0
        self._stage = Stage(
            self._state_dir,
            self._terminal,
            self._chronicle,
            daemon,
            scenario.rules,
            spoiled,
        )
        return self._stage

    def _show(self, message: Message, change: str) -> None:
        if change == "changed":
            self._terminal.line("Slack: the incident's first message is brought up to date", FAINT)
            return
        if change == "shared":
            self._keep(message.files)
            return
        self._chronicle.note("message", "Slack has it")
        self._messages.append(message)
        self._terminal.heading("Slack received")
        self._terminal.block(message.as_text())
        if self._stage is not None:
            self._stage.on_message()

    def _keep(self, files: Sequence[File]) -> None:
        """What was shared in the thread is put where it can be looked at."""
        for file in files:
            path = self._state_dir / "slack" / f"{len(self._files) + 1}-{file.name}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.data)
            self._files.append(path)
            self._terminal.line(f"Slack: {file.title}, in the thread: {path}", FAINT)

    # What happens.

    async def _conduct(self, stage: Stage) -> None:
        launch = Launch(trainer_command(self._scenario, self._state_dir), RUN)
        self._terminal.line(f"$ {launch.text()}", FAINT)
        self._terminal.heading("training")
        stage.daemon.launched(launch.text())
        stage.trainer = trainer = asyncio.create_task(
            attend(
                launch,
                self._state_dir,
                stage.children,
                {"OMP_NUM_THREADS": "1"},
                stdout=self._output,
            )
        )
        fault = asyncio.create_task(self._await_fault(stage))
        try:
            for step in self._scenario.course:
                await step(stage)
            await self._end(stage, trainer)
        finally:
            fault.cancel()
            trainer.cancel()
            await asyncio.gather(fault, trainer, return_exceptions=True)

    async def _await_fault(self, stage: Stage) -> None:
        """It comes when the last sound step is done."""
        while stage.daemon.front() < self._scenario.at - 1:
            await asyncio.sleep(POLL / 2)
        kind = self._scenario.fault.partition(":")[0]
        self._chronicle.note("fault", f"{kind} is due", self._scenario.at)

    async def _end(self, stage: Stage, trainer: asyncio.Task[int]) -> None:
        try:
            self._status = await asyncio.wait_for(asyncio.shield(trainer), GIVE_UP)
        except asyncio.TimeoutError:
            raise DrillError(f"the trainer ended within {GIVE_UP:g} s") from None
        await stage.daemon.launcher_ended(well=self._status == 0)
        self._chronicle.note("ended", f"status {self._status}", stage.daemon.front())
        if stage.daemon.firing():
            stage.trainer = None  # whose end is no reason any more to wait no longer
            await stage.until(stage.daemon.drained, "Slack received all messages", within=60.0)

    # What came of it.

    def _examine(self, before: frozenset[str]) -> None:
        losses = losses_file(self._state_dir)
        try:
            found = evidence.gather(self._state_dir, before, self._messages, losses, self._status)
        except SentinelError as error:
            self._chronicle.check(f"the record can be read: {error}", ok=False)
            return
        for check in evidence.judge(self._scenario, found):
            self._chronicle.check(check.what, check.ok)

    def _conclude(self) -> ReportJSON:
        report = self._chronicle.report(self._scenario.name, str(self._state_dir))
        self._terminal.heading("what happened, and when")
        for line in self._chronicle.table():
            self._terminal.line(line)
        self._terminal.heading("what had to happen")
        for check in report["checks"]:
            mark, style = ("yes", GOOD) if check["ok"] else ("NO", BAD)
            self._terminal.line(f"{mark:>5}  {check['what']}", style)
        self._terminal.line("")
        again = shlex.quote(str(self._state_dir))
        self._terminal.line(f"to look again: sentinel incidents --state {again}")
        end = "all went as it should" if report["ok"] else "NOT all went as it should"
        self._terminal.line(f"{end}, in {report['took_s']:.0f} s", GOOD if report["ok"] else BAD)
        return report


def rules_for(scenario: Scenario) -> list[Rule]:
    """The default pack, but for what the scenario is not to wait for."""
    rules = rulefile.load(rulefile.resolve_pack("default"))
    if scenario.sooner is None:
        return rules
    name, usual, sooner = scenario.sooner
    changed = [_hastened(rule, usual, sooner) if rule.name == name else rule for rule in rules]
    if changed == rules:
        raise SentinelError(f"rule {name} of the default pack says {usual!r} no longer")
    return changed


def _hastened(rule: Rule, usual: str, sooner: str) -> Rule:
    return replace(rule, expression=parse(rule.expression.text.replace(usual, sooner)))


def losses_file(state_dir: Path) -> Path:
    """Where rank 0 writes its losses."""
    return state_dir / "losses.0"


def trainer_command(scenario: Scenario, state_dir: Path) -> tuple[str, ...]:
    """The command that starts the reference trainer with its fault."""
    return (
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc_per_node", str(scenario.ranks), "-m", "sentinel_hooks.reference"),
        *("--stage", str(scenario.stage), "--precision", scenario.precision),
        *("--steps", str(scenario.steps), "--fault", scenario.fault, "--log-every", "1000"),
        *("--save-dir", str(state_dir / "checkpoints")),
        *("--losses", str(losses_file(state_dir).with_suffix(""))),
    )
