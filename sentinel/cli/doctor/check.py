"""Checks of a set-up: what one is, which there are, and how they are all made at once.

A check is a function that looks at one thing and says what it found. It may hang: it runs in a
thread that is left behind when its time is over.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sentinel import clock
from sentinel.errors import SentinelError

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What a check has found. `advice` is what to do about it: one sentence, empty where it is
    well."""

    level: Level
    text: str
    advice: str = ""


def ok(text: str) -> Finding:
    """All is well, or there is nothing to be looked at."""
    return Finding("ok", text)


def note(text: str, advice: str) -> Finding:
    """It works, but not as well as it could, or it could not be told."""
    return Finding("note", text, advice)


def problem(text: str, advice: str) -> Finding:
    """Something will not work."""
    return Finding("problem", text, advice)


@dataclass(frozen=True)
class Setup:
    """What is to be checked. `within`: seconds that a server may take to answer."""

    state: Path
    notify: Path | None = None
    http: str = "127.0.0.1:9475"
    prometheus: str = ""
    grafana: str = ""
    within: float = 10.0


Look = Callable[[Setup], Iterable[Finding]]


@dataclass(frozen=True)
class Check:
    """One thing to look at. `patience`: so many times as long as a server it may take."""

    group: str
    name: str
    look: Look
    patience: float


REGISTRY: list[Check] = []


def check(group: str, name: str, *, patience: float = 1.5) -> Callable[[Look], Look]:
    """Adds the function below to the checks."""

    def add(look: Look) -> Look:
        REGISTRY.append(Check(group, name, look, patience))
        return look

    return add


def make(
    checks: Sequence[Check], setup: Setup, done: Callable[[int], None] = lambda _: None
) -> list[tuple[Check, Finding]]:
    """Make all these checks at once; what each has found, in the order given.

    None takes longer than its patience. `done` is told, now and then, how many are done.
    """
    answers: queue.SimpleQueue[tuple[int, list[Finding]]] = queue.SimpleQueue()
    for number, one in enumerate(checks):
        arguments = (number, one, setup, answers)
        threading.Thread(target=_look, args=arguments, name=one.name, daemon=True).start()
    begun = clock.monotonic()
    found: dict[int, list[Finding]] = {}
    while len(found) < len(checks):
        done(len(found))
        waited = clock.monotonic() - begun
        for number, one in enumerate(checks):
            if number not in found and waited > one.patience * setup.within:
                found[number] = [_overdue(one, waited)]
        try:
            number, answer = answers.get(timeout=0.05)
        except queue.Empty:
            continue
        found.setdefault(number, answer)
    return [(one, each) for number, one in enumerate(checks) for each in found[number]]


def _overdue(one: Check, waited: float) -> Finding:
    return problem(
        f"no answer within {waited:.0f} s",
        f"see what holds up {one.name}, or give it longer with --within SECONDS",
    )


def _look(
    number: int, one: Check, setup: Setup, answers: queue.SimpleQueue[tuple[int, list[Finding]]]
) -> None:
    answer = [problem("the check itself failed", "please report this, with what stderr says")]
    try:
        answer = [*one.look(setup)]
    except (SentinelError, OSError) as error:
        answer = [problem(str(error), "put this right, and ask again")]
    finally:  # after any other error too: it goes to stderr, and nobody waits for this check
        answers.put((number, answer))
