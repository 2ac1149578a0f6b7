"""One pass over a loader, as far as a step has to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sentinel_hooks.probes.mark import Span

MAX_WAITS = 64  # of batches that were taken and not trained on


@dataclass(eq=False)
class Source:
    """Where batches come from: whoever iterates holds it, and with the iterator it is gone.

    `waits` is what the loop has waited for since a batch of it was last trained on, `batch` the
    fingerprint of its last batch, `samples` the ids in it. `ids` finds the ids in a batch of which
    they are not known by their key. `evaluated`: that batch was seen in a forward pass that is
    not trained on. `thread`: in which it was taken. `fresh`: nothing was trained
    on since that. `trained`: a batch of it was trained on, alone or with those of other sources.
    """

    ids: Callable[[object], object] | None = None
    waits: list[Span] = field(default_factory=list)
    batch: str = ""
    samples: tuple[str, ...] = ()
    evaluated: bool = False
    over: bool = False
    fresh: bool = False
    trained: bool = False
    thread: int = 0

    def waited(self, span: Span) -> None:
        """The loop has waited so long for this source."""
        self.waits.append(span)
        del self.waits[:-MAX_WAITS]
