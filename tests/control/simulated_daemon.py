"""The daemon of the simulation: the real `RunControl`, and what outlives it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from sentinel.control.hold import Effect, Record, RunControl, Send
from sentinel.control.outcome import Outcome
from sentinel.errors import ControlError
from sentinel.wire import HoldOrder, ResumeOrder, Standing, StopOrder
from tests.control.promises import require

if TYPE_CHECKING:
    from tests.control.simulation import World


Order = HoldOrder | ResumeOrder | StopOrder
LAPSE_AFTER = 30.0  # s, as in `daemon.orders`
OFFERS = frozenset(
    {"scale_lr", "skip_batches", "save_checkpoint", "load_checkpoint", "rewind_data"}
)


class Office:
    """The daemon: `disk` is what outlives it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.control: RunControl | None = None
        self.disk: dict[str, Record] = {}
        self.issued: list[Order] = []  # all that was ever sent
        self._lapse_at: float | None = None
        self._restarted = 0.0
        self.open()

    def open(self) -> None:
        """Start; what an earlier daemon asked for is left to what the ranks tell."""
        self.control = RunControl("job", self.world.size, offers=OFFERS)
        self._restarted = self.world.now
        self._lapse_at = self.world.now + LAPSE_AFTER if self.disk else None

    def kill(self) -> None:
        """As `kill -9` does."""
        self.control = None
        for worker in self.world.workers:
            worker.disconnect()

    def ask(self, action: str, *, dies: bool = False, **options: object) -> bool:
        """Somebody asks for this. `dies`: the daemon does, with it on the record and not sent."""
        control = self.control
        if control is None or not any(worker.online for worker in self.world.workers):
            return False
        try:
            getattr(copy.deepcopy(control), action)(**options)
            effects: list[Effect] = getattr(control, action)(**options)
        except ControlError:
            return False
        self._carry_out(effects, dies=dies)
        return True

    def hear(self, rank: int, message: Outcome | Standing) -> None:
        """A rank has said this."""
        if self.control is None:
            return
        if isinstance(message, Standing):
            self.control.standing(rank, message)
        else:
            self._carry_out(self.control.report(message, self.world.now))

    def tick(self) -> None:
        """As once a second."""
        if self.control is None:
            return
        self._carry_out(self.control.tick(self.world.now))
        settled = self.control.state in ("running", "held")
        if settled and self._lapse_at is not None and self.world.now >= self._lapse_at:
            self._lapse()

    def _lapse(self) -> None:
        self._lapse_at = None
        for id_, record in self.disk.items():
            if record.state == "requested" and record.at <= self._restarted:
                self.disk[id_] = replace(record, state="lapsed")

    def ended(self) -> None:
        """All ranks are gone."""
        if self.control is not None:
            self._carry_out(self.control.ended(self.world.now))
            if self._lapse_at is not None:
                self._lapse()
            states = {id_: record.state for id_, record in self.disk.items()}
            require("requested" not in states.values(), f"never settled on the record: {states}")

    def forget(self) -> None:
        """Another job begins, whose orders are counted anew."""
        self.disk, self.issued = {}, []

    def _carry_out(self, effects: list[Effect], *, dies: bool = False) -> None:
        for effect in effects:
            if isinstance(effect, Record):
                self.disk[effect.id] = effect
        if dies:
            self.kill()
            return
        for effect in effects:
            if isinstance(effect, Send):
                self.issued.append(effect.order)
                for worker in self.world.workers:
                    if worker.online:
                        self.world.packets.append((worker.rank, effect.order))
