"""How many checkpoints a script keeps in a folder, and which it will remove next.

Nothing says so but what is seen: after each save, the tags that are there, oldest first. Once one
was removed with so many left, that many are kept, and with the next save the one goes that stands
where that one stood: the first, or the one after those that are kept for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Rotation:
    """One folder. `kept` is None while nothing was ever removed; `pace` steps lie between saves."""

    present: tuple[str, ...] = ()
    kept: int | None = None
    last_step: int | None = None
    pace: int | None = None
    _place: int = 0  # of what was removed last, among those that were there

    def saved(self, step: int) -> None:
        """A checkpoint of this step was saved in the folder."""
        if self.last_step is not None and step != self.last_step:
            self.pace = step - self.last_step if step > self.last_step else None
        self.last_step = step

    def listed(self, present: Sequence[str]) -> None:
        """These tags are in the folder now, oldest first."""
        left = set(present)
        removed = [at for at, tag in enumerate(self.present) if tag not in left]
        if removed:
            self.kept, self._place = len(present), removed[0]
        elif self.kept is not None and len(present) > self.kept:
            self.kept = None  # it was no rule: more are there now
        self.present = tuple(present)

    def doomed(self) -> tuple[str, ...]:
        """The tags that the next save is likely to remove."""
        if self.kept is None:
            return ()
        excess = len(self.present) + 1 - self.kept
        return self.present[self._place : self._place + excess]
