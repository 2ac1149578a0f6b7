"""The text that Prometheus reads: its own format, or OpenMetrics where it asks for that.

https://prometheus.io/docs/instrumenting/exposition_formats/
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import msgspec
from prometheus_client.core import Metric

from sentinel.daemon.metrics.family import Family

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def content_type(accept: str) -> str:
    """What to answer to somebody who takes this, by a header `Accept`."""
    return OPENMETRICS if "application/openmetrics-text" in accept else TEXT


def escaped(label: str) -> str:
    """A label's value as it stands between quotes."""
    if "\\" in label or '"' in label or "\n" in label:
        return label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return label


def number(value: float) -> str:
    """A sample's value."""
    if value - value == 0.0:
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def numbers(values: list[float]) -> list[str]:
    """The same of many, at a fraction of the cost."""
    texts = msgspec.json.encode(values)[1:-1].decode().split(",") if values else []
    if "null" in texts:  # JSON has no word for what is not finite
        pairs = zip(texts, values, strict=True)
        return [number(value) if text == "null" else text for text, value in pairs]
    return texts


class Page:
    """All samples, by family; a family that has none is not there."""

    def __init__(self) -> None:
        self._lines: defaultdict[Family, list[str]] = defaultdict(list)

    def add(self, family: Family, value: float, *labels: str) -> None:
        """A sample, with a value for each of the family's labels."""
        text = family.template % (*map(escaped, labels), number(value + 0))
        self.lines(family).append(text)

    def lines(self, family: Family) -> list[str]:
        """The samples of a family, to add to as text: one or more lines, without the last's end."""
        return self._lines[family]

    def add_texts(self, families: Iterable[Family], texts: Iterable[str]) -> None:
        """Samples as text, one for each of these families."""
        lines = self._lines
        for family, text in zip(families, texts, strict=True):
            lines[family].append(text)

    def take(self, other: Page) -> None:
        """All samples of another page as well."""
        for family, lines in other._lines.items():
            self._lines[family] += lines

    def include(self, family: Family, metrics: Iterable[Metric]) -> None:
        """The samples of this family that are kept by the client library."""
        lines = self.lines(family)
        for metric in metrics:
            for sample in metric.samples:
                inner = ",".join(f'{k}="{escaped(v)}"' for k, v in sample.labels.items())
                braced = f"{{{inner}}}" if inner else ""
                lines.append(f"{sample.name}{braced} {number(float(sample.value))}")

    def text(self, form: str) -> bytes:
        """The whole, in the format of this content type."""
        is_open = form == OPENMETRICS
        parts: list[str] = []
        for family, lines in self._lines.items():
            if not lines:
                continue
            name = family.name.removesuffix("_total") if is_open else family.name
            said = family.help.replace("\\", "\\\\").replace("\n", "\\n")
            if is_open:
                said = said.replace('"', '\\"')
            parts.append(f"# HELP {name} {said}\n# TYPE {name} {family.kind}")
            parts += lines
        if is_open:
            parts.append("# EOF")
        return "\n".join([*parts, ""]).encode()
