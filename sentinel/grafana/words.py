"""What a panel says of itself: the words of the catalog and of the metrics, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from sentinel.daemon.metrics.families import OWN
from sentinel.signals import CATALOG
from sentinel.signals.exposition import help_text, metric_name


def of_signals(names: Iterable[str], more: str = "") -> str:
    """What these signals are; and `more`, what is to be known of the panel."""
    return _joined([(name, help_text(CATALOG[name])) for name in names], more)


def of_metrics(names: Iterable[str], more: str = "") -> str:
    """The same of metrics that are no signals."""
    return _joined([(name, OWN[name].help) for name in names], more)


def _joined(said: list[tuple[str, str]], more: str) -> str:
    one = len(said) == 1
    lines = [text if one else f"- `{name}`: {text}" for name, text in said]
    return "\n".join([*lines, *(["", more] if more else [])])


def title_of(name: str) -> str:
    """A signal's name as a title: `layer_grad_norm` is `Layer gradient norm`."""
    words = " ".join(_SPELLED.get(word, word) for word in name.split("_"))
    return words[0].upper() + words[1:]


def metrics_of(names: Iterable[str]) -> list[str]:
    """What Prometheus calls these signals."""
    return [metric_name(CATALOG[name]) for name in names]


_SPELLED = {
    "adam": "Adam",
    "ecc": "ECC",
    "gpu": "GPU",
    "grad": "gradient",
    "lr": "learning rate",
    "nvlink": "NVLink",
    "pcie": "PCIe",
    "rms": "RMS",
    "xid": "Xid",
}
