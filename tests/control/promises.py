"""What a simulated run is held to, and the register that its ranks agree in."""

from __future__ import annotations

from collections.abc import Callable

from sentinel.control.outcome import UNATTENDED, Outcome, decode

LEASE = 10.0  # s
NO_STEPS = 10_000  # steps of a job that does not end by itself


class Broken(AssertionError):  # noqa: N818 - a promise was broken
    """Something was seen that must never be."""


def require(holds: bool, what: str) -> None:
    """Raises `Broken` with what was seen."""
    if not holds:
        raise Broken(what)


class MemoryRegister:
    """A register as the job's store keeps it."""

    def __init__(self) -> None:
        self.value = b""
        self.counts: dict[str, int] = {}
        self.history: list[Outcome] = []
        self.between: Callable[[], None] = lambda: None  # what others do before what follows a read

    def read(self) -> bytes:
        """See `control.outcome.Register`."""
        value = self.value
        self.between()
        return value

    def swap(self, expected: bytes, desired: bytes) -> bool:
        """See `control.outcome.Register`."""
        if self.value != expected:
            return False
        self.write(desired)
        return True

    def write(self, desired: bytes) -> None:
        """Replace the value."""
        self.value = desired
        outcome = decode(desired)
        assert outcome is not None
        self.history.append(outcome)

    def count(self, name: str, add: int) -> int:
        """See `control.outcome.Register`."""
        self.counts[name] = self.counts.get(name, 0) + add
        return self.counts[name]


def fates(history: list[Outcome]) -> dict[str, set[str]]:
    """What must be on the record of a run whose register had these values, by the records' ids."""
    truth: dict[str, set[str]] = {}
    for one in history:
        action = {"hold": "pause", "stop": "stop", "checkpoint": "checkpoint"}[one.then]
        whole = f"{one.asked}/{action}"
        if one.phase == "released":
            truth[whole] = {"lapsed", "failed"}  # failed: asked for once more, and nobody answered
        elif one.then == "checkpoint" and one.phase == "resumed":
            truth[whole] = {"failed" if one.refused else "done"}
        elif one.then == "hold" and one.phase == "held":
            truth[whole] = {"done"}
            if one.attempt:
                truth[f"{one.asked}/resume/{one.attempt}"] = {"failed", "lapsed"}
        elif one.then == "hold" and one.phase == "resumed":
            number = 0 if one.by.startswith(UNATTENDED) else one.attempt
            truth[f"{one.asked}/resume/{number}"] = {"done"}
        elif one.phase == "stopped":
            truth[f"{one.asked}/stop"] = {"done"}
    return truth
