"""An explanation as text: a tree of the expression's parts, with their values beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sentinel.engine.explanation import AlertState, Explanation, Kind, Part
from sentinel.engine.rule import Rule, Span
from sentinel.replay.explaining import Explained
from sentinel.store.shapes import number_json

_WIDEST = 72  # characters of a part's text


def as_text(found: Explained) -> str:
    """All that is known, for a person."""
    rule, told = found.rule, found.explanation
    lines = [
        f"{rule.name} at step {told.step} of run {found.run}: {_verdict(told)}",
        f"  expr: {' '.join(rule.expression.text.split())}",
        f"  {_terms(rule)}",
        "",
        *_table(told),
        "",
    ]
    if told.count > 1:
        lines += [f"  {_label(one)}: {_standing(one)}" for one in told.alerts]
        if (others := told.count - len(told.alerts)) > 0:
            lines.append(f"  and {others} more: --label NAME=VALUE shows what has that label")
    lines += [f"  missing: {why}" for why in _reasons(told.whole)]
    lines += [f"  on rank {one.ranks}, {one.signal}: {one.reason}" for one in found.blind]
    lines += [f"  note: {note}" for note in _notes(found)]
    return "\n".join(lines).rstrip()


def _verdict(told: Explanation) -> str:
    if not told.count:
        return "nothing that it asks for was ever measured"
    if told.count == 1 and told.alerts:
        return _standing(told.alerts[0])
    judged = f"{told.missing} could not be judged" if told.missing else ""
    return ", ".join(
        filter(None, (f"its condition holds for {told.holding} of {told.count}", judged))
    )


def _standing(alert: AlertState) -> str:
    text = f"{alert.state}{' ' if alert.state == 'firing' else ', '}{alert.detail}"
    return f"{text}; acknowledged" if alert.acknowledged else text


def _terms(rule: Rule) -> str:
    parts = [f"severity {rule.severity}"]
    if rule.holds.amount:
        parts.append(f"for {_span(rule.holds)}")
    if rule.keeps.amount:
        parts.append(f"keep_firing_for {_span(rule.keeps)}")
    if rule.actions:
        parts.append(f"actions {', '.join(rule.actions)}")
    place = ":".join(str(part) for part in (rule.file, rule.line) if part is not None)
    return ", ".join((*parts, place))


def _span(span: Span) -> str:
    return f"{span.amount:g} {span.unit}"


def _table(told: Explanation) -> Iterator[str]:
    """The tree, with a column for each element that is shown."""
    rows = list(_rows(told.whole, 0))
    wide = max(len(text) for text, _ in rows)
    heads = [_label(one) for one in told.alerts]
    widths = [
        max(len(head), *(len(values[at]) for _, values in rows)) for at, head in enumerate(heads)
    ]
    if any(heads):
        yield _line("", wide, heads, widths)
    for text, values in rows:
        yield _line(text, wide, values, widths)


def _line(text: str, wide: int, values: Sequence[str], widths: Sequence[int]) -> str:
    cells = (value.rjust(width) for value, width in zip(values, widths, strict=True))
    return "  ".join((f"  {text.ljust(wide)}", *cells)).rstrip()


def _rows(part: Part, depth: int) -> Iterator[tuple[str, list[str]]]:
    yield _shortened("  " * depth + part.text), [_value(value, part.kind) for value in part.values]
    for below in part.parts:
        yield from _rows(below, depth + 1)


def _shortened(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _value(value: float | bool | None, kind: Kind) -> str:
    if value is None:
        return "missing"
    if kind == "window":
        return f"{value:.0f} values"
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}"


def _label(alert: AlertState) -> str:
    return ", ".join(f"{name} {value}" for name, value in alert.labels.items())


def _reasons(part: Part) -> list[str]:
    found = [*part.why]
    for below in part.parts:
        found += _reasons(below)
    return list(dict.fromkeys(found))


def _notes(found: Explained) -> Iterator[str]:
    if found.rule.expression.when == "tick":
        seconds = found.explanation.now - found.began
        yield f"judged by the clock, here {seconds:.1f} s after the first step of the record"
    if found.times > 1:
        yield f"the run came to this step {found.times} times: this is the last of them"
    if found.first > 1 and found.rule.expression.has_state:
        yield (
            f"the record begins with step {found.first}: windows hold nothing of what was before"
        )


def as_json(found: Explained) -> dict[str, object]:
    """All that is known, for a program."""
    told = found.explanation
    return {
        "rule": found.rule.name,
        "run": found.run,
        "step": told.step,
        "expr": found.rule.expression.text,
        "count": told.count,
        "holding": told.holding,
        "missing": told.missing,
        "alerts": told.alerts,
        "tree": _part_json(told.whole),
        "blind": found.blind,
        "notes": list(_notes(found)),
    }


def _part_json(part: Part) -> dict[str, object]:
    return {
        "text": part.text,
        "kind": part.kind,
        "values": [
            value if value is None or isinstance(value, bool) else number_json(value)
            for value in part.values
        ],
        "why": part.why,
        "parts": [_part_json(below) for below in part.parts],
    }
