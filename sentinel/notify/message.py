"""What a person reads about an incident: one message that names the culprit.

`compose` says it in plain words; how a receiver shows them (blocks, bold, code) is its own
business. Names that come from a run are cleaned here, so that they can do no harm anywhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sentinel.clock import isoformat
from sentinel.duration import in_words
from sentinel.notify.notice import Alert, Evidence, Notice, Other
from sentinel.notify.plain import NAME, PROSE
from sentinel.notify.plain import plain as plain
from sentinel.notify.quantity import quantity
from sentinel.notify.standing import done, has_stopped, is_held, standing
from sentinel.notify.telemetry import Measured, Normal
from sentinel.signals import CATALOG

_ALERTS = 10
_EVIDENCE = 8
_OTHERS = 20
HEAD = 12  # digits of the journal's newest hash that a message shows
# Told apart by their shapes: not everybody sees their colors.
_MARKS = {"critical": "\N{OCTAGONAL SIGN}", "warning": "\N{WARNING SIGN}\N{VARIATION SELECTOR-16}"}
_INFO = "\N{INFORMATION SOURCE}\N{VARIATION SELECTOR-16}"
_RESOLVED = "\N{WHITE HEAVY CHECK MARK}"
_THEN = {"resume": "all ranks go on", "stop": "the run is stopped"}


@dataclass(frozen=True)
class Command:
    """Something to be typed, exactly as it stands, and what it does."""

    line: str
    effect: str


@dataclass(frozen=True)
class Point:
    """One thing that is known. `moment` (s since 1970), if there is one, is read after `value`."""

    label: str
    value: str
    moment: float | None = None

    def __str__(self) -> str:
        when = "" if self.moment is None else utc(self.moment)
        return f"{self.label}: {' '.join(part for part in (self.value, when) if part)}"


@dataclass(frozen=True)
class Text:
    """A message, the most important first. What is empty is not shown.

    `brief` says it all in one or two sentences, for where there is room for no more. `points` are
    where, since when, what was measured and how sure it is; `facts` are details; `page` is a URL.
    """

    headline: str
    summary: str = ""
    points: tuple[Point, ...] = ()
    done: str = ""
    ends: Point | None = None
    way_back: str = ""
    advice: str = ""
    evidence: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    alerts: tuple[str, ...] = ()
    more_alerts: int = 0
    host: str = ""
    commands: tuple[Command, ...] = ()
    page: str = ""
    footer: str = ""
    brief: str = ""


@dataclass(frozen=True)
class Station:
    """Where the commands of a message work: the daemon's host and its state directory."""

    host: str
    state_dir: Path


def utc(moment: float) -> str:
    """A moment (s since 1970) as `2026-01-31 09:30:00 UTC`."""
    return isoformat(moment)[:19].replace("T", " ") + " UTC"


def compose(notice: Notice, station: Station, measured: Measured | None = None) -> Text:
    """The first message about an incident, as it stands now; `measured` is what led up to it."""
    runs = f"{len(notice.others) + 1} runs: " if notice.others else ""
    return Text(
        headline=f"{runs}{_headline(notice)}",
        summary=plain(notice.summary, PROSE),
        points=_points(notice, measured),
        done=standing(notice),
        ends=_ends(notice),
        way_back=_way_back(notice),
        advice=plain(notice.advice, PROSE),
        evidence=tuple(map(title, notice.incident.evidence[:_EVIDENCE])),
        facts=_facts(notice),
        alerts=(*map(_other, notice.others[:_OTHERS]), *_alerts(notice.alerts[:_ALERTS])),
        more_alerts=max(0, notice.alert_count - min(len(notice.alerts), _ALERTS)),
        host=station.host,
        commands=_commands(notice, station),
        page=notice.page,
        footer=_footer(notice),
        brief=_brief(notice),
    )


def compose_reply(
    kind: str,
    notice: Notice,
    station: Station,
    *,
    measured: Measured | None = None,
    evidence: Sequence[Evidence] = (),
) -> Text:
    """A later message in the thread of the first: only what is new, as this evidence."""
    if kind == "resolved":
        return Text(
            headline=_headline(notice), footer=_footer(notice), brief=f"{_headline(notice)}."
        )
    if kind == "acknowledged":
        what = f"{plain(notice.incident.cause.rule)} in run {plain(notice.incident.run)}"
        return Text(headline=f"{_owner(notice)} looks after {what}.", footer=_footer(notice))
    if kind == "repeated":
        text = compose(notice, station, measured)
        return replace(text, headline=f"STILL OPEN: {text.headline}", alerts=(), more_alerts=0)
    if kind in ("opened", "updated"):  # opened: in the thread of another that it shares
        return Text(
            headline=_headline(notice),
            summary=plain(notice.summary, PROSE),
            points=_points(notice, measured),
            done=standing(notice),
            evidence=tuple(map(title, evidence[:_EVIDENCE])),
            facts=_facts(notice),
            footer=_footer(notice),
            brief=_brief(notice),
        )
    if kind in ("reminder", "ending"):
        return _reminder(kind, notice, station)
    held = kind == "held"
    return Text(
        headline=done(notice),
        summary=_warning(notice) if held else "",
        facts=_terms(notice) if held else (),
        way_back=_way_back(notice) if held else "",
        advice=plain(notice.advice, PROSE) if held else "",
        host=station.host,
        commands=_commands(notice, station) if held else (),
        page=notice.page if held else "",
        footer=_footer(notice),
        brief=f"Run {plain(notice.incident.run)}: {done(notice)}",
    )


