"""One metric as Prometheus knows it: a family of samples that differ in their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, eq=False)
class Family:
    """A metric: its full name, what it is, one line of HELP, and the names of its labels.

    A counter's name ends in `_total`.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @cached_property
    def template(self) -> str:
        """A sample as text, to be filled with the values of the labels and the number."""
        inner = ",".join(f'{name}="%s"' for name in self.labels)
        return f"{self.name}{{{inner}}} %s" if inner else f"{self.name} %s"
