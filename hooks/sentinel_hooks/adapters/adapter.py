"""What an adapter is: all that Sentinel needs to know about one kind of trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sentinel.wire import Checkpoint, Group, Remedies
from sentinel_hooks.collectives.sequence import Sequences
from sentinel_hooks.loaders import Loaders
from sentinel_hooks.probes.panel import Panel

if TYPE_CHECKING:
    import torch


class Adapter(Protocol):
    """Tells the probes what one trainer does, and does to the trainer what a person orders.

    Made by `choose`; measures from `install` to `detach`. Use:

        adapter = choose(trainer, model=model, optimizer=optimizer)   # raises AttachError
        hello = Hello(series=adapter.panel.series, missing=adapter.panel.missing, ...)
        adapter.install(on_boundary, on_phase)

        def on_boundary(step):                       # in the trainer's stack, after each step
            for sample in adapter.panel.settled():   # on the CPU: exactly this step's
                emit(Frame(sample.step, ..., sample.value_bytes(), sample.missing_bytes(),
                           tuple(sample.findings)))
            for coverage in adapter.panel.changes():
                emit(coverage)
            ...                                      # hold, as long as it takes
    """

    trainer: str  # "deepspeed" or "plain"
    model: torch.nn.Module
    device: torch.device
    panel: Panel
    sequences: Sequences  # how far this rank has come in the collectives of its process groups
    guarded: bool  # no step is applied whose gradients are not finite on every rank
    loaders: Loaders  # that go through `watch.batches`
    offers: tuple[str, ...]  # the remedies that it can carry out, by `Remedies.names`

    def groups(self) -> tuple[Group, ...]:
        """Which ranks the parameters that the series are about are spread over."""
        ...

    def step(self) -> int:
        """The last optimizer step done, 0 before the first."""
        ...

    def install(
        self,
        on_boundary: Callable[[int], None],
        on_phase: Callable[[str], None],
        on_failure: Callable[[BaseException], None] = ...,
        on_saved: Callable[[Checkpoint], None] = ...,
    ) -> None:
        """Begin to watch.

        `on_boundary(step)` is called in the trainer's stack after each optimizer step, its sample
        already opened in the panel; it may block, and may raise `SystemExit`, which passes.
        `on_phase` gets "data", "forward", "backward", "optimizer" or "checkpoint" as each begins.
        `on_failure` gets what a call of the trainer's raises, on its way to whoever called,
        `on_saved` each checkpoint of which this rank has saved its part.
        An `Exception` of any is logged once and swallowed. Time spent in `on_boundary` is
        neither step nor data time; add what is our own cost of it to `panel.cost`.
        """
        ...

    def refuses(self, remedies: Remedies) -> str:
        """Why this rank cannot do this before training goes on, or "". Changes nothing."""
        ...

    def apply(self, remedies: Remedies) -> None:
        """Do what is to be done before training goes on; called between two steps, on all ranks.

        Raises `ControlError` when this trainer does not offer one of them, or it failed; what can
        be is taken back then.
        """
        ...

    def undo(self, remedies: Remedies) -> None:
        """Take back what can be of remedies that were applied here and have failed elsewhere."""
        ...

    def first_bad_weight(self) -> str:
        """The first parameter of which this rank holds a NaN or Inf, or "" if all is finite.

        Waits for the device: only to be called while the run stands.
        """
        ...

    def detach(self) -> None:
        """Leave model, optimizer and engine as they were. May be called more than once."""
        ...
