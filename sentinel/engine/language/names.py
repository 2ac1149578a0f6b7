"""The signals that an expression names, and whether they go together."""

from __future__ import annotations

import ast
import re

from sentinel.engine.language.excerpt import Excerpt, quoted
from sentinel.engine.language.expression import Number, Reading, SecondsSince, is_clocked, walk
from sentinel.engine.language.functions import USAGE
from sentinel.signals import CATALOG, did_you_mean

_LITERAL = re.compile(r"\"[^\"]+\"|'[^']+'")  # no prefix, and no two texts in a row


class Names:
    """Looks signals up as they come, from left to right.

    `first` is the first of them, or the first time since one was measured.
    """

    def __init__(self, excerpt: Excerpt) -> None:
        self._excerpt = excerpt
        self.first: Reading | SecondsSince | None = None
        self._by_clock: list[str] = []
        self._by_step: list[tuple[str, ast.expr]] = []

    def signal(self, node: ast.expr, *, by_rank: bool = False) -> Reading:
        """A signal, with or without one of its labels, as a step's number."""
        reading = self._reading(node, by_rank=by_rank)
        self.first = self.first or reading
        if is_clocked(reading):
            self._by_clock.append(reading.signal)
        else:
            self._by_step.append((reading.signal, node))
        return reading

    def since(self, call: ast.Call, node: ast.expr) -> SecondsSince:
        """How long ago a signal was measured."""
        reading = self._reading(node, by_rank=False)
        if is_clocked(reading):
            reason = f"{self._excerpt.quote(call)}: {reading.signal!r} is known at every moment"
            raise self._excerpt.error(node, reason)
        since = SecondsSince(reading)
        self.first = self.first or since
        self._by_clock.append("seconds_since")
        return since

    def _reading(self, node: ast.expr, *, by_rank: bool) -> Reading:
        label = None
        if isinstance(node, ast.Subscript):
            label, node = self._label(node), node.value
        error = self._excerpt.error
        if not isinstance(node, ast.Name):
            raise error(node, f"{self._excerpt.quote(node)} is not the name of a signal")
        name = node.id
        if name in USAGE:
            raise error(node, f"{name} is a function: {USAGE[name]}")
        if name not in CATALOG:
            hint = did_you_mean(name, [*CATALOG, *USAGE])
            if name.lower() in ("nan", "inf", "infinity"):
                hint = ": nonfinite(x) asks for NaN and infinities"
            raise error(node, f"unknown signal {name!r}{hint}")
        if label is not None and not CATALOG[name].label:
            raise error(node, f"{name!r} has no labels: it is one number at each step")
        return Reading(name, by_rank, label)

    def is_labeled(self, node: ast.Subscript) -> bool:
        """Whether a text stands in the brackets, or what is meant for one."""
        source = self._excerpt.text(node.slice)
        return "'" in source or '"' in source

    def _label(self, node: ast.Subscript) -> str:
        source = self._excerpt.text(node.slice)
        if not _LITERAL.fullmatch(source):
            raise self._excerpt.error(
                node.slice,
                f"{quoted(source)} is no label: one text in quotes is, with no letters before them",
            )
        return source[1:-1]

    def hint(self, node: ast.expr) -> str:
        """How the label is written that this was meant for; nothing where it was not."""
        if isinstance(node, ast.Subscript):
            inner, label = node.value, self._excerpt.text(node.slice)
        elif isinstance(node, ast.Attribute):
            inner, label = node.value, node.attr
        else:
            return ""
        signal = CATALOG.get(inner.id) if isinstance(inner, ast.Name) else None
        if not signal or not signal.label or not label[0].isalpha():
            return ""
        return f'; a label is written in quotes: {signal.name}["{label}"]'

    def check_clock(self) -> None:
        """What the engine knows by itself moves with the clock, all else with the steps."""
        if self._by_clock and self._by_step:
            timed, (stepped, place) = self._by_clock[0], self._by_step[0]
            raise self._excerpt.error(
                place,
                f"{timed!r} goes by the clock and {stepped!r} by steps: "
                "one expression cannot join them, use two rules",
            )

    def check_steps(self, node: ast.expr, of: Number) -> None:
        """What moves with the clock has no windows of steps."""
        if any(is_clocked(part) for part in walk(of)):
            reason = f"{self._by_clock[0]!r} goes by the clock and has no windows of steps"
            raise self._excerpt.error(node, reason)
