"""A backtest for people: tables of what would have alerted and paused, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import click

from sentinel.cli.terminal import BAD, HEADING, OF_SEVERITY, styled
from sentinel.duration import in_words
from sentinel.notify.message import plain
from sentinel.replay.backtest import TOGETHER, Agreement, Backtest, Episode, Trial, agreement

MOST = 40  # alerts of one run that are listed


def run_lines(test: Backtest) -> Iterator[str]:
    """One pack on one run."""
    (trial,) = test.trials
    yield _heading(test)
    yield from _table(_row(test, one) for one in trial.episodes[:MOST])
    if (more := trial.alerts - MOST) > 0:
        yield f"  ... and {_many(more, 'alert')} more; --json has all of them"
    if trial.episodes:
        rules = ", ".join(f"{rule} {n}" for rule, n in trial.by_rule.most_common())
        yield f"  {_many(trial.alerts, 'alert')}: {rules}"
    yield from _wishes(trial)


def compared_lines(test: Backtest) -> Iterator[str]:
    """Two packs on one run, side by side."""
    one, other = test.trials
    yield _heading(test)
    if not (one.alerts or other.alerts):
        yield "  no alert from either"
        return
    yield from _side_by_side((one.pack, other.pack), (one.by_rule, other.by_rule))
    found = agreement(one, other)
    for trial, only in zip(test.trials, found.only, strict=True):
        if only:
            yield f"  only {plain(trial.pack)}:"
            yield from _table(_row(test, episode) for episode in only[:MOST])
            if (more := len(only) - MOST) > 0:
                yield f"  ... and {more:,} more"
    for trial in test.trials:
        for line in _wishes(trial):
            yield f"{line} [{plain(trial.pack)}]"


def total_lines(tests: Sequence[Backtest]) -> Iterator[str]:
    """All runs together, of which there is one at least, and what could not be seen."""
    rows = sum(test.rows for test in tests)
    over = f"{_many(len(tests), 'run')}, {_many(rows, 'row')}"
    if len(tests[0].trials) == 2:
        yield f"Total of {over}:"
        yield from _compared_totals(tests, rows)
    else:
        alerts = sum(trial.alerts for test in tests for trial in test.trials)
        pauses = sum(trial.pauses for test in tests for trial in test.trials)
        rate = f" ({_rate(alerts, rows)} per 1,000 rows)" if rows else ""
        yield f"Total of {over}: {_many(alerts, 'alert')}{rate}, {_many(pauses, 'pause')}"
    yield from _blind_lines(tests)


def _compared_totals(tests: Sequence[Backtest], rows: int) -> Iterator[str]:
    names = [plain(trial.pack) for trial in tests[0].trials]
    sides = [[test.trials[side] for test in tests] for side in (0, 1)]
    alerts = [sum(trial.alerts for trial in side) for side in sides]
    pauses = [sum(trial.pauses for trial in side) for side in sides]
    found: list[Agreement] = [agreement(*test.trials) for test in tests]
    only = [sum(len(one.only[side]) for one in found) for side in (0, 1)]
    yield from _columns(
        [
            ["", *names],
            ["alerts", *(f"{n:,}" for n in alerts)],
            ["per 1,000 rows", *(_rate(n, rows) for n in alerts)],
            ["pauses", *(f"{n:,}" for n in pauses)],
            ["only here", *(f"{n:,}" for n in only)],
        ],
        right=(1, 2),
    )
    by_rule = [sum((trial.by_rule for trial in side), Counter[str]()) for side in sides]
    if by_rule[0] or by_rule[1]:
        yield from _side_by_side((names[0], names[1]), (by_rule[0], by_rule[1]))
    both = sum(one.both for one in found)
    yield f"  in both: {both:,} (the same rule within {TOGETHER} rows)"


def _blind_lines(tests: Sequence[Backtest]) -> Iterator[str]:
    """What was blind, told once for all runs of which the same is true."""
    for trials in zip(*(test.trials for test in tests), strict=True):
        of = f" of {plain(trials[0].pack)}" if len(tests[0].trials) > 1 else ""
        always = [rule for rule in trials[0].blind if all(rule in one.blind for one in trials)]
        if always:
            yield f"Blind{of}, since their signals are not there: {', '.join(always)}"
        runs_of: dict[tuple[str, ...], list[str]] = {}
        for test, trial in zip(tests, trials, strict=True):
            if more := tuple(rule for rule in trial.blind if rule not in always):
                runs_of.setdefault(more, []).append(plain(test.run))
        for rules, runs in runs_of.items():
            yield f"Blind{of} in {_some(runs)}, too: {', '.join(rules)}"


def _some(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} other runs"


def _heading(test: Backtest) -> str:
    steps = ""
    if test.first_step is not None:
        steps = f", steps {test.first_step} to {test.last_step}"
    quiet = "" if any(trial.episodes for trial in test.trials) else ": no alert"
    if len(test.trials) > 1:
        quiet = ""
    return f"{styled(plain(test.run), HEADING)}: {_many(test.rows, 'row')}{steps}{quiet}"


def _row(test: Backtest, episode: Episode) -> list[str]:
    alert = episode.alert
    labels = {k: v for k, v in alert.labels.items() if k != "rank" or test.world_size > 1}
    of = "".join(f" {key}={plain(value)}" for key, value in labels.items())
    severity = styled(alert.severity, OF_SEVERITY[alert.severity])
    would = f", would {' and '.join(alert.actions)}" if alert.actions else ""
    summary = plain(alert.summary)
    return [
        f"step {alert.fired_step}",
        f"row {episode.row}",
        _lasted(test, episode),
        f"{severity}{would}",
        f"{alert.rule}{of}",
        summary,
    ]


def _lasted(test: Backtest, episode: Episode) -> str:
    if episode.until is None:
        return "to the end"
    if test.has_clock:
        return f"for {in_words(max(1.0, round(episode.seconds)))}"
    return f"for {_many(episode.until[1] - episode.row, 'row')}"


def _wishes(trial: Trial) -> Iterator[str]:
    """What it would have done, first of all when."""
    by_action: dict[str, list[str]] = {}
    for row, wish in trial.wanted:
        where = f"step {wish.step} (row {row}, {wish.rule})"
        by_action.setdefault(wish.action, []).append(where)
    for action, places in by_action.items():
        more = f", and {len(places) - 3} times more" if len(places) > 3 else ""
        text = f"would {action} at {'; '.join(places[:3])}{more}"
        yield f"  {styled(text, BAD)}"


def _table(table: Iterable[list[str]]) -> Iterator[str]:
    return _columns(list(table), right=())


def _side_by_side(
    names: tuple[str, str], counts: tuple[Counter[str], Counter[str]]
) -> Iterator[str]:
    one, other = counts
    rules = sorted({*one, *other}, key=lambda rule: (-one[rule] - other[rule], rule))
    body = [[rule, f"{one[rule]:,}", f"{other[rule]:,}"] for rule in rules]
    return _columns([["rule", *map(plain, names)], *body], right=(1, 2))


def _columns(table: list[list[str]], right: tuple[int, ...]) -> Iterator[str]:
    """Rows with their cells aligned; the last column is as wide as it is."""
    if not table:
        return
    widths = [max(len(click.unstyle(row[at])) for row in table) for at in range(len(table[0]))]
    for row in table:
        cells = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            pad = " " * (width - len(click.unstyle(cell)))
            cells.append(pad + cell if at in right else cell + pad)
        yield f"  {'  '.join(cells).rstrip()}"


def _rate(alerts: int, rows: int) -> str:
    return f"{1000 * alerts / rows:.2f}" if rows else "-"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
