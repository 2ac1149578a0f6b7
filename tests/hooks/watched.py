"""A trainer under watch, without a daemon: what its probes saw, by step and by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sentinel.wire import Coverage
from sentinel_hooks.adapters.adapter import Adapter


@dataclass
class Seen:
    """What one frame would carry; a signal with a label is named `signal|label`."""

    step: int
    values: dict[str, float]
    findings: list[tuple[str, str, int]]


@dataclass
class Watched:
    """Installs an adapter and keeps all that it reports."""

    adapter: Adapter
    steps: list[Seen] = field(default_factory=list)
    lost: list[Coverage] = field(default_factory=list)
    boundaries: list[int] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.adapter.install(self._on_boundary, self.phases.append)

    def _on_boundary(self, step: int) -> None:
        self.boundaries.append(step)
        self.collect()

    def collect(self, *, wait: bool = False) -> None:
        """Take what has become known."""
        series = self.adapter.panel.series
        for sample in self.adapter.panel.settled(wait=wait):
            values = {
                f"{one.signal}|{one.label}" if one.label else one.signal: sample.values[index]
                for index, one in enumerate(series)
                if not sample.is_missing(index)
            }
            findings = [(one.signal, one.module, one.micro_batch) for one in sample.findings]
            self.steps.append(Seen(sample.step, values, findings))
        self.lost += self.adapter.panel.changes()


class Later:
    """A copier whose values are still under way."""

    def __init__(self) -> None:
        self.submitted: list[Tensor] = []

    def submit(self, tensors: Sequence[Tensor]) -> Later:
        self.submitted += tensors
        return self

    def ready(self) -> bool:
        return False

    def wait(self) -> None:
        raise AssertionError("the device was waited for")

    def values(self) -> list[list[float]]:
        raise AssertionError("values were read before they had arrived")
