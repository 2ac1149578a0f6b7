"""What has happened in a drill and when, and the report that is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypedDict, get_args

from sentinel import clock

Event = Literal[
    "fault",
    "noticed",
    "message",
    "hold asked for",
    "daemon killed",
    "daemon back",
    "held",
    "resumed",
    "killed",
    "ended",
]
ALWAYS: tuple[Event, ...] = ("fault", "noticed", "message", "held", "resumed", "ended")


class MomentJSON(TypedDict):
    """One line of the report; `after_fault_s` is null where the fault never came."""

    event: str
    after_fault_s: float | None
    step: int | None
    detail: str


class CheckJSON(TypedDict):
    """Something that had to happen, and whether it did."""

    what: str
    ok: bool


class ReportJSON(TypedDict):
    """What `sentinel drill NAME --json` prints. `took_s`: the whole drill, in seconds."""

    drill: str
    ok: bool
    state: str
    took_s: float
    moments: list[MomentJSON]
    checks: list[CheckJSON]


@dataclass(frozen=True)
class Moment:
    """When an event came (s since the drill began), at which step, and what is to be said of it."""

    at: float
    step: int | None
    detail: str


@dataclass(frozen=True)
class Check:
    """Something that had to happen, and whether it did."""

    what: str
    ok: bool


@dataclass
class Chronicle:
    """What has happened, each event the first time that it did, and what was checked.

    `now` is the time in seconds.
    """

    now: Callable[[], float] = clock.monotonic
    moments: dict[Event, Moment] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begun = self.now()

    def note(self, event: Event, detail: str = "", step: int | None = None) -> None:
        """This has happened now."""
        self.moments.setdefault(event, Moment(self.now() - self._begun, step, detail))

    def check(self, what: str, ok: bool) -> None:
        """This had to be so."""
        self.checks.append(Check(what, ok))

    @property
    def ok(self) -> bool:
        """Whether all went as it should."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def after_fault(self, event: Event) -> float | None:
        """Seconds from the fault to an event; None when one of them never came."""
        fault, moment = self.moments.get("fault"), self.moments.get(event)
        return None if fault is None or moment is None else moment.at - fault.at

    def table(self) -> list[str]:
        """The events in the order in which they came, then those that never did, aligned."""
        came = sorted(self.moments, key=lambda event: self.moments[event].at)
        never = [event for event in ALWAYS if event not in self.moments]
        width = max(map(len, get_args(Event)))
        lines = [f"{'':{width}}  after the fault"]
        for event in [*came, *never]:
            seconds = self.after_fault(event)
            shown = "-" if seconds is None else f"{seconds:.1f} s"
            lines.append(f"{event:{width}}  {shown:>15}  {self._where(event)}".rstrip())
        return lines

    def _where(self, event: Event) -> str:
        moment = self.moments.get(event)
        if moment is None:
            return "never"
        step = "" if moment.step is None else f"step {moment.step}"
        return ", ".join(part for part in (step, moment.detail) if part)

    def report(self, drill: str, state: str) -> ReportJSON:
        """The same for programs."""
        return ReportJSON(
            drill=drill,
            ok=self.ok,
            state=state,
            took_s=round(self.now() - self._begun, 2),
            moments=[
                MomentJSON(
                    event=event,
                    after_fault_s=None
                    if (after := self.after_fault(event)) is None
                    else round(after, 2),
                    step=moment.step,
                    detail=moment.detail,
                )
                for event, moment in sorted(self.moments.items(), key=lambda item: item[1].at)
            ],
            checks=[CheckJSON(what=check.what, ok=check.ok) for check in self.checks],
        )
