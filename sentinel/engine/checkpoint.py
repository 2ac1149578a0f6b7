"""The checkpoints of one run, and which of them are good to go back to.

Every rank says when it has written its part. A checkpoint is *healthy* once all parts are there,
were written from finite weights, and enough clean steps have followed (see clean.py). Trouble
before that taints it for good. When the run goes back to an earlier step, by a rollback or a
restart, checkpoints of later steps belong to a course that was given up: they are *abandoned*.
`last_good` is the newest healthy one that is still in its folder.

What is said does not depend on the order in which the ranks' words arrive: each rank tells of its
saves in their order, and a save is the same one for two ranks when folder, tag and step are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sentinel.engine.clean import Verdict
from sentinel.engine.coverage import ranges
from sentinel.engine.rotation import Rotation
from sentinel.wire import Checkpoint as Saved

State = Literal["incomplete", "unproven", "healthy", "tainted", "abandoned", "unseen", "gone"]

CLEAN_STEPS = 50  # that have to follow, unless said otherwise
MOST = 2048  # checkpoints of a run that are known at a time
_OPEN = 8  # saves under one tag that wait for ranks
_FULL = 1024  # tags, as many as a message may list: there may be more
_LAG = 2  # steps by which what is judged may be behind what was saved, and to spare
_BEFORE = -1  # the era of what an earlier daemon saw

Key = tuple[str, str]  # folder, tag


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as it is known; what is on the record.

    `step` is the last optimizer step in it, `saved_at` when its first part was reported, on the
    daemon's clock, `seconds` what saving took the slowest rank. None: nobody saw it being saved.
    `clean_steps` have followed, up to those needed. `lacking` are ranks that have not said that
    their part is written; `taint` says what is wrong with it, `abandoned` which earlier step the
    run went back to; `gone`: it is not in its folder any more.
    """

    folder: str
    tag: str
    step: int | None
    saved_at: float | None
    seconds: float
    state: State
    why: str
    clean_steps: int = 0
    lacking: tuple[int, ...] = ()
    taint: str = ""
    abandoned: int | None = None
    gone: bool = False