def _reminder(kind: str, notice: Notice, station: Station) -> Text:
    """The run is still held: what that costs, and what comes if nobody answers."""
    step = notice.hold.step if notice.hold else notice.incident.cause.step
    run = plain(notice.incident.run)
    still = f"Run {run} is still held after step {step}; nobody has answered."
    soon = f"Run {run} is held after step {step} for ten more minutes; nobody has answered."
    headline = soon if kind == "ending" else still
    return Text(
        headline=headline,
        brief=headline,
        summary=_warning(notice),
        facts=_terms(notice),
        way_back=_way_back(notice),
        host=station.host,
        commands=_commands(notice, station),
        page=notice.page,
        footer=_footer(notice),
    )


def _terms(notice: Notice) -> tuple[tuple[str, str], ...]:
    hold = notice.hold
    return hold.terms.facts(hold.since, notice.at) if hold else ()


def _warning(notice: Notice) -> str:
    return notice.hold.terms.warning(notice.hold.since) if notice.hold else ""


def _ends(notice: Notice) -> Point | None:
    """What comes, and when, if nobody answers."""
    hold = notice.hold
    if hold is None:
        return None
    ends = hold.terms.ends(hold.since)
    if ends is None:
        return Point("If nobody answers", "it stays held")
    left = f", in {in_words(ends - notice.at)}" if ends > notice.at else ""
    return Point("If nobody answers", f"{_THEN[hold.terms.unattended]}{left}, at", ends)


def _label(notice: Notice) -> str:
    """How grave it is, with a mark that is seen before it is read."""
    incident = notice.incident
    if incident.state != "resolved":
        return f"{_MARKS.get(incident.severity, _INFO)} {plain(incident.severity).upper()}"
    ended = notice.resolved_at if notice.resolved_at is not None else notice.at
    took = f" after {in_words(ended - notice.opened_at)}" if 0 < notice.opened_at < ended else ""
    return f"{_RESOLVED} RESOLVED{took}"


def _headline(notice: Notice) -> str:
    cause = notice.incident.cause
    where = f" on rank {cause.rank}" if cause.rank is not None else ""
    return f"{_label(notice)}: {plain(cause.rule)} in run {plain(notice.incident.run)}{where}"


def _brief(notice: Notice) -> str:
    """The whole message in two sentences, for a locked screen."""
    what = plain(notice.summary, PROSE) or f"{plain(notice.incident.cause.rule)}"
    run, step = plain(notice.incident.run), notice.incident.cause.step
    return f"{_label(notice)}: {what} (run {run}, step {step}{_at(notice)}). {standing(notice)}"


def _at(notice: Notice) -> str:
    cause = notice.incident.cause
    rank = f", rank {cause.rank}" if cause.rank is not None else ""
    host = f" on {plain(cause.host)}" if cause.host else ""
    return rank + host


def _points(notice: Notice, measured: Measured | None) -> tuple[Point, ...]:
    cause = notice.incident.cause
    parts = (
        f"rank {cause.rank}" if cause.rank is not None else "",
        f"host {plain(cause.host)}" if cause.host else "",
        plain(cause.device) if cause.device else "",
        f"module {plain(cause.module)}" if cause.module else "",
    )
    where = ", ".join(part for part in parts if part) or "all ranks together"
    since = Point("Since", f"step {cause.step}")
    if notice.opened_at > 0:
        since = Point("Since", f"step {cause.step}, noticed", notice.opened_at)
    known = [Point("Where", where), since]
    if reading := _reading(notice, measured):
        known.append(Point("Measured", reading))
    if certainty := plain(notice.incident.certainty, PROSE):
        known.append(Point("How sure", certainty))
    return tuple(known)


def _reading(notice: Notice, measured: Measured | None) -> str:
    """What was measured where it began, what others had there, and what is normal."""
    cause, leading = notice.incident.cause, notice.leading
    if not cause.signal or leading is None or leading.value is None:
        return ""
    known = CATALOG.get(cause.signal)
    unit = known.unit if known else "1"
    value, name = float(leading.value), plain(cause.signal)
    if measured is None or measured.courses[:1] == () or measured.courses[0].signal != cause.signal:
        return f"{name} is {quantity(value, unit)}"
    course = measured.courses[0]
    parts = [f"{name} is {quantity(course.at(cause.step, value), unit)} at step {cause.step}"]
    if measured.rank is not None and (others := course.others_at(cause.step)):
        ends = [*dict.fromkeys(quantity(one, unit) for one in others)]
        many = f"the other {measured.others} ranks" if measured.others > 1 else "the other rank"
        parts.append(f"{many} had {' to '.join(ends)}")
    if measured.normal is not None:
        parts.append(_normal(measured.normal, unit))
    return "; ".join(parts)


