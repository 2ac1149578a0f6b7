"""A number with its unit, in as few letters as a person needs."""

from __future__ import annotations

import math

_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def quantity(value: float, unit: str = "1") -> str:
    """The value in words.

    >>> quantity(7.31234), quantity(0.000012), quantity(float("nan")), quantity(2.0, "layers")
    ('7.312', '1.2e-05', 'NaN', '2 layers')
    >>> quantity(0.0312, "s"), quantity(81.5e9, "B"), quantity(3.1e6, "B/s")
    ('31.2 ms', '81.5 GB', '3.1 MB/s')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if unit == "s" and abs(value) < 1 and value:
        return f"{value * 1000:.3g} ms"
    if unit in ("B", "B/s"):
        return _bytes(value, unit.removeprefix("B"))
    return f"{value:.4g}" if unit == "1" else f"{value:.4g} {unit}"


def _bytes(value: float, suffix: str) -> str:
    power = 0
    while abs(value) >= 1000 and power < len(_BYTES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_BYTES[power]}{suffix}"
