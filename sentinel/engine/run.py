"""One run, whole: the messages of its ranks and the time in, transitions out.

The same messages at the same times give the same transitions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sentinel.engine import hang
from sentinel.engine.change import Change
from sentinel.engine.checkpoint import CLEAN_STEPS, Checkpoints
from sentinel.engine.clean import Verdict, verdict
from sentinel.engine.comparison import Comparisons
from sentinel.engine.coverage import RunCoverage
from sentinel.engine.hardware import HardwareLog
from sentinel.engine.incident import Fired, Identity, Incidents
from sentinel.engine.inquiry import Inquiry
from sentinel.engine.judging import Judging
from sentinel.engine.language.expression import RANK_AXIS
from sentinel.engine.layout import Columns, Layout
from sentinel.engine.observer import Observer
from sentinel.engine.open_incident import RETURN, OpenIncident
from sentinel.engine.recency import Recency
from sentinel.engine.recent import RecentSteps
from sentinel.engine.roster import BEFORE_ALL, Place, Pulse, RankState, Roster
from sentinel.engine.rule import Alerts, Rule
from sentinel.engine.step import Frames, JudgedStep, OpenStep, Told
from sentinel.engine.survey import survey
from sentinel.engine.transition import Transition
from sentinel.engine.witness import Witness
from sentinel.wire import (
    MAX_SERIES,
    Checkpoint,
    Coverage,
    Extension,
    Frame,
    FromRank,
    Goodbye,
    Heartbeat,
    Hello,
    Series,
    Stack,
)

MAX_OPEN = 64  # steps that wait for slower ranks
MAX_OPEN_BYTES = 256 << 20
BLIND = 5.0  # s between two ticks from which on it was the engine that did not run
_SKIPPED = Series("skipped")


class RunEngine:
    """Judges one run.

    `ranks`, `world_size`, `step` (the last one judged, at `judged_at`) and `latest` say how the run
    stands, `recent` are the last steps themselves, `pulse` is what the clock last brought.
    `skipped` counts the judged steps that the optimizer skipped, each time they were done.
    `checkpoints` are those of the run; `clean_steps` after one make it healthy.
    `frames`, `gaps`, `refused` (by reason), `rule_errors` (by rule, which is then off) and
    `overrun` say how well it could be seen; the last counts how often too many steps waited at
    once, so that slow ranks were waited for no longer. `inquiry` says whom to ask for stacks.
    """

    def __init__(
        self,
        run: str,
        rules: Sequence[Rule],
        *,
        patience: float = 30.0,
        clean_steps: int = CLEAN_STEPS,
    ) -> None:
        self.run = run
        self.checkpoints = Checkpoints(clean_steps)
        self.step = self.skipped = self.frames = self.gaps = self.overrun = 0
        self.refused: dict[str, int] = {}
        self._patience = patience
        self._roster = Roster()
        self._columns = Columns()
        self._judging = Judging(rules)
        self._recency = Recency(rule.expression for rule in rules)
        self._hardware = HardwareLog(self._roster, self._columns)
        self._comparisons = Comparisons((rule.expression for rule in rules), self._columns)
        self._incidents = Incidents(run, self._hardware)
        self._open: dict[Place, OpenStep] = {}
        self._open_bytes, self._judged, self._tells_skips = 0, BEFORE_ALL, False
        self.recent = RecentSteps()
        self._announced: NDArray[np.intp] | None = None
        self.inquiry = Inquiry(self._roster, self._incidents)
        self._witness = Witness(run, self._roster, self.checkpoints, self._comparisons)
        self._fired: list[Fired] = []
        self._resolved: list[Identity] = []
        self._ended: float | None = None
        self.judged_at, self._ticked = -math.inf, math.inf
        self._awake = -math.inf  # since when it has been told of time without a break
        self.pulse: Pulse | None = None
        self._told: list[Transition] = []

    # How the run stands.

    @property
    def world_size(self) -> int:
        """How many ranks the job has, by its own word; 0 before the first has spoken."""
        return self._roster.world_size

    @property
    def ranks(self) -> Mapping[int, RankState]:
        """The ranks that have said hello and are part of the world."""
        return self._roster.ranks

    @property
    def latest(self) -> Mapping[Series, float]:
        """What was measured at the last judged step, reduced over ranks."""
        return self.recent.last.reduced if self.recent.last else {}

    @property
    def rule_errors(self) -> Mapping[str, int]:
        """The rules that failed and are off."""
        return self._judging.errors

    @property
    def unfollowed(self) -> Mapping[str, int]:
        """By rule, the alerts that hold beyond the number that is followed."""
        return self._judging.unfollowed

    def coverage(self) -> RunCoverage:
        """What can be seen of the run, and which rules are blind. Some 10 us a rank."""
        return survey(self.run, self.step, self._roster, self._judging)

    def watch(self, observer: Observer) -> Mapping[str, Alerts]:
        """Let somebody look on while rules are judged. Returns the alerts of each rule."""
        self._judging.observer = observer
        return self._judging.alerts

    def refusal(self, hello: Hello) -> str | None:
        """Why this Hello cannot be taken, or None: ask before answering it.

        Frames carry no name of the process that sent them: whoever owns the connections closes
        the older one of a rank when it takes a newer, and tells `disconnected` of current ones.
        """
        return self._roster.refusal(hello)

    # What happens to it.

    def feed(self, rank: int, message: FromRank, now: float) -> list[Transition]:
        """Take in a message of a rank. Never raises for what the message says."""
        state = self._roster.ranks.get(rank)
        if isinstance(message, Hello):
            self._hello(rank, message, now)
        elif state is None:
            self._refuse("no hello")
        else:
            state.last_seen = now
            if isinstance(message, Frame):
                self._frame(state, message, now)
            else:
                self._hear(state, message, now)
        if self._open:
            self._judge_complete(now)
        return self._tell(now) if self._told or self._fired or self._resolved else []

    def resumed(self) -> None:
        """The run was held and goes on: what fires now asks for its action again if it comes back.

        A condition that lasts through a resume holds the run no second time, since that is what
        the one who resumed it has seen; one that was gone and is there again does.
        """
        self._judging.acknowledge()

    def disconnected(self, rank: int, now: float) -> list[Transition]:
        """The rank's connection has ended."""
        if state := self._roster.ranks.get(rank):
            self._roster.cut(state, now)
        return []

    def tick(self, now: float) -> list[Transition]:
        """Time has passed: about once a second.

        After a longer break, as when the daemon itself stood still, nobody is called late or
        silent for what could not be heard meanwhile.
        """
        if now - self._ticked > BLIND:
            self._awake = now
        self._ticked = now
        self._roster.lose(now)
        self._judge_complete(now)
        overdue = now - self._patience if self._awake <= now - self._patience else -math.inf
        while self._open and self._open[place := min(self._open)].since <= overdue:
            self._roster.write_off(place)
            self._judge_complete(now)
        self._pulse(now)
        return self._tell(now) + self.inquiry.tick(now)

    def ended(self, now: float) -> list[Transition]:
        """The job has ended: no more will come. If it ended badly its incident is not over."""
        self._ended = now
        self._roster.lose_all()
        for place in sorted(self._open):
            self._judge(place, now)
        self._pulse(now)
        self._resolved += self._judging.finish()
        return self._tell(now) + (self._incidents.close(now) if self._roster.ended_well else [])

    def adopt(self, incident: OpenIncident) -> None:
        """Go on with an incident that was open when an earlier daemon ended.

        An alert of it whose rule is gone, or has other labels now, can no longer be judged: it
        resolves at the next tick.
        """
        adopted = [(self._judging.adopt_alert(one), one) for one in incident.alerts]
        self._resolved += [(one.rule, key) for (key, judged), one in adopted if not judged]
        self._incidents.adopt(incident, [(key, one) for (key, _), one in adopted])
        self.inquiry.adopt(incident)

    # How it is done.

    def _refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _hear(self, state: RankState, message: FromRank, now: float) -> None:
        """Take in what a rank says of itself."""
        if isinstance(message, Heartbeat):
            self._roster.beat(state, message, now)
            if message.alarms:  # what cannot wait for the frame of the step that the rank is in
                if self._hardware.alarmed(state, message.alarms, now):
                    self._told += self._incidents.hardware_told(now)
                changes = self._judging.alarm(message.alarms, state.key, message.step + 1, now)
                self._collect(changes, now)
        elif isinstance(message, Extension):
            self._extend(state, message)
        elif isinstance(message, Coverage):
            state.coverage.change(message)
        elif isinstance(message, Checkpoint):
            era = self._roster.era_of(state, message.step)
            self.checkpoints.saved(state.rank, message, era, self._roster.world_size, now)
        elif isinstance(message, Goodbye):
            self._roster.farewell(state, message.reason, message.detail)
            if state.failed:
                self._pulse(now)
        elif isinstance(message, Stack):
            self._told += self.inquiry.answered(state.rank, message, now)

    def _hello(self, rank: int, hello: Hello, now: float) -> None:
        reason = "another rank" if hello.rank != rank else self._roster.refusal(hello)
        if reason is not None:
            self._refuse(reason)
            return
        known = self._roster.ranks.get(rank)
        is_new = known is None or known.incarnation != hello.incarnation
        if follows := self._ended is not None and is_new:
            self._begin_anew(hello, now)
        layout = self._columns.layout(hello.series)
        era, front = self._roster.era, self._roster.front
        reborn = self._roster.greet(hello, layout, now)
        if self._roster.era > era and not follows:
            self._judging.acknowledge()  # what the new processes do wrong is to be acted on anew
            self._told += self._incidents.restarted(hello.step, front, now)
        self._columns.axes[RANK_AXIS].add(str(rank))
        self._has_announced()
        if reborn:
            self._judging.rank_went_back((str(rank),))

    def _begin_anew(self, hello: Hello, now: float) -> None:
        """Another job has the name: alerts of the first are over, its incident is mostly too."""
        goes_on = now - (self._ended or 0.0) <= RETURN and not self._roster.ended_well
        self._ended, front = None, self._roster.front
        self._roster.dismiss()
        self._recency.forget()
        self._comparisons.forget()
        self._judging.interrupt()
        self._resolved += self._judging.drop()
        self._settle(now)
        after = self._incidents
        self._told += after.restarted(hello.step, front, now) if goes_on else after.close(now)

    def _frame(self, state: RankState, frame: Frame, now: float) -> None:
        """Take in a frame: 1. is it the next one, and whole? 2. judge what cannot wait.
        3. let it wait for the others, if its step is over for this rank and still open."""
        if frame.sequence <= state.sequence:
            return self._refuse("old sequence")
        if state.sequence >= 0:
            self.gaps += frame.sequence - state.sequence - 1
        state.sequence = frame.sequence
        layout = self._columns.layout_of(frame, state.layout)
        if layout is None:
            return self._refuse("wrong length")
        self.frames += 1
        if frame.partial:
            self._roster.reach(state, frame.step)
        else:
            if self._roster.advance(state, frame.step):
                self._judging.rank_went_back(state.key)
                state.coverage.begin_anew()
            state.coverage.saw(layout, frame, now)
        for finding in reversed(frame.findings):  # of several, the first is kept
            self._witness.remember(state.rank, frame.step, finding)
        row = layout.row(frame, wanted := self._judging.wanted)
        if changes := self._judging.frame(row, state.key, frame.step, now, partial=frame.partial):
            self._collect(changes, now)
        if frame.partial:
            return None
        place = state.place
        if place <= self._judged:
            return self._refuse("late")
        if state.late:
            self._roster.caught_up(state)
        if self._open or not self._roster.waits_for_none:
            return self._wait(place, state.slot, layout, frame, now)
        return self._judge_step(place, {state.slot: (layout, frame)}, now, (wanted, row))

    def _wait(self, place: Place, slot: int, layout: Layout, frame: Frame, now: float) -> None:
        """Let a frame wait for those of other ranks."""
        self._open.setdefault(place, OpenStep(now)).add(slot, layout, frame)
        self._open_bytes += len(frame.values)
        while len(self._open) > MAX_OPEN or self._open_bytes > MAX_OPEN_BYTES:
            self.overrun += 1
            self._roster.write_off(min(self._open))
            self._judge_complete(now)

    def _extend(self, state: RankState, extension: Extension) -> None:
        """The rank has found more to measure."""
        series = (*state.layout.series, *extension.series)
        if len(series) > MAX_SERIES or len(set(series)) != len(series):
            return self._refuse("series announced twice, or too many")
        state.layout = self._columns.layout(series)
        self._has_announced()
        return None

    def _has_announced(self) -> None:
        """A rank has said what it measures."""
        self._announced = None
        self._tells_skips = self._columns.find(_SKIPPED) is not None
        self._judging.announced(self._columns)

    def _judge_complete(self, now: float) -> None:
        """Judge the open steps that nobody is waited for, in their order."""
        while self._open and not self._roster.behind(place := min(self._open)):
            self._judge(place, now)

    def _judge(self, place: Place, now: float) -> None:
        """Judge an open step with the frames that it has."""
        self._open_bytes -= (opened := self._open.pop(place)).size
        self._judge_step(place, opened.frames, now, None)

    def _judge_step(self, place: Place, frames: Frames, now: float, told: Told | None) -> None:
        """Judge a step. `told` is what is wanted of the frame of a rank that is alone."""
        if self._announced is None:
            self._announced = self._roster.announced(len(self._columns))
        absent = 0 if told is not None else self._roster.absent
        last = JudgedStep(self._columns, frames, self._announced, absent, told)
        self.recent.judged(last, step := place[1])
        self._recency.judged(last, now)
        if self._tells_skips and (last.number(_SKIPPED) or 0.0) > 0:
            self.skipped += 1
        if step < self.step and self._judged != BEFORE_ALL:
            self._judging.went_back(step)
            if place[0] != self._roster.launched:  # else a restart tells of it
                self._told += self._incidents.went_back(step - 1, self.step, now)
        self.step, self._judged, self.judged_at = step, place, now
        self._comparisons.learn(last, step)
        if self._hardware.judged(last, now):
            self._told += self._incidents.hardware_told(now)
        if changes := self._judging.step(last, self._columns.axes, step, now):
            self._collect(changes, now)
        self.checkpoints.judged(place[0], step, self._verdict)
        self._settle(now)
        self._told += self._incidents.step_judged(now)

    def _verdict(self) -> Verdict:
        """What the last step says of the checkpoints before it."""
        return verdict(self.step, self.latest, self._judging.alerts.values())

    def _pulse(self, now: float) -> None:
        """Judge what the clock brings."""
        of_run = {**self.checkpoints.signals(), **hang.signals(self._roster, now, self._awake)}
        pulse = self.pulse = Pulse(self._roster, of_run, self._recency, now, self._awake)
        step = self._roster.front
        self._collect(self._judging.pulse(pulse, self._columns.axes, step, now), now)

    def _collect(self, changes: Iterable[Change], now: float) -> None:
        for change in changes:
            if change.kind == "fired":
                self._fired.append(self._witness.describe(change, now))
            else:
                self._resolved.append((change.rule.name, change.key))

    def _settle(self, now: float) -> None:
        """Turn what has changed since the last time into transitions."""
        if self._fired or self._resolved:
            self._told += self._incidents.take(self._fired, self._resolved, now)
            self._fired, self._resolved = [], []

    def _tell(self, now: float) -> list[Transition]:
        self._settle(now)
        told, self._told = self._told, []
        self.inquiry.note(told)
        return told
