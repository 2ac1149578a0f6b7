"""A made-up run that trains, saves and goes back, and what is known of its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sentinel import wire
from sentinel.engine.checkpoint import Checkpoints
from sentinel.engine.clean import Verdict

CLEAN, NEUTRAL = Verdict(True), Verdict(False)
NEEDED = 3


def said(
    step: int,
    tag: str | None = None,
    *,
    bad: str = "",
    present: Sequence[str] = (),
    folder: str = "/ckpt",
) -> wire.Checkpoint:
    return wire.Checkpoint(step, tag or f"step{step}", folder, 1.5, bad, tuple(present))


@dataclass
class Life:
    """A run of two ranks whose script keeps `keep` checkpoints (0: all of them)."""

    keep: int = 0
    known: Checkpoints = field(default_factory=lambda: Checkpoints(NEEDED))
    step: int = 0
    era: int = 0
    there: list[str] = field(default_factory=list)

    def train(self, count: int = 1, verdict: Verdict = CLEAN) -> None:
        for _ in range(count):
            self.step += 1
            self.known.judged(self.era, self.step, lambda: verdict)

    def save(self, tag: str | None = None, bad: str = "", ranks: Iterable[int] = (0, 1)) -> None:
        name = tag or f"step{self.step}"
        self.there = [one for one in self.there if one != name] + [name]
        if self.keep:
            self.there = self.there[-self.keep :]
        for rank in ranks:
            self.say(rank, said(self.step, tag, bad=bad, present=() if rank else self.there))

    def save_early(self) -> None:
        """Save the coming step, and tell of it before that step is judged."""
        self.step += 1
        self.save()
        self.step -= 1

    def say(self, rank: int, message: wire.Checkpoint) -> None:
        self.known.saved(rank, message, self.era, 2, 1000.0 + self.step)

    def go_back(self, step: int) -> None:
        self.step, self.era = step, self.era + 1

    def states(self) -> dict[str, str]:
        return {one.tag: one.state for one in self.known.all()}

    def why(self, tag: str) -> str:
        (one,) = [one for one in self.known.all() if one.tag == tag]
        return one.why

    @property
    def good(self) -> str | None:
        last = self.known.last_good
        return last.tag if last else None

    def asks(self, signal: str) -> float | None:
        return self.known.signals()[signal]
