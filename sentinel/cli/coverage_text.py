"""What can be seen of a run, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator

from sentinel.engine.coverage import BlindSpot, RuleCoverage, RunCoverage, SignalCoverage

_ORDER = ("measured", "sampled", "stale", "missing")
_WIDTH = 36  # of the longest names of signals


def lines(report: RunCoverage) -> Iterator[str]:
    """Signals, the well-measured first, then the rules that are not simply judging."""
    yield f"{report.run}: {_named(report.ranks)} at step {report.step}"
    for unseen in report.unseen:
        yield f"  not seen: {_named(unseen.ranks)}, {unseen.reason}"
    yield from _signals(report)
    yield from _rules(report)


def _signals(report: RunCoverage) -> Iterator[str]:
    for state in _ORDER:
        of_state = [line for line in report.signals if line.state == state]
        if of_state:
            yield f"{state}:"
        for line in of_state:
            where = "" if line.ranks == report.ranks else _named(line.ranks)
            said = "; ".join(part for part in (_how(line), where, line.reason) if part)
            yield f"  {line.signal:<{_WIDTH}} {said}".rstrip()


def _how(line: SignalCoverage) -> str:
    if line.state == "measured":
        return "every step"
    if line.state == "sampled":
        return f"every {line.every} steps"
    if line.state == "stale":
        return "never came" if line.last_step is None else f"last at step {line.last_step}"
    return ""


def _rules(report: RunCoverage) -> Iterator[str]:
    counts: dict[str, int] = {}
    for rule in report.rules:
        counts[rule.state] = counts.get(rule.state, 0) + 1
    if report.rules:
        yield "rules: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    for rule in report.rules:
        if rule.state != "ok" or rule.blind:
            yield from _rule(report, rule)


def _rule(report: RunCoverage, rule: RuleCoverage) -> Iterator[str]:
    everywhere = all(spot.ranks == report.ranks for spot in rule.blind)
    state: str = rule.state
    if state == "blind" and not everywhere:
        state = f"blind on {_named(', '.join(dict.fromkeys(s.ranks for s in rule.blind)))}"
    elif state != "blind" and rule.blind:
        state = f"{state}, blind in part"
    yield f"  {rule.rule}: {state}"
    for spot in rule.blind:
        yield f"    {_spot(report, spot)}"


def _spot(report: RunCoverage, spot: BlindSpot) -> str:
    where = "" if spot.ranks == report.ranks else f" on {_named(spot.ranks)}"
    return f"{spot.signal} is missing{where}: {spot.reason}"


def _named(ranks: str) -> str:
    return f"rank {ranks}" if ranks.isdigit() else f"ranks {ranks}" if ranks else "no ranks"
