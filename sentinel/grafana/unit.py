"""Which of Grafana's units a signal has.

Source of the names: packages/grafana-data/src/valueFormats/categories.ts of grafana/grafana.
"""

from __future__ import annotations

from sentinel.signals import CATALOG, Signal

COUNT = "short"
FLAG = "bool_yes_no"
SHARE = "percentunit"
SECONDS = "s"
BYTES = "bytes"

_UNITS = {
    "s": SECONDS,
    "B": BYTES,
    "B/s": "binBps",
    "1/s": "si:/s",
    "W": "watt",
    "C": "celsius",
    "Hz": "hertz",
}
_SHARES = frozenset(
    {
        "model_flops_utilization",
        "device_memory_fragmentation",
        "expert_load",
        "gradient_compression",
        "gpu_utilization",
        "gpu_memory_utilization",
        "monitor_share",
    }
)


def unit_of(signal: Signal) -> str:
    """The unit of its panels. What has none in Grafana is a number: errors, rows, tokens."""
    if is_flag(signal):
        return FLAG
    return SHARE if signal.name in _SHARES else _UNITS.get(signal.unit, COUNT)


def is_flag(signal: Signal) -> bool:
    """Whether it says yes or no: the catalog's words for that begin with `1 if`, `1 while`..."""
    return signal.unit == "1" and signal.help.startswith("1 ")


def unknown_shares() -> frozenset[str]:
    """Names here that the catalog does not know."""
    return _SHARES - CATALOG.keys()
