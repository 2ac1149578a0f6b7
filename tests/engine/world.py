"""A small job whose ranks speak to an engine: for tests to say what each of them measured."""

from __future__ import annotations

import struct
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from sentinel.engine.annotation import template
from sentinel.engine.language.parse import parse
from sentinel.engine.open_incident import OpenIncident, Pending
from sentinel.engine.rule import AT_ONCE, Rule, Span, Unattended
from sentinel.engine.rulefile import load
from sentinel.engine.run import RunEngine
from sentinel.engine.transition import (
    ActionWanted,
    AlertChanged,
    Asked,
    IncidentChanged,
    Severity,
    Transition,
)
from sentinel.wire import VERSION, Finding, Frame, Hello, Series

Measured = Mapping[str, float]  # signal, or "signal/label" -> value


def steps(amount: float) -> Span:
    return Span(amount, "steps")


def seconds(amount: float) -> Span:
    return Span(amount, "seconds")


def rule(
    expr: str,
    name: str = "Rule",
    *,
    holds: Span = AT_ONCE,
    keeps: Span = AT_ONCE,
    severity: Severity = "warning",
    actions: tuple[Asked, ...] = (),
    unattended: Unattended = "resume",
    summary: str = "",
) -> Rule:
    return Rule(
        name,
        "test",
        parse(expr),
        holds,
        keeps,
        severity,
        actions,
        unattended,
        summary=template(summary),
    )


def default_rules() -> list[Rule]:
    return load(Path(__file__).parents[2] / "rules" / "default.yaml")


def series(name: str) -> Series:
    return Series(*name.split("/", 1))


def hello(
    rank: int,
    world_size: int,
    names: Sequence[str],
    *,
    incarnation: str = "a",
    step: int = 0,
    run: str = "run",
) -> Hello:
    return Hello(
        version=VERSION,
        run=run,
        rank=rank,
        world_size=world_size,
        incarnation=f"{rank}{incarnation}",
        host=f"host{rank}",
        pid=1000 + rank,
        device=f"cuda:{rank}",
        trainer="test",
        step=step,
        series=tuple(series(name) for name in names),
    )


def frame(
    step: int,
    sequence: int,
    names: Sequence[str],
    measured: Measured,
    findings: Mapping[str, str] | None = None,
) -> Frame:
    """A frame of the announced series; those that are not in `measured` are missing."""
    missing = sum(1 << at for at, name in enumerate(names) if name not in measured)
    return Frame(
        step=step,
        sequence=sequence,
        time=float(step),
        values=struct.pack(f"<{len(names)}d", *(measured.get(name, 0.0) for name in names)),
        missing=missing.to_bytes((len(names) + 7) // 8, "little") if missing else b"",
        findings=tuple(Finding(signal, module) for signal, module in (findings or {}).items()),
    )


class Job:
    """Ranks that have all said hello, with the same series unless told otherwise."""

    def __init__(
        self,
        rules: Sequence[Rule],
        names: Sequence[str] | Mapping[int, Sequence[str]],
        world_size: int = 2,
        *,
        patience: float = 30.0,
        greet: bool = True,
        clean_steps: int = 50,
    ) -> None:
        self.engine = RunEngine("run", rules, patience=patience, clean_steps=clean_steps)
        self.world_size = world_size
        self.now = 100.0
        self.told: list[Transition] = []
        self._names = {
            rank: list(names[rank] if isinstance(names, Mapping) else names)
            for rank in range(world_size)
        }
        self._sequence = dict.fromkeys(range(world_size), 0)
        if greet:
            for rank in range(world_size):
                self.hello(rank)

    def hello(self, rank: int, incarnation: str = "a", step: int = 0) -> list[Transition]:
        if incarnation != "a":
            self._sequence[rank] = 0
        message = hello(
            rank, self.world_size, self._names[rank], incarnation=incarnation, step=step
        )
        return self._note(self.engine.feed(rank, message, self.now))

    def frame(
        self,
        rank: int,
        step: int,
        measured: Measured,
        findings: Mapping[str, str] | None = None,
    ) -> list[Transition]:
        """One rank reports one step, at the present time."""
        self._sequence[rank] += 1
        message = frame(step, self._sequence[rank], self._names[rank], measured, findings)
        return self._note(self.engine.feed(rank, message, self.now))

    def lose(self, rank: int, count: int = 1) -> None:
        """Frames of this rank that never arrive."""
        self._sequence[rank] += count

    def step(
        self, step: int, measured: Measured, own: Mapping[int, Measured] | None = None
    ) -> list[Transition]:
        """All ranks report a step, a tenth of a second after the one before."""
        self.now += 0.1
        told: list[Transition] = []
        for rank in range(self.world_size):
            told += self.frame(rank, step, {**measured, **(own or {}).get(rank, {})})
        return told

    def tick(self, after: float = 1.0) -> list[Transition]:
        """Time passes and the engine is told, each second or more often."""
        told: list[Transition] = []
        end = self.now + after
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            told += self.engine.tick(self.now)
        return self._note(told)

    def _note(self, told: list[Transition]) -> list[Transition]:
        self.told += told
        return told


def alerts(told: Sequence[Transition]) -> list[AlertChanged]:
    return [one for one in told if isinstance(one, AlertChanged)]


def incidents(told: Sequence[Transition]) -> list[IncidentChanged]:
    return [one for one in told if isinstance(one, IncidentChanged)]


def open_incident(told: Sequence[Transition]) -> OpenIncident:
    """The incident that is open after all this has been told, as a later engine gets it."""
    pending = Pending()
    pending.note(told)
    assert pending.incident is not None
    return pending.incident


def actions(told: Sequence[Transition]) -> list[ActionWanted]:
    return [one for one in told if isinstance(one, ActionWanted)]


def states(told: Sequence[Transition]) -> list[tuple[str, str, int]]:
    """Rule, state and first step of the alerts that changed."""
    return [(one.rule, one.state, one.step) for one in alerts(told)]


def rule_file(path: Path, text: str) -> Path:
    """A file with this text, its common indentation removed."""
    path.write_text(textwrap.dedent(text))
    return path
