"""What Prometheus calls a signal of the catalog: https://prometheus.io/docs/practices/naming/."""

from __future__ import annotations

from sentinel.signals.signal import Signal

PREFIX = "sentinel_"
_SUFFIXES = {"s": "_seconds", "B": "_bytes", "W": "_watts", "C": "_celsius", "Hz": "_hertz"}


def metric_name(signal: Signal) -> str:
    """The name of the gauge: `sentinel_`, the signal's own name, and its unit unless that is there.

    Its samples are aggregates over ranks, told apart by the label `stat`.
    """
    suffix = _SUFFIXES.get(signal.unit, "")
    return PREFIX + signal.name.removesuffix(suffix) + suffix
