"""The units of the numbers in an expression, and which of them can be compared.

A unit is a product of powers of bytes, seconds, watts and degrees. What is counted (errors, layers,
values, tokens) is a plain number. A constant goes with anything, and so does what a script has
logged, whose unit nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher

from sentinel.engine.language.expression import (
    Arithmetic,
    Constant,
    Negative,
    Number,
    Reading,
    SecondsSince,
    Statistic,
    readings,
)
from sentinel.signals import CATALOG

Unit = Mapping[str, int]  # power by base; empty for a plain number
PLAIN: Unit = {}
_BASES: Mapping[str, Unit] = {"B": {"B": 1}, "s": {"s": 1}, "W": {"W": 1}, "C": {"C": 1}}
_UNITS: Mapping[str, Unit] = {**_BASES, "1/s": {"s": -1}, "Hz": {"s": -1}, "B/s": {"B": 1, "s": -1}}
_NAMES = {"B": "bytes", "s": "seconds", "W": "watts", "C": "degrees Celsius"}


def unit_of(node: Number) -> Unit | None:
    """The unit of a number; None for one that goes with anything."""
    if isinstance(node, Constant):
        return None
    if isinstance(node, Reading):
        return None if node.signal == "logged" else _UNITS.get(CATALOG[node.signal].unit, PLAIN)
    if isinstance(node, Statistic):
        return PLAIN if node.name == "count" else unit_of(node.window.of)
    if isinstance(node, Negative):
        return unit_of(node.of)
    if isinstance(node, SecondsSince):
        return _BASES["s"]
    if isinstance(node, Arithmetic):
        return _of_arithmetic(node)
    return PLAIN  # scores, how many values until then


def _of_arithmetic(node: Arithmetic) -> Unit | None:
    left, right = unit_of(node.left), unit_of(node.right)
    if node.operator in ("+", "-"):
        return right if left is None else left
    sign = 1 if node.operator == "*" else -1
    if left is None and right is None:
        return None
    powers = {
        base: (left or {}).get(base, 0) + sign * (right or {}).get(base, 0) for base in _NAMES
    }
    return {base: power for base, power in powers.items() if power}


def clash(left: Number, right: Number) -> str | None:
    """Why two numbers cannot be added or compared, and what to do; None if they can."""
    one, other = unit_of(left), unit_of(right)
    if one is None or other is None or one == other:
        return None
    odd, unit = (left, one) if not other else (right, other)
    advice = "bring both to one unit"
    if not one or not other:
        advice = f"divide what is {spelled(unit)} by its like{_example(odd, unit)}"
    return f"{spelled(one)}, {spelled(other)}: {advice}"


def _example(node: Number, unit: Unit) -> str:
    """A signal of this unit that the number could be divided by."""
    read = {reading.signal for reading in readings(node)}
    like = [name for name in CATALOG if name not in read and _UNITS.get(CATALOG[name].unit) == unit]
    if not like or not read:
        return ""
    name = next(iter(sorted(read)))
    nearest = max(
        like, key=lambda one: ("limit" in one, SequenceMatcher(a=name, b=one).ratio(), one)
    )
    return f", such as {nearest}"


def spelled(unit: Unit) -> str:
    """A unit in words."""
    above = [f"{_NAMES[base]}{_power(power)}" for base, power in unit.items() if power > 0]
    below = [f"{_NAMES[base]}{_power(-power)}" for base, power in unit.items() if power < 0]
    if not unit:
        return "a plain number"
    return "in " + " x ".join(above or ["1"]) + "".join(f" / {one}" for one in below)


def _power(power: int) -> str:
    return "" if power == 1 else f"^{power}"
