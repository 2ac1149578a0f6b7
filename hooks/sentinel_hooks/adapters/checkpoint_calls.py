"""The calls by which a trainer saves and loads checkpoints: what becomes of each is told.

A trainer's own method usually calls the engine's. The engine's call is the one that is told of
then, since it names the folder; only if there was none, the trainer's is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from sentinel.wire import Checkpoint
from sentinel_hooks.adapters.checkpoints import (
    Checkpoints,
    Saved,
    bad_tag,
    folder_of,
    is_text,
    present,
)
from sentinel_hooks.adapters.interception import Guard, Interception
from sentinel_hooks.adapters.rate_scale import Rates, RateScale
from sentinel_hooks.loaders import Loaders

_SAVE = ("save_dir", "tag", "client_state", "save_latest", "exclude_frozen_parameters")
_LOAD = (
    *("load_dir", "tag", "load_module_strict"),
    *("load_optimizer_states", "load_lr_scheduler_states", "load_module_only"),
)
_MAX_FOLDER = 4096


@dataclass
class _Call:
    """A call that is under way."""

    saves: bool
    options: Mapping[str, object]  # its arguments, by name
    of_engine: bool
    began: float
    rates: Rates | None = None
    inner: str | None = None  # the tag in the engine's call that this one of the trainer's made

    def is_like(self, other: _Call) -> bool:
        """Whether it is of the same method."""
        return (self.saves, self.of_engine) == (other.saves, other.of_engine)

    def changes_rates(self, result: object) -> bool:
        """Whether a load that gave this has brought the optimizer's rates with it."""
        found = not self.of_engine or _path(result) is not None
        options = self.options
        whole = options.get("load_optimizer_states", True) and not options.get("load_module_only")
        return found and bool(whole)


@dataclass(frozen=True)
class Surroundings:
    """What the calls are told to, and asked of.

    `step` is the last one done, `bad_weight` the first parameter that is not finite; `began` and
    `ended` are told of a save or load with all that it calls, the latter with the seconds of a save
    (None of a load); `moved` that the trainer is somewhere else now.
    """

    rate: RateScale
    loaders: Loaders
    step: Callable[[], int]
    bad_weight: Callable[[], str]
    began: Callable[[], None]
    ended: Callable[[float | None], None]
    moved: Callable[[], None]
    is_first: bool  # of all ranks


class CheckpointCalls:
    """Stands around them, from `watch` to `remove`."""

    def __init__(self, checkpoints: Checkpoints, around: Surroundings, guard: Guard) -> None:
        self._checkpoints = checkpoints
        self._around = around
        self._guard = guard
        self._open: list[_Call] = []
        self._interceptions: list[Interception] = []
        self._on_saved: Callable[[Checkpoint], None] = lambda _: None
        self._failed: Callable[[BaseException], None] = lambda _: None

    def watch(
        self,
        engine: object,
        trainer: object,
        on_saved: Callable[[Checkpoint], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Begin. `failed` gets what a call raises."""
        self._on_saved, self._failed = on_saved, failed
        for target in (engine, trainer):
            for name in ("save_checkpoint", "load_checkpoint"):
                if hasattr(target, "__dict__") and callable(getattr(target, name, None)):
                    self._stand_around(target, name, of_engine=target is engine)

    def _stand_around(self, target: object, name: str, *, of_engine: bool) -> None:
        saves = name == "save_checkpoint"
        names = (_SAVE if saves else _LOAD) if of_engine else ("tag",)

        def before(args: tuple[object, ...], options: Mapping[str, object]) -> None:
            given = {**dict(zip(names, args, strict=False)), **options}
            call = _Call(saves, given, of_engine, perf_counter())
            # No method calls itself: such a one was left by an interrupt, which nobody told of.
            others = [one for one in self._open if not one.is_like(call)]
            self._open = [*others, call]
            self._enter(call)

        self._interceptions.append(
            Interception(target, name, self._guard, before, self._leave, self._break_off)
        )

    def remove(self) -> None:
        """Leave no trace."""
        for one in reversed(self._interceptions):
            one.remove()
        self._interceptions = []
        self._open = []

    def _enter(self, call: _Call) -> None:
        if len(self._open) == 1:
            self._guard(self._around.began)
        if call.saves:
            call.rates = self._around.rate.note()
        else:
            self._around.rate.relax()  # a load may leave the rates as they are

    def _leave(self, result: object) -> None:
        call = self._open.pop()
        tag = self._tag(call, result)
        if call.inner is None:
            told = (
                partial(self._saved, call, tag)
                if call.saves
                else partial(self._loaded, call, tag, call.changes_rates(result))
            )
            self._guard(told)
        elif call.inner != tag:
            self._checkpoints.renamed()
        for outer in self._open:
            if outer.saves == call.saves:
                outer.inner = call.inner or tag
        if not self._open:
            self._around.ended(perf_counter() - call.began if call.saves else None)

    def _break_off(self, error: BaseException) -> None:
        call = self._open.pop()
        self._around.rate.tighten()
        if not self._open:
            self._around.ended(perf_counter() - call.began if call.saves else None)
            self._failed(error)

    def _tag(self, call: _Call, result: object) -> str:
        given = call.options.get("tag")
        if given is not None:
            return str(given)
        if not call.of_engine:
            return ""
        if call.saves:
            return f"global_step{self._around.step()}"  # as DeepSpeed has it
        path = _path(result)
        return "" if path is None else Path(path).parent.name

    def _loaded(self, call: _Call, tag: str, with_rates: bool) -> None:
        if with_rates:
            self._around.rate.loaded(self._checkpoints.rates_of(tag))
        else:
            self._around.rate.tighten()
        self._checkpoints.used(folder_of(call.options.get("load_dir")))
        self._around.moved()

    def _saved(self, call: _Call, tag: str) -> None:
        if bad_tag(tag) or not is_text(tag):
            return
        folder = folder_of(call.options.get("save_dir"))
        seconds = perf_counter() - call.began
        self._checkpoints.saved(tag, Saved(folder, call.rates))
        if call.of_engine:
            self._checkpoints.noted(call.options)
        self._around.loaders.mark(tag)
        self._on_saved(
            Checkpoint(
                self._around.step(),
                tag,
                folder.encode("utf-8", "replace").decode()[:_MAX_FOLDER],
                seconds,
                self._around.bad_weight(),
                present(folder) if self._around.is_first and folder else (),
            )
        )


def _path(result: object) -> str | None:
    """Where DeepSpeed has loaded from; None if it has found nothing."""
    path = result[0] if isinstance(result, tuple) and result else None
    return path if isinstance(path, str) else None
