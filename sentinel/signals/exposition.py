"""What Prometheus is told of a signal of the catalog: its name, its statistics, its HELP.

By https://prometheus.io/docs/practices/naming/: base units, which end the name.
"""

from __future__ import annotations

from sentinel.signals.signal import Reduction, Signal

PREFIX = "sentinel_"
LAYERS = 8  # layers, tensors or experts of which each signal is shown, unless said otherwise
MOST_LAYERS = 256
_SUFFIXES = {"s": "_seconds", "B": "_bytes", "W": "_watts", "C": "_celsius", "Hz": "_hertz"}
_UNITS = {
    "1": "1",
    "1/s": "per second",
    "B/s": "bytes per second",
    **{unit: suffix[1:] for unit, suffix in _SUFFIXES.items()},
}
_OWN = {
    Reduction.MEAN: "mean",
    Reduction.SUM: "sum",
    Reduction.MAX: "max",
    Reduction.ROOT_SUM: "norm",
}
_OVER_RANKS = ("mean", "min", "max")
_OVER_LABELS = ("max", "median")
_OF_RUN = frozenset({"collective_hang", "last_good_at_risk", "last_good_gone"})  # on no one rank
_OF_DIFFERENT_THINGS = frozenset({"logged"})  # which no statistic can join


def metric_name(signal: Signal) -> str:
    """The name of the gauge: `sentinel_`, the signal's own name, and its unit unless that is there.

    Its samples are aggregates over ranks, told apart by the label `stat`.
    """
    suffix = _SUFFIXES.get(signal.unit, "")
    return PREFIX + signal.name.removesuffix(suffix) + suffix


def own_stat(signal: Signal) -> str:
    """What the signal's own way to combine ranks is called, which rules judge it by."""
    return _OWN[signal.reduction]


def stats(signal: Signal) -> tuple[str, ...]:
    """The values of the label `stat`: over ranks, or of a signal with a label over its labels."""
    if signal.label:
        return () if signal.name in _OF_DIFFERENT_THINGS else _OVER_LABELS
    own = own_stat(signal)
    if signal.name in _OF_RUN or signal.reduction is Reduction.ROOT_SUM:  # ranks have parts of it
        return (own,)
    return _OVER_RANKS if own in _OVER_RANKS else (*_OVER_RANKS, own)


def help_text(signal: Signal) -> str:
    """What it is, in which unit, and how ranks and labels combine: one line."""
    said = signal.help[0].upper() + signal.help[1:]
    unit = _UNITS.get(signal.unit, signal.unit)
    own = own_stat(signal)
    if not signal.label:
        return f'{said}. Unit: {unit}. Over ranks; rules judge stat="{own}".'
    over = f"; stat: over every {signal.label}" if stats(signal) else ""
    return f"{said}. Unit: {unit}. By {signal.label}, ranks combined by {own}{over}."