def newest_healthy(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The one to go back to: of healthy ones the latest step, and of those the one saved last."""
    healthy = [one for one in checkpoints if one.state == "healthy"]
    return max(reversed(healthy), key=lambda one: one.step or 0, default=None)


@dataclass(eq=False)
class _Save:
    """One save under a tag."""

    folder: str
    tag: str
    step: int | None
    saved_at: float | None
    era: int
    lacking: set[int] = field(default_factory=set)
    seconds: float = 0.0
    clean: int = 0
    bad: tuple[int, str] | None = None  # the first rank with weights that were not finite
    trouble: str = ""
    abandoned: int | None = None
    gone: bool = False
    revision: int = 0

    @property
    def taint(self) -> str:
        if self.bad is None:
            return self.trouble
        return f"weights that were not finite were saved: {self.bad[1]} on rank {self.bad[0]}"

    @property
    def is_open(self) -> bool:
        """Whether it may become healthy, or is."""
        out = self.gone or self.step is None or self.abandoned is not None
        return not (out or self.bad or self.trouble)

    def state(self, needed: int) -> State:
        """How it stands; what rules it out comes first."""
        if self.gone:
            return "gone"
        if self.bad or self.trouble:
            return "tainted"
        if self.abandoned is not None:
            return "abandoned"
        if self.step is None:
            return "unseen"
        if self.lacking:
            return "incomplete"
        return "healthy" if self.clean >= needed else "unproven"

    def _why(self, state: State, needed: int) -> str:
        many = "s" * (len(self.lacking) > 1)
        lacking = ranges(self.lacking)
        reasons: dict[State, str] = {
            "gone": "it is not in its folder any more",
            "tainted": self.taint,
            "abandoned": f"the run went back to step {self.abandoned}",
            "unseen": "nobody saw it being saved",
            "incomplete": f"not yet told that rank{many} {lacking} wrote a part",
            "unproven": f"{self.clean} of {needed} clean steps after it",
            "healthy": f"{needed} clean steps after it",
        }
        return reasons[state]

    def shown(self, needed: int) -> Checkpoint:
        """As others see it."""
        state = self.state(needed)
        return Checkpoint(
            self.folder,
            self.tag,
            self.step,
            self.saved_at,
            self.seconds,
            state,
            self._why(state, needed),
            self.clean,
            tuple(sorted(self.lacking)),
            self.taint,
            self.abandoned,
            self.gone,
        )


class Checkpoints:
    """All checkpoints of one run. `needed` clean steps make one healthy."""

    def __init__(self, needed: int = CLEAN_STEPS) -> None:
        self.needed = needed
        self.revision = 0  # counts changes
        self.completed = 0  # counts saves of which all ranks have told
        self._saves: dict[Key, list[_Save]] = {}  # in the order of saving; under a tag, too
        self._rotations: dict[str, Rotation] = {}
        self._era, self._judged = _BEFORE, 0

    # What happens.

    def saved(self, rank: int, message: Saved, era: int, world_size: int, now: float) -> None:
        """A rank has done its part of a save, in this era of the run (see roster.py)."""
        key = (message.folder, message.tag)
        save = self._part_of(key, rank, message, era, world_size, now)
        save.lacking.discard(rank)
        self.completed += not save.lacking
        if math.isfinite(message.seconds):
            save.seconds = max(save.seconds, message.seconds)
        if message.bad_weights and (save.bad is None or rank < save.bad[0]):
            save.bad = (rank, message.bad_weights)
        self._touch(save)
        if rank == 0:
            rotation = self._rotations.setdefault(message.folder, Rotation())
            rotation.saved(message.step)
            if 0 < len(message.present) < _FULL:
                self._listed(message.folder, rotation, message.present)
        self._forget()

    def _part_of(
        self, key: Key, rank: int, message: Saved, era: int, world_size: int, now: float
    ) -> _Save:
        """The save that this rank speaks of: the next after the one that it spoke of last."""
        saves = self._saves.get(key, [])
        heard = [at for at, save in enumerate(saves) if rank not in save.lacking]
        for save in saves[heard[-1] + 1 if heard else 0 :]:
            if save.step == message.step and (save.era >= era or save.era == _BEFORE):
                return save
        lacking = set(range(max(world_size, rank + 1)))
        saves.append(_Save(*key, message.step, now, era, lacking))
        self._saves.pop(key, None)
        self._saves[key] = saves[-_OPEN:]
        return saves[-1]

    def _listed(self, folder: str, rotation: Rotation, present: tuple[str, ...]) -> None:
        """Rank 0 says what is in a folder; what it has not told of yet may be missing there."""
        # Other folders come and go there too: what a script keeps is judged by what it has saved.
        stand = {
            tag: self._saves[folder, tag][-1] for tag in present if (folder, tag) in self._saves
        }
        rotation.listed([tag for tag, save in stand.items() if save.step is not None])
        there = set(present)
        for save in self._newest():
            gone = save.tag not in there
            if save.folder == folder and 0 not in save.lacking and gone != save.gone:
                save.gone = gone
                self._touch(save)
        for tag in present:
            if (folder, tag) not in self._saves:
                unseen = _Save(folder, tag, None, None, _BEFORE)
                self._saves[folder, tag] = [unseen]
                self._touch(unseen)

    def judged(self, era: int, step: int, verdict: Callable[[], Verdict]) -> None:
        """A step was judged, in this era; of what it was is asked only if a save waits for it."""
        if era > self._era:
            self._go_back(era, step)
        self._era, self._judged = era, step
        if not self._saves:
            return
        said: Verdict | None = None
        for save in self._newest():
            if not save.is_open or save.clean >= self.needed:
                continue
            if save.era > era or step <= (save.step or 0):
                continue
            said = said or verdict()
            if said.trouble:
                save.trouble = said.trouble
            elif said.clean:
                save.clean += 1
            self._touch(save)

    def _go_back(self, era: int, step: int) -> None:
        """A new era begins with this step: what was saved of it or later before is abandoned."""
        for save in self._newest():
            if save.era >= era or save.step is None or save.abandoned is not None:
                continue
            # An earlier daemon may have been told of a save before it had judged the step.
            if save.step >= step + (_LAG + 1) * (save.era == _BEFORE):
                save.abandoned = step - 1
                self._touch(save)
            elif save.clean < self.needed and step <= self._judged:
                save.clean = 0  # the steps that are done again may go another way
                self._touch(save)
            save.era = max(save.era, 0)

    def adopt(self, known: Iterable[Checkpoint], step: int) -> None:
        """Go on with what an earlier daemon has recorded of this run, up to this step."""
        self._judged = step
        for one in sorted(known, key=lambda one: one.saved_at or 0.0):
            save = _Save(
                one.folder,
                one.tag,
                one.step,
                one.saved_at,
                _BEFORE,
                set(one.lacking),
                one.seconds,
                one.clean_steps,
                None,
                one.taint,
                one.abandoned,
                one.gone,
            )
            self._saves[one.folder, one.tag] = [save]
            rotation = self._rotations.setdefault(one.folder, Rotation())
            if one.step is not None:
                rotation.saved(one.step)
        for folder, rotation in self._rotations.items():
            there = [s for s in self._newest() if s.folder == folder and s.step is not None]
            rotation.present = tuple(save.tag for save in there if not save.gone)
            rotation.kept = len(rotation.present) if any(save.gone for save in there) else None
        self._forget()

    # How they stand.

    def all(self) -> list[Checkpoint]:
        """All that are known, in the order in which they were saved."""
        return [save.shown(self.needed) for save in self._newest()]

    def since(self, revision: int) -> list[Checkpoint]:
        """Those that have changed since `revision` was this."""
        return [s.shown(self.needed) for s in self._newest() if s.revision > revision]

    @property
    def last_good(self) -> Checkpoint | None:
        """The newest healthy one that is still there."""
        good = self._last_good()
        return good.shown(self.needed) if good else None

    def signals(self) -> Mapping[str, float | None]:
        """What rules may ask of them; None: nothing is known of it."""
        return {
            "last_good_at_risk": self._at_risk(),
            "last_good_gone": float(self._lost() is not None),
        }

    def detail(self, signal: str) -> str:
        """Which checkpoint a signal speaks of."""
        good, lost = self._last_good(), self._lost()
        if signal == "last_good_at_risk" and good is not None:
            return f"{good.tag} (step {good.step})"
        if signal == "last_good_gone" and lost is not None:
            return f"{lost.tag} (step {lost.step})"
        return ""

    def _last_good(self) -> _Save | None:
        healthy = [save for save in self._newest() if save.state(self.needed) == "healthy"]
        return max(reversed(healthy), key=lambda save: save.step or 0, default=None)

    def _at_risk(self) -> float | None:
        """1 when the next save will remove the last good one, and none will have followed it."""
        good = self._last_good()
        rotation = self._rotations.get(good.folder) if good else None
        if good is None or rotation is None or rotation.kept is None:
            return None
        doomed = rotation.doomed()
        if good.tag not in doomed:
            return 0.0
        following = [
            save
            for save in self._newest()
            if save.is_open
            and not save.lacking
            and (save.step or 0) > (good.step or 0)
            and not (save.folder == good.folder and save.tag in doomed)
        ]
        if rotation.pace is None or rotation.last_step is None:
            return float(not following)
        next_save = rotation.last_step + rotation.pace
        return float(all(self._proven_at(save) > next_save + _LAG for save in following))

    def _proven_at(self, save: _Save) -> int:
        """The step at which it is healthy, if all are clean until then."""
        return max(self._judged, save.step or 0) + self.needed - save.clean

    def _lost(self) -> _Save | None:
        """What was healthy, or on its way to be, and was removed when nothing could replace it."""
        if self._last_good() is not None:
            return None
        soon = [s for s in self._newest() if s.is_open and self.needed - s.clean <= _LAG]
        lost = [
            save
            for save in self._newest()
            if save.gone and save.step is not None and save.abandoned is None
            if not (save.bad or save.trouble or save.lacking)
        ]
        return None if soon else max(reversed(lost), key=lambda save: save.step or 0, default=None)

    def _newest(self) -> Iterator[_Save]:
        """What stands under each tag."""
        return (saves[-1] for saves in self._saves.values())

    def _touch(self, save: _Save) -> None:
        self.revision += 1
        save.revision = self.revision

    def _forget(self) -> None:
        """When there are too many, the oldest go: those first that are gone anyway."""
        excess = len(self._saves) - MOST
        if excess > 0:
            keys = sorted(self._saves, key=lambda key: not self._saves[key][-1].gone)
            for key in keys[:excess]:
                del self._saves[key]
