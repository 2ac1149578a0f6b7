"""Tells a person at the terminal how a run goes: progress now and then, events at once."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass, field

from sentinel import clock, wire
from sentinel.cli.terminal import BAD, FAINT, GOOD, OF_SEVERITY, WARNING, Terminal
from sentinel.cli.whereabouts import whereabouts
from sentinel.control.hold import Record
from sentinel.daemon.news import AcknowledgedNews, ActionNews, News, StateNews
from sentinel.daemon.run import Run
from sentinel.daemon.service import Service
from sentinel.duration import in_words
from sentinel.engine.rollback import steps_back
from sentinel.engine.transition import ActionWanted, AlertChanged, Cause, IncidentChanged
from sentinel.notify.message import plain

EVERY = 5.0  # s between lines of progress


@dataclass
class Narrator:
    """Listens to a daemon in this process. Give `hear` to it, and run `progress` as a task."""

    service: Service
    terminal: Terminal
    every: float = EVERY
    incidents: dict[str, IncidentChanged] = field(default_factory=dict)
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    _advised: set[str] = field(default_factory=set)
    _shown: dict[str, int] = field(default_factory=dict)
    _causes: dict[str, Cause] = field(default_factory=dict)

    async def progress(self) -> None:
        """A line for each run that has come further, every few seconds, for ever."""
        while True:
            await asyncio.sleep(self.every)
            for run in self.service.active():
                if run.engine.step > self._shown.get(run.name, 0):
                    self._shown[run.name] = run.engine.step
                    self.terminal.line(f"{run.name}: {measured(run)}", FAINT)

    def hear(self, news: News) -> None:
        """See `news.Listener`."""
        if isinstance(news, AlertChanged):
            self._alert(news)
        elif isinstance(news, IncidentChanged):
            self._incident(news)
        elif isinstance(news, ActionNews):
            self._action(news)
        elif isinstance(news, StateNews):
            self._state(news)
        elif isinstance(news, AcknowledgedNews):
            self.terminal.line(f"incident {news.incident} is acknowledged by {plain(news.by)}")
        else:
            assert isinstance(news, ActionWanted)  # what comes of it is told as an action

    def _alert(self, alert: AlertChanged) -> None:
        if alert.state == "firing":
            style = OF_SEVERITY[alert.severity]
            self.terminal.line(f"{alert.severity}: {alert.rule}: {alert.summary}", style)
            if alert.advice and alert.rule not in self._advised:
                self._advised.add(alert.rule)
                self.terminal.line(f"    {alert.advice}", FAINT)
        else:
            self.terminal.line(f"over: {alert.rule} {labels(alert)}".rstrip(), FAINT)

    def _incident(self, change: IncidentChanged) -> None:
        self.incidents[change.id] = change
        if change.change == "resolved":
            self.terminal.line(f"incident over: {located(change.cause)}", GOOD)
        elif self._causes.get(change.id) != change.cause:
            self._causes[change.id] = change.cause
            self.terminal.line(
                f"incident: first {located(change.cause)}", OF_SEVERITY[change.severity]
            )
            run = self.service.runs.get(change.run)
            good = run.engine.checkpoints.last_good if run else None
            if good and change.change == "opened":
                back = steps_back(good, change.opened_step)
                self.terminal.line(f"    last good checkpoint: {plain(good.tag)}, {back}")

    def _action(self, news: ActionNews) -> None:
        record = news.record
        self.records[news.run, record.id or f"refused {record.at}"] = record
        if record.state == "requested":
            why = f": {record.reason}" if record.reason else ""
            self.terminal.line(f"{record.action} asked for by {record.by}{why}")
        elif record.state == "done" and record.action == "pause":
            self._held(news.run, record)
        elif record.state == "done":
            why = f", {record.reason}" if record.action == "resume" else ""
            self.terminal.line(
                f"{record.action} done after step {record.step}, by {record.by}{why}", GOOD
            )
        else:
            self.terminal.line(f"{record.action} {record.state}: {record.reason}", WARNING)

    def _held(self, name: str, record: Record) -> None:
        run = self.service.runs.get(name)
        standing = sorted(run.connected) if run else []
        ranks = f"rank{'s' * (len(standing) != 1)} {', '.join(map(str, standing))}"
        state = shlex.quote(str(self.service.store.state_dir))
        self.terminal.line(f"held after step {record.step}: {ranks}", BAD)
        self.terminal.line(f"    what happened: sentinel incidents {name} --state {state}")
        self.terminal.line(f"    to go on:      sentinel resume {name} --state {state}")
        if run and run.engine.checkpoints.last_good:
            go_back = f"sentinel resume {name} --rollback last-good --state {state}"
            self.terminal.line(f"    to go back:    {go_back}")
        self.terminal.line(f"    to end it:     sentinel stop {name} --state {state}")

    def _state(self, news: StateNews) -> None:
        run = self.service.runs.get(news.run)
        if news.before is None:
            ranks = run.world_size if run else 0
            self.terminal.line(f"{news.run}: watching {ranks} rank{'s' * (ranks != 1)}")
        elif news.after == "lost":
            self.terminal.line(f"{news.run}: all ranks are gone", WARNING)

    def summary(self, since: float) -> None:
        """What became of it all; `since` is when it began, on `clock.steady()`."""
        if not self.service.runs:
            self.terminal.line(
                "no rank has reported: does the script call sentinel.attach(...)?", WARNING
            )
        for run in self.service.runs.values():
            self.terminal.line(
                f"{run.name}: {run.state} after {run.engine.step} steps and "
                f"{in_words(clock.steady() - since)}, {count(self._of(run), 'incident')}"
            )
            for incident in self._of(run):
                self.terminal.line(
                    f"    {incident.severity}: {located(incident.cause)}",
                    OF_SEVERITY[incident.severity],
                )
            for (name, _), record in self.records.items():
                if name == run.name:
                    self.terminal.line(
                        f"    {record.action} {record.state} at step {record.step}, "
                        f"by {record.by}{': ' + record.reason if record.reason else ''}"
                    )

    def _of(self, run: Run) -> list[IncidentChanged]:
        return [incident for incident in self.incidents.values() if incident.run == run.name]


def measured(run: Run) -> str:
    """Step, loss and speed, as far as they are known."""
    latest = run.engine.latest
    parts = [f"step {run.engine.step}"]
    if (loss := latest.get(wire.Series("loss"))) is not None:
        parts.append(f"loss {loss:.4f}")
    if (speed := latest.get(wire.Series("tokens_per_second"))) is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    return "  ".join(parts)


def located(cause: Cause) -> str:
    """What went wrong first, and where."""
    return f"{cause.signal} ({cause.rule}) {whereabouts(cause)}"


def labels(alert: AlertChanged) -> str:
    """The labels of an alert."""
    return ", ".join(f"{name} {value}" for name, value in sorted(alert.labels.items()))


def count(things: list[IncidentChanged], name: str) -> str:
    """As `no incident`, `1 incident`, `2 incidents`."""
    number = len(things)
    return f"{number or 'no'} {name}{'s' * (number > 1)}"
