"""What can be done to a trainer before it goes on.

A trainer object's own methods come first: `save_checkpoint(tag)`, `load_checkpoint(tag)`,
`rewind_data(tag)`, `skip_batches(count)`, `scale_lr(factor)`. What it has none for is done by us,
where that is possible.
"""

from __future__ import annotations

from collections.abc import Callable

from sentinel.errors import ControlError
from sentinel.wire import Remedies
from sentinel_hooks.adapters.checkpoints import Checkpoints, bad_tag
from sentinel_hooks.adapters.rate_scale import RateScale
from sentinel_hooks.loaders import Loaders

_METHODS = ("scale_lr", "skip_batches", "save_checkpoint", "load_checkpoint", "rewind_data")

Deed = Callable[[Remedies], None]


class Treatment:
    """All that can be done to one trainer. Every rank is asked for the same, at the same step.

    `first_bad_weight` names the first parameter that is not finite, `step` is the last one done.
    `checkpoints` are those of an engine, if it has any.
    """

    def __init__(
        self,
        rate: RateScale,
        loaders: Loaders,
        *,
        step: Callable[[], int],
        first_bad_weight: Callable[[], str],
        trainer: object = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._rate = rate
        self._loaders = loaders
        self._step = step
        self._first_bad_weight = first_bad_weight
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._torn = ""  # why the weights are not those of one checkpoint on all ranks
        own = {name for name in _METHODS if callable(getattr(trainer, name, None))}
        self._own = own
        offered = own | {"scale_lr", "skip_batches"}
        if checkpoints is not None and checkpoints.saves:
            offered.add("save_checkpoint")
        if checkpoints is not None and checkpoints.loads:
            offered.add("load_checkpoint")
        if "load_checkpoint" in offered:
            offered.add("rewind_data")
        self.offers = tuple(name for name in _METHODS if name in offered)

    # What stands against it.

    def refuses(self, remedies: Remedies) -> str:
        """Why this rank cannot do them now, or nothing. Changes nothing."""
        for name in remedies.names():
            if name not in self.offers:
                return f"this trainer does not offer {name}"
        if self._torn and not remedies.rollback:
            return f"{self._torn}: only a rollback brings all ranks to the same weights again"
        checks = {
            "save_checkpoint": self._cannot_save,
            "load_checkpoint": self._cannot_load,
            "rewind_data": self._cannot_rewind,
            "skip_batches": self._cannot_skip,
        }
        asked = [checks[name] for name in remedies.names() if name in checks]
        return next((why for check in asked if (why := check(remedies))), "")

    def _cannot_save(self, remedies: Remedies) -> str:
        if "save_checkpoint" in self._own or self._checkpoints is None:
            return ""
        return self._checkpoints.cannot_save()

    def _cannot_load(self, remedies: Remedies) -> str:
        tag, checkpoints = remedies.rollback, self._checkpoints
        if (why := bad_tag(tag)) or checkpoints is None:
            return why
        if "load_checkpoint" in self._own:
            return checkpoints.trainer_cannot_load(tag)
        return checkpoints.cannot_load(tag)

    def _cannot_rewind(self, remedies: Remedies) -> str:
        if not remedies.rollback:
            return "data are rewound to a checkpoint only, together with a rollback"
        return "" if "rewind_data" in self._own else self._loaders.cannot_rewind(remedies.rollback)

    def _cannot_skip(self, remedies: Remedies) -> str:
        return "" if "skip_batches" in self._own else self._loaders.cannot_skip()

    # Doing it, and taking it back.

    def apply(self, remedies: Remedies) -> None:
        """Do all of it, or raise `ControlError` and take back what can be."""
        deeds: dict[str, Deed] = {
            "save_checkpoint": self._save,
            "load_checkpoint": self._load,
            "rewind_data": self._rewind,
            "skip_batches": self._skip,
            "scale_lr": self._scale,
        }
        done: list[str] = []
        for name in remedies.names():
            try:
                if name not in self.offers:
                    raise ControlError(f"this trainer does not offer {name}")
                deeds[name](remedies)
            except Exception as error:
                if name == "load_checkpoint":
                    self._torn = f"the rollback to {remedies.rollback!r} has failed"
                self._take_back(done, remedies)
                raise ControlError(f"{_call(name, remedies)} failed: {error}") from error
            done.append(name)

    def undo(self, remedies: Remedies) -> None:
        """Another rank could not do them: take back the rate and what is to be skipped.

        What was loaded stays, and then a plain resume is refused. Raises `ControlError`.
        """
        if remedies.rollback:
            self._torn = f"the rollback to {remedies.rollback!r} has failed on another rank"
        self._take_back(remedies.names(), remedies)

    def _take_back(self, done: list[str], remedies: Remedies) -> None:
        try:
            if "scale_lr" in done:
                self._unscale(remedies.lr_scale)
            if "skip_batches" in done:
                self._unskip(remedies.skip_batches)
        except Exception as error:
            raise ControlError(f"a remedy could not be taken back: {error}") from error

    def _save(self, remedies: Remedies) -> None:
        tag = f"sentinel-step{self._step()}"
        if "save_checkpoint" in self._own:
            self._call_own("save_checkpoint", tag)
        elif self._checkpoints is not None:
            self._checkpoints.save(tag)

    def _load(self, remedies: Remedies) -> None:
        tag = remedies.rollback
        if why := bad_tag(tag):
            raise ControlError(why)
        if "load_checkpoint" in self._own:
            self._call_own("load_checkpoint", tag)
        elif self._checkpoints is not None:
            self._checkpoints.load(tag)
        if bad := self._first_bad_weight():
            raise ControlError(f"its weights are not finite: {bad}")
        self._torn = ""

    def _rewind(self, remedies: Remedies) -> None:
        if "rewind_data" in self._own:
            self._call_own("rewind_data", remedies.rollback)
        else:
            self._loaders.rewind(remedies.rollback)

    def _skip(self, remedies: Remedies) -> None:
        if "skip_batches" in self._own:
            self._call_own("skip_batches", remedies.skip_batches)
        else:
            self._loaders.skip(remedies.skip_batches)

    def _unskip(self, count: int) -> None:
        if "skip_batches" in self._own:
            self._call_own("skip_batches", -count)
        else:
            self._loaders.take_back(count)

    def _scale(self, remedies: Remedies) -> None:
        if "scale_lr" in self._own:
            self._call_own("scale_lr", remedies.lr_scale)
        else:
            self._rate.scale(remedies.lr_scale)

    def _unscale(self, factor: float) -> None:
        if "scale_lr" in self._own:
            self._call_own("scale_lr", 1 / factor)
        else:
            self._rate.undo()

    def _call_own(self, name: str, *amounts: float | str) -> None:
        method: Callable[..., object] = getattr(self._trainer, name)
        method(*amounts)


def _call(name: str, remedies: Remedies) -> str:
    """The remedy as it would be called."""
    amounts = {
        "scale_lr": f"{remedies.lr_scale:g}",
        "skip_batches": f"{remedies.skip_batches}",
        "load_checkpoint": repr(remedies.rollback),
        "rewind_data": repr(remedies.rollback),
    }
    return f"{name}({amounts.get(name, '')})"
