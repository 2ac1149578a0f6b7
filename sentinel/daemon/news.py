"""What the daemon tells those who look on, such as the terminal of `sentinel run`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sentinel.control.hold import Record
from sentinel.engine.transition import Transition
from sentinel.store.shapes import RunState


@dataclass(frozen=True)
class ActionNews:
    """An action on a run was asked for, or something became of it."""

    run: str
    record: Record


@dataclass(frozen=True)
class StateNews:
    """A run came to another state; `before` is None when it has just begun."""

    run: str
    before: RunState | None
    after: RunState
    step: int


@dataclass(frozen=True)
class AcknowledgedNews:
    """Somebody looks after an incident from now on."""

    run: str
    incident: str
    severity: str
    by: str


News = Transition | ActionNews | StateNews | AcknowledgedNews
Listener = Callable[[News], None]
