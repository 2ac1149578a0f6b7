"""What a run costs while it is held, how the hold ends by itself, and what may end the job first.

One wording for messages and for the command line.
"""

from __future__ import annotations

from msgspec import Struct

from sentinel.clock import isoformat
from sentinel.duration import in_words

_THEN = {"resume": "all ranks go on", "stop": "the run is stopped"}
_SECOND = {"resume": "go on", "stop": "be stopped"}


class HoldTerms(Struct, frozen=True):
    """On what terms a run is held.

    `unattended` is what happens after `hold_for` seconds without an answer: "resume", "stop" or
    "hold" (nothing does). `ranks` stand still, each a `unit` ("GPU", or "rank" on a CPU).
    `deadline` is when the scheduler ends the job, in seconds since 1970, `group_timeout` the
    shortest of any process group in seconds; 0 where it is not known.
    """

    unattended: str = "resume"
    hold_for: float = 7200.0
    ranks: int = 1
    unit: str = "rank"
    deadline: float = 0.0
    group_timeout: float = 0.0

    def ends(self, since: float) -> float | None:
        """When `unattended` happens to a run held `since` then; None: never."""
        return since + self.hold_for if self.unattended in _THEN else None

    def cost(self, since: float, now: float) -> float:
        """Hours of all that stand still, so far."""
        return self.ranks * max(0.0, now - since) / 3600.0

    def warning(self, since: float) -> str:
        """What is to be known at once: the job's end comes before the hold's. Else nothing."""
        ends = self.ends(since)
        if not self.deadline or (ends is not None and ends < self.deadline):
            return ""
        when = isoformat(self.deadline)
        if ends is None:
            return (
                f"This hold has no end of its own, but the scheduler ends the job at {when}: "
                "answer before that."
            )
        early = in_words(ends - self.deadline)
        return (
            f"The scheduler ends the job at {when}, {early} before it would "
            f"{_SECOND[self.unattended]} by itself: answer before that."
        )

    def facts(self, since: float, now: float) -> tuple[tuple[str, str], ...]:
        """Pairs of a label and a value, for a person."""
        hours = self.cost(since, now)
        several = "s" if self.ranks != 1 else ""
        known = [
            ("Held since", f"{isoformat(since)}, for {in_words(max(0.0, now - since))}"),
            ("Cost so far", f"{hours:.2f} {self.unit}-hours ({self.ranks} {self.unit}{several})"),
            ("If nobody answers", self._end(since, now)),
        ]
        if self.deadline:
            when = f"{isoformat(self.deadline)}{_until(self.deadline, now)}"
            known.append(("Job ends", f"by its scheduler at {when}"))
        if self.group_timeout:
            known.append(
                (
                    "Group timeouts",
                    f"{in_words(self.group_timeout)}; no harm: nobody is inside a collective "
                    "while held, so none runs",
                )
            )
        return tuple(known)

    def _end(self, since: float, now: float) -> str:
        ends = self.ends(since)
        if ends is None:
            return "it stays held"
        return f"{_THEN[self.unattended]} at {isoformat(ends)}{_until(ends, now)}"


def _until(moment: float, now: float) -> str:
    return f", in {in_words(moment - now)}" if moment > now else ""