def _normal(normal: Normal, unit: str) -> str:
    low, middle, high = (quantity(one, unit) for one in (normal.low, normal.median, normal.high))
    before = f"{normal.count} steps before"
    if low == high:
        return f"it was {middle} in the {before}"
    return f"normal is {middle}: 98% of the {before} were between {low} and {high}"


def title(evidence: Evidence) -> str:
    """Evidence in one line."""
    rank = f"rank {evidence.rank}: " if evidence.rank is not None else ""
    text = plain(evidence.title) or plain(evidence.text) or "evidence"
    return text if text.lower().startswith(rank[:-2]) else rank + text


def _facts(notice: Notice) -> tuple[tuple[str, str], ...]:
    cause = notice.incident.cause
    known = (
        ("Parameter", cause.parameter),
        ("Micro-batch", None if cause.micro_batch is None else str(cause.micro_batch)),
        ("Batch", cause.batch),
        ("Samples", ", ".join(cause.samples)),
        ("Rule", cause.rule),
    )
    return tuple((label, plain(value)) for label, value in known if value)


def _way_back(notice: Notice) -> str:
    good = notice.last_good
    if good is None or notice.incident.state == "resolved":
        return ""
    many = "s" * (good.back != 1)
    return f"Last good checkpoint: {plain(good.tag)}, {good.back} step{many} back."


def _alerts(alerts: Sequence[Alert]) -> tuple[str, ...]:
    """A line for each rule and step, with where it fired: a fault of all ranks is one line."""
    lines: dict[str, list[str]] = {}
    for alert in alerts:
        rule, severity, state = (
            plain(text, 80) for text in (alert.rule, alert.severity, alert.state)
        )
        labels = (f"{plain(key, 40)}={plain(value, 80)}" for key, value in alert.labels.items())
        place = plain(", ".join(labels), NAME)
        lines.setdefault(f"{rule} ({severity}, {state}) at step {alert.step}", []).append(place)
    joined = ((line, "; ".join(filter(None, places))) for line, places in lines.items())
    return tuple(f"{line}: {places}" if places else line for line, places in joined)


def _other(other: Other) -> str:
    rank = "" if other.rank is None else f", rank {other.rank}"
    host = f" on {plain(other.host)}" if other.host else ""
    return (
        f"also run {plain(other.run, 80)}: {plain(other.rule, 80)} ({plain(other.severity, 20)}, "
        f"{plain(other.state, 20)}) at step {other.step}{rank}{host}"
    )


def _owner(notice: Notice) -> str:
    return plain(notice.incident.acknowledged.by) if notice.incident.acknowledged else ""


def _commands(notice: Notice, station: Station) -> tuple[Command, ...]:
    incident = notice.incident
    run, state = shlex.quote(incident.run), f"--state {shlex.quote(str(station.state_dir))}"
    if plain(incident.run, len(incident.run)) != incident.run or "```" in run + state:
        return ()  # a name that cannot be shown cannot be typed either
    if is_held(notice):
        resume = f"sentinel resume {run}"
        back = Command(f"{resume} --rollback last-good {state}", "load the last good checkpoint")
        return (
            Command(f"{resume} {state}", "go on (refused if weights are not finite)"),
            Command(f"{resume} --lr-scale 0.5 {state}", "go on, learning rate halved"),
            *([back] if notice.last_good else []),
            Command(f"sentinel stop {run} {state}", "end the run cleanly"),
        )
    if incident.state == "resolved" or has_stopped(notice):
        return (Command(f"sentinel incidents {run} {state}", "see it all"),)
    return (
        Command(f"sentinel status {run} {state}", "see how it stands"),
        Command(f"sentinel pause {run} {state}", "hold all ranks at the same step"),
    )


def _footer(notice: Notice) -> str:
    incident, at = notice.incident, isoformat(notice.at)
    head = f", record {plain(incident.head)[:HEAD]}" if incident.head else ""
    owner = f", acknowledged by {by}" if (by := _owner(notice)) else ""
    return (
        f"incident {plain(incident.id)}, opened at step {incident.opened_step}, {at}{owner}{head}"
    )


def as_text(text: Text) -> str:
    """The whole message as lines of plain text."""
    lines = [text.headline, text.summary, *map(str, text.points), text.done]
    advice = f"What to do: {text.advice}" if text.advice else ""
    lines += [str(text.ends) if text.ends else "", text.way_back, advice]
    lines += [f"- {one}" for one in text.evidence]
    lines += [f"{label}: {value}" for label, value in text.facts]
    lines += [f"- {alert}" for alert in text.alerts]
    lines += [f"- and {text.more_alerts} more"] if text.more_alerts else []
    lines += [f"On {text.host}:"] if text.commands else []
    lines += [f"  {command.line}   # {command.effect}" for command in text.commands]
    lines += [f"Page: {text.page}"] if text.page else []
    return "\n".join(line for line in [*lines, text.footer] if line)
